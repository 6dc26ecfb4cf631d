"""What the docs show is run, what they link is there, and their docstrings are converted."""

from __future__ import annotations

import ast
import importlib.util
import json
import re

import matplotlib
import pytest
import torch
from mkdocs.exceptions import PluginError
from pages import ROOT, check_command, commands, python_blocks

import seqdni
import seqdni.corpora

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PAGES = sorted((ROOT / "docs").glob("*.md"))
SHOWN = {page: page.read_text() for page in PAGES}


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A page may write files, and draws without moving the generator of the other tests."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize(
    "page", [p for p in PAGES if python_blocks(SHOWN[p])], ids=lambda p: p.stem
)
def test_the_code_of_a_page_runs_in_order(page):
    names = {"__name__": page.stem}
    for number, block in enumerate(python_blocks(SHOWN[page]), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def test_the_notebook_runs_and_shows_what_it_says():
    notebook = json.loads((ROOT / "docs/synthetic_gradient.ipynb").read_text())
    names = {}
    with plt.rc_context():
        for cell in notebook["cells"]:
            assert not cell.get("outputs"), "commit it without outputs"
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    plt.close("all")
    assert names["solved"][0] == 0.0 < 0.9 < names["solved"][-1]
    assert names["shuffled"][-1] < names["trained"][1] < names["trained"][-1]
    assert names["shuffled"][-1] < 0.5


@pytest.mark.parametrize("command", [c for text in SHOWN.values() for c in commands(text)])
def test_the_commands_parse(command):
    check_command(command)


def test_there_is_code_and_there_are_commands():
    assert len(python_blocks(SHOWN[ROOT / "docs/tutorial.md"])) >= 6
    assert len(commands(SHOWN[ROOT / "docs/command-line.md"])) >= 10


def hook(name):
    """A file of docs/hooks, which no package holds; it needs what builds the docs."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs/hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_a_place_in_the_api_pages():
    api = hook("api_pages")
    pages = api.pages()
    assert "::: seqdni.Boundary\n" in pages["api/seqdni/synthetic-gradients.md"]
    overview = pages[api.OVERVIEW]
    for package in (seqdni, seqdni.corpora):
        for name in package.__all__:
            assert overview.count(f"#{package.__name__}.{name})") == 1, name


def test_a_public_name_without_a_place_stops_the_build(monkeypatch):
    api = hook("api_pages")
    monkeypatch.setitem(api.GROUPS["seqdni"], "Finished runs", "")
    with pytest.raises(PluginError, match="seqdni exports load, expected each name in one group"):
        api.pages()


def test_roles_and_maths_become_markdown():
    text = (
        "In :mod:`seqdni.chunk`, :class:`seqdni.Chunk` and :meth:`loss` "
        "with :math:`x_t \\cdot\ny`.\n\n"
        ".. math:: a \\big(\n          + b \\big)\n\nMore.\n\nExample:\n    >>> 1\n    1"
    )
    assert hook("sphinx_roles").converted(text) == (
        "In `seqdni.chunk`, [`seqdni.Chunk`][seqdni.Chunk] and [`loss`][loss] "
        "with \\(x_t \\cdot\ny\\).\n\n"
        "\\[\na \\big(\n+ b \\big)\n\\]\n\nMore.\n\nExamples:\n    >>> 1\n    1"
    )


def test_no_docstring_keeps_a_role_that_the_docs_do_not_know():
    converted = hook("sphinx_roles").converted
    for path in (p for package in ("seqdni", "corpora") for p in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = converted(ast.get_docstring(node) or "")
                assert ":`" not in text, f"{path}, line {getattr(node, 'lineno', 1)}"
                assert not re.search(r"^ *\.\. \w+::", text, re.MULTILINE), path


def test_formulas_are_drawn_in_the_page():
    page = r'<p>As <span class="arithmatex">\(s_0 &lt; 1\)</span> and \(kept\).</p>'
    drawn = hook("formulas").with_formulas(page)
    assert 'aria-label="s_0 &lt; 1"' in drawn
    assert "<path" in drawn
    assert r"\(kept\)" in drawn
    assert "arithmatex" not in drawn
    two = r'<div class="arithmatex">\[a\]</div><div class="arithmatex">\[b\]</div>'
    assert hook("formulas").with_formulas(two).count("<svg") == 2


def test_what_asks_another_host_is_found_and_links_are_not():
    found = hook("offline").asked_of_other_hosts
    for text in (
        '<script async src="https://cdn.example/a.js"></script>',
        '<link rel="stylesheet" href="//cdn.example/a.css">',
        '<link href="http://fonts.example" rel="preconnect">',
        "<img alt=x src=https://pictures.example/a.png>",
        '@import "https://fonts.example/a.css";',
        "src: url('https://fonts.example/a.woff2')",
    ):
        assert len(found(text)) == 1, text
    for text in (
        '<a href="https://arxiv.org/abs/1608.05343">paper</a>',
        '<link rel="canonical" href="https://site.example/">',
        '<script src="../assets/a.js"></script>',
        "src: url(../fonts/a.woff2)",
    ):
        assert not found(text), text
