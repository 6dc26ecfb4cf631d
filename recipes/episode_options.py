"""The options that recipes of episodes have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seqdni.recipes.common_options import RunOptions
from seqdni.recipes.option_field import option, same_option
from seqdni.recipes.trainers import way_of


@dataclass
class EpisodicOptions(RunOptions):
    """Options of recipes whose data are episodes."""

    chunk_len: int = option(
        4,
        "T: steps of a chunk, the truncation length",
        at_least=1,
        only=lambda options: not way_of(options).whole_episodes or options.recompute,
        when="a trainer that truncates, or --recompute true",
    )
    hidden: int = same_option(RunOptions, "hidden", 64)
    lr: float = same_option(RunOptions, "lr", 3e-3)
    update_every: Literal["episode"] | int = option(
        "episode",
        "number of chunks whose gradients are summed for one update of the model, or 'episode' for "
        "all chunks of an episode",
        at_least=1,
        only=lambda options: not way_of(options).whole_episodes,
        when="a trainer that truncates",
    )
