"""When the level above ticks, and what it must know of the steps between two of its ticks.

Shapes: T ticks of a level, m ticks of the level above in them, B rows. All masks are on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor


class Above(NamedTuple):
    """The level above during some ticks of a level.

    Args:
        sent: the ticks, counted from 0, after which the level above ticks.
        should_reset: ``[m + 1, B]``, rows that restart before each of its ticks: those that
            restarted anywhere in the period before it. The last row says what is known after its
            last tick: who restarts with the very next tick of the level below.
        restarted_TB: rows that, at each tick, have restarted since the level above ticked last:
            what that one says is of another episode.
        since_B: the same after the last tick, to go on from.
    """

    sent: list[int]
    should_reset: Bool[Tensor, "mplus1 B"]
    restarted_TB: Bool[Tensor, "T B"]
    since_B: Bool[Tensor, " B"]


def clock_above(
    ticks: int,
    period: int,
    should_reset: Bool[Tensor, "Tplus1 B"],
    since_B: Bool[Tensor, " B"],
) -> Above:
    """The level above, which ticks after every ``period`` ticks of this one.

    Args:
        ticks: of this level, so far.
        period: ticks of this level per tick of the one above.
        should_reset: rows of this level that restart before each of its next T ticks, and after.
        since_B: rows that restarted since the level above ticked last.

    Returns:
        See :class:`Above`.

    Example:
        >>> reset = torch.tensor([[False], [True], [False], [False], [False], [True]])
        >>> above = clock_above(1, 3, reset, torch.tensor([False]))
        >>> above.sent, above.should_reset.flatten().tolist()
        ([1, 4], [True, False, True])
        >>> above.restarted_TB.flatten().tolist()
        [False, True, False, False, False]
    """
    steps = len(should_reset) - 1
    sent = list(range(-(ticks + 1) % period, steps, period))
    nobody_B = torch.zeros_like(since_B)
    if steps == 0 or not bool(should_reset[:-1].any() or since_B.any()):
        after = should_reset[-1:] if sent and sent[-1] == steps - 1 else nobody_B[None]
        resets = torch.cat([nobody_B.expand(len(sent), -1), after])
        return Above(sent, resets, nobody_B.expand(steps, -1), since_B)
    restarted, ends = [], set(sent)
    for t in range(steps):
        since_B = since_B | should_reset[t]
        restarted.append(since_B)
        if t in ends:
            since_B = nobody_B
    after = should_reset[sent[-1] + 1] if sent else nobody_B
    resets = torch.stack([*(restarted[t] for t in sent), after])
    return Above(sent, resets, torch.stack(restarted), since_B)
