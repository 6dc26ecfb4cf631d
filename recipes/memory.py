"""Refuses sizes that do not fit into memory, before anything is allocated."""

from __future__ import annotations

import os
import re
from typing import Any

from seqdni.recipes.errors import RunError

GATES = {"lstm": 4, "gru": 3, "rnn": 1, "lru": 2}
PARTS = {"lstm": 2, "gru": 1}  # numbers in the state of a unit
COPIES = 4  # of a weight in training: itself, its gradient, and Adam's two moments
NUMBER = 4  # bytes
SIGNS = (  # parts of the messages of torch and NumPy when memory is exhausted
    *("can't allocate memory", "not enough memory", "out of memory", "overflow"),
    *("Unable to allocate", "invalid size", "too large", "too big"),
)


def check_memory(options: Any) -> None:
    """Refuse a core that the memory of this machine cannot hold.

    The least that a run needs is counted: the weights of the recurrent layers in training, their
    gates at one step for every row, and with ``--trainer influence`` that of the recurrent weights.

    Args:
        options: a recipe's options.

    Raises:
        RunError: the core is too large; the message names the options.
    """
    gates, hidden = GATES.get(getattr(options, "core", ""), 1), options.hidden
    layers = "layers" if hasattr(options, "layers") else "hidden_layers"
    weights = COPIES * gates * 2 * hidden * hidden * getattr(options, layers)
    needed = NUMBER * (weights + gates * hidden * options.batch)
    if options.trainer == "influence" and options.core in PARTS:
        needed += NUMBER * options.batch * PARTS[options.core] * gates * hidden * hidden
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if options.device.startswith("cuda"):
        there = max(there, _of_gpu())
    if needed > there:
        count = f"--{layers.replace('_', '-')} {getattr(options, layers)}"
        raise RunError(
            f"--hidden {hidden}, {count} and --batch {options.batch} need "
            f"{needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f}; make them smaller"
        )


def _of_gpu() -> int:
    """Bytes of the first GPU; 0 where there is none."""
    import torch  # not for the help of the options

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that something is larger than the memory.

    Args:
        error: any error.

    Returns:
        True for the errors that torch, NumPy and Python raise in this case.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    if isinstance(error, (MemoryError, OverflowError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def too_large(error: Exception) -> str:
    """The message for the user about an error of memory.

    Args:
        error: one for which :func:`is_out_of_memory` is true.

    Returns:
        One line.

    Example:
        >>> too_large(RuntimeError("you tried to allocate 5000000000 bytes"))
        'not enough memory for another 5 GB; make the sizes smaller, e.g. --hidden or --batch'
    """
    found = re.search(r"allocate (\d+) bytes", str(error))
    more = f" for another {int(found[1]) / 1e9:,.0f} GB" if found else ""
    return f"not enough memory{more}; make the sizes smaller, e.g. --hidden or --batch"
