"""How a model learns from its gradient: the loss, the optimiser, and when they are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from seqdni.guard import NonFinite, drop_if_not_finite
from seqdni.losses import cross_entropy
from seqdni.metrics import RunningSums
from seqdni.parallel import DataParallel

GO_ON = (
    "no update was made with it, and the model is as it was. Look at the data and the loss there, "
    "try a smaller learning rate or a clip, or pass such chunks over with non_finite='skip'"
)


@dataclass
class Learner:
    """How a model, or one level of a hierarchy, learns from its gradient.

    Args:
        optimizer: of the model's parameters.
        loss: ``(outputs, targets) -> [T, B]``, the loss of each step.
        loss_scale: factor on the batch mean of the summed loss: 1 / T makes it a mean over steps.
        clip: largest norm of the model's gradient; None: no limit.
        update_every: chunks whose gradients are summed for one update of the model, or
            ``"episode"`` for all chunks of an episode that all rows begin and end together. (The
            updates of a synthesizer do not depend on this.)
        autocast: compute the model in this type where that is safe, e.g. ``torch.bfloat16``.
        non_finite: what to do about a loss or a gradient that is not finite. ``"raise"`` stops with
            an error that names the chunk; ``"skip"`` makes no update with it, restarts the rows
            whose state is not finite, and goes on. No update ever uses such a gradient. On a GPU
            both drop the gradient and go on, because to look at it would be to wait for the device;
            a loss that is not finite then shows in the trainer's meter.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``optimizer`` is not an optimiser.

    Example:
        >>> model = nn.GRU(2, 8)
        >>> Learner(torch.optim.Adam(model.parameters()), clip=1.0).update_every
        1
    """

    optimizer: torch.optim.Optimizer
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    loss_scale: float = 1.0
    clip: float | None = None
    update_every: int | Literal["episode"] = 1
    autocast: torch.dtype | None = None
    non_finite: NonFinite = "raise"

    def __post_init__(self):
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"got a {type(self.optimizer).__name__} for the optimizer, expected one of "
                "torch.optim, over the model's parameters"
            )
        if not 0 < self.loss_scale < math.inf:
            raise ValueError(f"loss_scale is {self.loss_scale}, expected a finite number > 0")
        check_clip("clip", self.clip)
        if self.update_every != "episode":
            check_count("update_every", self.update_every, 1, "'episode' or ")
        if self.non_finite not in get_args(NonFinite):
            raise ValueError(f"non_finite is {self.non_finite!r}, expected 'raise' or 'skip'")
        _check_autocast(self.autocast)

    @property
    def loss_module(self) -> nn.Module | None:
        """The loss, where it is a module with weights or buffers of its own; else None."""
        loss = self.loss
        return loss if isinstance(loss, nn.Module) and loss.state_dict() else None

    def precision(self, device: torch.device) -> torch.autocast:
        """The autocast context of the model: ``with learner.precision(device): model(x, state)``.

        Args:
            device: of the model.
        """
        return torch.autocast(device.type, self.autocast, enabled=self.autocast is not None)

    def accepts(
        self, loss: Tensor, where: str, meter: RunningSums, parallel: DataParallel | None = None
    ) -> bool:
        """Whether a loss is finite. One that is not is counted as skipped, or refused.

        On a GPU the result is always True, because to read the loss would be to wait for it.

        Args:
            loss: a scalar.
            where: the name of the chunk, for the error.
            meter: where a skipped loss is counted.
            parallel: processes that must come to the same result.

        Raises:
            FloatingPointError: the loss is not finite, and ``non_finite`` is ``"raise"``.
        """
        if loss.device.type != "cpu":
            return True
        broken = not math.isfinite(loss.item())
        if not (broken if parallel is None else parallel.any(broken)):
            return True
        if self.non_finite == "raise":
            other = "not finite in another process"
            found = f"{loss.item()}, which is not finite" if broken else other
            raise FloatingPointError(f"the loss of {where} is {found}; {GO_ON}")
        meter.add(skipped=1)
        return False

    def update(
        self,
        parameters: Sequence[nn.Parameter],
        where: str,
        keep_grads: bool = False,
    ) -> bool:
        """Make one step of the optimiser from the present gradients, if they are finite.

        Args:
            parameters: of the model.
            where: the name of the chunk, for the error.
            keep_grads: set the gradients to zero afterwards, and not to None.

        Returns:
            Whether a step was made. On a GPU always True.

        Raises:
            FloatingPointError: a gradient is not finite, and ``non_finite`` is ``"raise"``.
        """
        dropped = clipped(parameters, self.clip)
        of_loss = list(self.loss.parameters()) if isinstance(self.loss, nn.Module) else []
        if of_loss:  # no clip limits them
            dropped = clipped(of_loss, None) or dropped
        if not dropped:
            self.optimizer.step()
        if keep_grads:
            self.optimizer.zero_grad(set_to_none=False)
        else:
            self.optimizer.zero_grad()
        if dropped and self.non_finite == "raise":
            raise FloatingPointError(f"the gradient of {where} is not finite; {GO_ON}")
        return not dropped


def clipped(parameters: Sequence[nn.Parameter], clip: float | None) -> bool:
    """Clip gradients, or drop them where they are not finite.

    Args:
        parameters: the parameters that have the gradients.
        clip: the largest norm of all of them together; None: no limit.

    Returns:
        Whether the gradients were dropped. On a GPU always False.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return False
    norms = torch._foreach_norm(grads)  # pyright: ignore[reportPrivateImportUsage]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    on_cpu = norm.device.type == "cpu"  # on a GPU to look at the norm would be to wait
    if clip is not None and not (on_cpu and norm.item() < 0.999 * clip):
        factor = (clip / (norm + 1e-6)).clamp_max_(1.0)
        torch._foreach_mul_(grads, factor)  # pyright: ignore[reportPrivateImportUsage]
    return drop_if_not_finite(parameters, norm)


