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


@dataclass
class CurriculumOptions(EpisodicOptions):
    """Options of recipes with a curriculum."""

    updates: int | None = option(4000, "stop after this many weight updates", at_least=1)
    log_every: int = option(
        10,
        "episodes between two rows of metrics.jsonl; with each row the curriculum decides whether "
        "to go on to the next level of difficulty",
        at_least=1,
    )
    threshold: float = option(
        0.15, "error in bits per symbol below which a level of difficulty is solved", above=0
    )
    episodes: Literal["lockstep", "back-to-back"] = option(
        "lockstep",
        "lockstep: all rows begin and end their episodes together, all of the current level; "
        "back-to-back: each row has one episode after another, of any length up to that of the "
        "level",
    )


@dataclass
class LongOptions(EpisodicOptions):
    """Options that recipes of this kind have in common."""

    chunk_len: int = same_option(EpisodicOptions, "chunk_len", 8)
    # At 0 a new LSTM forgets within a few steps; at 2 it needs little credit to remember 20.
    forget_bias: float = same_option(EpisodicOptions, "forget_bias", 1.0)
    updates: int | None = option(3000, "stop after this many weight updates", at_least=1)
    evaluate_every: int = option(
        500,
        "updates from one evaluation on held-out data to the next, rounded up to a multiple of "
        "--log-every",
        at_least=1,
    )
