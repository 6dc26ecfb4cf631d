"""One level of a hierarchy: a core that ticks at its own rate, and what it sends to its neighbours.

Shapes: T ticks, B rows, F features of the core, M of a message, C of a context.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from seqdni.cores.base import Core, TraceableCore, unroll, unroll_traced
from seqdni.cores.state_gradients import Trace
from seqdni.state import State


class Level(nn.Module):
    r"""A core with its encoder and readout, its message to the level above and its context below.

    .. math:: f_t, s_t = core([encoder(x_t), c_t], s_{t-1})

    where :math:`x_t` is the stream's input or, above the lowest level, the message of the level
    below, and :math:`c_t` the context that the level above gave at its last tick (zeros before its
    first one, and in a row that has restarted since). Each map gets features ``[..., B, F]``.

    Args:
        core: the recurrent part. Its input is what the encoder outputs, followed by the context.
        encoder: applied to the inputs or messages; None: they go to the core as they are.
        readout: maps features to what the loss takes; None: this level has no loss of its own.
        message: maps features to the message for the level above; None sends the features.
        context: maps features to the context for the level below; None gives none.
        context_size: C, the width of that context.
        period: ticks of the level below per tick of this one; 1 for the lowest level.

    Raises:
        ValueError: the period is not a positive integer, or one of context and context_size is
            given without the other.

    Example:
        >>> from seqdni import TorchCore
        >>> slow = Level(
        ...     TorchCore(nn.GRU(8, 16)), readout=nn.Linear(16, 5), period=4,
        ...     context=nn.Linear(16, 3), context_size=3)
        >>> features, state = slow.features(torch.zeros(2, 1, 8), slow.initial_state(1))
        >>> features.shape, slow.context(features[-1]).shape
        (torch.Size([2, 1, 16]), torch.Size([1, 3]))
    """

    def __init__(
        self,
        core: Core,
        *,
        encoder: nn.Module | None = None,
        readout: nn.Module | None = None,
        message: nn.Module | None = None,
        context: nn.Module | None = None,
        context_size: int = 0,
        period: int = 1,
    ):
        super().__init__()
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise ValueError(f"period is {period!r}, expected an integer >= 1")
        if (context is None) != (context_size == 0) or context_size < 0:
            raise ValueError(
                f"context is {'None' if context is None else 'given'} and context_size "
                f"{context_size}; give a context with its width >= 1, or neither"
            )
        self.encoder = nn.Identity() if encoder is None else encoder
        self.core = core
        self.readout = readout
        self.message = nn.Identity() if message is None else message
        self.context = nn.Identity() if context is None else context
        self.context_size = context_size
        self.period = period

    def initial_state(self, batch_size: int) -> State:
        """The core's initial state.

        Args:
            batch_size: B.

        Returns:
            The state that the core starts from.
        """
        return self.core.initial_state(batch_size)

    def features(
        self,
        x: Tensor,
        state: State,
        should_reset: Bool[Tensor, "Tplus1 B"] | None = None,
        context_TBC: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Run the core over some ticks.

        Args:
            x: inputs, or messages of the level below, ``[T, B, ...]``.
            state: the state before the first tick.
            should_reset: as for :func:`seqdni.unroll`.
            context_TBC: from the level above, if it gives one.

        Returns:
            The features ``[T, B, F]`` and the state after the last tick.
        """
        return unroll(self.core, self._encoded(x, context_TBC), state, should_reset)

    def traced_features(
        self,
        x: Tensor,
        state: State,
        should_reset: Bool[Tensor, "Tplus1 B"] | None = None,
        context_TBC: Tensor | None = None,
    ) -> tuple[Tensor, State, Trace]:
        """Run the core as :meth:`features` does, and record a trace of its states.

        Args:
            x: as in :meth:`features`.
            state: as in :meth:`features`.
            should_reset: as in :meth:`features`.
            context_TBC: as in :meth:`features`.

        Returns:
            The features, the state after the last tick, and the trace.
        """
        assert isinstance(self.core, TraceableCore)
        return unroll_traced(self.core, self._encoded(x, context_TBC), state, should_reset)

    def _encoded(self, x: Tensor, context_TBC: Tensor | None) -> Tensor:
        encoded_TBD = self.encoder(x)
        if context_TBC is None:
            return encoded_TBD
        return torch.cat([encoded_TBD, context_TBC.to(encoded_TBD.dtype)], dim=-1)
