"""Experiments as grids of runs, and how the runs are done: in parallel, resumable, a row each."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from seqdni.recipes.cli import RECIPES
from seqdni.recipes.option_field import flag
from seqdni.recipes.parsing import parse, recipe_parser

ROOT = Path(__file__).resolve().parents[1]
SEEDS = {"search": (1, 2), "final": (21, 22, 23)}  # nothing is chosen on the final ones
# Where and how a cell runs, not what it computes; a row is found again without them.
PLACEMENT = {"recipe", "out", "device", "threads", "data_dir", "checkpoint_seconds"}
NAMED = ("trainer", "synthesizer", "control", "chunk_len", "seed")  # columns of a row
MEASURED = (
    *("solved_length", "solved_repeats", "solved_steps", "held_out_solved"),
    *("valid_bpc", "test_bpc"),
    *("held_out_accuracy", "held_out_bits", "held_out_mse", "test_accuracy"),
    *("held_out_error", "test_error"),
)
PATIENCE = 30.0  # seconds that a stopped run has to save


class Cell(NamedTuple):
    """One ``seqdni run``."""

    recipe: str
    given: dict[str, Any]  # the options on its command line
    options: dict[str, Any]  # all that have an effect on it, defaults filled in, without PLACEMENT


class Run(NamedTuple):
    """A cell's place in an experiment."""

    experiment: str
    arm: str
    column: str
    seed: int
    role: str
    cell: Cell

    def __str__(self) -> str:
        return f"{self.experiment}: {self.arm}, {self.column}, seed {self.seed}"


class Experiment(NamedTuple):
    """A grid: every arm in every column with every seed.

    An arm's options override the column's, and those override ``common``. Full BPTT has no T: it
    is run once and stands in every column.
    """

    name: str
    title: str
    recipe: str
    arms: dict[str, dict[str, Any]]
    columns: dict[str, dict[str, Any]]
    common: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    role: str = "final"
    seeds: tuple[int, ...] | None = None  # some of the role's; None: all

    def runs(self) -> list[Run]:
        """All its runs, those that share a cell included."""
        seeds = SEEDS[self.role] if self.seeds is None else self.seeds
        assert set(seeds) <= set(SEEDS[self.role]), f"{self.name}: seeds of another role"
        runs = []
        for seed in seeds:  # outermost, so that a study cut short has every arm
            for column, in_column in self.columns.items():
                for arm, in_arm in self.arms.items():
                    given = {**self.common, **in_column, **in_arm, "seed": seed}
                    if given.get("trainer") == "bptt":
                        given.pop("chunk_len", None)
                    made = make_cell(self.recipe, given)
                    runs.append(Run(self.name, arm, column, seed, self.role, made))
        return runs

    def part(self, arms: Sequence[str], columns: Sequence[str], seeds: int = 3) -> Experiment:
        """Some of the same cells.

        Args:
            arms: to keep.
            columns: to keep.
            seeds: how many to keep.

        Returns:
            The smaller experiment.
        """
        return self._replace(
            arms={arm: self.arms[arm] for arm in arms},
            columns={column: self.columns[column] for column in columns},
            seeds=SEEDS[self.role][:seeds],
        )


class Place(NamedTuple):
    """Where a study runs."""

    rows: Path
    out: Path
    jobs: int = 1
    device: str = "cpu"
    data_dir: Path | None = None  # of Penn Treebank
    mnist_dir: Path | None = None

    @property
    def threads(self) -> int | None:
        """Of a run; None leaves it to torch."""
        return 1 if self.device == "cpu" else None

    def has_ptb(self) -> bool:
        """Whether Penn Treebank is there."""
        return self.data_dir is not None and (self.data_dir / "ptb.train.txt").is_file()


def make_cell(recipe: str, given: Mapping[str, Any]) -> Cell:
    """A cell, refused where ``seqdni run`` would refuse it."""
    entry = RECIPES[recipe]
    parsed = parse(_parser(recipe), words(given))
    options = entry.options(**{each.name: parsed[each.name] for each in fields(entry.options)})
    entry.file.prepare(options)
    effective = {
        each.name: getattr(options, each.name)
        for each in fields(options)
        if each.name not in PLACEMENT
        and ((only := each.metadata.get("only")) is None or only(options))
    }
    return Cell(recipe, dict(given), effective)


