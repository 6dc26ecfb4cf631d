"""Controls of an experiment: synthetic gradients with the credit taken out of them.

Shapes: B rows, S features of a packed state. A gain over TBPTT that survives ``shuffled`` does not
come from assigning credit to what a row did, and is no evidence of a longer horizon.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def shuffled(predicted_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Each row gets the synthetic gradient of a row drawn without replacement.

    Args:
        predicted_BS: what the synthesizer said.

    Returns:
        The same rows in a random order, from torch's global generator.

    Example:
        >>> shuffled(torch.eye(3)).sum(0)
        tensor([1., 1., 1.])
    """
    order_B = torch.randperm(len(predicted_BS), device=predicted_BS.device)
    return predicted_BS[order_B]


def batch_mean(predicted_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Every row gets the mean over the batch.

    Args:
        predicted_BS: what the synthesizer said.

    Returns:
        B equal rows.

    Example:
        >>> batch_mean(torch.tensor([[1.0], [3.0]]))
        tensor([[2.],
                [2.]])
    """
    return predicted_BS.mean(dim=0, keepdim=True).expand_as(predicted_BS)


def zero(predicted_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """No row gets anything: TBPTT with the synthesizer's cost.

    Args:
        predicted_BS: what the synthesizer said.

    Returns:
        Zeros.

    Example:
        >>> zero(torch.ones(1, 2))
        tensor([[0., 0.]])
    """
    return torch.zeros_like(predicted_BS)
