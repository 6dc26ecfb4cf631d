"""What keeps a number that is not finite from spreading: into a synthesizer, and into a model.

Shapes: B rows, S features of a packed state.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

JUMP = 1e4  # a target this many times larger than any recent one is taken for a mistake
DECAY = 0.99  # of the largest recent target, at each target

NonFinite: TypeAlias = Literal["raise", "skip"]
"""What to do about a loss or gradient that is not finite: stop with an error, or pass it over."""


class TargetGuard(nn.Module):
    """Refuses targets of a synthesizer that cannot be right, and counts them.

    A target is refused where it is not finite, or where its norm is more than 10,000 times that of
    the largest recent one. The second happens where the objective was multiplied by a factor that
    the synthesizer was not told. Each refusal raises the limit tenfold, so that a change that stays
    is accepted after a few of them.

    Example:
        >>> guard = TargetGuard()
        >>> bool(guard.admits(torch.ones(2, 3))), bool(guard.admits(torch.full((2, 3), 1e9)))
        (True, False)
        >>> guard.refused
        tensor(1)
    """

    def __init__(self):
        super().__init__()
        self.peak: Tensor  # norm of the largest recent target; 0 before the first that is not zero
        self.refused: Tensor  # targets so far
        self.register_buffer("peak", torch.zeros(()))
        self.register_buffer("refused", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def admits(self, target_BS: Float[Tensor, "B S"]) -> Bool[Tensor, ""]:
        """Whether a target may be learned from. Nothing here waits for the device.

        Args:
            target_BS: the gradients that arrived at a boundary.

        Returns:
            One Boolean on the target's device.
        """
        norm = torch.linalg.vector_norm(target_BS).to(self.peak.dtype)
        admitted = (norm <= JUMP * self.peak) | ((self.peak == 0) & norm.isfinite())
        recent = torch.maximum(self.peak * DECAY, norm)
        self.peak.copy_(torch.where(admitted, recent, self.peak * 10))
        self.refused += ~admitted
        return admitted

    @torch.no_grad()
    def checked(
        self,
        state_BS: Float[Tensor, "B S"],
        target_BS: Float[Tensor, "B S"],
        valid_B: Bool[Tensor, " B"] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """States and targets to learn from, without a target that is refused.

        On the CPU a refused target leaves no valid row, and there is a warning. On a GPU the zero
        target of a zero state takes its place, since asking would wait for the device;
        :attr:`refused` tells of it.

        Args:
            state_BS: packed states.
            target_BS: the gradients that arrived there.
            valid_B: rows that count; None counts all.

        Returns:
            The same three where the target is admitted.
        """
        admitted = self.admits(target_BS)
        if target_BS.device.type != "cpu":
            zero = torch.zeros((), dtype=target_BS.dtype, device=target_BS.device)
            return (
                torch.where(admitted, state_BS, zero.to(state_BS.dtype)),
                torch.where(admitted, target_BS, zero),
                valid_B,
            )
        if bool(admitted):
            return state_BS, target_BS, valid_B
        warnings.warn(
            "a gradient that arrived at a boundary was not finite, or over 10,000 times larger "
            "than any recent one; the synthesizer does not learn from it. If the objective is "
            "multiplied by a factor, give it as loss_scale, or call bootstrap() in every chunk",
            RuntimeWarning,
            stacklevel=4,
        )
        nothing = torch.zeros(len(state_BS), dtype=torch.bool)
        return torch.zeros_like(state_BS), torch.zeros_like(target_BS), nothing


@torch.no_grad()
def drop_if_not_finite(parameters: Iterable[nn.Parameter], norm: Float[Tensor, ""]) -> bool:
    """Drop gradients whose norm is not finite, so that no optimiser sees them.

    On the CPU the gradients become None, and the caller is told. On a GPU they become zero, since
    asking would wait for the device.

    Args:
        parameters: whose gradients.
        norm: of all these gradients together.

    Returns:
        Whether they were dropped, as far as that is known without waiting.
    """
    if norm.device.type == "cpu":
        if bool(norm.isfinite()):
            return False
        for parameter in parameters:
            parameter.grad = None
        return True
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(~norm.isfinite(), 0.0)
    return False