def descend(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, clip: float | None
) -> None:
    """One step of an optimiser from present gradients; those that are not finite are not used.

    Args:
        parameters: that the optimiser holds.
        optimizer: makes the step.
        clip: largest norm of the gradient; None: no limit.
    """
    if not clipped(parameters, clip):
        optimizer.step()
    for parameter in parameters:
        parameter.grad = None


# What is refused


def check_count(name: str, value: object, least: int, other: str = "") -> None:
    """Refuse a value that is not a whole number, or is too small.

    Args:
        name: of the setting.
        value: what was given.
        least: the smallest allowed value.
        other: another allowed value, for the message.

    Raises:
        ValueError: something does not fit; the message says what was expected.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}, expected {other}a whole number >= {least}")


def check_clip(name: str, clip: float | None) -> None:
    """Refuse a clip that is not a positive number.

    Args:
        name: of the setting.
        clip: what was given.

    Raises:
        ValueError: something does not fit; the message says what was expected.
    """
    if clip is not None and not clip > 0:
        raise ValueError(
            f"{name} is {clip}, expected a number > 0: the largest norm of a gradient, "
            "or None for no clip"
        )


def check_optimizer(name: str, optimizer: torch.optim.Optimizer, of: str, *owners: object) -> None:
    """Refuse an optimiser that holds parameters of other modules.

    Args:
        name: of the setting.
        optimizer: what was given.
        of: the name of what it should train.
        owners: the modules whose parameters it may hold. Other objects among them are ignored.

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


def _check_autocast(autocast: torch.dtype | None) -> None:
    if autocast == torch.float16:
        raise ValueError(
            "autocast is torch.float16, whose gradients underflow without a gradient scaler, and "
            "this trainer has none; use torch.bfloat16, or torch.amp.GradScaler in a loop of your "
            "own (see the page on mixed precision and accumulation)"
        )
    if autocast not in (None, torch.bfloat16):
        raise ValueError(f"autocast is {autocast}, expected torch.bfloat16 or None")
