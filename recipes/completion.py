"""Completion of words in a shell: gives the options of the recipes to shtab."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import shtab

from seqdni.recipes.option_field import flag

FOLDERS = ("out", "resume", "data_dir", "init_from")


def add_recipes(parser: argparse.ArgumentParser, recipes: dict[str, Any]) -> None:
    """Give ``seqdni run`` a command for each recipe, with its options and their choices.

    The parser is used only for completion: it does not check values.

    Args:
        parser: of ``seqdni run``, without arguments.
        recipes: by name, each with ``summary`` and ``options``.
    """
    commands = parser.add_subparsers()
    for name, recipe in recipes.items():
        command = commands.add_parser(name, help=recipe.summary)
        hints = get_type_hints(recipe.options)
        for each in fields(recipe.options):
            if not each.metadata:
                continue
            literal = [h for h in (hints[each.name], *get_args(hints[each.name])) if _lists(h)]
            choices = [str(value) for value in get_args(literal[0])] if literal else None
            action = command.add_argument(flag(each.name), choices=choices)
            if each.name in FOLDERS:
                action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
        for other, files in (("--config", shtab.FILE), ("--resume", shtab.DIRECTORY)):
            command.add_argument(other).complete = files  # pyright: ignore[reportAttributeAccessIssue]


def _lists(hint: Any) -> bool:
    return get_origin(hint) is Literal
