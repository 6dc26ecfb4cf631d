"""Controls for experiments, which replace synthetic gradients by others without credit.

A gain over TBPTT that remains with ``shuffled`` does not come from credit for what a row did, and
does not show a longer horizon.

Shapes: B rows, S features of a packed state.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def shuffled(predicted_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Give each row the synthetic gradient of a random row, drawn without replacement.

    Args:
        predicted_BS: the predictions of the synthesizer.

    Returns:
        The same rows in a random order, drawn from torch's global generator.

    Example:
        >>> shuffled(torch.eye(3)).sum(0)
        tensor([1., 1., 1.])
    """
    order_B = torch.randperm(len(predicted_BS), device=predicted_BS.device)
    return predicted_BS[order_B]


def batch_mean(predicted_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Give every row the mean over the batch.

    Args:
        predicted_BS: the predictions of the synthesizer.

    Returns:
        B equal rows.

    Example:
        >>> batch_mean(torch.tensor([[1.0], [3.0]]))
        tensor([[2.],
                [2.]])
    """
    return predicted_BS.mean(dim=0, keepdim=True).expand_as(predicted_BS)


def zero(predicted_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Give every row zero, which is TBPTT at the cost of a synthesizer.

    Args:
        predicted_BS: the predictions of the synthesizer.

    Returns:
        Zeros.

    Example:
        >>> zero(torch.ones(1, 2))
        tensor([[0., 0.]])
    """
    return torch.zeros_like(predicted_BS)
