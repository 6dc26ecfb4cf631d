r"""Overlapping chunks, BPTT(h; h'): each chunk is run again together with those before it.

Source: Williams & Peng, *An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent
Network Trajectories*, Neural Computation 2 (1990).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqdni.chunk import join_resets
from seqdni.learner import check_count
from seqdni.parallel_checkpoint import OfRows, as_it_is
from seqdni.state import State, leaves


class Overlap:
    r"""Runs the chunks before each chunk once more, so that its gradient reaches through them.

    This is :math:`BPTT(h; h')` with :math:`h = (history + 1) T` and :math:`h' = T`. Time and memory
    of a chunk are ``history + 1`` times as large. Where a chunk begins with a restart of all rows,
    the trainer drops the chunks before it, because nothing depends on them.

    Args:
        history: the number of chunks that are run again before each scored chunk.

    Raises:
        ValueError: ``history`` is not a whole number >= 1.

    Example:
        >>> overlap, x = Overlap(history=1), torch.zeros(3, 2)
        >>> overlap.keep(None, x, None)
        >>> start, longer, _ = overlap.extend(torch.ones(2, 4), x, None)
        >>> start, len(longer)
        (None, 6)
    """

    obstacle_to_capture = "overlapping chunks"  # why no CUDA graph computes a chunk

    def __init__(self, history: int):
        check_count("history", history, least=1)
        self.history = history
        self._kept: deque[tuple[State | None, Tensor, Tensor | None]] = deque(maxlen=history)

    def extend(
        self, carry: State | None, inputs: Tensor, should_reset: Tensor | None
    ) -> tuple[State | None, Tensor, Tensor | None]:
        """Put the kept chunks before a chunk.

        Args:
            carry: the state that the chunk starts from; None: the initial one.
            inputs: of the chunk, ``[T, B, ...]``.
            should_reset: of the chunk, ``[T + 1, B]`` or None.

        Returns:
            The same three for the longer chunk.
        """
        if not self._kept:
            return carry, inputs, should_reset
        _, xs, resets = zip(*self._kept, (carry, inputs, should_reset), strict=True)
        return (
            self._kept[0][0],
            torch.cat([x.to(inputs.device) for x in xs]),
            join_resets(xs, resets),
        )

    def forget(self) -> None:
        """Drop the kept chunks."""
        self._kept.clear()

    def keep(self, carry: State | None, inputs: Tensor, should_reset: Tensor | None) -> None:
        """Keep a chunk, and drop the oldest one if there are more than ``history``.

        Args:
            carry: the state that the chunk started from; None: the initial one.
            inputs: of the chunk.
            should_reset: of the chunk.
        """
        self._kept.append((carry, inputs, should_reset))

    def state_dict(self, whole: OfRows = as_it_is) -> list[list[Any]]:
        """The kept chunks.

        Args:
            whole: makes a tensor of all rows from one with the rows of this process.

        Returns:
            Lists, tensors and None only.
        """
        return [
            [
                None if carry is None else [whole(leaf, -2) for leaf in leaves(carry)],
                whole(inputs, 1).clone(),
                whole(should_reset, 1),
            ]
            for carry, inputs, should_reset in self._kept
        ]

    def load_state_dict(
        self,
        saved: list[list[Any]],
        restore: Callable[[list[Tensor] | None], State | None],
        own: OfRows = as_it_is,
    ) -> None:
        """Restore the kept chunks.

        Args:
            saved: from :meth:`state_dict`.
            restore: makes a state of the rows of this process from the list of its tensors; None
                from None.
            own: takes the rows of this process out of a tensor of all rows.

        Raises:
            ValueError: there are more than ``history`` of them.
        """
        if len(saved) > self.history:
            raise ValueError(
                f"the saved trainer kept {len(saved)} chunks, this one keeps {self.history}; "
                "give it the same history"
            )
        self._kept.clear()
        self._kept.extend(
            (restore(carry), own(x, 1), own(should_reset, 1)) for carry, x, should_reset in saved
        )
