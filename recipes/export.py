"""``seqdni export``: a trained model's weights and settings, for use without this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from recipes.errors import RunError


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
        if (out / name).exists():
            raise RunError(f"{out / name} is there already; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: part.cpu().clone() for name, part in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    (out / "config.yaml").write_bytes(config.read_bytes())
    for name, content in files.items():
        (out / name).write_text(json.dumps(content), encoding="utf-8")
    return [out / name for name in names]
