r"""A linear synthesizer that is solved for, not descended: recursive least squares.

Shapes: B rows, S features of a packed state, K features of context, F = S + K + 1 with a constant.

The covariance of a recurrent state spans many orders of magnitude, and what is older lives in its
small directions, which gradient descent on the raw state hardly ever reaches. Least squares is
blind to the scale of a direction.

Source: Haykin, Adaptive Filter Theory, chapter on recursive least squares (with forgetting).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqdni.synthesizer import with_context


class LeastSquares(nn.Module):
    r"""Linear synthesizer by recursive least squares with forgetting.

    .. math:: A \leftarrow \lambda A + \Phi^T \Phi, \quad C \leftarrow \lambda C + \Phi^T G, \quad
              W = (A + \rho\, \mathrm{diag} A)^{-1} C, \quad M(s) = \phi(s) W

    with :math:`\phi(s) = [s, context, 1]`. It has no parameters and needs no optimiser. It starts
    at zero: training starts exactly as plain TBPTT.

    Args:
        state_size: S, the width of a packed state.
        context_size: K, the width of an optional context (cDNI); 0 for none.
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

    aux_head = None

    def __init__(
        self,
        state_size: int,
        *,
        context_size: int = 0,
        forgetting: float = 0.97,
        ridge: float = 1e-4,
        solve_every: int | None = None,
        accumulate: torch.dtype = torch.float32,
    ):
        super().__init__()
        features = state_size + context_size + 1
        solve_every = max(1, features // 32) if solve_every is None else solve_every
        if state_size < 1 or context_size < 0 or solve_every < 1:
            raise ValueError(
                "expected state_size >= 1, context_size >= 0 and solve_every >= 1, got "
                f"{state_size}, {context_size} and {solve_every}"
            )
        if not (0 < forgetting <= 1 and ridge > 0):
            raise ValueError(
                f"expected 0 < forgetting <= 1 and ridge > 0, got {forgetting} and {ridge}"
            )
        self.context_size = context_size
        self.forgetting = forgetting
        self.ridge = ridge
        self.solve_every = solve_every
        self.steps = 0
        self.normal: Tensor  # [F, F], A
        self.cross: Tensor  # [F, S], C
        self.weight: Tensor  # [F, S]
        self.error: Tensor  # at the last solution
        self.register_buffer("normal", torch.zeros(features, features, dtype=accumulate))
        self.register_buffer("cross", torch.zeros(features, state_size, dtype=accumulate))
        self.register_buffer("weight", torch.zeros(features, state_size))
        self.register_buffer("error", torch.ones(()))

    def forward(
        self, state_BS: Float[Tensor, "B S"], context_BK: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B S"]:
        """The synthetic gradient at a boundary.

        Args:
            state_BS: the packed state.
            context_BK: privileged information, if ``context_size`` asks for it.

        Returns:
            The predicted gradient, per-example-sum units.
        """
        return self._features(state_BS, context_BK) @ self.weight

    @torch.no_grad()
    def loss(
        self,
        state_BS: Float[Tensor, "B S"],
        target_BS: Float[Tensor, "B S"],
        *,
        valid_B: Bool[Tensor, " B"] | None = None,
        context_BK: Float[Tensor, "B K"] | None = None,
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
            context_BK: the context at that boundary.
            next_predicted_BS: not for this synthesizer, which has no Aux head.
            next_valid_B: not for this synthesizer.

        Returns:
            A scalar without a graph.

        Raises:
            ValueError: an Aux target.
        """
        if next_predicted_BS is not None:
            raise ValueError("this synthesizer has no Aux head")
        phi_BF = self._features(state_BS, context_BK)
        if valid_B is not None:
            keep = valid_B[:, None]
            phi_BF, target_BS = phi_BF * keep, target_BS * keep
        target_BS = target_BS.to(phi_BF.dtype)
        if self.training:
            self.steps += 1
        solves = self.training and self.steps % self.solve_every == 0
        if solves or not self.training:
            missed = (phi_BF @ self.weight - target_BS).square().sum()
            self.error.copy_(missed / target_BS.square().sum().clamp_min(1e-24))
        if self.training:
            kind = self.normal.dtype
            phi_FB = phi_BF.T.to(kind)
            self.normal.addmm_(phi_FB, phi_BF.to(kind), beta=self.forgetting)
            self.cross.addmm_(phi_FB, target_BS.to(kind), beta=self.forgetting)
        if solves:
            self._solve()
        return self.error.clone()

    def _solve(self) -> None:
        diagonal = self.normal.diagonal()
        damping = max(self.ridge, len(diagonal) * torch.finfo(diagonal.dtype).eps) * diagonal
        damped = self.normal + torch.diag(damping + 1e-9 * diagonal.max() + 1e-30)
        factor, failed = torch.linalg.cholesky_ex(damped)
        factor = torch.where(
            failed == 0, factor, torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        )
        inverse = torch.cholesky_inverse(factor)  # with one product faster than two substitutions
        solution = (inverse @ self.cross).to(self.weight.dtype)
        self.weight.copy_(torch.where(failed == 0, solution, self.weight))

    def _features(self, state_BS: Tensor, context_BK: Tensor | None) -> Tensor:
        x = with_context(state_BS, context_BK, self.context_size)
        one = torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
        return torch.cat([x, one], dim=1).to(self.weight.dtype)

    def get_extra_state(self) -> dict[str, int]:
        """How many steps it has made, for the state_dict."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take up what :meth:`get_extra_state` gave."""
        self.steps = state["steps"]
