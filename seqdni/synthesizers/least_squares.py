r"""A linear synthesizer that is solved for, not descended: recursive least squares.

Shapes: B rows, S features of a packed state, K of a condition, F = S + K + 1 with a constant.

The covariance of a recurrent state spans many orders of magnitude, and what is older lives in its
small directions, which gradient descent on the raw state hardly ever reaches. Least squares is
blind to the scale of a direction.

Source: Haykin, Adaptive Filter Theory, chapter on recursive least squares (with forgetting).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqdni.synthesizers.mlp import check_width, with_condition

ALIGN = 16  # features are filled up with zeros to a multiple of it: products are faster aligned
BLOCK = 256  # features of a block of the moments
PENDING = 256  # rows to collect before a block is brought up to date: each is fetched less often


class LeastSquares(nn.Module):
    r"""Linear synthesizer by recursive least squares with forgetting.

    .. math:: A \leftarrow \lambda A + \Phi^T \Phi, \quad C \leftarrow \lambda C + \Phi^T G, \quad
              W = (A + \rho\, \mathrm{diag} A)^{-1} C, \quad M(s) = \phi(s) W

    with :math:`\phi(s) = [s, condition, 1]`. A solution knows every step up to its own. It has no
    parameters and needs no optimiser. It starts at zero: training starts exactly as plain TBPTT.

    Args:
        state_size: S, the width of a packed state.
        condition_size: K, the width of an optional condition (cDNI); 0 for none.
        forgetting: :math:`\lambda`, the weight that the past keeps at each step.
        ridge: :math:`\rho`, relative to each feature's own energy.
        solve_every: steps between two solutions, each of which costs :math:`O(F^3)`; None: F / 32,
            so that their share of the cost is about the same at any width.
        accumulate: precision of the moments and of their solution. The ridge is no smaller than F
            times its rounding: about 1e-5 in float32 for F = 100.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> synthesizer = LeastSquares(state_size=3, solve_every=1)
        >>> state = torch.randn(50, 3)
        >>> loss = synthesizer.loss(state, 2 * state)
        >>> torch.allclose(synthesizer(state), 2 * state, atol=1e-2)
        True
    """

    def __init__(
        self,
        state_size: int,
        *,
        condition_size: int = 0,
        forgetting: float = 0.97,
        ridge: float = 1e-4,
        solve_every: int | None = None,
        accumulate: torch.dtype = torch.float32,
    ):
        super().__init__()
        features = state_size + condition_size + 1
        solve_every = max(1, features // 32) if solve_every is None else solve_every
        if state_size < 1 or condition_size < 0 or solve_every < 1:
            raise ValueError(
                "expected state_size >= 1, condition_size >= 0 and solve_every >= 1, got "
                f"{state_size}, {condition_size} and {solve_every}"
            )
        if not (0 < forgetting <= 1 and ridge > 0):
            raise ValueError(
                f"expected 0 < forgetting <= 1 and ridge > 0, got {forgetting} and {ridge}"
            )
        self.state_size = state_size
        self.condition_size = condition_size
        self.forgetting = forgetting
        self.ridge = ridge
        self.solve_every = solve_every
        self.steps = 0
        self.pending: list[Tensor] = []  # [B, S + wide] of each step that is not in the moments
        wide = -(-features // ALIGN) * ALIGN
        self.moments: Tensor  # [wide, S + wide], C beside A
        self.constant: Tensor  # [1, wide - S - K]: 1, then what fills up
        self.weight: Tensor  # [F, S]
        self.error: Tensor  # at the last solution
        self.register_buffer("moments", torch.zeros(wide, state_size + wide, dtype=accumulate))
        self.register_buffer("constant", torch.eye(1, wide - features + 1), persistent=False)
        self.register_buffer("weight", torch.zeros(features, state_size))
        self.register_buffer("error", torch.ones(()))

    def forward(
        self, state_BS: Float[Tensor, "B S"], condition_BK: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B S"]:
        """The synthetic gradient at a boundary.

        Args:
            state_BS: the packed state.
            condition_BK: privileged information, if ``condition_size`` asks for it.

        Returns:
            The predicted gradient, per-example-sum units.
        """
        check_width(state_BS, self.state_size)
        x_BD = with_condition(state_BS, condition_BK, self.condition_size).to(self.weight.dtype)
        return torch.addmm(self.weight[-1], x_BD, self.weight[:-1])

    @torch.no_grad()
    def loss(
        self,
        state_BS: Float[Tensor, "B S"],
        target_BS: Float[Tensor, "B S"],
        *,
        valid_B: Bool[Tensor, " B"] | None = None,
        condition_BK: Float[Tensor, "B K"] | None = None,
        next_predicted_BS: Float[Tensor, "B S"] | None = None,
        next_valid_B: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, ""]:
        r"""Relative error of what would have been predicted; while training, also one step.

        .. math:: \sum_b \|M(s_b) - target_b\|^2 \,/\, \sum_b \|target_b\|^2

        While training it is measured every ``solve_every`` steps, before the solution; in between
        the last one is given again.

        Args:
            state_BS: packed state at the boundary.
            target_BS: gradient that arrived there, per-example-sum units.
            valid_B: rows that count; None counts all.
            condition_BK: the condition at that boundary.
            next_predicted_BS: not for this synthesizer, which has no Aux head.
            next_valid_B: not for this synthesizer.

        Returns:
            A scalar without a graph.

        Raises:
            ValueError: an Aux target.
        """
        if next_predicted_BS is not None:
            raise ValueError("this synthesizer has no Aux head")
        check_width(state_BS, self.state_size)
        x_BD = with_condition(state_BS, condition_BK, self.condition_size)
        rows = torch.cat([target_BS, x_BD, self.constant.expand(len(x_BD), -1)], dim=1)
        rows = rows.to(self.weight.dtype)
        if valid_B is not None:
            rows *= valid_B[:, None]
        if self.training:
            self.steps += 1
            self.pending.append(rows)
        solves = self.training and self.steps % self.solve_every == 0
        if solves or not self.training:
            features, size = self.weight.shape
            target_BS, phi_BF = rows[:, :size], rows[:, size : size + features]
            missed = (phi_BF @ self.weight - target_BS).square().sum()
            self.error = missed / target_BS.square().sum().clamp_min(1e-24)
        if solves or sum(map(len, self.pending)) >= PENDING:
            self._add_pending()
        if solves:
            self._solve()
        return self.error

    def _add_pending(self) -> None:
        """Bring the moments up to date, one block of A's features after the other.

        A is symmetric, and all that is read of it is the lower triangle.
        """
        size = self.weight.shape[1]
        steps = [(rows[:, size:].T, rows) for rows in (x.to(self.moments) for x in self.pending)]
        self.pending = []
        for first in range(0, len(self.moments), BLOCK):
            last = min(first + BLOCK, len(self.moments))
            block = self.moments[first:last, : size + last]
            for phi_FB, rows in steps:
                block.addmm_(phi_FB[first:last], rows[:, : size + last], beta=self.forgetting)

    def _solve(self) -> None:
        features, size = self.weight.shape
        cross, damped = self.moments[:, :size], self.moments[:, size:].clone()
        diagonal = damped.diagonal()
        ridge = max(self.ridge, features * torch.finfo(damped.dtype).eps)
        diagonal += ridge * diagonal + 1e-9 * diagonal.max() + 1e-30
        factor, failed = torch.linalg.cholesky_ex(damped)
        factor = torch.where(
            failed == 0, factor, torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        )
        inverse = torch.cholesky_inverse(factor)  # with one product faster than two substitutions
        solution = (inverse[:features] @ cross).to(self.weight.dtype)
        self.weight.copy_(torch.where(failed == 0, solution, self.weight))

    def get_extra_state(self) -> dict[str, Any]:
        """How many steps it has made, and which are not in the moments yet, for the state_dict."""
        return {"steps": self.steps, "pending": list(self.pending)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`get_extra_state` gave."""
        self.steps = state["steps"]
        self.pending = [rows.to(self.weight) for rows in state["pending"]]
