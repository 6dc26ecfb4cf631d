"""The common form of all trainers' checkpoints: a format number, and states as lists of tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqdni.cores.base import Core
from seqdni.state import State, map_state

FORMAT = 3
"""Number of the format of saved trainers; raised when a key changes its name or its meaning."""


def new_checkpoint(**parts: Any) -> dict[str, Any]:
    """Make a checkpoint from a trainer's parts, with the number of the format.

    Args:
        parts: tensors and primitives by name.

    Example:
        >>> new_checkpoint(tokens=3)
        {'format': 3, 'tokens': 3}
    """
    return {"format": FORMAT, **parts}


def check_format(saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another format.

    Args:
        saved: from a trainer's ``state_dict``.

    Raises:
        ValueError: the formats differ; the message has both.
    """
    got = saved.get("format", 1)
    if got != FORMAT:
        raise ValueError(
            f"the checkpoint has format {got}, and this version of seqdni reads format {FORMAT}; "
            "train again, or go on with the version that wrote it. The weights alone can be read "
            "by any version: model.load_state_dict(saved['model'])"
        )


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Restore an optimiser from a copy: torch's own would share its tensors with the checkpoint.

    Args:
        optimizer: changed in place.
        saved: from its ``state_dict``.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> adam = torch.optim.Adam([weight])
        >>> weight.grad = torch.ones(1)
        >>> adam.step()
        >>> saved = adam.state_dict()
        >>> load_optimizer(adam, saved)
        >>> adam.state[weight]["exp_avg"] is saved["state"][0]["exp_avg"]
        False
    """
    optimizer.load_state_dict(copy.deepcopy(dict(saved)))


def restored_state(saved: list[Tensor], core: Core, device: torch.device) -> State:
    """Make a state from the list of its tensors.

    Args:
        saved: from :func:`seqdni.state.leaves`.
        core: the core that it belongs to, which has the structure of the state.
        device: where the core computes.

    Example:
        >>> from torch import nn
        >>> from seqdni import TorchCore
        >>> core = TorchCore(nn.GRU(1, 2))
        >>> restored_state([torch.ones(1, 3, 2)], core, torch.device("cpu")).shape
        torch.Size([1, 3, 2])
    """
    parts = iter(saved)
    like = core.initial_state(saved[0].shape[-2])
    return map_state(lambda _: next(parts).to(device, copy=True), like)
