"""Losses per step, masked sums, and the units people quote.

Shapes: T steps, B rows, V symbols. Losses are in nats until they are shown.
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    logits_TBV: Float[Tensor, "T B V"], targets_TB: Int[Tensor, "T B"]
) -> Float[Tensor, "T B"]:
    r"""Negative log-likelihood of each target: :math:`-\log \mathrm{softmax}(logits)_{target}`.

    Args:
        logits_TBV: unnormalised scores.
        targets_TB: symbol ids; where a step is masked out, any valid id.

    Returns:
        Nats per step, ``[T, B]``.

    Example:
        >>> import torch
        >>> nats = cross_entropy(torch.zeros(1, 1, 8), torch.zeros(1, 1, dtype=torch.long))
        >>> round(to_bits(nats.item()), 6)
        3.0
    """
    flat = functional.cross_entropy(
        logits_TBV.flatten(0, 1), targets_TB.flatten(), reduction="none"
    )
    return flat.view(targets_TB.shape)


def squared_error(
    outputs: Float[Tensor, "T B *features"], targets: Float[Tensor, "T B *features"]
) -> Float[Tensor, "T B"]:
    r"""Squared distance of each step: :math:`\sum_i (output_i - target_i)^2`.

    Args:
        outputs: predictions ``[T, B, ...]``.
        targets: what was wanted, same shape.

    Returns:
        One number a step, ``[T, B]``.

    Example:
        >>> import torch
        >>> squared_error(torch.zeros(1, 1, 2), torch.ones(1, 1, 2))
        tensor([[2.]])
    """
    return (outputs - targets).square().flatten(2).sum(2)


def masked_sum(
    loss_TB: Float[Tensor, "T B"], mask_TB: Bool[Tensor, "T B"] | None
) -> Float[Tensor, ""]:
    """Sum over the scored steps; a masked step adds nothing, whatever its loss.

    Args:
        loss_TB: loss per step.
        mask_TB: True where a step is scored; None scores all.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> masked_sum(torch.tensor([[1.0, float("nan")]]), torch.tensor([[True, False]]))
        tensor(1.)
    """
    if mask_TB is None:
        return loss_TB.sum()
    return loss_TB.masked_fill(~mask_TB, 0.0).sum()


def to_bits(nats: float) -> float:
    """Nats to bits: ``nats / ln 2``. Nats per character become BPC.

    Args:
        nats: a mean negative log-likelihood.

    Returns:
        The same in bits.

    Example:
        >>> round(to_bits(0.6931471805599453), 6)
        1.0
    """
    return nats / math.log(2)


def to_perplexity(nats: float) -> float:
    """Nats per token to perplexity: ``exp(nats)``; infinite where that overflows.

    Args:
        nats: a mean negative log-likelihood per token.

    Returns:
        The perplexity.

    Example:
        >>> to_perplexity(0.0)
        1.0
    """
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
