r"""Whitening: running coordinates in which every direction of the state has the same variance.

Shapes: B rows, S features of a packed state.

The variance of a recurrent state differs between directions by many orders of magnitude. Older
inputs are found in the directions of small variance, which gradient descent on the raw state learns
far too slowly.

Source: Kessy et al., *Optimal whitening and decorrelation*, arXiv 1512.00809 (ZCA).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

EARLY = (10, 30)  # updates at which the coordinates change before the first ``refresh_every``


class Whitening(nn.Module):
    r"""The running mean and covariance of states, and the ZCA whitening that they give.

    .. math:: z = Z (s - \mu), \qquad Z = (\Sigma + \rho \, \bar\lambda I)^{-1/2}

    with :math:`\bar\lambda` the mean eigenvalue. :math:`Z` and :math:`\mu` change only every
    ``refresh_every`` updates (and a few times before that). :meth:`update` then returns the change,
    with which a layer that reads z can be changed to compute the same as before. The whitening
    starts as the identity.

    Args:
        state_size: S.
        refresh_every: updates from one decomposition to the next, each of which costs
            :math:`O(S^3)` and waits for the device.
        decay: of the running moments at each update, after the first 1 / (1 - decay) updates.
        ridge: :math:`\rho`, which keeps z finite in directions without variance.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> whitening = Whitening(2, refresh_every=1)
        >>> state = torch.randn(1000, 2) * torch.tensor([10.0, 0.1])
        >>> _ = whitening.update(state)
        >>> torch.allclose(whitening(state).var(dim=0), torch.ones(2), atol=0.02)
        True
    """

    def __init__(
        self,
        state_size: int,
        refresh_every: int = 100,
        *,
        decay: float = 0.99,
        ridge: float = 1e-6,
    ):
        super().__init__()
        if refresh_every < 1 or not 0 < decay < 1 or not ridge > 0:
            raise ValueError(
                "expected refresh_every >= 1, 0 < decay < 1 and ridge > 0, got "
                f"{refresh_every}, {decay} and {ridge}"
            )
        self.refresh_every = refresh_every
        self.decay = decay
        self.ridge = ridge
        self.updates = 0
        self.running_mean: Tensor
        self.running_cov: Tensor
        self.mean: Tensor
        self.matrix: Tensor
        self.inverse: Tensor
        self.register_buffer("running_mean", torch.zeros(state_size))
        self.register_buffer("running_cov", torch.eye(state_size))
        self.register_buffer("mean", torch.zeros(state_size))
        self.register_buffer("matrix", torch.eye(state_size))
        self.register_buffer("inverse", torch.eye(state_size))

    def forward(self, state_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """The whitened state.

        Args:
            state_BS: packed state.

        Returns:
            z.
        """
        return (state_BS - self.mean) @ self.matrix

    @torch.no_grad()
    def update(
        self, state_BS: Float[Tensor, "B S"], valid_B: Bool[Tensor, " B"] | None = None
    ) -> tuple[Tensor, Tensor] | None:
        r"""Update the moments, and every ``refresh_every`` updates also the coordinates.

        Args:
            state_BS: packed states.
            valid_B: rows to use; None: all.

        Returns:
            None, or ``(R, d)`` with :math:`z_{old} = R \, z_{new} + d`: a layer :math:`A z + b`
            becomes :math:`A R \, z + (b + A d)` and computes the same.
        """
        rows = state_BS.new_full((), len(state_BS)) if valid_B is None else valid_B.sum()
        rows = rows.to(state_BS.dtype)
        self.updates += 1
        rate = max(1 - self.decay, 1 / self.updates) * (rows > 0)
        kept_BS = state_BS if valid_B is None else state_BS * valid_B[:, None]
        count = rows.clamp_min(1)
        moved = kept_BS.sum(0) / count - self.running_mean
        apart_BS = state_BS - self.running_mean
        apart_BS = apart_BS if valid_B is None else apart_BS * valid_B[:, None]
        seen = apart_BS.T @ apart_BS / count  # around the old mean
        self.running_mean += rate * moved
        self.running_cov += rate * (seen - self.running_cov)
        self.running_cov -= torch.outer(rate * moved, rate * moved)
        due = self._refreshes_at(self.updates)
        return self._refresh() if due and bool(self.running_cov.isfinite().all()) else None

    @property
    def can_capture(self) -> bool:
        """Whether the next update can be captured: its rate is constant, and it changes nothing."""
        following = self.updates + 1
        return 1 - self.decay >= 1 / following and not self._refreshes_at(following)

    def _refreshes_at(self, update: int) -> bool:
        return update % self.refresh_every == 0 or update in EARLY

    def _refresh(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.running_cov.double())
        values = values.clamp_min(0)
        root = (values + self.ridge * values.mean() + 1e-30).sqrt()
        old_matrix, old_mean = self.matrix.clone(), self.mean.clone()
        self.matrix.copy_((vectors / root) @ vectors.T)
        self.inverse.copy_((vectors * root) @ vectors.T)
        self.mean.copy_(self.running_mean)
        return old_matrix @ self.inverse, old_matrix @ (self.mean - old_mean)

    def get_extra_state(self) -> dict[str, int]:
        """The number of updates so far, for the state_dict."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.updates = state["updates"]
