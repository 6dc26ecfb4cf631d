"""What the tests of whole runs share."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from seqdni.recipes.cli import main

TINY = ["--hidden", "16", "--batch", "4", "--threads", "1"]
VERSE = "the quick brown fox jumps over the lazy dog, and then the dog sleeps again.\n" * 60


def run(*words):
    assert main(["run", *map(str, words)]) == 0


def result_of(folder):
    return json.loads(Path(folder, "result.json").read_text())


def rows_of(folder):
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def assert_same(a, b, path=""):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def without_times(saved):
    saved = dict(saved, seconds=0)
    progress = dict(saved["progress"])
    if "history" in progress:
        progress["history"] = [level[:-1] for level in progress["history"]]
    return dict(saved, progress=progress)
