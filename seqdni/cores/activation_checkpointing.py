"""Full BPTT in little memory: activations are recomputed in the backward pass.

Shapes: T steps, B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqdni.cores.base import Core, pieces, unroll
from seqdni.state import State


class Checkpointed(nn.Module):
    r"""Runs a core in pieces, and keeps only their outputs and the states between them.

    The backward pass runs each piece forward once more before it goes back through it. The
    gradient is the same as without this wrapper. For an episode of N steps the memory is

    .. math:: O(steps \cdot activations + (N / steps) \cdot state + N \cdot outputs)

    instead of :math:`O(N \cdot activations)`, at the cost of a second forward pass; ``steps`` near
    the square root of N needs the least. Wrap a whole model and not its core alone, so that the
    kept outputs are the model's. Dropout draws the same numbers again on the CPU; that of cuDNN
    between layers may not.

    Args:
        core: the core, or a whole model under the core's contract.
        steps: the length of a piece.

    Raises:
        ValueError: ``steps`` is below 1.

    Example:
        >>> from seqdni import TorchCore
        >>> core = Checkpointed(TorchCore(nn.GRU(1, 2)), steps=4)
        >>> y, state = core(torch.zeros(10, 3, 1), core.initial_state(3))
        >>> y.shape
        torch.Size([10, 3, 2])

    Source: Chen et al., *Training Deep Nets with Sublinear Memory Cost*, arXiv 1604.06174.
    """

    def __init__(self, core: Core, steps: int):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps is {steps}, expected the steps of a piece, >= 1")
        self.core = core
        self.steps = steps

    def initial_state(self, batch_size: int) -> State:
        """The core's initial state.

        Args:
            batch_size: B.

        Returns:
            The state that the core starts from.
        """
        return self.core.initial_state(batch_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run a chunk without restarts.

        Args:
            x: inputs ``[T, B, ...]``.
            state: the state before the first step.

        Returns:
            Outputs ``[T, B, ...]`` and the state after the last step.
        """
        return self.unroll(x, state, None)

    def unroll(self, x: Tensor, state: State, should_reset: Tensor | None) -> tuple[Tensor, State]:
        """Run a chunk with its restarts; :func:`seqdni.unroll` calls this.

        Args:
            x: inputs ``[T, B, ...]``.
            state: the state before the first step.
            should_reset: ``[T + 1, B]``, or None.

        Returns:
            Outputs ``[T, B, ...]`` and the state after the last step.
        """
        if not torch.is_grad_enabled():
            return unroll(self.core, x, state, should_reset)
        outputs = []
        for piece, reset in pieces(x, should_reset, self.steps):
            y, state = checkpoint(unroll, self.core, piece, state, reset, use_reentrant=False)
            outputs.append(y)
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0], state
