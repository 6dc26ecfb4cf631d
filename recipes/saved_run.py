"""How the recipe and the options of a saved run are found."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError
from seqdni.recipes.option_field import check_kinds
from seqdni.recipes.parsing import RENAMED, parse_saved, recipe_parser
from seqdni.recipes.recipe import Recipe
from seqdni.recipes.registry import RECIPES


def saved_run(path: str | Path) -> tuple[RunDirectory, Recipe, Any]:
    """Open the folder of a run, or of an export.

    Args:
        path: its folder.

    Returns:
        The folder, its recipe, and its options, checked.

    Raises:
        RunError: it is not the folder of a run, or its config.yaml is damaged.
    """
    directory, saved = RunDirectory.open(path)
    if saved["recipe"] not in RECIPES:
        raise RunError(
            f"{path} is a run of {saved['recipe']!r}, which is no recipe here; "
            f"the recipes are {', '.join(RECIPES)}"
        )
    recipe = RECIPES[saved["recipe"]]
    return directory, recipe, saved_options(recipe, saved)


def saved_options(recipe: Recipe, saved: dict[str, Any]) -> Any:
    """The options in a config.yaml that a run has written, perhaps under an earlier version.

    Args:
        recipe: of the run.
        saved: values by name; an option may have the name of an earlier version.

    Returns:
        The recipe's options.

    Raises:
        RunError: an option is unknown, or its value is of the wrong kind.
    """
    names = {each.name for each in fields(recipe.options)}
    saved = dict(saved)
    for old, new in RENAMED.items():
        if old in saved and new in names - set(saved):
            saved[new] = saved.pop(old)
    if unknown := sorted(set(saved) - names):
        raise RunError(f"config.yaml has options that this version does not know: {unknown}")
    parser = recipe_parser(saved["recipe"], recipe.summary, recipe.options)
    checked = parse_saved(parser, saved)
    options = recipe.options(**{name: checked[name] for name in names})
    check_kinds(options)
    return options
