"""What every stream yields: one chunk of a batch of rows.

Shapes: T steps of the chunk, B rows, D features of a step.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float32, Int64
from torch import Tensor


class Batch(NamedTuple):
    """One chunk of T time-major steps for B rows, on the CPU.

    Row t of `should_reset` says that the row's state becomes the initial state *before* step t.
    Its last row, t = T, speaks of the step after this chunk, so that a trainer knows that an
    episode ended here and does not bootstrap: it equals row 0 of the next chunk.

    Args:
        inputs: token ids, [T, B], or real features, [T, B, D].
        targets: ids to predict, or real values, [T, B]; meaningless where `mask` is False.
        mask: True where a step is scored, [T, B]; None scores every step.
        should_reset: True where a row restarts, [T + 1, B]; None restarts nobody.

    Example:
        >>> import torch
        >>> chunk = Batch(torch.tensor([[1, 5], [2, 6]]), torch.tensor([[2, 6], [3, 7]]))
        >>> chunk.inputs.shape, chunk.mask, chunk.should_reset
        (torch.Size([2, 2]), None, None)
    """

    inputs: Int64[Tensor, "T B"] | Float32[Tensor, "T B D"]
    targets: Int64[Tensor, "T B"] | Float32[Tensor, "T B"]
    mask: Bool[Tensor, "T B"] | None = None
    should_reset: Bool[Tensor, "T+1 B"] | None = None
