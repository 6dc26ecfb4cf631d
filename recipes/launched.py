"""Which of the processes that ``torchrun`` started this one is, from its environment."""

from __future__ import annotations

import os


def launched() -> int:
    """The number of processes that were started together, from torchrun's environment."""
    try:
        return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    except ValueError:
        return 1


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if launched() > 1 else 0
