r"""What a synthesizer learns from after a chunk: states, and the gradients that arrived there.

Shapes: T steps, B rows, S features of a packed state, N pairs of a state and a gradient.

With :math:`L` the sum of the chunk's loss and its bootstrap, a chunk has a target at its start and,
from the same backward pass, one at every state inside:

.. math:: target(s_t) = \partial L_{\ge t} / \partial s_t, \quad t = 0 \; \text{or} \; 0 \le t < T
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqdni.chunk import no_rows
from seqdni.cores.state_gradients import Trace
from seqdni.state import State, detach, pack, target_grad


class Pairs(NamedTuple):
    """States and the gradients that arrived there.

    The masks are on the CPU, or, in a captured step, on the GPU; there they have a true entry.

    Args:
        state_NS: packed states, without a graph.
        grad_NS: the gradients, in the objective's units.
        valid_N: pairs that are learned from; None: all.
        final_N: pairs whose gradient contains no bootstrap; None: no pair.
    """

    state_NS: Float[Tensor, "N S"]
    grad_NS: Float[Tensor, "N S"]
    valid_N: Bool[Tensor, " N"] | None
    final_N: Bool[Tensor, " N"] | None

    def dealt(self, parts: int) -> Iterator[Pairs]:
        """Split the pairs into equal parts; a part without a valid pair is left out.

        Args:
            parts: how many, >= 1.

        Yields:
            Part i has the pairs i, i + ``parts``, i + 2 ``parts`` and so on.
        """
        for first in range(min(parts, len(self.state_NS))):
            state, grad, valid, final = (
                field if field is None or parts == 1 else field[first::parts] for field in self
            )
            assert state is not None
            assert grad is not None
            if not _known_empty(valid):
                yield Pairs(state, grad, valid, None if _known_empty(final) else final)


def _known_empty(mask_N: Tensor | None) -> bool:
    return mask_N is not None and mask_N.device.type == "cpu" and no_rows(mask_N)


def boundary_pairs(
    start: State,
    taught_B: Bool[Tensor, " B"] | None,
    final_B: Bool[Tensor, " B"] | None,
    gradient_at_end: bool,
) -> Pairs:
    """One pair for each row: the state at the chunk's start and its gradient.

    Args:
        start: the state that a chunk started from, made by :func:`seqdni.cut`.
        taught_B: rows whose start is learned from; None: all rows.
        final_B: rows whose episode ended within the chunk; None: no row.
        gradient_at_end: whether a gradient arrived at the chunk's end.

    Returns:
        N = B pairs, valid in those rows.
    """
    state_BS = pack(detach(start))
    if not gradient_at_end:
        final_B = torch.ones(len(state_BS), dtype=torch.bool, device=state_BS.device)
    return Pairs(state_BS, target_grad(start), taught_B, final_B)


def dense_pairs(
    trace: Trace,
    should_reset: Bool[Tensor, "Tplus1 B"] | None,
    taught_B: Bool[Tensor, " B"] | None,
    gradient_at_end: bool,
) -> Pairs:
    """One pair for each step of each row: the state that enters the step and its gradient.

    Args:
        trace: from :func:`seqdni.unroll_traced`, after the backward pass.
        should_reset: the chunk's restarts.
        taught_B: rows whose state at the chunk's start is learned from; None: all rows.
        gradient_at_end: whether a gradient arrived at the chunk's end.

    Returns:
        N = T * B pairs, step after step. A pair is valid where its row does not restart at that
        step, and final if its row restarts at a later step or no gradient arrived at the end.

    Example:
        >>> trace = Trace(torch.zeros(3, 1, 2), (torch.zeros(3, 1, 2),))
        >>> reset = torch.tensor([[False], [True], [False], [False]])
        >>> pairs = dense_pairs(trace, reset, taught_B=None, gradient_at_end=True)
        >>> pairs.valid_N, pairs.final_N
        (tensor([ True, False,  True]), tensor([ True, False, False]))
    """
    steps, rows = trace.states_TBS.shape[:2]
    valid_TB = torch.ones(steps, rows, dtype=torch.bool)
    final_TB = torch.full((steps, rows), not gradient_at_end)
    if should_reset is not None:
        should_reset = should_reset.cpu()
        valid_TB = ~should_reset[:-1]
        final_TB = final_TB | (should_reset[1:].flip(0).cumsum(0).flip(0) > 0)
    if taught_B is not None:
        valid_TB[0] &= taught_B
    return Pairs(
        trace.states_TBS.flatten(0, 1),
        trace.grads().flatten(0, 1),
        None if bool(valid_TB.all()) else valid_TB.flatten(),
        final_TB.flatten() if bool(final_TB.any()) else None,
    )
