"""Recipe ``recall``: remember one symbol during a delay in which noise is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import seqdni.corpora as corpora
from seqdni.recipes.episode_options import LongOptions
from seqdni.recipes.option_field import option, same_option
from seqdni.recipes.recipe import Recipe, RecipeFile


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


def _load() -> RecipeFile:
    from seqdni.recipes.long_dependency import LongDependency  # not for the help of the options

    return LongDependency(
        lambda options: corpora.RecallTask(options.symbols, options.distractors), tokens=True
    )


RECIPE = Recipe(
    "remember one symbol during a delay in which noise is read",
    RecallOptions,
    _load,
)
