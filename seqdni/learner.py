"""What trains one level of a hierarchy: settings, an optimiser, and the boundaries around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from seqdni.boundary import Boundary
from seqdni.guard import NonFinite, drop_if_not_finite
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
        non_finite: what to do about a gradient that is not finite.

    Raises:
        ValueError: a number out of range, a synthesizer that nothing would train, an optimiser of
            other parameters, or an Aux head, which a hierarchy has no use for.

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
    non_finite: NonFinite = "raise"

    def __post_init__(self):
        if self.chunk_len is not None:
            check_count("chunk_len", self.chunk_len, least=1)
        check_settings(self.loss_scale, self.clip, self.synth_clip, self.warmup_chunks)
        check_non_finite(self.non_finite)
        if self.synth_clip is not None and self.synth_optimizer is None:
            raise ValueError("synth_clip needs a synth_optimizer")
        check_synth_optimizer(list(self.boundaries()), self.synth_optimizer)
        if any(boundary.aux for boundary in self.boundaries()):
            raise ValueError("a hierarchy does not train Aux heads; build synthesizers without")

    def boundaries(self) -> Iterator[Boundary]:
        """Those that there are: temporal, then message."""
        yield from (each for each in (self.boundary, self.message_boundary) if each is not None)

    def learns(self, boundary: Boundary | None) -> bool:
        """Whether a boundary's synthesizer learns; see :func:`learns`.

        Args:
            boundary: one of this learner's, or None.
        """
        return learns(boundary, self.synth_optimizer)

    def teach(self, boundary: Boundary, synth_loss: Tensor) -> None:
        """One step of a synthesizer; see :func:`teach`.

        Args:
            boundary: whose synthesizer.
            synth_loss: from its regression.
        """
        teach(boundary, synth_loss, self.synth_optimizer, self.synth_clip)

    def update(self, level: nn.Module, where: str) -> bool:
        """One step of the level, from the gradients that it has; see :func:`update`.

        Args:
            level: whose parameters the optimiser holds.
            where: the name of the chunk, for an error.

        Returns:
            Whether a step was made.
        """
        parameters = list(level.parameters())
        return update(parameters, self.optimizer, self.clip, self.non_finite, where)


def learns(boundary: Boundary | None, synth_optimizer: torch.optim.Optimizer | None) -> bool:
    """Whether a boundary's synthesizer learns: by descent, or, without parameters, solved for.

    Args:
        boundary: perhaps with a synthesizer.
        synth_optimizer: of its parameters.
    """
    if boundary is None or not boundary.training or boundary.synthesizer is None:
        return False
    return synth_optimizer is not None or not list(boundary.parameters())


def teach(
    boundary: Boundary,
    synth_loss: Tensor,
    synth_optimizer: torch.optim.Optimizer | None,
    synth_clip: float | None,
) -> None:
    """One step of a synthesizer by descent. A loss that is not finite is passed over.

    Args:
        boundary: whose synthesizer.
        synth_loss: from its regression.
        synth_optimizer: of the boundary's parameters; None where they are solved for.
        synth_clip: largest norm of their gradient.
    """
    if synth_optimizer is None or not synth_loss.requires_grad:  # solved for
        return
    synth_loss.backward()
    if not _clipped(list(boundary.parameters()), synth_clip):
        synth_optimizer.step()
    synth_optimizer.zero_grad()


def update(
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    clip: float | None,
    non_finite: NonFinite,
    where: str,
) -> bool:
    """One step of a model from the gradients that it has, if they are finite.

    Args:
        parameters: of the model.
        optimizer: of these parameters.
        clip: largest norm of its gradient; None leaves it alone.
        non_finite: what to do otherwise.
        where: the name of the chunk, for the error.

    Returns:
        Whether a step was made, as far as that is known without waiting for the device.

    Raises:
        FloatingPointError: a gradient is not finite, and ``non_finite`` is ``"raise"``.
    """
    dropped = _clipped(parameters, clip)
    if not dropped:
        optimizer.step()
    optimizer.zero_grad()
    if dropped and non_finite == "raise":
        raise FloatingPointError(f"the gradient of {where} is not finite; {GO_ON}")
    return not dropped


GO_ON = (
    "no update was made with it, and the model is as it was. Look at the data and the loss there, "
    "try a smaller learning rate or a clip, or pass such chunks over with non_finite='skip'"
)


def _clipped(parameters: Sequence[nn.Parameter], clip: float | None) -> bool:
    """Clip gradients, or drop them where they are not finite; whether they were dropped."""
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip)
    return drop_if_not_finite(parameters, norm)


# What is refused


def check_count(name: str, value: object, least: int, other: str = "") -> None:
    """Refuse what is no whole number, or too small.

    Args:
        name: of the setting.
        value: what was given.
        least: the smallest value.
        other: what else it may be, for the message.

    Raises:
        ValueError: naming what was got and what was expected.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}, expected {other}a whole number >= {least}")


