"""The device that a run computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqdni.recipes.errors import RunError
from seqdni.recipes.launched import launched

if TYPE_CHECKING:
    import torch


def device_of(options: Any) -> torch.device:
    """The device that ``--device`` names.

    Args:
        options: a recipe's options.

    Returns:
        The device; ``auto`` is the first GPU if there is one.

    Raises:
        RunError: there is no such device.
    """
    import torch  # not for the help of the options

    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and launched() > 1:  # each process has a GPU of its own
        name = f"cuda:{torch.cuda.current_device()}"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"--device {options.device}: {reason}; use cpu, cuda or auto") from None
    return device
