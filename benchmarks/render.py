"""Rows of a study as markdown tables, figures and comparisons."""

from __future__ import annotations

import importlib
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from study import Experiment, Run, key

# What a table of a recipe shows: the last one is also drawn. A search never looks at test data.
METRICS = {
    "copy": ("solved_length",),
    "repeat-copy": ("solved_steps",),
    "lm": ("valid_bpc", "test_bpc"),
}
NAMES = {
    "solved_length": "longest sequence solved, N",
    "solved_steps": "longest sequence solved, N x R (means of their product)",
    "valid_bpc": "validation, bits per character",
    "test_bpc": "test, bits per character",
}
Rows = Mapping[str, Mapping[str, Any]]  # by the key of their cell


class Difference(NamedTuple):
    """A difference of means over pairs."""

    mean: float
    error: float  # standard error
    pairs: int

    def __str__(self) -> str:
        return f"{self.mean:+.3g} ± {self.error:.2g} ({self.pairs} pairs)"


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Mean of ``first`` minus ``second`` over the seeds that both have, with its standard error.

    A pair shares its seed, hence initial weights and data.

    Args:
        first: values by seed.
        second: values by seed.

    Returns:
        The difference; its error is NaN for fewer than two pairs, and so is the mean for none.

    Example:
        >>> print(paired_difference({21: 8, 22: 8, 23: 7}, {21: 5, 22: 4, 23: 4}))
        +3.33 ± 0.33 (3 pairs)
    """
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    return Difference(*mean_and_error(differences), len(differences))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, NaN where there are too few values.

    Args:
        values: independent ones.

    Returns:
        Both.
    """
    nan = float("nan")
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else nan
    return (statistics.fmean(values) if values else nan), error


def metrics(experiment: Experiment) -> tuple[str, ...]:
    """What its tables show.

    Args:
        experiment: one of the study's.

    Returns:
        Names of fields of a row.
    """
    shown = METRICS[experiment.recipe]
    return shown[:1] if experiment.role == "search" else shown


def values(experiment: Experiment, rows: Rows, metric: str) -> dict[tuple[str, str], dict]:
    """A metric by arm and column, then by seed.

    Args:
        experiment: one of the study's.
        rows: of the study.
        metric: a field of its rows.

    Returns:
        Every arm and column, those without rows included.
    """
    found: dict[tuple[str, str], dict] = {}
    for run in experiment.runs():
        at_seed = found.setdefault((run.arm, run.column), {})
        row = row_of(run, rows)
        if row is not None:
            at_seed[run.seed] = row[metric]
    return found


def tables(experiment: Experiment, rows: Rows) -> str:
    """Arms against columns: each seed's value, then mean ± standard error.

    Args:
        experiment: one of the study's.
        rows: of the study.

    Returns:
        Markdown, a table a metric.
    """
    done = {(run.arm, run.column, run.seed): row_of(run, rows) for run in experiment.runs()}
    seeds = sorted({seed for _, _, seed in done})
    parts = []
    for metric in metrics(experiment):
        where = f"seeds {', '.join(map(str, seeds))}"
        lines = [f"{experiment.title}: {NAMES[metric]}; {where}.", ""]
        lines += ["| | " + " | ".join(experiment.columns) + " |"]
        lines += ["|---" * (1 + len(experiment.columns)) + "|"]
        for arm in experiment.arms:
            cells = [
                _cell([done[arm, column, seed] for seed in seeds], metric)
                for column in experiment.columns
            ]
            lines += [f"| {arm} | " + " | ".join(cells) + " |"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def compare(experiment: Experiment, rows: Rows, first: str, second: str) -> str:
    """The difference between two arms in each column.

    Args:
        experiment: one of the study's.
        rows: of the study.
        first: an arm.
        second: the arm to take away.

    Returns:
        A line for each column in which some seed has both.
    """
    lines = []
    for metric in metrics(experiment):
        found = values(experiment, rows, metric)
        for column in experiment.columns:
            difference = paired_difference(found[first, column], found[second, column])
            if difference.pairs:
                what = f"{experiment.name} {column}, {metric}"
                lines.append(f"{what}: {first} - {second} = {difference}")
    return "\n".join(lines) or f"{experiment.name}: no seed has both {first} and {second}"


def write_page(page: Path, preset: str, experiments: Sequence[Experiment], rows: Rows) -> list[str]:
    """Put tables between the page's markers, and draw the figures that it shows.

    Args:
        page: markdown with ``<!-- table PRESET/NAME -->`` and ``<!-- end -->``, and pictures
            ``figures/PRESET-NAME.svg`` beside it.
        preset: of the rows.
        experiments: of the study; those that the page does not mention are left out.
        rows: of the study.

    Returns:
        The names of what was written.
    """
    if not page.exists():
        return []
    text, written = page.read_text(encoding="utf-8"), []
    for experiment in experiments:
        name = f"{preset}/{experiment.name}"
        text, found = with_table(text, name, tables(experiment, rows))
        if found:
            written.append(f"table {name}")
        figure = f"figures/{preset}-{experiment.name}.svg"
        if figure in text and draw(experiment, rows, page.parent / figure):
            written.append(figure)
    page.write_text(text, encoding="utf-8")
    return written


def with_table(text: str, name: str, table: str) -> tuple[str, bool]:
    """Put a table between the markers of a page.

    Args:
        text: of the page, with ``<!-- table NAME -->`` and ``<!-- end -->``.
        name: of the table.
        table: markdown.

    Returns:
        The text with the table, and whether it has the markers.

    Example:
        >>> with_table("<!-- table a -->\\nold\\n<!-- end -->", "a", "new")
        ('<!-- table a -->\\n\\nnew\\n\\n<!-- end -->', True)
    """
    marker = rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)"
    text, count = re.subn(
        marker, lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text, flags=re.S
    )
    return text, count > 0