@functools.cache
def _parser(recipe: str) -> Any:
    return recipe_parser(recipe, RECIPES[recipe].summary, RECIPES[recipe].options)


def words(given: Mapping[str, Any]) -> list[str]:
    """Options as on a command line.

    Example:
        >>> words({"chunk_len": 4, "bound": None})
        ['--chunk-len', '4', '--bound', 'null']
    """
    return [w for k, v in given.items() for w in (flag(k), "null" if v is None else str(v))]


def key(recipe: str, options: Mapping[str, Any]) -> str:
    """What a cell and its row have in common; an option added later is at its default in old rows.

    Args:
        recipe: of the cell.
        options: that have an effect on it.

    Returns:
        Canonical JSON.
    """
    every = {each.name: each.default for each in fields(RECIPES[recipe].options)}
    known = {name: default for name, default in every.items() if name not in PLACEMENT}
    return json.dumps([recipe, {**known, **options}], sort_keys=True)


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by :func:`key`; a last line that was torn when the machine stopped is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = {}
    for row in (json.loads(line) for line in lines if line.endswith("\n")):
        named = {name: row[name] for name in NAMED if row[name] is not None}
        found[key(row["recipe"], {**row["hyperparameters"], **named})] = row
    return found


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line, whole and on the disk; what is left of a torn one goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def make_row(run: Run, result: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """What a run measured and all that it computed with: no paths, no names of machines.

    Args:
        run: of the study.
        result: its result.json.
        place: where it ran.

    Returns:
        A line of the rows' file.
    """
    options = run.cell.options
    on_gpu = str(result["device"]).startswith("cuda") and torch.cuda.is_available()
    return {
        "experiment": run.experiment,
        "arm": run.arm,
        "role": run.role,
        "recipe": run.cell.recipe,
        "task": options.get("corpus", run.cell.recipe),
        **{name: options.get(name) for name in NAMED},
        **{name: result[name] for name in ("updates", "tokens", "wall_seconds")},
        **{name: result[name] for name in (*MEASURED, "curve") if name in result},
        "device": torch.cuda.get_device_name() if on_gpu else result["device"],
        "torch": result["torch"],
        "threads": place.threads,
        "hyperparameters": {name: v for name, v in options.items() if name not in NAMED},
    }


def folder(run: Run, place: Place) -> Path:
    """The run's folder: readable, and another for other options."""
    options = run.cell.options
    digest = hashlib.sha256(key(run.cell.recipe, options).encode()).hexdigest()[:10]
    steps = f"-T{options['chunk_len']}" if "chunk_len" in options else ""
    name = f"{run.cell.recipe}-{options['trainer']}{steps}-s{options['seed']}-{digest}"
    return place.out.resolve() / name


def state(run: Run, place: Place) -> str:
    """``finished`` or ``begun`` in its folder, or ``new``."""
    path = folder(run, place)
    if (path / "result.json").exists():
        return "finished"
    return "begun" if (path / "last.pt").exists() else "new"


def command(run: Run, place: Place, restartable: bool = False) -> list[str]:
    """The words that start the run, or continue it.

    Args:
        run: of a study.
        place: where.
        restartable: whether the same words do both, whatever the state of the run.
    """
    path = folder(run, place)
    placed: dict[str, Any] = {} if place.threads is None else {"threads": place.threads}
    if needs_ptb(run):
        assert place.data_dir is not None
        placed["data_dir"] = place.data_dir.resolve()
    if run.cell.recipe in ("mnist", "layers"):
        assert place.mnist_dir is not None
        placed["data_dir"] = place.mnist_dir.resolve()
    whole = {**run.cell.given, **placed, "device": place.device, "out": path}
    if restartable:
        given = {**whole, "resume": "auto"}
    elif state(run, place) == "begun":
        given = {"resume": path, **placed}
    else:
        given = whole
    return [sys.executable, "-m", "seqdni", "run", run.cell.recipe, *words(given)]


def needs_ptb(run: Run) -> bool:
    """Whether the run reads Penn Treebank."""
    return run.cell.options.get("corpus") == "ptb"


def unique(runs: Iterable[Run]) -> dict[str, Run]:
    """One run a cell, by its :func:`key`; of those that share one, the first."""
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(key(run.cell.recipe, run.cell.options), run)
    return found


def missing(runs: Iterable[Run], place: Place) -> list[Run]:
    """Those that have no row yet."""
    rows = read_rows(place.rows)
    return [run for name, run in unique(runs).items() if name not in rows]


class Outcome(NamedTuple):
    """How :func:`carry_out` ended."""

    failures: list[tuple[Run, str]]  # with the last line that each wrote
    stopped: bool  # by the user

    def report(self) -> None:
        """Print the failures on standard error."""
        for run, line in self.failures:
            print(f"failed: {run}: {line}", file=sys.stderr)


def carry_out(runs: Sequence[Run], place: Place, estimate: Callable[[Run, str], float]) -> Outcome:
    """Run what has no row yet, ``place.jobs`` at a time, and write a row each.

    Args:
        runs: of the study, those with rows included.
        place: where.
        estimate: a run's seconds on a device, for the progress bar.

    Returns:
        Failures do not end it; Ctrl-C, SIGTERM and a closed terminal do, once every run has saved.
    """
    place.out.mkdir(parents=True, exist_ok=True)
    for run in missing(runs, place):
        if state(run, place) == "finished":  # stopped before its row was written
            _finish(run, place)
    waiting = missing(runs, place)
    todo = iter(waiting)
    running: list[tuple[Run, subprocess.Popen[bytes]]] = []
    failures: list[tuple[Run, str]] = []
    ends = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in ends}
    bar = tqdm(
        total=sum(estimate(run, place.device) for run in waiting),
        desc=f"{len(waiting)} runs",
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
        smoothing=0,
        disable=None,
    )
    try:
        while True:
            for run in islice(todo, place.jobs - len(running)):
                running.append((run, _start(run, place)))
            if not running:
                return Outcome(failures, False)
            time.sleep(0.05)
            bar.refresh()
            for ended in [each for each in running if each[1].poll() is not None]:
                running.remove(ended)
                run, found = ended[0], _finish(ended[0], place)
                if isinstance(found, str):
                    failures.append((run, found))
                bar.update(estimate(run, place.device))
                tqdm.write(f"{run}: {found if isinstance(found, str) else summary(found)}")
    except KeyboardInterrupt:
        _stop([process for _, process in running])
        return Outcome(failures, True)
    finally:
        bar.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def summary(row: Mapping[str, Any]) -> str:
    """What a row measured, on one line.

    Example:
        >>> summary({"solved_length": 8, "wall_seconds": 31.26, "seed": 1})
        'solved_length 8, 31 s'
    """
    found = [f"{name} {row[name]}" for name in MEASURED if name in row]
    return ", ".join([*found, f"{row['wall_seconds']:.0f} s"])


def _start(run: Run, place: Place) -> subprocess.Popen[bytes]:
    """The run as a process of its own, which Ctrl-C in a terminal does not reach without us."""
    path = folder(run, place)
    if state(run, place) == "new" and path.exists():  # stopped before its first checkpoint
        shutil.rmtree(path)
    with open(path.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(
            command(run, place),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )


def _finish(run: Run, place: Place) -> dict[str, Any] | str:
    """The row of a run that has ended, written; or the last line of one that failed."""
    path = folder(run, place)
    if state(run, place) != "finished":
        lines = path.with_suffix(".log").read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "ended without a word")
    row = make_row(run, json.loads((path / "result.json").read_text()), place)
    append_row(place.rows, row)
    return row


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask runs to save and end; one that does not is told again, which ends it at once."""
    tqdm.write(f"stopping {len(processes)} runs, which save first", file=sys.stderr)
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(PATIENCE)
    finally:  # a second Ctrl-C, or one that hangs
        for process in processes:
            process.kill()
