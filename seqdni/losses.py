"""Losses per step, masked sums, and conversions from nats to bits and perplexity.

Shapes: T steps, B rows, V symbols. Cross-entropy is in nats; it is converted where it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

IGNORE = -100  # a target that is not scored, as in torch.nn.functional.cross_entropy


def cross_entropy(
    logits_TBV: Float[Tensor, "T B V"], targets_TB: Shaped[Tensor, "T B"]
) -> Float[Tensor, "T B"]:
    r"""Negative log-likelihood of each target: :math:`-\log \mathrm{softmax}(logits)_{target}`.

    Args:
        logits_TBV: unnormalised scores.
        targets_TB: symbol ids of any integer type; where a step is masked out, any valid id. The
            loss of an id of -100 is 0.

    Returns:
        Nats per step, ``[T, B]``.

    Raises:
        TypeError: the targets are not integers.

    Example:
        >>> import torch
        >>> nats = cross_entropy(torch.zeros(1, 1, 8), torch.zeros(1, 1, dtype=torch.long))
        >>> round(to_bits(nats.item()), 6)
        3.0
    """
    if targets_TB.is_floating_point() or targets_TB.is_complex():
        raise TypeError(
            f"got targets of {targets_TB.dtype}, expected symbol ids of an integer type; "
            "for real targets give loss=seqdni.squared_error"
        )
    flat = functional.cross_entropy(
        logits_TBV.flatten(0, 1), targets_TB.flatten().long(), reduction="none"
    )
    return flat.view(targets_TB.shape)


def squared_error(
    outputs: Float[Tensor, "T B *features"], targets: Float[Tensor, "T B *features"]
) -> Float[Tensor, "T B"]:
    r"""Squared distance of each step: :math:`\sum_i (output_i - target_i)^2`.

    Args:
        outputs: predictions ``[T, B, ...]``.
        targets: the right values, same shape.

    Returns:
        One number for each step, ``[T, B]``.

    Example:
        >>> import torch
        >>> squared_error(torch.zeros(1, 1, 2), torch.ones(1, 1, 2))
        tensor([[2.]])
    """
    return (outputs - targets).square().flatten(2).sum(2)


def scored_loss(
    loss: Callable[[Tensor, Tensor], Tensor],
    outputs: Tensor,
    targets: Tensor,
    mask_TB: Bool[Tensor, "T B"] | None,
) -> Float[Tensor, ""]:
    r"""The summed loss of the scored steps: :math:`\sum_{t,b} mask_{t,b} \, \ell_{t,b}`.

    A masked step adds nothing, neither to the sum nor to the gradient, also where the gradient of
    its loss is not finite (the square root of a distance that is zero, say).

    Args:
        loss: ``(outputs, targets) -> [T, B]``.
        outputs: ``[T, B, ...]``.
        targets: ``[T, B, ...]``.
        mask_TB: True where a step is scored; None scores all.

    Returns:
        A scalar.

    Raises:
        ValueError: the loss is not one number for each step and row.

    Example:
        >>> import torch
        >>> outputs = torch.zeros(1, 2, 1, requires_grad=True)
        >>> distance = lambda x, y: (x - y).square().sum(2).sqrt()
        >>> target = torch.tensor([[[0.0], [3.0]]])
        >>> scored_loss(distance, outputs, target, torch.tensor([[False, True]])).backward()
        >>> outputs.grad.flatten()
        tensor([ 0., -1.])
    """
    if mask_TB is not None:
        scored = mask_TB.view(*mask_TB.shape, *[1] * (outputs.dim() - 2))
        outputs = torch.where(scored, outputs, outputs.detach())
    losses_TB = loss(outputs, targets)
    if losses_TB.shape != targets.shape[:2]:
        raise ValueError(
            f"the loss gave the shape {list(losses_TB.shape)}, expected one number for each step "
            f"and row, [T, B] = {list(targets.shape[:2])}; give a loss that does not reduce "
            "(reduction='none') and sums over features"
        )
    return masked_sum(losses_TB, mask_TB)


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
    """Convert nats to bits: ``nats / ln 2``. Nats per character become BPC (bits per character).

    Args:
        nats: a mean negative log-likelihood.

    Returns:
        The same number in bits.

    Example:
        >>> round(to_bits(0.6931471805599453), 6)
        1.0
    """
    return nats / math.log(2)


def to_perplexity(nats: float) -> float:
    """Convert nats per token to perplexity: ``exp(nats)``; infinite where that overflows.

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
