"""Runs with ``--compiled``: like those without it, and readable on a machine without a compiler."""

from __future__ import annotations

import pytest
import torch
from compiled import needs_compiler
from runs import TINY, VERSE, assert_same, result_of, run, without_times

from seqdni.cores import base
from seqdni.recipes.cli import main

pytestmark = needs_compiler


def last_of(folder):
    return torch.load(folder / "last.pt", weights_only=False)


@pytest.mark.parametrize(
    "words",
    [
        ("copy", "--chunk-len", 4),
        ("lm", "--corpus", "verse.txt", "--dropout", 0.2, "--layers", 2, "--core", "gru"),
        ("lm", "--corpus", "verse.txt", "--hierarchy", 2, "--period", 8),
        ("recall", "--length", 20, "--chunk-len", 5),
    ],
    ids=["copy", "lm with dropout", "lm of two levels", "recall"],
)
def test_a_compiled_run_learns_what_the_other_learns(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verse.txt").write_text(VERSE)
    words = [*words, *TINY, "--updates", 12, "--optimizer", "sgd", "--lr", 0.1]
    for name, compiled in (("plain", "false"), ("fast", "true")):
        run(*words, "--compiled", compiled, "--out", name)
    plain, fast = (last_of(tmp_path / name)["trainer"] for name in ("plain", "fast"))
    weights = [saved.get("model", saved) for saved in (plain, fast)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-5)


def test_a_run_goes_on_and_is_read_without_a_compiler(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["copy", *TINY, "--chunk-len", 4, "--compiled", "true"]
    run(*words, "--updates", 20, "--out", "whole")
    run(*words, "--updates", 10, "--out", "parts")
    run("copy", "--resume", "parts", "--updates", 20)
    assert_same(*(without_times(last_of(tmp_path / name)) for name in ("whole", "parts")))

    def broken():
        raise RuntimeError("the compiled layers cannot be built: no compiler")

    monkeypatch.setattr(base, "compiled_layers", broken)
    for command in ("eval", "sample", "export"):
        assert main([command, "parts"]) == 0
    capsys.readouterr()
    assert main(["run", "copy", "--resume", "parts", "--updates", "25"]) == 1
    assert "--compiled: the compiled layers cannot be built" in capsys.readouterr().err
    run("copy", "--resume", "parts", "--updates", 25, "--compiled", "false")
    assert result_of("parts")["updates"] == 25
