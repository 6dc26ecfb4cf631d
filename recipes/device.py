"""The device that a run computes on."""

from __future__ import annotations

from typing import Any

import torch

from seqdni.recipes.errors import RunError


def device_of(options: Any) -> torch.device:
    """The device that ``--device`` names.

    Args:
        options: a recipe's options.

    Returns:
        The device; ``auto`` is the first GPU if there is one.

    Raises:
        RunError: there is no such device.
    """
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"--device {options.device}: {reason}; use cpu, cuda or auto") from None
    return device
