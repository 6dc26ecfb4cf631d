r"""A linear synthesizer that is computed by recursive least squares, and not by gradient descent.

Shapes: B rows, S features of a packed state, K of a condition, F = S + K + 1 with a constant, O
features of a prediction.

The variance of a recurrent state differs between directions by many orders of magnitude. Older
inputs are found in the directions of small variance, which gradient descent on the raw state learns
far too slowly. Least squares does not depend on the scale of a direction.

Source: Haykin, Adaptive Filter Theory, chapter on recursive least squares (with forgetting).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqdni.synthesizers.inputs import check_width, refuse_aux, with_condition

ALIGN = 16  # features are filled with zeros up to a multiple of this, for faster matrix products
BLOCK = 256  # features of a block of the moments
PENDING = 256  # rows to collect before the moments are updated, which saves reading them often


class LeastSquares(nn.Module):
    r"""A linear synthesizer by recursive least squares with forgetting.

    .. math:: A \leftarrow \lambda A + \Phi^T \Phi, \quad C \leftarrow \lambda C + \Phi^T G, \quad
              W = (A + \rho\, \mathrm{diag} A)^{-1} C, \quad M(s) = \phi(s) W

    with :math:`\phi(s) = [s, condition, 1]`. A solution contains every step before it. The
    synthesizer has no parameters and needs no optimiser. Its first predictions are zero, so that
    training starts exactly as plain TBPTT.

    Args:
        state_size: S, the width of a packed state.
        condition_size: K, the width of an optional condition (cDNI); 0 for none.
        forgetting: :math:`\lambda`, the factor on the weight of all earlier data at each step.
        ridge: :math:`\rho`, the damping as a fraction of each feature's sum of squares.
        solve_every: steps from one solution to the next, each of which costs :math:`O(F^3)`; None:
            F / 32, with which their share of the cost is about the same at any width.
        accumulate: number type of the moments and of their solution. The ridge is at least F times
            the rounding error of this type: about 1e-5 in float32 for F = 100.
        output_size: O, the width of a prediction; None: S, that of a gradient of the state.

    Raises:
        ValueError: a number is out of range.

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
        output_size: int | None = None,
    ):
        super().__init__()
        output_size = state_size if output_size is None else output_size
        features = state_size + condition_size + 1
        solve_every = max(1, features // 32) if solve_every is None else solve_every
        if min(state_size, output_size, solve_every) < 1 or condition_size < 0:
            raise ValueError(
                "expected state_size, output_size, solve_every >= 1 and condition_size >= 0, "
                f"got {state_size}, {output_size}, {solve_every} and {condition_size}"
            )
        if not (0 < forgetting <= 1 and ridge > 0):
            raise ValueError(
                f"expected 0 < forgetting <= 1 and ridge > 0, got {forgetting} and {ridge}"
            )
        self.state_size = state_size
        self.output_size = output_size
        self.condition_size = condition_size
        self.forgetting = forgetting
        self.ridge = ridge
        self.solve_every = solve_every
        self.steps = 0
        self.pending: list[Tensor] = []  # [B, O + wide] of each step that is not in the moments
        wide = -(-features // ALIGN) * ALIGN
        self.moments: Tensor  # [wide, O + wide], C beside A
        self.constant: Tensor  # [1, wide - S - K]: 1, then what fills up
        self.weight: Tensor  # [F, O]
        self.error: Tensor  # at the last solution
        self.register_buffer("moments", torch.zeros(wide, output_size + wide, dtype=accumulate))
        self.register_buffer("constant", torch.eye(1, wide - features + 1), persistent=False)
        self.register_buffer("weight", torch.zeros(features, output_size))
        self.register_buffer("error", torch.ones(()))

    def forward(
        self, state_BS: Float[Tensor, "B S"], condition_BK: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B O"]:
        """Predict the synthetic gradient at a boundary.

        Args:
            state_BS: the packed state.
            condition_BK: the condition, if ``condition_size`` is not 0.

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
        target_BS: Float[Tensor, "B O"],
        *,
        valid_B: Bool[Tensor, " B"] | None = None,
        condition_BK: Float[Tensor, "B K"] | None = None,
        next_predicted_BS: Float[Tensor, "B S"] | None = None,
        next_valid_B: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, ""]:
        r"""The relative error of predictions; in training mode, also one step of learning.

        .. math:: \sum_b \|M(s_b) - target_b\|^2 \,/\, \sum_b \|target_b\|^2

        In training mode it is measured every ``solve_every`` steps, before the solution; the other
        calls return the last one.

        Args:
            state_BS: packed state at the boundary.
            target_BS: gradient that arrived there, per-example-sum units.
            valid_B: rows to use; None: all.
            condition_BK: the condition at that boundary.
            next_predicted_BS: must be None, because this synthesizer has no Aux head.
            next_valid_B: not used.

        Returns:
            A scalar without a graph.

        Raises:
            ValueError: ``next_predicted_BS`` was given.
        """
        refuse_aux(next_predicted_BS)
        check_width(state_BS, self.state_size)
        x_BD = with_condition(state_BS, condition_BK, self.condition_size)
        rows = torch.cat([target_BS, x_BD, self.constant.expand(len(x_BD), -1)], dim=1)
        rows = rows.to(self.weight.dtype)
        if valid_B is not None:
            rows *= valid_B[:, None]
        if self.training:
            self.steps += 1
            self.pending.append(rows)
        solves = self.training and self._solves_at(self.steps)
        if solves or not self.training:
            features, size = self.weight.shape
            target_BS, phi_BF = rows[:, :size], rows[:, size : size + features]
            missed = (phi_BF @ self.weight - target_BS).square().sum()
            energy = target_BS.square().sum()  # 0 says nothing of how good the map is
            error = torch.where(energy > 0, missed / energy.clamp_min(1e-24), self.error)
            self.error.copy_(error)
        if solves or sum(map(len, self.pending)) >= self._most_pending:
            self._add_pending()
        if solves:
            self._solve()
        return self.error.clone()

    def capture_key(self) -> Hashable | None:
        """What the next step of learning depends on (see ``CapturableSynthesizer``).

        Returns:
            Whether it solves; None while earlier steps are not in the moments yet.
        """
        return None if self.pending else self.training and self._solves_at(self.steps + 1)

    def count_step(self) -> None:
        """Count a step of learning that a captured graph has made."""
        self.steps += self.training

    def _solves_at(self, step: int) -> bool:
        return step % self.solve_every == 0

    @property
    def _most_pending(self) -> int:
        """Rows to collect; none on a GPU, where memory is fast and each product costs a launch."""
        return PENDING if self.moments.device.type == "cpu" else 0

    def _add_pending(self) -> None:
        """Add the collected steps to the moments, on a CPU one block of features after the other.

        A is symmetric, and only its lower triangle is read.
        """
        size = self.weight.shape[1]
        steps = [(rows[:, size:].T, rows) for rows in (x.to(self.moments) for x in self.pending)]
        self.pending = []
        width = BLOCK if self.moments.device.type == "cpu" else len(self.moments)
        for first in range(0, len(self.moments), width):
            last = min(first + width, len(self.moments))
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
        if factor.device.type == "cpu":  # an inverse and a product: faster than two substitutions
            solution = torch.cholesky_inverse(factor)[:features] @ cross
        else:  # where the inverse would wait for the device
            solution = torch.cholesky_solve(cross, factor)[:features]
        solution = solution.to(self.weight.dtype)
        self.weight.copy_(torch.where(failed == 0, solution, self.weight))

    def get_extra_state(self) -> dict[str, Any]:
        """The number of steps, and those not in the moments yet, for the state_dict."""
        return {"steps": self.steps, "pending": list(self.pending)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.steps = state["steps"]
        self.pending = [rows.to(self.weight) for rows in state["pending"]]
