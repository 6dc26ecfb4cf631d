"""The table of gpu.sh's rows, and the rows that are kept with the project."""

from __future__ import annotations

import json
from pathlib import Path

from gpu_table import table

ROOT = Path(__file__).parents[2]
CELL = {"chunk_len": 4, "hidden": 256, "batch": 32, "device": "a GPU", "torch": "2.11"}


def row(trainer, ms, **changes):
    return {**CELL, "trainer": trainer, "ms_per_chunk": ms, **changes}


def test_a_line_has_eager_and_captured_times_of_one_cell():
    lines = table(
        [
            row("by hand", 3.0),
            row("by hand", 3.3456),  # measured again
            row("by hand captured", 0.2512),
            row("dni captured", 0.47),
            row("dni", 9.0, chunk_len=8),  # nothing was captured there
            {"program": "seqdni run copy, captured", "trainer": "dni", "device": "a GPU"},
        ]
    ).splitlines()
    assert lines[0].startswith("a GPU, torch 2.11")
    assert lines[-1] == "| 256 | 32 | 4 | 3.35 / 0.25 | - | - / 0.47 | - | - | - |"
    assert len(lines) == 5


def test_rows_of_two_devices_are_two_tables():
    rows = [row("tbptt captured", 0.3, device=name) for name in ("one", "two")]
    assert table(rows).count("| units |") == 2


def test_the_kept_rows_can_be_read():
    rows = (ROOT / "benchmarks/results/gpu.jsonl").read_text().splitlines()
    table(json.loads(line) for line in rows)
