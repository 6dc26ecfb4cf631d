"""A new task of a known kind needs options, a Recipe, and its line in the registry; no more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from seqdni.corpora import CopyTask, RecallTask
from seqdni.recipes.cli import main
from seqdni.recipes.curriculum import Curriculum
from seqdni.recipes.episode_options import CurriculumOptions, LongOptions
from seqdni.recipes.long_dependency import LongDependency
from seqdni.recipes.option_field import option
from seqdni.recipes.recipe import Recipe
from seqdni.recipes.registry import RECIPES

TINY = ["--hidden", "8", "--batch", "4", "--updates", "6", "--log-every", "2", "--threads", "1"]


@dataclass
class SilenceOptions(LongOptions):
    recipe: Literal["silence"] = "silence"
    length: int = option(7, "steps of silence", at_least=1)


@dataclass
class LettersOptions(CurriculumOptions):
    recipe: Literal["letters"] = "letters"


NEW = {
    "silence": Recipe(
        "hold one of three symbols through silence",
        SilenceOptions,
        lambda: LongDependency(lambda _options: RecallTask(3, 1), tokens=True),
    ),
    "letters": Recipe(
        "copy letters", LettersOptions, lambda: Curriculum(lambda _options: CopyTask(symbols=3))
    ),
}


@pytest.mark.parametrize("name", NEW)
def test_a_new_task_is_trained_resumed_evaluated_and_exported(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, name, NEW[name])
    assert main(["ls"]) == 0
    assert f"{name:<12}  {NEW[name].summary}" in capsys.readouterr().out
    assert main(["run", name, *TINY, "--out", "out"]) == 0
    result = json.loads(Path("out/result.json").read_text())
    assert (result["recipe"], result["updates"]) == (name, 6)
    assert main(["run", "--resume", "out", "--updates", "8"]) == 0
    assert json.loads(Path("out/result.json").read_text())["updates"] == 8
    for words in (["eval", "out"], ["sample", "out"], ["export", "out"]):
        assert main(words) == 0
    assert main(["horizon", "out", "--length", "12"]) == 0
    assert {path.name for path in Path("out/export").iterdir()} == {
        *("README.md", "config.yaml", "model.safetensors"),
    }
