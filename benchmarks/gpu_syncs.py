"""What waits for the GPU in a chunk, and what runs from Python although it should be captured.

    python benchmarks/gpu_syncs.py

Each trainer of chunk_step.py makes 16 chunks, eagerly and captured. A line names the places in the
code that waited for the device, and how often in a chunk; then the chunks that no graph computed,
by the reason.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter

import torch
from chunk_step import CAPTURABLE, CAPTURED, with_trainer

CHUNKS = 16


def waits(step) -> dict[str, float]:
    """Places that waited for the device, with the number of waits a chunk."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(CHUNKS):
            step()
    torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{each.filename.split('site-packages/')[-1]}:{each.lineno}" for each in caught
    )
    return {place: count / CHUNKS for place, count in places.items() if "cuda" not in place}


def main() -> None:
    names = [name for name in CAPTURABLE if name != "by hand"]
    for name in [*names, *(each + CAPTURED for each in names)]:
        try:
            trainer, step = with_trainer(name, 4, 64, 32, "cuda")
            step()
            print(f"{name}: waits {waits(step) or 'never'}", flush=True)
            if trainer.captured is not None:
                done = f"{trainer.captured.graphs} graphs, {trainer.captured.replayed} chunks"
                print(f"    {done}, from Python: {dict(trainer.captured.eager)}", flush=True)
        except Exception:  # the other trainers are still to be looked at
            print(f"{name}: failed", flush=True)
            traceback.print_exc()


if __name__ == "__main__":
    main()
