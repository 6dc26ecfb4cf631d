"""Recipes ``copy`` and ``repeat-copy``: remember a sequence of symbols and emit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import seqdni.corpora as corpora
from seqdni.recipes.episode_options import CurriculumOptions
from seqdni.recipes.option_field import option
from seqdni.recipes.recipe import Recipe, RecipeFile


@dataclass
class CopyOptions(CurriculumOptions):
    """Options of ``seqdni run copy``."""

    recipe: Literal["copy"] = "copy"
    symbols: int = option(2, "number of different symbols", at_least=1)


@dataclass
class RepeatCopyOptions(CopyOptions):
    """Options of ``seqdni run repeat-copy``."""

    recipe: Literal["repeat-copy"] = "repeat-copy"  # type: ignore[assignment]
    max_repeats: int = option(32, "largest number of repetitions R", at_least=1)


def _load_copy() -> RecipeFile:
    from seqdni.recipes.curriculum import Curriculum  # not for the help of the options

    return Curriculum(lambda options: corpora.CopyTask(options.symbols))


def _load_repeat_copy() -> RecipeFile:
    from seqdni.recipes.curriculum import Curriculum  # not for the help of the options

    return Curriculum(
        lambda options: corpora.RepeatCopyTask(options.symbols, options.max_repeats), repeats=True
    )


COPY = Recipe(
    "read N symbols, then emit them; the curriculum makes N grow",
    CopyOptions,
    _load_copy,
)
REPEAT_COPY = Recipe(
    "read N symbols and a number R, then emit them R times; N and R grow in turn",
    RepeatCopyOptions,
    _load_repeat_copy,
)
