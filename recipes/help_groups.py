"""The order in which ``--help`` shows the options: by subject, the common ones first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

OTHER = "other options"


class Group(NamedTuple):
    """Options that belong together: those that most runs need, and those for experts."""

    title: str
    common: tuple[str, ...]
    rare: tuple[str, ...]


GROUPS = (
    Group(
        "data",
        ("corpus", "tokens", "data_dir", "length", "symbols", "by", "permute", "batch", "seed"),
        (
            *(
                "max_words",
                "subword_size",
                "valid_fraction",
                "test_fraction",
                "episodes",
                "threshold",
            ),
            *("max_repeats", "distractors", "count", "permute_seed"),
        ),
    ),
    Group(
        "model",
        (
            *(
                "net",
                "hidden_layers",
                "channels",
                "core",
                "hidden",
                "layers",
                "dropout",
                "embedding",
                "tie",
                "hierarchy",
                "period",
            ),
            *("init_from",),
        ),
        (
            "slow_hidden",
            "slow_chunk_len",
            "cutoffs",
            "encoder",
            "forget_bias",
            "chrono_steps",
            "precision",
            "compiled",
        ),
    ),
    Group(
        "optimisation",
        (
            *("trainer", "chunk_len", "order", "update_probability", "lr", "optimizer"),
            *("schedule", "clip"),
        ),
        (
            *("lr_b", "weight_decay", "momentum", "update_every", "warmup_updates", "decay"),
            *("recompute", "cut_probability", "history", "apart", "staleness"),
        ),
    ),
    Group(
        "synthetic gradients",
        ("synthesizer", "look_ahead", "grad_scale", "synth_lr", "message_scale"),
        (
            *("synth_hidden", "synth_clip", "updates_per_chunk", "train_fraction", "targets"),
            *("forgetting", "ridge", "solve_every", "bound", "audit_every", "control", "condition"),
            *("warmup_chunks", "synth_layers", "input_hidden", "input_lr"),
        ),
    ),
    Group("limits", ("updates", "epochs", "max_tokens", "max_seconds", "patience"), ()),
    Group(
        "output",
        ("out", "device", "log_every"),
        (
            "capture",
            "threads",
            "checkpoint_seconds",
            "evaluations",
            "evaluate_every",
            "horizon_every",
        ),
    ),
)


def in_groups(names: Iterable[str]) -> list[Group]:
    """The options of a recipe, in groups.

    Args:
        names: of the options.

    Returns:
        The groups with those options; options of no group are in the last one.

    Example:
        >>> [group.title for group in in_groups(["lr", "out", "colour"])]
        ['optimisation', 'output', 'other options']
    """
    own = list(names)
    known = {name for group in GROUPS for name in group.common + group.rare}
    groups = [
        Group(title, *(tuple(name for name in part if name in own) for part in parts))
        for title, *parts in (*GROUPS, Group(OTHER, tuple(n for n in own if n not in known), ()))
    ]
    return [group for group in groups if group.common or group.rare]
