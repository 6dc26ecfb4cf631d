r"""Looking ahead through a hierarchy: the gradient of known steps at a state and at a message.

Shapes: K steps ahead, B rows, S features of a packed state, M of a message.

The message that a chunk's last step sends decides the context of the steps after it. Where these
are known, its gradient is computed and not predicted: the level above makes its tick on the
message, and then the hierarchy runs over the known steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seqdni.hierarchy.model import Hierarchy, LevelCarry
from seqdni.state import State


class HierarchyFromState:
    """A hierarchy after a chunk, in the form of a core that :func:`seqdni.look_ahead` can run.

    Its state is what gets a gradient: ``(lowest state,)`` or ``(lowest state, message)``. Its
    outputs are the readouts of the lowest level.

    Args:
        model: the hierarchy.
        carry: of each level after the chunk; that of the level above is from before its tick on the
            message.
        restarts_2B: ``should_reset`` ``[2, B]`` of the level above, before and after its tick on
            the message; None: the chunk's last step sends no message.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from seqdni import Level, TorchCore, look_ahead
        >>> fast = Level(TorchCore(nn.GRU(2 + 1, 4)), readout=nn.Linear(4, 3))
        >>> slow = Level(
        ...     TorchCore(nn.GRU(4, 4)), period=2, context=nn.Linear(4, 1), context_size=1)
        >>> model = Hierarchy([fast, slow], torch.zeros(1, 1, 2))
        >>> carry = model.initial_carry(5)
        >>> from_state = HierarchyFromState(model, carry, torch.zeros(2, 5, dtype=torch.bool))
        >>> ahead = torch.randn(2, 5, 2), torch.zeros(2, 5, dtype=torch.long), None, None
        >>> look_ahead(from_state, ahead, (carry[0].state, torch.zeros(5, 4))).shape
        torch.Size([5, 8])
    """

    def __init__(
        self, model: Hierarchy, carry: Sequence[LevelCarry], restarts_2B: Tensor | None = None
    ):
        self.model = model
        self.carry = list(carry)
        self.restarts_2B = restarts_2B

    def initial_state(self, batch_size: int) -> State:
        """The initial state of the lowest level. A core must have it; looking ahead never calls it.

        Args:
            batch_size: B.

        Returns:
            ``(lowest state,)``.
        """
        return (self.model.levels[0].initial_state(batch_size),)

    def __call__(self, x_TBD: Tensor, state: State) -> tuple[Tensor, State]:
        """:meth:`unroll` without restarts."""
        return self.unroll(x_TBD, state, None)

    def unroll(self, x: Tensor, state: State, should_reset: Tensor | None) -> tuple[Tensor, State]:
        """Run on from a state and a message.

        Args:
            x: inputs of the lowest level, ``[K, B, ...]``.
            state: ``(lowest state,)`` or ``(lowest state, message)``.
            should_reset: ``[K + 1, B]``, or None.

        Returns:
            The lowest level's readouts ``[K, B, ...]``, and its state after step K.
        """
        assert isinstance(state, tuple)
        lowest, *message = state
        carry = [self.carry[0]._replace(state=lowest), *self.carry[1:]]
        if message:
            assert isinstance(message[0], Tensor)
            assert self.restarts_2B is not None
            self.model.run(1, message[0][None], self.restarts_2B, carry)
        outputs, carry = self.model(x, carry, should_reset)
        assert outputs[0] is not None
        return outputs[0], carry[0].state
