"""Recipe ``copy-memory``: hold several symbols through a long blank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import seqdni.corpora as corpora
from seqdni.recipes.episode_options import LongOptions
from seqdni.recipes.option_field import option
from seqdni.recipes.recipe import Recipe, RecipeFile


@dataclass
class CopyMemoryOptions(LongOptions):
    """Options of ``seqdni run copy-memory``."""

    recipe: Literal["copy-memory"] = "copy-memory"
    length: int = option(50, "blank steps between the symbols and the cue", at_least=1)
    symbols: int = option(8, "kinds of symbols", at_least=2)
    count: int = option(10, "symbols to remember", at_least=1)


def _load() -> RecipeFile:
    from seqdni.recipes.long_dependency import LongDependency  # not for the help of the options

    return LongDependency(
        lambda options: corpora.CopyMemoryTask(options.symbols, options.count), tokens=True
    )


RECIPE = Recipe(
    "hold several symbols through a long blank, then emit them",
    CopyMemoryOptions,
    _load,
)
