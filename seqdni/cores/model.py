"""A sequence model, which is a core from tokens to logits.

Shapes: T steps, B rows, D features, V symbols.
"""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn import functional

from seqdni.cores.base import Core, FixedWeights, TorchCore, TraceableCore
from seqdni.cores.state_gradients import Trace
from seqdni.module_hooks import has_hooks
from seqdni.state import State


class OneHot(nn.Module):
    """Turns token ids ``[T, B]`` into one-hot vectors ``[T, B, size]``.

    Args:
        size: number of symbols.

    Example:
        >>> OneHot(3)(torch.tensor([[2]]))
        tensor([[[0., 0., 1.]]])
    """

    def __init__(self, size: int):
        super().__init__()
        self.rows: Tensor
        self.register_buffer("rows", torch.eye(size), persistent=False)

    def forward(self, tokens_TB: Shaped[Tensor, "T B"]) -> Tensor:
        """Look the tokens up in an identity matrix, which is neither saved nor trained."""
        if tokens_TB.is_floating_point():
            raise TypeError(
                f"got token ids of {tokens_TB.dtype}, expected integers; for real inputs use an "
                "encoder that takes them, such as nn.Identity()"
            )
        return functional.embedding(tokens_TB, self.rows)


class SequenceModel(nn.Module):
    """Encoder, core and readout as one core: ``logits, state = model(tokens, state)``.

    Args:
        encoder: turns inputs into features ``[T, B, D]`` (an embedding, :class:`OneHot`).
        core: the recurrent part.
        readout: turns the core's outputs into logits.

    Example:
        >>> from seqdni import TorchCore
        >>> model = SequenceModel(OneHot(5), TorchCore(nn.LSTM(5, 8)), nn.Linear(8, 5))
        >>> logits, state = model(torch.zeros(4, 2, dtype=torch.long), model.initial_state(2))
        >>> logits.shape
        torch.Size([4, 2, 5])
    """

    def __init__(self, encoder: nn.Module, core: Core, readout: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.core = core
        self.readout = readout

    def initial_state(self, batch_size: int) -> State:
        """The core's initial state.

        Args:
            batch_size: B.

        Returns:
            The state that the core starts from.
        """
        return self.core.initial_state(batch_size)

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Compute the logits of every step of a chunk.

        Args:
            inputs: what the encoder takes, ``[T, B]`` or ``[T, B, ...]``.
            state: the state before the first step.

        Returns:
            Logits ``[T, B, V]`` and the state after the last step.
        """
        features_TBD, state = self.core(self._encoded(inputs), state)
        return self.readout(features_TBD), state

    def with_fixed_weights(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """:meth:`forward` for a backward pass that need not reach the weights of the core.

        Args:
            inputs: what the encoder takes, ``[T, B]`` or ``[T, B, ...]``.
            state: the state before the first step.

        Returns:
            Logits ``[T, B, V]`` and the state after the last step.
        """
        features_TBD, state = FixedWeights(self.core)(self._encoded(inputs), state)
        return self.readout(features_TBD), state

    def _encoded(self, inputs: Tensor) -> Tensor:
        """What the core reads; compiled layers need no one-hot vectors made of symbols."""
        core, encoder = self.core, self.encoder
        if (
            type(encoder) is OneHot
            and type(core) is TorchCore
            and inputs.dtype in (torch.int64, torch.int32)
            and len(encoder.rows) == core.rnn.input_size
            and core.runs_compiled(inputs.device)
            and not (has_hooks(encoder) or has_hooks(core))
        ):
            return inputs.long()
        return encoder(inputs)

    @property
    def can_trace(self) -> bool:
        """Whether :meth:`traced` works: whether the core can be traced."""
        return isinstance(self.core, TraceableCore) and self.core.can_trace

    def traced(self, inputs: Tensor, state: State) -> tuple[Tensor, State, Trace]:
        """Compute the logits of every step of a chunk, and trace the core's states.

        Args:
            inputs: what the encoder takes, ``[T, B]`` or ``[T, B, ...]``.
            state: the state before the first step.

        Returns:
            Logits ``[T, B, V]``, the state after the last step, and the trace.

        Raises:
            ValueError: the core cannot be traced.
        """
        if not isinstance(self.core, TraceableCore):
            raise ValueError(
                f"{type(self.core).__name__} has no traced(x, state) -> (y, state, trace) and "
                "can_trace; give it both, or use boundary targets"
            )
        features_TBD, state, trace = self.core.traced(self.encoder(inputs), state)
        return self.readout(features_TBD), state, trace
