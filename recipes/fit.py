"""Checks that the parts of a checkpoint are of the same kind as those of a new run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from seqdni.recipes.checkpoint import Damaged

MOST = 1 << 62  # of a count
DEEPEST = 20


def check_fits(saved: Any, like: Any, name: str) -> None:
    """Compare a part of a checkpoint with that of a run that has just begun.

    Tensors must have the same type and number of axes, and counts must not be negative. The saved
    list may be longer than that of the new run; its further parts are compared with the last part
    of the other. Where the new run has an empty list, or None, everything is accepted.

    Args:
        saved: the part in the checkpoint.
        like: the same part of a new run.
        name: of the part, for the message.

    Raises:
        Damaged: the two differ in kind; the message names the first place.

    Example:
        >>> check_fits({"cursor": 4, "curve": [[1, 2]]}, {"cursor": 0, "curve": []}, "stream")
        >>> check_fits({"cursor": -1}, {"cursor": 0}, "stream")
        Traceback (most recent call last):
            ...
        seqdni.recipes.checkpoint.Damaged: stream.cursor is -1, expected a whole number of 0 or more
    """
    if like is None:
        return
    if name.count(".") + name.count("[") > DEEPEST:
        raise Damaged(f"{name} lies too deep")
    if isinstance(like, dict):
        _check_dict(saved, like, name)
    elif isinstance(like, (list, tuple)):
        if not isinstance(saved, (list, tuple)) or len(saved) < len(like):
            raise Damaged(f"{name} is {_shown(saved)}, expected a list of {len(like)} or more")
        for i, part in enumerate(saved if like else ()):
            check_fits(part, like[min(i, len(like) - 1)], f"{name}[{i}]")
    elif isinstance(like, Tensor):
        if not isinstance(saved, Tensor) or (saved.dtype, saved.dim()) != (like.dtype, like.dim()):
            expected = f"a tensor of {like.dim()} axes of {like.dtype}"
            raise Damaged(f"{name} is {_shown(saved)}, expected {expected}")
    elif isinstance(like, (bool, str)):
        if type(saved) is not type(like):
            raise Damaged(f"{name} is {_shown(saved)}, expected a {type(like).__name__}")
    elif isinstance(like, int):
        if isinstance(saved, bool) or not isinstance(saved, int) or not 0 <= saved < MOST:
            raise Damaged(f"{name} is {_shown(saved)}, expected a whole number of 0 or more")
    elif isinstance(like, float) and (
        isinstance(saved, bool)
        or not isinstance(saved, (int, float))
        or math.isnan(saved)
        or saved < 0
    ):
        raise Damaged(f"{name} is {_shown(saved)}, expected a number of 0 or more")


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse moments whose shape is not that of their weights: a fused update would not check it.

    Args:
        optimizer: with the state of a checkpoint.

    Raises:
        Damaged: a moment does not fit; the message names the first.
    """
    for weight, state in optimizer.state.items():
        for name, part in state.items():
            if not isinstance(part, Tensor) or part.dtype != weight.dtype:
                raise Damaged(f"the optimiser's {name} is {_shown(part)}")
            if part.shape not in (weight.shape, torch.Size([])):
                shapes = f"{list(part.shape)}, expected {list(weight.shape)}"
                raise Damaged(f"the optimiser's {name} is of shape {shapes}")
            if name != "step" and part.dim() == 0 and weight.dim():
                raise Damaged(f"the optimiser's {name} is one number, expected one a weight")


def _check_dict(saved: Any, like: dict, name: str) -> None:
    if not isinstance(saved, dict):
        raise Damaged(f"{name} is {_shown(saved)}, expected parts by name")
    for key, part in like.items():
        if key not in saved:
            raise Damaged(f"{name} has no {key}")
        check_fits(saved[key], part, f"{name}.{key}")


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dim()} axes of {value.dtype}"
    return repr(value)[:40]
