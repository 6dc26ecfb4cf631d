"""Every config that is shipped: it parses, says what was measured, and trains."""

from __future__ import annotations

import pytest
import yaml
from runs import VERSE, result_of, run

from seqdni.recipes.cli import RECIPES, main
from seqdni.recipes.parsing import CONFIGS, parse, recipe_parser

SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
EXPECTED = {"ptb-char-small", "ptb-char-paper", "ptb-word-medium", "ptb-word-small", "ptb-subword"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_one_of_its_recipe_and_trains(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDNI_CACHE", str(tmp_path / "cache"))
    path = CONFIGS / f"{name}.yaml"
    what, measured = path.read_text().splitlines()[:2]
    assert what.startswith("# ")
    assert measured.startswith("# Measured: ")
    assert "RESULT" not in measured
    written = yaml.safe_load(path.read_text())
    recipe = RECIPES[written["recipe"]]
    parsed = parse(recipe_parser("lm", recipe.summary, recipe.options), ["--config", name])
    assert {key: parsed[key] for key in written} == written

    text = tmp_path / "verse.txt"
    text.write_text(VERSE * 2)
    tiny = {"corpus": text, "hidden": 8, "batch": 2, "updates": 2, "epochs": "null"}
    tiny |= {"subword_size": 300} if written.get("tokens") == "subword" else {}
    tiny |= {"synth_hidden": 4} if "synth_hidden" in written else {}
    words = [w for key, value in tiny.items() for w in (f"--{key.replace('_', '-')}", value)]
    run("lm", "--config", name, *words, "--out", tmp_path / "run")
    assert result_of(tmp_path / "run")["updates"] == 2


def test_they_are_listed(capsys):
    assert set(SHIPPED) >= EXPECTED
    assert main(["ls"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in SHIPPED)
