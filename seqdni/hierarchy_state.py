"""What a decoupled level must save to go on in the middle of a chunk as if never stopped.

A level keeps no graph between two steps: a chunk in the making is its messages and what the stream
said about them, and it is run when it is complete. So it is saved as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqdni.decoupled import DecoupledLevel
from seqdni.hierarchy import LevelCarry
from seqdni.hierarchy_chunk import Ticks
from seqdni.state import leaves, map_state
from seqdni.timescale import Timescale


def saved_level(level: DecoupledLevel) -> dict[str, Any]:
    """A level's part of a checkpoint, parameters and boundaries not included.

    Args:
        level: between two steps.

    Returns:
        Tensors and primitives.
    """
    return {
        "learned": level.learned and saved_carry(level.learned),
        "live": level.live and saved_carry(level.live),
        "told": [list(ticks) for ticks in level.told],
        "messages": [message.clone() for message in level.messages],
        "seen": list(level.seen),
        "context_grads": dict(level.context_grads),
        "ended": level.ended_B,
        "hints": [hint.clone() for hint in level.way_up.hints],
        "counts": [
            level.way_up.held,
            level.way_up.predicted,
            level.way_up.corrected,
            level.used,
            level.chunks,
            level.updates,
            int(level.carried),
        ],
    }


def load_level(level: DecoupledLevel, saved: Mapping[str, Any], device: torch.device) -> None:
    """Put a level back.

    Args:
        level: built alike.
        saved: from :func:`saved_level`.
        device: where it computes.
    """
    level.learned = saved["learned"] and restored_carry(saved["learned"], level.level, device)
    level.live = saved["live"] and restored_carry(saved["live"], level.level, device)
    level.told = [Ticks(*ticks) for ticks in saved["told"]]
    level.messages = [message.to(device) for message in saved["messages"]]
    level.seen = [context.to(device) for context in saved["seen"]]
    level.context_grads = {t: grad.to(device) for t, grad in saved["context_grads"].items()}
    level.ended_B = saved["ended"]
    level.way_up.hints = [hint.to(device) for hint in saved["hints"]]
    way_up, counts = level.way_up, saved["counts"]
    way_up.held, way_up.predicted, way_up.corrected, level.used = counts[:4]
    level.chunks, level.updates, level.carried = counts[4], counts[5], bool(counts[6])


def saved_carry(carry: LevelCarry) -> list[Any]:
    """A carry as a list of tensors and primitives.

    Args:
        carry: of a level.

    Returns:
        The state's leaves, the context, the ticks, the rows that restarted.
    """
    return [leaves(carry.state), carry.context_BC, carry.ticks, carry.since_B]


def restored_carry(saved: list[Any], level: Timescale, device: torch.device) -> LevelCarry:
    """The carry again.

    Args:
        saved: from :func:`saved_carry`.
        level: whose; gives the structure of its state.
        device: where it computes.

    Returns:
        The carry.
    """
    parts, context_BC, ticks, since_B = saved
    rest = iter(parts)

    def restore(_: Tensor) -> Tensor:
        return next(rest).to(device)

    state = map_state(restore, level.initial_state(parts[0].shape[-2]))
    return LevelCarry(
        state, context_BC if context_BC is None else context_BC.to(device), ticks, since_B
    )
