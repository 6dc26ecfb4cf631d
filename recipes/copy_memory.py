"""Recipe ``copy-memory``: hold several symbols through a long blank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seqdni.corpora import CopyMemoryTask
from seqdni.recipes.long_dependency import LongDependency, LongOptions
from seqdni.recipes.option_field import option
from seqdni.recipes.recipe import Recipe


@dataclass
class CopyMemoryOptions(LongOptions):
    """Options of ``seqdni run copy-memory``."""

    recipe: Literal["copy-memory"] = "copy-memory"
    length: int = option(50, "blank steps between the symbols and the cue", at_least=1)
    symbols: int = option(8, "kinds of symbols", at_least=2)
    count: int = option(10, "symbols to remember", at_least=1)


RECIPE = Recipe(
    "hold several symbols through a long blank, then emit them",
    CopyMemoryOptions,
    LongDependency(lambda options: CopyMemoryTask(options.symbols, options.count), tokens=True),
)
