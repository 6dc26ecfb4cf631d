"""What is installed is what lies in the folders."""

from __future__ import annotations

import sys

import pytest
from pages import ROOT

if sys.version_info < (3, 11):
    pytest.skip("tomllib came with Python 3.11", allow_module_level=True)
import tomllib

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_folder_with_code_is_installed():
    folders = {
        path.parent.relative_to(ROOT)
        for top in ("seqdni", "corpora", "recipes")
        for path in (ROOT / top).rglob("*.py")
    }
    inside = {".".join(path.parts) for path in folders}
    expected = {name if name.startswith("seqdni") else f"seqdni.{name}" for name in inside}
    assert set(SETTINGS["packages"]) == expected


def test_the_lists_of_public_names_are_installed():
    """They are read when the package is imported."""
    for top, name in (("seqdni", "seqdni"), ("corpora", "seqdni.corpora")):
        assert (ROOT / top / "__init__.pyi").is_file()
        assert "__init__.pyi" in SETTINGS["package-data"][name]


def test_nothing_is_imported_from_the_top_level():
    """A package of the name ``corpora`` or ``recipes`` may be somebody else's."""
    for top in ("seqdni", "corpora", "recipes", "benchmarks", "docs", "tests"):
        for path in (ROOT / top).rglob("*.py"):
            for line in path.read_text().splitlines():
                words = line.split()
                if words[:1] in (["from"], ["import"]):
                    assert words[1].split(".")[0] not in ("corpora", "recipes"), (path, line)
