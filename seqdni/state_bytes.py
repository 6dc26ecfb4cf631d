"""A training state, or a few tensors, as one tensor of bytes for other processes, without code.

The bytes are the length of a text, the text in JSON, and the numbers of all tensors. In the text, a
tensor is its type, its shape and where its numbers begin.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

LENGTH = 8  # bytes of the length of the text
ALIGNED = 16  # the text and each tensor begin at a multiple of so many bytes


def to_bytes(state: Any) -> Tensor:
    """Convert a training state to bytes.

    Args:
        state: tensors, numbers, strings, None, and dictionaries, lists and tuples of these.

    Returns:
        Bytes, ``[n]``.

    Example:
        >>> from_bytes(to_bytes({"steps": 3, 0: (torch.ones(2), None)}))
        {'steps': 3, 0: (tensor([1., 1.]), None)}
    """
    blocks: list[Tensor] = []
    described = _described(state, blocks)
    text = json.dumps(described).encode()
    length = torch.frombuffer(bytearray(len(text).to_bytes(LENGTH, "little")), dtype=torch.uint8)
    head = torch.cat([length, torch.frombuffer(bytearray(text), dtype=torch.uint8)])
    return torch.cat([_padded(head), *blocks])


def from_bytes(data: Tensor) -> Any:
    """The training state that :func:`to_bytes` has converted.

    Args:
        data: bytes, ``[n]``.

    Returns:
        The state, with tensors of their own on the CPU.
    """
    length = int.from_bytes(data[:LENGTH].numpy().tobytes(), "little")
    text = data[LENGTH : LENGTH + length].numpy().tobytes()
    begin = LENGTH + length + -(LENGTH + length) % ALIGNED
    return _restored(json.loads(text), data[begin:])


def _padded(block: Tensor) -> Tensor:
    return torch.cat([block, torch.zeros(-block.numel() % ALIGNED, dtype=torch.uint8)])


def _described(part: Any, blocks: list[Tensor]) -> Any:
    """The text of a part; the numbers of its tensors are added to the blocks."""
    if isinstance(part, Tensor):
        begin = sum(block.numel() for block in blocks)
        blocks.append(_padded(part.detach().cpu().contiguous().flatten().view(torch.uint8)))
        name = str(part.dtype).removeprefix("torch.")
        return {"tensor": [name, list(part.shape), begin]}
    if isinstance(part, dict):
        return {"dict": [[key, _described(value, blocks)] for key, value in part.items()]}
    if isinstance(part, (list, tuple)):
        described = [_described(value, blocks) for value in part]
        return {"tuple": described} if isinstance(part, tuple) else described
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    raise TypeError(
        f"got a {type(part).__name__} in a training state, expected tensors, numbers and strings"
    )


def _restored(text: Any, data: Tensor) -> Any:
    if isinstance(text, list):
        return [_restored(value, data) for value in text]
    if not isinstance(text, dict):
        return text
    ((kind, content),) = text.items()
    if kind == "dict":
        return {key: _restored(value, data) for key, value in content}
    if kind == "tuple":
        return tuple(_restored(value, data) for value in content)
    name, shape, begin = content
    dtype = getattr(torch, name, None)
    if kind != "tensor" or not isinstance(dtype, torch.dtype):
        raise ValueError(f"got a {kind} of {name} in bytes, expected a tensor of a type of torch")
    end = begin + torch.Size(shape).numel() * dtype.itemsize
    return data[begin:end].clone().view(dtype).view(shape)
