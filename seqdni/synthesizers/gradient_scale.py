"""Measures the usual size of the gradients that arrive at a boundary, and limits predictions by it.

Shapes: B rows, S features of a packed state.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

SLOWEST = 0.02  # rate of the running mean once it has seen enough targets


class GradientScale(nn.Module):
    r"""The running root mean square of the targets (their *level*), as a limit of predictions.

    A target contains a prediction (the bootstrap) unless its row's episode ended within the chunk.
    As soon as the stream has targets without a prediction, only these are used, so that predictions
    cannot raise the level that limits them.

    Example:
        >>> level = GradientScale()
        >>> level.update(torch.full((2, 4), 2.0))
        >>> level.bounded(torch.tensor([[1.0, 1.0, 1.0, 1.0], [12.0, 12.0, 12.0, 12.0]]), bound=3.0)
        tensor([[1., 1., 1., 1.],
                [6., 6., 6., 6.]])
    """

    def __init__(self):
        super().__init__()
        self.seen = [0, 0]  # updates with targets that contain a bootstrap, and without
        self.square: Tensor
        self.register_buffer("square", torch.zeros(()))

    def bounded(self, predicted_BS: Float[Tensor, "B S"], bound: float) -> Float[Tensor, "B S"]:
        r"""Scale rows down to at most ``bound`` times the level.

        .. math:: g_b \cdot \min(1, bound \cdot level / \mathrm{rms}(g_b))

        Args:
            predicted_BS: predictions.
            bound: largest multiple of the level.

        Returns:
            Predictions of the same directions.
        """
        norm_B1 = torch.linalg.vector_norm(predicted_BS, dim=1, keepdim=True)
        largest = self.square.sqrt() * (bound * predicted_BS.shape[1] ** 0.5)
        return predicted_BS * (largest / norm_B1.clamp_min_(1e-30)).clamp_max_(1.0)

    @torch.no_grad()
    def update(
        self,
        target_BS: Float[Tensor, "B S"],
        valid_B: Bool[Tensor, " B"] | None = None,
        final_B: Bool[Tensor, " B"] | None = None,
    ) -> None:
        """Update the level by new targets, without waiting for the device.

        Args:
            target_BS: gradients that arrived at a boundary.
            valid_B: rows to use; None: all.
            final_B: rows whose target contains no bootstrap; None: no row.
        """
        kind = int(final_B is not None)
        if kind == 0 and self.seen[1]:
            return
        self.seen[kind] += 1
        rate = max(SLOWEST, 1 / self.seen[kind])
        given = [rows_B for rows_B in (valid_B, final_B) if rows_B is not None]
        if not given:
            now = torch.linalg.vector_norm(target_BS).square_().div_(target_BS.numel())
            self.square.lerp_(now.to(self.square.dtype), rate)
            return
        square_B = torch.linalg.vector_norm(target_BS, dim=1).square() / target_BS.shape[1]
        rows_B = given[0] & given[-1]
        now = square_B.masked_fill(~rows_B, 0.0).sum() / rows_B.sum().clamp_min(1)
        self.square += rate * rows_B.any() * (now - self.square)

    def capture_key(self, final: bool) -> Hashable | None:
        """What the next update depends on besides its targets; None: its rate still changes.

        Args:
            final: whether some targets contain no bootstrap.
        """
        if not final and self.seen[1]:
            return False
        return True if 1 / (self.seen[final] + 1) <= SLOWEST else None

    def count_step(self, final: bool) -> None:
        """Count an update that a captured graph has made.

        Args:
            final: whether some targets contained no bootstrap.
        """
        self.seen[final] += final or not self.seen[1]

    def get_extra_state(self) -> dict[str, list[int]]:
        """The numbers of updates so far, for the state_dict."""
        return {"seen": list(self.seen)}

    def set_extra_state(self, state: dict[str, list[int]]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self.seen = list(state["seen"])
