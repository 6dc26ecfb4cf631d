"""``seqdni export``: writes the weights and settings of a model, for use without this package."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from seqdni.recipes.checkpoint import Damaged, check_finite
from seqdni.recipes.errors import RunError, one_line
from seqdni.recipes.files import read_whole, write_whole

WEIGHTS, VOCABULARY = "model.safetensors", "vocabulary.json"


def export(model: nn.Module, files: dict[str, Any], config: Path, out: Path) -> list[Path]:
    """Write model.safetensors, config.yaml, README.md, and further files of the recipe.

    Reading them executes no code. Tied weights are written twice.

    Args:
        model: trained.
        files: further files by name: bytes, or a value that is written as JSON.
        config: path of the run's config.yaml.
        out: folder to write into; made if it does not exist.

    Returns:
        The paths of the files.

    Raises:
        RunError: one of the files exists already.
    """
    weights = {name: part.cpu().clone() for name, part in model.state_dict().items()}
    contents: dict[str, bytes] = {
        WEIGHTS: save(weights, {"format": "pt"}),
        "config.yaml": read_whole(config.parent, config.name),
        "README.md": _card(weights, config, [*files]).encode(),
    }
    for name, content in files.items():
        contents[name] = content if isinstance(content, bytes) else json.dumps(content).encode()
    for name in contents:
        if os.path.lexists(out / name):
            raise RunError(f"{out / name} is there already; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_whole(out, name, content)
    return [out / name for name in contents]


def read_export(folder: Path) -> dict[str, Any]:
    """Read an export in the form of a checkpoint.

    Args:
        folder: what :func:`export` has written.

    Returns:
        ``trainer`` with the weights, ``progress`` with the vocabulary if there is one.

    Raises:
        RunError: a file of it cannot be read.
    """
    progress = {}
    try:
        weights = load(read_whole(folder, WEIGHTS))
        check_finite(weights)
    except (SafetensorError, Damaged, ValueError, OverflowError) as error:
        reason = one_line(error)
        raise RunError(f"{folder / WEIGHTS} does not fit: {reason}; export it again") from None
    if os.path.lexists(folder / VOCABULARY):
        try:
            progress["vocabulary"] = json.loads(read_whole(folder, VOCABULARY))
        except (ValueError, RecursionError) as error:
            reason = one_line(error)
            raise RunError(f"{folder / VOCABULARY} is damaged: {reason}; export it again") from None
    return {"exported": True, "trainer": {"model": weights}, "stream": {}, "progress": progress}


def _card(weights: dict[str, Any], config: Path, names: list[str]) -> str:
    """The README.md: what is in the folder, how it was made, and how to read it."""
    result = config.parent / "result.json"
    measured = read_whole(result.parent, result.name).decode() if result.is_file() else ""
    rows = [
        f"| `{name}` | {list(part.shape)} | {part.dtype} |".replace("torch.", "")
        for name, part in weights.items()
    ]
    number = sum(part.numel() for part in weights.values())
    parts = [
        "# A model trained with seqdni",
        f"`{WEIGHTS}` holds {number:,} numbers, `config.yaml` the options of the run"
        + "".join(f", `{name}` the vocabulary" for name in names if name == VOCABULARY)
        + ". Reading these files executes no code.",
        f"With seqdni:\n\n```python\n{WITH_SEQDNI}```",
        f"Without it:\n\n```python\n{WITHOUT}```",
        "| weight | shape | type |\n|---|---|---|\n" + "\n".join(rows),
    ]
    if measured:
        parts.append(
            f"What was measured at the end of the run:\n\n```json\n{measured.strip()}\n```"
        )
    return "\n\n".join(parts) + "\n"


WITH_SEQDNI = """import seqdni

model, vocabulary, options = seqdni.load(".")
"""
WITHOUT = """from safetensors.torch import load_file

weights = load_file("model.safetensors")  # tensors by name, as a torch state dict
"""
