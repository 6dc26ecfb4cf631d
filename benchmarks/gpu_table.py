"""The rows of gpu.sh as a table: milliseconds a chunk, eager and captured.

    python benchmarks/gpu_table.py benchmarks/results/gpu.jsonl --page docs/gpu.md

The last row of each cell counts. The table is printed, and put between the page's markers
``<!-- table gpu -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chunk_step import CAPTURED
from render import put_table

COLUMNS = {
    "by hand": "by hand",
    "tbptt": "TBPTT",
    "dni": "DNI, MLP",
    "dni rls": "DNI, least squares",
    "look-ahead": "look-ahead",
    "critic": "critic",
}


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line a cell, one column a trainer; in each ``eager / captured``.

    Args:
        rows: of ``chunk_step.py``, of any devices; those without a captured step of the same cell
            are left out.

    Returns:
        A markdown table, under a line that names the device.

    Example:
        >>> row = {"chunk_len": 4, "hidden": 256, "batch": 32, "device": "H200", "torch": "2.11"}
        >>> rows = [{**row, "trainer": "dni", "ms_per_chunk": 7.04},
        ...         {**row, "trainer": "dni captured", "ms_per_chunk": 0.471}]
        >>> print(table(rows).splitlines()[-1])
        | 256 | 32 | 4 | - | - | 7.04 / 0.47 | - | - | - |
    """
    last: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if "batch" in row and "trainer" in row and "ms_per_chunk" in row:
            names = ("device", "torch", "hidden", "batch", "chunk_len", "trainer")
            last[tuple(row[name] for name in names)] = row["ms_per_chunk"]
    cells = sorted({key[:5] for key in last if key[5].endswith(CAPTURED)})
    lines = []
    for device in dict.fromkeys(cell[:2] for cell in cells):
        lines += [
            f"{device[0]}, torch {device[1]}; eager / captured, in milliseconds a chunk:",
            "",
            "| units | rows | T | " + " | ".join(COLUMNS.values()) + " |",
            "|---" * (3 + len(COLUMNS)) + "|",
        ]
        for cell in (each for each in cells if each[:2] == device):
            found = [
                (last.get((*cell, name)), last.get((*cell, name + CAPTURED))) for name in COLUMNS
            ]
            shown = [f"{_ms(eager)} / {_ms(fast)}" if fast else "-" for eager, fast in found]
            lines.append("| " + " | ".join([*map(str, cell[2:]), *shown]) + " |")
        lines.append("")
    return "\n".join(lines).strip()


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="a file of JSON rows")
    parser.add_argument("--page", type=Path, help="a page with the markers")
    options = parser.parse_args()
    made = table(json.loads(line) for line in options.rows.read_text().splitlines())
    print(made)
    if options.page is not None:
        try:
            put_table(options.page, "gpu", made)
        except ValueError as error:
            raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
