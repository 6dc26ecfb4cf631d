"""The public names: listed in a stub, and imported when they are first used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("seqdni", "seqdni.corpora")


def listed(package: str) -> list[str]:
    """``__all__`` as the stub has it, which type checkers and the docs read."""
    stub = ast.parse(
        Path(importlib.import_module(package).__file__ or "").with_suffix(".pyi").read_text()
    )
    found = [each.value for each in stub.body if isinstance(each, ast.Assign)]
    return ast.literal_eval(found[0])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_listed_name_is_there_and_no_other_one(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(listed(package))
    for name in listed(package):
        assert hasattr(module, name), name
        assert name in dir(module)
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_alone_does_not_import_torch(package):
    words = [sys.executable, "-c", f"import sys, {package}; print('torch' in sys.modules)"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
