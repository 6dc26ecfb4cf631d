"""Loads a trained model from the folder of a run, to be used in Python."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqdni.recipes.loaded import Loaded


def load(path: str | Path, device: str = "cpu") -> Loaded:
    """Load the model of a run, or of what ``seqdni export`` has written. No code in it is run.

    Args:
        path: the folder of the run or export.
        device: where the model is to compute: ``cpu``, ``cuda``, ``cuda:1`` ..., or ``auto``.

    Returns:
        ``model, vocabulary, options``, with the methods ``score(text)`` in nats per token,
        ``sample(prompt, length)`` and ``hidden_states(text)``, ``[T, B, H]``. The vocabulary is
        None where the model reads no text.

    Raises:
        seqdni.recipes.errors.RunError: it is not such a folder, or a file in it is damaged.

    Example:
        >>> load("nowhere")
        Traceback (most recent call last):
            ...
        seqdni.recipes.errors.RunError: nowhere is not the folder of a run: expected a config.yaml \
written by seqdni run
    """
    loaded: Any = importlib.import_module("seqdni.recipes.loaded")  # the recipes need this library
    return loaded.load(path, device)
