"""Recipe ``recall``: remember one symbol during a delay in which noise is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seqdni.corpora import RecallTask
from seqdni.recipes.long_dependency import LongDependency, LongOptions
from seqdni.recipes.option_field import option, same_option
from seqdni.recipes.recipe import Recipe


@dataclass
class RecallOptions(LongOptions):
    """Options of ``seqdni run recall``."""

    recipe: Literal["recall"] = "recall"
    lr: float = same_option(LongOptions, "lr", 1e-3)
    length: int = option(
        16, "number of noise steps between the symbol and the cue to answer", at_least=1
    )
    symbols: int = option(4, "number of different symbols", at_least=2)
    distractors: int = option(4, "number of noise tokens; with 1 the noise is a blank", at_least=1)


RECIPE = Recipe(
    "remember one symbol during a delay in which noise is read",
    RecallOptions,
    LongDependency(lambda options: RecallTask(options.symbols, options.distractors), tokens=True),
)
