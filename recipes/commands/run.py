"""``seqdni run``: finds the recipe and its options, and runs it once, or each of its ways once."""

from __future__ import annotations

from collections.abc import Sequence

from seqdni.recipes.errors import RunError
from seqdni.recipes.parsing import did_you_mean, parse, recipe_parser
from seqdni.recipes.registry import RECIPES


def run(words: Sequence[str]) -> int:
    """``seqdni run RECIPE ...`` or ``seqdni run --resume DIR ...``.

    Args:
        words: the recipe, if it is named, and its options.

    Returns:
        The exit status.

    Raises:
        RunError: there is no such recipe, or an option is refused.
    """
    name, words = _recipe_of(words)
    recipe = RECIPES[name]
    parser = recipe_parser(name, recipe.summary, recipe.options, experts="--help-all" in words)
    parsed = parse(parser, words)  # ends the process where help was asked for
    from seqdni.recipes.commands.each import run_each
    from seqdni.recipes.commands.training import AUTO, train

    if parsed["resume"] in (None, AUTO) and parsed["trainer"] == "all":
        return run_each(name, parsed)
    return train(name, parser, words, parsed)


def _recipe_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe that the words name, or that of the run to resume, and the other words."""
    if words and not words[0].startswith("-"):
        if words[0] not in RECIPES:
            hint = did_you_mean(words[0], RECIPES)
            raise RunError(f"no recipe {words[0]!r}{hint}; there are: {', '.join(RECIPES)}")
        return words[0], list(words[1:])
    for i, word in enumerate(words):
        path = word.removeprefix("--resume=") if word.startswith("--resume=") else None
        if word == "--resume" and i + 1 < len(words):
            path = words[i + 1]
        if path is not None:
            from seqdni.recipes.directory import RunDirectory  # not for the help of the options

            name = RunDirectory.open(path)[1]["recipe"]
            if name not in RECIPES:
                raise RunError(f"{path} is a run of {name!r}, which is no recipe here")
            return name, list(words)
    raise RunError(f"which recipe? Give one of {', '.join(RECIPES)}; or --resume DIR")
