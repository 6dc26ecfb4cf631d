"""Learning curves from the metrics.jsonl of several runs; seeds become one curve."""

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

POSITION = {"update", "tokens", "seconds"}  # where a row stands; its other numbers are metrics
DEFAULTS = (  # the first that all the runs have
    *("valid_bpc", "valid_ppl", "held_out_accuracy", "held_out_mse", "length", "train_bits"),
)
# What may differ between runs of one line: the seed, and what does not enter the computation.
IGNORED = {"seed", "out", "device", "threads", "checkpoint_seconds", "data_dir"}


class Run(NamedTuple):
    """A run: its folder, the options that have an effect in it, the rows of its metrics."""

    path: Path
    options: dict[str, Any]
    rows: list[dict[str, Any]]


class Curve(NamedTuple):
    """Runs that differ in their seed alone, on one grid: mean, least and greatest."""

    label: str
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read(path: Path, options: Any) -> Run:
    """A run and its metrics.

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
        if each.name not in IGNORED and (only is None or only(options)):
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
    """The metric to draw.

    Args:
        runs: at least one.
        metric: the user's choice, or None.

    Returns:
        A metric that all the runs have.

    Raises:
        RunError: there is none, or the user's is not in each of them.
    """
    found = [{name for row in run.rows for name in row} - POSITION for run in runs]
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
    """A curve for each group of runs that differ in their seed alone.

    Between the points of a run its metric is interpolated, so that runs whose points are apart
    have a mean. A curve goes from where all runs of its group have begun to where the first ends.

    Args:
        runs: at least one.
        metric: what to draw.
        axis: against what, a name in the rows.

    Returns:
        Curves in the order of the runs.

    Raises:
        RunError: runs of a group have no stretch in common.
    """
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
    """What tells groups apart: the recipe, and the options in which those of a recipe differ.

    Args:
        groups: options of each, those that have an effect.

    Returns:
        A label each.

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
