"""``--trainer all``: runs every way of training that a recipe compares, one after another."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from seqdni.recipes.commands.run import run
from seqdni.recipes.commands.training import prepared
from seqdni.recipes.directory import new_folder
from seqdni.recipes.errors import RunError
from seqdni.recipes.option_field import flag
from seqdni.recipes.registry import RECIPES


def run_each(recipe_name: str, parsed: dict[str, Any]) -> int:
    """Run every way of training that a recipe compares, each in a folder of its own.

    The same command continues them later: finished runs are left alone, stopped ones are resumed.

    Args:
        recipe_name: of the recipe.
        parsed: its options.

    Returns:
        The exit status.

    Raises:
        RunError: an option is refused.
    """
    recipe = RECIPES[recipe_name]
    options = prepared(recipe, parsed)
    folder = _folder_of_each(options.out, recipe_name)
    for trainer in recipe.compared:
        path = folder / trainer
        if path.is_symlink():
            raise RunError(f"{path} is a link; give another --out")
        if (path / "result.json").exists():
            continue
        words = ["--resume", str(path)]
        if not (path / "last.pt").exists():
            words = [*_words_for(options, trainer), "--trainer", trainer, "--out", str(path)]
        if status := run([recipe_name, *words]):
            print(f"and with the other runs by the same command with --out {folder}")
            return status
    print(f"Draw them with: seqdni plot {folder}/* --metric {recipe.drawn} --against tokens")
    return 0


def _folder_of_each(out: str | None, recipe_name: str) -> Path:
    """The folder of several runs, which may exist already."""
    ways = RECIPES[recipe_name].compared
    if out is not None and Path(out).is_dir():
        inside = {path.name for path in Path(out).iterdir()}
        if inside and inside <= set(ways):
            return Path(out)
    return new_folder(out, recipe_name)


def _words_for(options: Any, trainer: str) -> list[str]:
    """A command line of one way of training: the options that were set and have an effect there."""
    own = replace(options, trainer=trainer)
    words = []
    for each in fields(own):
        value, only = getattr(own, each.name), each.metadata.get("only")
        if each.name in ("recipe", "trainer", "out") or value == each.default:
            continue
        if only is None or only(own):
            words += [flag(each.name), yaml.safe_dump(value).split("\n")[0]]
    return words
