"""A readout for large vocabularies: adaptive softmax as readout and loss.

Shapes: T steps, B rows, H features, V symbols.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn


class AdaptiveReadout(nn.Module):
    """A readout that scores frequent symbols by a full softmax, and rare ones in narrower groups.

    To save the cost of scores for all V symbols, its output is the features themselves. Train with
    :meth:`loss` on these features, and use :meth:`log_prob` where all scores are needed.

    Args:
        features: H.
        symbols: V, the ids in descending order of frequency.
        cutoffs: ids at which the groups begin, ascending, each in 1..V - 1.

    Raises:
        ValueError: the cutoffs are not like this, or too many (each group's layer is a quarter as
            wide as that of the group before).

    Example:
        >>> import torch
        >>> readout = AdaptiveReadout(16, 1000, [100, 500])
        >>> features = readout(torch.zeros(3, 2, 16))
        >>> readout.loss(features, torch.zeros(3, 2, dtype=torch.long)).shape
        torch.Size([3, 2])
        >>> readout.log_prob(features).shape
        torch.Size([3, 2, 1000])

    Source: Grave et al., arXiv 1609.04309, as ``torch.nn.AdaptiveLogSoftmaxWithLoss``.
    """

    def __init__(self, features: int, symbols: int, cutoffs: Sequence[int]):
        super().__init__()
        cutoffs = list(cutoffs)
        if not cutoffs or cutoffs != sorted({c for c in cutoffs if 0 < c < symbols}):
            raise ValueError(
                f"cutoffs are {cutoffs}, expected ascending ids in 1..{symbols - 1} "
                f"(the vocabulary has {symbols} symbols)"
            )
        if features < 4 ** len(cutoffs):
            raise ValueError(
                f"{len(cutoffs)} cutoffs for {features} features, expected at least "
                f"{4 ** len(cutoffs)} features: use fewer cutoffs or a wider core"
            )
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(features, symbols, cutoffs)

    def forward(self, features_TBH: Float[Tensor, "T B H"]) -> Float[Tensor, "T B H"]:
        """Return the features unchanged.

        Args:
            features_TBH: of the core.

        Returns:
            The same.
        """
        return features_TBH

    def loss(
        self, features_TBH: Float[Tensor, "T B H"], targets_TB: Int[Tensor, "T B"]
    ) -> Float[Tensor, "T B"]:
        """Negative log-likelihood of each target.

        Args:
            features_TBH: of the core.
            targets_TB: symbol ids.

        Returns:
            Nats per step.
        """
        found = self.softmax(features_TBH.flatten(0, 1).float(), targets_TB.flatten())
        return -found.output.view(targets_TB.shape)

    def log_prob(self, features_TBH: Float[Tensor, "T B H"]) -> Float[Tensor, "T B V"]:
        """Log-probabilities of all symbols.

        Args:
            features_TBH: of the core.

        Returns:
            ``[T, B, V]``.
        """
        flat = self.softmax.log_prob(features_TBH.flatten(0, 1).float())
        return flat.view(*features_TBH.shape[:2], -1)
