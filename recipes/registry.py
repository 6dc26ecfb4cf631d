"""The recipes by name. Their options are here without torch; their functions are imported later."""

from __future__ import annotations

from seqdni.recipes import adding, copy_memory, copying, mnist, recall
from seqdni.recipes.count_digits import options as count_digits
from seqdni.recipes.layers import options as layers
from seqdni.recipes.lm import options as lm
from seqdni.recipes.recipe import Recipe, RecipeFile


def _load_count_digits() -> RecipeFile:
    from seqdni.recipes.count_digits import recipe

    return recipe


def _load_layers() -> RecipeFile:
    from seqdni.recipes.layers import recipe

    return recipe


def _load_lm() -> RecipeFile:
    from seqdni.recipes.lm import recipe

    return recipe


RECIPES = {
    "copy": copying.COPY,
    "repeat-copy": copying.REPEAT_COPY,
    "adding": adding.RECIPE,
    "recall": recall.RECIPE,
    "copy-memory": copy_memory.RECIPE,
    "mnist": mnist.RECIPE,
    "count-digits": Recipe(
        "count odd digits in each T and 3s in each T * T: two networks at two rates",
        count_digits.Options,
        _load_count_digits,
        compared=count_digits.WAYS,
        drawn="error_b",
    ),
    "layers": Recipe(
        "name digits by a feed-forward net whose layers do not wait for each other",
        layers.Options,
        _load_layers,
        compared=layers.WAYS,
        drawn="held_out_error",
    ),
    "lm": Recipe(
        "language model on Penn Treebank, WikiText, enwik8, text8, your text, or Python's manual",
        lm.Options,
        _load_lm,
        reads_text=True,
    ),
}
