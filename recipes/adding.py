"""Recipe ``adding``: add the two marked values among many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seqdni.corpora import AddingTask
from seqdni.recipes.long_dependency import LongDependency, LongOptions
from seqdni.recipes.option_field import option
from seqdni.recipes.recipe import Recipe


@dataclass
class AddingOptions(LongOptions):
    """Options of ``seqdni run adding``."""

    recipe: Literal["adding"] = "adding"
    length: int = option(
        40, "number of steps of an episode; one value in each half is marked", at_least=2
    )


RECIPE = Recipe(
    "add the two marked values among many; answer at the end",
    AddingOptions,
    LongDependency(lambda _options: AddingTask()),
)
