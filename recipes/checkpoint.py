"""Converts a checkpoint to bytes and back: the bytes of ``torch.save``, with a digest at the end.

A checkpoint may be damaged, or come from somebody else. Reading one therefore checks every byte,
runs no code, and accepts only tensors, numbers, strings, and lists and dictionaries of these.
The digest is the comment of the zip archive that ``torch.save`` writes; ``torch.load`` skips it.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

END = b"PK\x05\x06"  # begins the last record of an archive, which is 22 bytes and the comment
END_SIZE = 22
LABEL = b"sha256:"
COMMENT_SIZE = len(LABEL) + 64


class Damaged(ValueError):
    """The bytes are not a whole checkpoint; the message says why, to be put into a sentence."""


def checkpoint_bytes(state: dict[str, Any]) -> bytearray:
    """Convert a checkpoint to the bytes of a file.

    Args:
        state: tensors and primitives.

    Returns:
        An archive that ``torch.load(weights_only=True)`` reads.

    Example:
        >>> read_checkpoint(checkpoint_bytes({"weight": torch.ones(2)}))
        {'weight': tensor([1., 1.])}
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = bytearray(buffer.getbuffer())
    assert data[-END_SIZE:].startswith(END)
    data[-2:] = COMMENT_SIZE.to_bytes(2, "little")
    return data + LABEL + hashlib.sha256(data).hexdigest().encode()


def read_checkpoint(data: bytes | bytearray) -> Any:
    """Read a checkpoint that :func:`checkpoint_bytes` or plain ``torch.save`` has made.

    Args:
        data: the whole file.

    Returns:
        What was saved, on the CPU.

    Raises:
        Damaged: the file is damaged, or holds other things than tensors and primitives.

    Example:
        >>> read_checkpoint(b"nothing")
        Traceback (most recent call last):
            ...
        seqdni.recipes.checkpoint.Damaged: it is no archive of torch.save, or ends too early
    """
    _check_whole(data)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise Damaged("it holds code or objects; only tensors and numbers are read") from None
    except Exception:  # any error that a strange archive causes in torch.load
        raise Damaged("it is an archive of something else") from None
    for part in every_part(state):
        if isinstance(part, Tensor):
            _check_tensor(part, len(data))
    return state


def every_part(state: Any) -> Iterator[Any]:
    """Every tensor and primitive in a checkpoint.

    Args:
        state: a checkpoint, or a part of one.

    Yields:
        Each tensor and primitive.

    Raises:
        Damaged: the checkpoint holds something else.
    """
    seen, left = set(), [state]
    while left:
        part = left.pop()
        if isinstance(part, (dict, list, tuple)):
            if id(part) in seen:
                continue
            seen.add(id(part))
            left += [*part.keys(), *part.values()] if isinstance(part, dict) else part
        elif part is None or isinstance(part, (bool, int, float, str, Tensor)):
            yield part
        else:
            raise Damaged(f"it holds a {type(part).__name__}; only tensors and numbers are read")


def check_finite(state: Any) -> None:
    """Refuse numbers that no training state has.

    Args:
        state: of a trainer.

    Raises:
        Damaged: a number in it is NaN, infinite or complex.
    """
    for part in every_part(state):
        if isinstance(part, Tensor) and part.is_complex():
            raise Damaged("it has complex numbers, expected real ones")
        if isinstance(part, Tensor) and not part.isfinite().all():
            raise Damaged("a number in it is NaN or infinite")
        if isinstance(part, float) and not math.isfinite(part):
            raise Damaged(f"a number in it is {part}")


def check_weights(saved: Any, own: dict[str, Tensor]) -> None:
    """Refuse weights of another type, which torch would convert without a warning.

    Args:
        saved: weights by name, from a checkpoint.
        own: the weights of a model built from the run's options.

    Raises:
        Damaged: a type differs; the message names the first such weight.
    """
    if not isinstance(saved, dict):
        raise Damaged(f"its weights are a {type(saved).__name__}, expected tensors by name")
    for name, weight in own.items():
        found = saved.get(name)
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        if kind != weight.dtype:
            raise Damaged(f"{name} is {kind}, expected {weight.dtype}")


def _check_whole(data: bytes | bytearray) -> None:
    """Compare the file with its digest, and each part of the archive with its checksum."""
    archive = data
    if data[-COMMENT_SIZE:].startswith(LABEL):
        archive = data[:-COMMENT_SIZE]
        if data[-64:] != hashlib.sha256(archive).hexdigest().encode():
            raise Damaged("its content does not match its digest: it is damaged")
    if not data.startswith(b"PK") or not archive[-END_SIZE:].startswith(END):
        raise Damaged("it is no archive of torch.save, or ends too early")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            if sum(part.file_size for part in parts.infolist()) > len(data):
                raise Damaged("it is compressed, which torch.save never does")
            broken = parts.testzip()
    except Damaged:
        raise
    except Exception as error:  # any error that a damaged archive causes in zipfile
        raise Damaged(f"its archive is damaged ({type(error).__name__})") from None
    if broken is not None:
        raise Damaged(f"its content does not match its checksums ({broken}): it is damaged")


def _check_tensor(tensor: Tensor, size: int) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise Damaged("it holds a sparse or quantised tensor")
    if tensor.device.type != "cpu" or tensor.numel() * tensor.element_size() > size:
        raise Damaged(f"it holds a tensor of shape {list(tensor.shape)} without its numbers")
