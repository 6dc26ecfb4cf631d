"""What trains one level of a hierarchy: settings, an optimiser, and the boundaries around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqdni.boundary import Boundary
from seqdni.losses import cross_entropy


@dataclass
class Learner:
    r"""How a level learns; the names mean what they mean in :class:`seqdni.Trainer`.

    Args:
        optimizer: of the level's parameters.
        chunk_len: ticks of the level's own chunk. None for the lowest level, whose chunks are those
            that are fed.
        loss: ``(readouts, targets) -> [T, B]``.
        loss_scale: factor on the batch mean of the level's summed loss. The level's boundaries
            predict gradients in these units: of the whole objective, divided by this factor.
        clip: largest norm of the level's gradient; None leaves it alone.
        boundary: bridges the level's own chunk ends; None truncates there.
        message_boundary: bridges the way up: predicts the gradient of what follows from a message,
            from the message. Its synthesizer's state size is the message's width. None: the level
            above tells this one nothing.
        synth_optimizer: of the parameters of both boundaries; None freezes them, but for those that
            are solved for.
        synth_clip: largest norm of a synthesizer's gradient.
        warmup_chunks: chunks of this level during which its boundaries learn and are not listened
            to.

    Raises:
        ValueError: a number out of range, or an Aux head, which a hierarchy has no use for.

    Example:
        >>> from seqdni import LeastSquares, Timescale, TorchCore
        >>> level = Timescale(TorchCore(nn.LSTM(2, 8)), readout=nn.Linear(8, 3))
        >>> learner = Learner(
        ...     torch.optim.Adam(level.parameters()), message_boundary=Boundary(LeastSquares(8)))
        >>> [boundary.grad_scale for boundary in learner.boundaries()]
        [1.0]
    """

    optimizer: torch.optim.Optimizer
    chunk_len: int | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    loss_scale: float = 1.0
    clip: float | None = None
    boundary: Boundary | None = None
    message_boundary: Boundary | None = None
    synth_optimizer: torch.optim.Optimizer | None = None
    synth_clip: float | None = None
    warmup_chunks: int = 0

    def __post_init__(self):
        if not self.loss_scale > 0:
            raise ValueError(f"loss_scale is {self.loss_scale}, expected a number > 0")
        if self.chunk_len is not None and self.chunk_len < 1:
            raise ValueError(f"chunk_len is {self.chunk_len}, expected a count >= 1")
        if self.synth_clip is not None and self.synth_optimizer is None:
            raise ValueError("synth_clip needs a synth_optimizer")
        if any(boundary.aux for boundary in self.boundaries()):
            raise ValueError("a hierarchy does not train Aux heads; build synthesizers without")

    def boundaries(self) -> Iterator[Boundary]:
        """Those that there are: temporal, then message."""
        yield from (each for each in (self.boundary, self.message_boundary) if each is not None)

    def learns(self, boundary: Boundary | None) -> bool:
        """Whether a boundary's synthesizer learns: by descent, or, without parameters, solved for.

        Args:
            boundary: one of this learner's, or None.
        """
        if boundary is None or not boundary.training or boundary.synthesizer is None:
            return False
        return self.synth_optimizer is not None or not list(boundary.parameters())

    def teach(self, boundary: Boundary, synth_loss: Tensor) -> None:
        """One step of a synthesizer.

        Args:
            boundary: whose synthesizer.
            synth_loss: from its regression.
        """
        if self.synth_optimizer is None or not synth_loss.requires_grad:  # solved for
            return
        synth_loss.backward()
        if self.synth_clip is not None:
            nn.utils.clip_grad_norm_(boundary.parameters(), self.synth_clip)
        self.synth_optimizer.step()
        self.synth_optimizer.zero_grad()

    def update(self, level: nn.Module) -> None:
        """One step of the level, from the gradients that it has.

        Args:
            level: whose parameters the optimiser holds.
        """
        if self.clip is not None:
            nn.utils.clip_grad_norm_(level.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
