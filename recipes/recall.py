"""Recipe ``recall``: hold one symbol through noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seqdni.corpora import RecallTask
from seqdni.recipes.long_dependency import LongDependency, LongOptions
from seqdni.recipes.option import option, same_option
from seqdni.recipes.recipe import Recipe


@dataclass
class RecallOptions(LongOptions):
    """Options of ``seqdni run recall``."""

    recipe: Literal["recall"] = "recall"
    lr: float = same_option(LongOptions, "lr", 1e-3)
    length: int = option(16, "steps of noise between writing and reading", at_least=1)
    symbols: int = option(4, "kinds of symbols", at_least=2)
    distractors: int = option(4, "kinds of noise; 1 is a blank", at_least=1)


RECIPE = Recipe(
    "hold one symbol through a delay full of noise",
    RecallOptions,
    LongDependency(lambda options: RecallTask(options.symbols, options.distractors), tokens=True),
)
