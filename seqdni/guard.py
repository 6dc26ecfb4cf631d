"""Keeps numbers that are not finite out of synthesizers and models.

Shapes: B rows, S features of a packed state.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

JUMP = 1e4  # a target this many times larger than any recent one is taken for a mistake
DECAY = 0.99  # factor on the norm of the largest recent target, at each new target

NonFinite: TypeAlias = Literal["raise", "skip"]
"""What to do about a loss or gradient that is not finite: stop with an error, or leave it out."""


class TargetGuard(nn.Module):
    """Refuses targets of a synthesizer that cannot be right, and counts them.

    A target is refused if it is not finite, or if its norm is more than 10,000 times that of the
    largest recent one. The second happens when the objective is multiplied by a factor that was not
    given to the boundary. Each refusal raises the limit tenfold, so that a lasting change is
    accepted after a few refusals. On a GPU only a target that is not finite is refused, because to
    read the norm would be to wait for the device.

    Example:
        >>> guard = TargetGuard()
        >>> guard.admits(1.0), guard.admits(1e9), guard.admits(float("nan"))
        (True, False, False)
    """

    def __init__(self):
        super().__init__()
        self.peak = 0.0  # norm of the largest recent target; 0 before the first that is not zero
        self.refused: Tensor  # the number of targets refused so far
        self.register_buffer("refused", torch.zeros((), dtype=torch.long))

    def admits(self, norm: float) -> bool:
        """Whether a target may be learned from. The limit is changed by each call.

        Args:
            norm: of all gradients that arrived at a boundary together.
        """
        admitted = norm <= JUMP * self.peak or (self.peak == 0 and math.isfinite(norm))
        self.peak = max(norm, DECAY * self.peak) if admitted else 10 * self.peak
        return admitted

    def checked(
        self,
        state_BS: Float[Tensor, "B S"],
        target_BS: Float[Tensor, "B S"],
        valid_B: Bool[Tensor, " B"] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Replace states and targets by zeros where the target is refused, and count the refusal.

        On the CPU there is also a warning, and no row stays valid. On a GPU the rows stay as valid
        as they were.

        Args:
            state_BS: packed states.
            target_BS: the gradients that arrived there.
            valid_B: rows that are learned from; None: all.

        Returns:
            The three arguments, unchanged where the target is accepted.
        """
        norm = torch.linalg.vector_norm(target_BS)
        if norm.device.type != "cpu":
            finite, zero = norm.isfinite(), torch.zeros_like(norm)
            self.refused += ~finite
            state_BS = torch.where(finite, state_BS, zero.to(state_BS.dtype))
            return state_BS, torch.where(finite, target_BS, zero), valid_B
        if self.admits(norm.item()):
            return state_BS, target_BS, valid_B
        self.refused += 1
        warnings.warn(
            "a gradient that arrived at a boundary was not finite, or over 10,000 times larger "
            "than any recent one; the synthesizer does not learn from it. If the objective is "
            "multiplied by a factor, give it as loss_scale, or call bootstrap() in every chunk",
            RuntimeWarning,
            stacklevel=6,  # the caller of Boundary.loss
        )
        nothing = torch.zeros(len(state_BS), dtype=torch.bool)
        return torch.zeros_like(state_BS), torch.zeros_like(target_BS), nothing

    def get_extra_state(self) -> dict[str, float]:
        """The norm of the largest recent target, for the state_dict."""
        return {"peak": self.peak}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.peak = state["peak"]


@torch.no_grad()
def drop_if_not_finite(parameters: Iterable[nn.Parameter], norm: Float[Tensor, ""]) -> bool:
    """Drop gradients whose norm is not finite, so that no optimiser uses them.

    On the CPU the gradients become None. On a GPU they become zero, because to read the norm would
    be to wait for the device.

    Args:
        parameters: the parameters that have the gradients.
        norm: of all these gradients together.

    Returns:
        Whether they were dropped. On a GPU always False.
    """
    if norm.device.type == "cpu":
        if math.isfinite(norm.item()):
            return False
        for parameter in parameters:
            parameter.grad = None
        return True
    broken = ~norm.isfinite()
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(broken, 0.0)
    return False
