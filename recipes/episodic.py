"""The options that recipes of episodes have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from recipes.options import RunOptions, option


def chunk_len_option(default: int) -> Any:
    """T where an episode may also be one chunk.

    Args:
        default: of the recipe.

    Returns:
        The field.
    """
    return option(
        default,
        "T: steps of a chunk, the truncation length",
        at_least=1,
        only=lambda options: options.trainer != "bptt" or options.recompute,
        when="a trainer that truncates, or --recompute true",
    )


@dataclass
class EpisodicOptions(RunOptions):
    """Options of recipes whose rows play episodes."""

    hidden: int = option(64, "units of a layer", at_least=1)
    lr: float = option(3e-3, "learning rate for the model", above=0)
    update_every: Literal["episode"] | int = option(
        "episode",
        "chunks whose gradients make one update, or 'episode'",
        at_least=1,
        only=lambda options: options.trainer != "bptt",
        when="a trainer that truncates",
    )
