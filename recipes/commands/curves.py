"""Learning curves from the metrics.jsonl of several runs, with one curve for all seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqdni.recipes.errors import RunError
from seqdni.recipes.files import read_whole

POSITION = {"update", "tokens", "seconds"}  # the time of a row, which every row has
TIMES = {*POSITION, "epoch"}  # the other numbers of a row are metrics
DEFAULTS = (  # the first of these that all the runs have is drawn
    *("valid_bpc", "valid_ppl", "held_out_accuracy", "held_out_mse", "held_out_error", "length"),
    "train_bits",
)
# Options that may differ between the runs of one curve: the seed, and those without an effect on
# what is computed: --apart only with --staleness, which counts as 0 where it has no effect.
IGNORED = {"seed", "out", "device", "threads", "checkpoint_seconds", "data_dir", "apart"}


class Run(NamedTuple):
    """A run: its folder, those of its options that have an effect, and the rows of its metrics."""

    path: Path
    options: dict[str, Any]
    rows: list[dict[str, Any]]


class Curve(NamedTuple):
    """The mean, smallest and largest value of runs that differ only in their seed, on one grid."""

    label: str
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read(path: Path, options: Any) -> Run:
    """Read a run's metrics.

    Args:
        path: its folder.
        options: a recipe's options, as its config.yaml has them.

    Returns:
        The run.

    Raises:
        RunError: it has no metrics, or damaged ones.
    """
    effective = {}
    for each in fields(options):
        only = each.metadata.get("only")
        in_use = only is None or only(options) or each.name == "staleness"
        if each.name not in IGNORED and in_use:
            effective[each.name] = getattr(options, each.name)
    file, rows = path / "metrics.jsonl", []
    try:
        text = read_whole(path, file.name).decode(errors="replace")
    except FileNotFoundError:
        text = ""
    whole = text[: text.rfind("\n") + 1]  # a killed run may leave half a line
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            found = json.loads(line).items()
            row = {name: value for name, value in found if name.isidentifier() and _number(value)}
        except (ValueError, AttributeError, RecursionError):
            row = {}
        if not row.keys() >= POSITION:
            raise RunError(
                f"{file}, line {number}: expected a JSON object with {', '.join(sorted(POSITION))}"
            )
        rows.append(row)
    if not rows:
        raise RunError(
            f"{path} has no metrics yet: a run writes a row to metrics.jsonl every --log-every"
        )
    return Run(path, effective, rows)


def choose_metric(runs: Sequence[Run], metric: str | None) -> str:
    """Choose the metric to draw.

    Args:
        runs: at least one.
        metric: the user's choice, or None.

    Returns:
        A metric that all the runs have.

    Raises:
        RunError: the runs have no metric in common, or not all of them have the user's choice.
    """
    found = [{name for row in run.rows for name in row} - TIMES for run in runs]
    common = sorted(set.intersection(*found))
    if metric is None:
        for name in (*DEFAULTS, *common):
            if name in common:
                return name
        each = "; ".join(
            f"{run.path} ({run.options['recipe']}) has {', '.join(sorted(names)) or 'none'}"
            for run, names in zip(runs, found, strict=True)
        )
        raise RunError(f"the runs have no metric in common: {each}; draw them apart")
    for run, names in zip(runs, found, strict=True):
        if metric not in names:
            raise RunError(
                f"{run.path} has no metric {metric!r}; "
                + ("all the runs have: " if len(runs) > 1 else "it has: ")
                + (", ".join(common) or "none")
            )
    return metric


def curves(runs: Sequence[Run], metric: str, axis: str) -> list[Curve]:
    """Make a curve for each group of runs that differ only in their seed.

    Between the points of a run its metric is interpolated, because runs have points at different
    places. A curve begins where all runs of its group have begun, and ends where the first ends.

    Args:
        runs: at least one.
        metric: the name of the vertical axis in the rows.
        axis: the name of the horizontal axis in the rows.

    Returns:
        Curves in the order of the runs.

    Raises:
        RunError: one run of a group ends before another begins, or a run does not count what the
            horizontal axis shows.
    """
    for run in runs:
        if not all(axis in row for row in run.rows):
            raise RunError(
                f"{run.path} has no {axis} in its metrics; "
                "draw it against updates, tokens or seconds"
            )
    groups: list[list[Run]] = []
    for run in runs:
        alike = [group for group in groups if group[0].options == run.options]
        if alike:
            alike[0].append(run)
        else:
            groups.append([run])
    names = labels([group[0].options for group in groups])
    found = []
    for name, group in zip(names, groups, strict=True):
        points = [
            np.array([(row[axis], row[metric]) for row in run.rows if metric in row], dtype=float)
            for run in group
        ]
        begin, end = max(xy[0, 0] for xy in points), min(xy[-1, 0] for xy in points)
        if begin > end:
            raise RunError(
                f"{', '.join(str(run.path) for run in group)} differ in their seed alone, and have "
                f"no stretch of {metric} in common to take the mean of; draw them apart"
            )
        grid = np.unique(np.concatenate([xy[:, 0] for xy in points]))
        grid = grid[(grid >= begin) & (grid <= end)]
        values = np.stack([np.interp(grid, xy[:, 0], xy[:, 1]) for xy in points])
        label = f"{name} ({len(group)} runs: mean, range)" if len(group) > 1 else name
        found.append(Curve(label, grid, values.mean(0), values.min(0), values.max(0)))
    return found


def labels(groups: Sequence[dict[str, Any]]) -> list[str]:
    """Labels of groups: the recipe, and the options in which groups of one recipe differ.

    Args:
        groups: for each group its options that have an effect.

    Returns:
        A label for each group.

    Example:
        >>> dni = {"recipe": "copy", "trainer": "dni", "chunk_len": 4, "bound": 1.0}
        >>> labels([dni, {"recipe": "copy", "trainer": "tbptt", "chunk_len": 4}])
        ['trainer=dni', 'trainer=tbptt']
        >>> labels([dni])
        ['copy, trainer=dni, chunk_len=4']
    """
    if len(groups) == 1:
        shown = [
            f"{name}={groups[0][name]}" for name in ("trainer", "chunk_len") if name in groups[0]
        ]
        return [", ".join([groups[0]["recipe"], *shown])]
    several = len({options["recipe"] for options in groups}) > 1
    found = []
    for options in groups:
        peers = [other for other in groups if other["recipe"] == options["recipe"]]
        shown = [options["recipe"]] if several else []
        for name, value in options.items():
            if any(name in other and other[name] != value for other in peers):
                shown.append(f"{name}={'null' if value is None else value}")
        found.append(", ".join(shown))
    return found


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
