"""Recurrent layers on top of each other, and dropout with one mask for a row's whole chunk.

Shapes: T steps, B rows, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqdni.cores.base import Core
from seqdni.state import State


class LockedDropout(nn.Module):
    r"""Dropout with one mask for all steps of a row: :math:`y_t = m \odot x_t / (1 - rate)`.

    In training a mask is drawn for each call, that is, for each chunk. Where any row restarts
    inside a chunk, all rows get a new mask, because another call begins there (see
    :func:`seqdni.unroll`).

    Args:
        rate: share of the features that are dropped, 0 <= rate < 1.

    Raises:
        ValueError: ``rate`` is out of range.

    Example:
        >>> y = LockedDropout(0.5)(torch.ones(4, 3, 10))
        >>> bool((y == y[0]).all()), sorted(set(y.flatten().tolist()))
        (True, [0.0, 2.0])

    Source: Gal and Ghahramani, arXiv 1512.05287.
    """

    def __init__(self, rate: float):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate is {rate}, expected 0 <= rate < 1")
        self.rate = rate

    def forward(self, x_TBD: Float[Tensor, "T B D"]) -> Float[Tensor, "T B D"]:
        """Drop features in training; in evaluation return them unchanged.

        Args:
            x_TBD: features.

        Returns:
            The features. In training some are zero, and the others are divided by 1 - rate.
        """
        if not self.training or not self.rate:
            return x_TBD
        keep = 1 - self.rate
        mask_BD = torch.empty_like(x_TBD[0]).bernoulli_(keep).div_(keep)
        return x_TBD * mask_BD


class Stack(nn.Module):
    """Cores on top of each other as one core, with dropout between them.

    Args:
        layers: modules that are cores; each takes the outputs of the one below.
        dropout: rate of the dropout between the layers, with one mask for each row and chunk.

    Raises:
        ValueError: there is no layer.

    Example:
        >>> from seqdni import TorchCore
        >>> core = Stack([TorchCore(nn.LSTM(3, 4)), TorchCore(nn.GRU(4, 5))], dropout=0.2)
        >>> y, state = core(torch.zeros(6, 2, 3), core.initial_state(2))
        >>> y.shape, state[1].shape
        (torch.Size([6, 2, 5]), torch.Size([1, 2, 5]))
    """

    def __init__(self, layers: Sequence[Core], dropout: float = 0.0):
        super().__init__()
        if not layers:
            raise ValueError("a Stack needs at least one layer, got none")
        self.layers = nn.ModuleList(layers)  # type: ignore[arg-type]
        self.dropout = LockedDropout(dropout)

    def initial_state(self, batch_size: int) -> State:
        """The initial states of all layers.

        Args:
            batch_size: B.

        Returns:
            A tuple of states, from the lowest layer up.
        """
        return tuple(layer.initial_state(batch_size) for layer in self.layers)  # type: ignore

    def forward(self, x_TBD: Tensor, state: State) -> tuple[Tensor, State]:
        """Run a chunk through all layers.

        Args:
            x_TBD: inputs.
            state: the state before the first step.

        Returns:
            Outputs of the highest layer, and the state after the last step.
        """
        after = []
        for i, (layer, own) in enumerate(zip(self.layers, state, strict=True)):
            x_TBD, own = layer(self.dropout(x_TBD) if i else x_TBD, own)
            after.append(own)
        return x_TBD, tuple(after)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Switch off every :class:`LockedDropout` of a model inside the ``with`` block.

    ``model.eval()`` would do this too, but cuDNN refuses a backward pass in evaluation mode.

    Args:
        model: any module.

    Example:
        >>> dropout = LockedDropout(0.5)
        >>> with without_dropout(dropout):
        ...     dropout(torch.ones(1, 1, 3))
        tensor([[[1., 1., 1.]]])
    """
    training = [m for m in model.modules() if isinstance(m, LockedDropout) and m.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
