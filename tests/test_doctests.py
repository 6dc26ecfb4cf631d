"""The examples in the docstrings, run as they stand."""

import doctest
import importlib
import pkgutil

import pytest


def modules(package: str = "seqdni") -> list[str]:
    here = importlib.import_module(package)
    found = [package]
    for each in pkgutil.iter_modules(here.__path__, package + "."):
        found += modules(each.name) if each.ispkg else [each.name]
    return [name for name in found if not name.endswith("__main__")]


MODULES = [*modules(), *modules("seqdni.corpora"), *modules("seqdni.recipes")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(name))
    assert done.failed == 0