def check_settings(
    loss_scale: float, clip: float | None, synth_clip: float | None, warmup_chunks: int
) -> None:
    """Refuse settings of a learner that are out of range.

    Args:
        loss_scale: factor on the loss.
        clip: largest norm of the model's gradient, or None.
        synth_clip: largest norm of a synthesizer's gradient, or None.
        warmup_chunks: chunks before a synthesizer is used.

    Raises:
        ValueError: naming what was got and what was expected.
    """
    if not 0 < loss_scale < math.inf:
        raise ValueError(f"loss_scale is {loss_scale}, expected a finite number > 0")
    for name, value in (("clip", clip), ("synth_clip", synth_clip)):
        if value is not None and not value > 0:
            raise ValueError(
                f"{name} is {value}, expected a number > 0: the largest norm of a gradient, "
                "or None for no clip"
            )
    check_count("warmup_chunks", warmup_chunks, least=0)


def check_non_finite(non_finite: str) -> None:
    """Refuse another word than the two that there are.

    Args:
        non_finite: what was given.

    Raises:
        ValueError: naming what was got and what was expected.
    """
    if non_finite not in get_args(NonFinite):
        raise ValueError(f"non_finite is {non_finite!r}, expected 'raise' or 'skip'")


def check_optimizer(name: str, optimizer: torch.optim.Optimizer, of: str, *owners: object) -> None:
    """Refuse an optimiser of something else's parameters.

    Args:
        name: of the setting.
        optimizer: what was given.
        of: the name of what it should train.
        owners: the modules whose parameters it may hold; anything else among them has none.

    Raises:
        ValueError: it holds other parameters.
    """
    modules = [owner for owner in owners if isinstance(owner, nn.Module)]
    own = {id(p) for module in modules for p in module.parameters()}
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if foreign := sum(p not in own for p in held):
        raise ValueError(
            f"{name} holds parameters of something else ({foreign} of its {len(held)}), expected "
            f"those of the {of} alone; build it over its parameters()"
        )


def check_synth_optimizer(
    boundaries: list[Boundary], synth_optimizer: torch.optim.Optimizer | None
) -> None:
    """Refuse synthesizers that nothing would train, and an optimiser of other parameters.

    Args:
        boundaries: those that it should train.
        synth_optimizer: what was given.

    Raises:
        ValueError: naming what was got and what was expected.
    """
    if synth_optimizer is not None:
        check_optimizer("synth_optimizer", synth_optimizer, "boundary", *boundaries)
        return
    if any(p.requires_grad for boundary in boundaries for p in boundary.parameters()):
        raise ValueError(
            "the boundary has parameters and no synth_optimizer, so that its synthesizer would "
            "predict zero for ever; give synth_optimizer=torch.optim.Adam(boundary.parameters()), "
            "or freeze it on purpose with boundary.requires_grad_(False)"
        )
