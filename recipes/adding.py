"""Recipe ``adding``: add the two marked values among many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import seqdni.corpora as corpora
from seqdni.recipes.episode_options import LongOptions
from seqdni.recipes.option_field import option
from seqdni.recipes.recipe import Recipe, RecipeFile


@dataclass
class AddingOptions(LongOptions):
    """Options of ``seqdni run adding``."""

    recipe: Literal["adding"] = "adding"
    length: int = option(
        40, "number of steps of an episode; one value in each half is marked", at_least=2
    )


def _load() -> RecipeFile:
    from seqdni.recipes.long_dependency import LongDependency  # not for the help of the options

    return LongDependency(lambda _options: corpora.AddingTask())


RECIPE = Recipe(
    "add the two marked values among many; answer at the end",
    AddingOptions,
    _load,
)
