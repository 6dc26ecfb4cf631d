"""The chunk of a batch of rows, which every stream yields.

Shapes: T steps of the chunk, B rows, D features of a step.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float32, Int64
from torch import Tensor


class Batch(NamedTuple):
    """One chunk of T time-major steps for B rows, on the CPU.

    Where `should_reset[t, b]` is True, the state of row b becomes the initial state *before* step
    t. The last entry, t = T, is about the step after this chunk, and equals entry 0 of the next
    chunk. It tells a trainer that an episode ends with this chunk, and gets no bootstrap.

    Args:
        inputs: token ids, [T, B], or real features, [T, B, D].
        targets: ids to predict, or real values, [T, B]; not used where `mask` is False.
        mask: True where a step is scored, [T, B]; None scores every step.
        should_reset: True where a row restarts, [T + 1, B]; None: no row restarts.

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
