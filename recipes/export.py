"""``seqdni export``: a trained model's weights and settings, for use without this package."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from recipes.errors import RunError
from recipes.files import read_whole, write_whole


def export(
    model: nn.Module, files: dict[str, dict[str, Any]], config: Path, out: Path
) -> list[Path]:
    """Write model.safetensors, config.yaml and what else the recipe has.

    Reading them executes no code. Weights that are tied are written twice.

    Args:
        model: trained.
        files: JSON by name, e.g. the vocabulary.
        config: the run's config.yaml.
        out: folder to write into; made if it is not there.

    Returns:
        The files.

    Raises:
        RunError: one of them is there already.
    """
    names = ["model.safetensors", "config.yaml", *files]
    for name in names:
        if os.path.lexists(out / name):
            raise RunError(f"{out / name} is there already; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: part.cpu().clone() for name, part in model.state_dict().items()}
    write_whole(out, "model.safetensors", save(weights, {"format": "pt"}))
    write_whole(out, "config.yaml", read_whole(config.parent, config.name))
    for name, content in files.items():
        write_whole(out, name, json.dumps(content).encode())
    return [out / name for name in names]