def put_table(page: Path, name: str, table: str) -> None:
    """Put a table between the markers of a page's file.

    Args:
        page: markdown with ``<!-- table NAME -->`` and ``<!-- end -->``.
        name: of the table.
        table: markdown.

    Raises:
        ValueError: the page has no such markers.
    """
    written, found = with_table(page.read_text(encoding="utf-8"), name, table)
    if not found:
        raise ValueError(f"{page} lacks <!-- table {name} --> or <!-- end -->")
    page.write_text(written, encoding="utf-8")


def draw(experiment: Experiment, rows: Rows, path: Path) -> bool:
    """A point for each seed and a bar at their mean, a panel a column; the same bytes each time.

    Args:
        experiment: one of the study's.
        rows: of the study.
        path: of the SVG.

    Returns:
        False where matplotlib is not installed.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
        figures = importlib.import_module("matplotlib.figure")
    except ImportError:
        return False
    metric = metrics(experiment)[-1]
    found = values(experiment, rows, metric)
    panels = {
        column: [arm for arm in experiment.arms if found[arm, column]]
        for column in experiment.columns
    }
    heights = [max(1, len(arms)) for arms in panels.values()]
    with matplotlib.rc_context({"svg.hashsalt": "seqdni", "svg.fonttype": "none", "font.size": 11}):
        figure = figures.Figure(figsize=(5.2, 1 + 0.28 * sum(heights) + 0.4 * len(panels)))
        figure.set_layout_engine("constrained")
        ratios = {"height_ratios": heights}
        below = figure.subplots(len(panels), sharex=True, squeeze=False, gridspec_kw=ratios)[:, 0]
        for axes, (column, arms) in zip(below, panels.items(), strict=True):
            for k, arm in enumerate(arms):
                here = [float(value) for _, value in sorted(found[arm, column].items())]
                spread = [k + 0.25 * (j / max(len(here) - 1, 1) - 0.5) for j in range(len(here))]
                axes.plot(here, spread, "o", color="C0", markersize=4)
                axes.plot([statistics.fmean(here)] * 2, [k - 0.3, k + 0.3], color="C1")
            axes.set_yticks(range(len(arms)), arms, fontsize=10)
            axes.set_ylim(len(arms) - 0.5, -0.5)
            axes.set_title(column, fontsize=11)
            axes.grid(axis="x", alpha=0.3)
        below[-1].set_xlabel(NAMES[metric].split(" (")[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    return True


def row_of(run: Run, rows: Rows) -> Mapping[str, Any] | None:
    """The row of a run, or None where there is none yet.

    Args:
        run: of a study.
        rows: of the study.
    """
    return rows.get(key(run.cell.recipe, run.cell.options))


def _cell(rows: Sequence[Mapping[str, Any] | None], metric: str) -> str:
    """Seeds' values separated by " / ", and their mean; a dash where there is none yet."""
    there = [row for row in rows if row is not None]
    if not there:
        return ""
    shown = " / ".join("-" if row is None else _value(row, metric) for row in rows)
    mean, error = mean_and_error([row[metric] for row in there])
    digits = 3 if metric.endswith("bpc") else 1
    return shown if len(there) < 2 else f"{shown} ({mean:.{digits}f} ± {error:.{digits}f})"


def _value(row: Mapping[str, Any], metric: str) -> str:
    if metric == "solved_steps":
        return f"{row['solved_length']}x{row['solved_repeats']}"
    return f"{row[metric]:.3f}" if metric.endswith("bpc") else str(row[metric])
