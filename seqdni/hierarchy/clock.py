"""When the level above ticks, and which rows restart between two of its ticks.

Shapes: T ticks of a level, m ticks of the level above in them, B rows. All masks are on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor


class Above(NamedTuple):
    """The ticks of the level above, and the restarts of rows, during T ticks of a level.

    Args:
        sent: the ticks, counted from 0, after which the level above ticks.
        should_reset: ``[m + 1, B]``, rows that restart before each of the m ticks: those that
            restarted anywhere in the period before it. The last entry has the rows that restart at
            the first tick of the level below after the last of the m ticks.
        restarted_TB: at each tick, the rows that have restarted since the last tick of the level
            above. In these rows its context still belongs to the episode before.
        since_B: the same rows after all T ticks; the next call takes it.
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
    """Find when the level above ticks, which it does after every ``period`` ticks of this level.

    Args:
        ticks: ticks of this level so far.
        period: ticks of this level per tick of the level above.
        should_reset: rows of this level that restart before each of its next T ticks, and, in the
            last entry, after them.
        since_B: rows that restarted since the last tick of the level above.

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
