"""The credit suite: how much of the gap between truncated and full BPTT synthetic gradients close.

Each task is trained by truncated BPTT, by the library's default of ``--trainer dni``, by the same
with the synthetic gradients shuffled among the rows (a control), and by full BPTT, with the same
T, updates and sizes. First the learning rate of each is searched on a seed of its own over the same
grid, by the error on held-out data; then each is run at its best rate on three other seeds. What
has a row in the file of rows is not run again: a suite that was stopped goes on with the same
command. Afterwards, or with ``--render``, the rows become the table of docs/credit.md.

    python benchmarks/credit.py --quick
    python benchmarks/credit.py --mnist-dir DIR
    python benchmarks/credit.py --mnist-dir DIR --only recall adding
    python benchmarks/credit.py --render

The share of the gap that is closed is (DNI - TBPTT) / (full BPTT - TBPTT), of the means.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from render import Rows, mean_and_error, put_table, row_of
from study import ROOT, SEEDS, Experiment, Place, Run, carry_out, missing, read_rows

RATES = (1e-3, 2e-3, 4e-3)
ARMS: dict[str, dict[str, Any]] = {
    "TBPTT": {"trainer": "tbptt"},
    "DNI": {"trainer": "dni"},
    "full BPTT": {"trainer": "bptt"},
    "shuffled": {"trainer": "dni", "control": "shuffled"},
}
SEARCHED = ("TBPTT", "DNI", "full BPTT")  # the control has DNI's rate
SIZES = {"hidden": 64, "batch": 64}


class CreditTask(NamedTuple):
    """A task of the suite.

    Args:
        title: in the table.
        recipe: of ``seqdni run``.
        options: of all arms, T included.
        shown: the measure in the table.
        chosen_by: the error on held-out data that the learning rate is chosen by.
        seconds: that a run takes, about, for the progress bar.
        rates: the learning rates that are searched.
    """

    title: str
    recipe: str
    options: dict[str, Any]
    shown: str
    chosen_by: str
    seconds: float
    rates: tuple[float, ...] = RATES

    def experiment(self, name: str, arms: dict[str, dict[str, Any]], role: str) -> Experiment:
        """A grid of its runs.

        Args:
            name: of the task.
            arms: options by name.
            role: ``search`` or ``final``.
        """
        chunk_len = self.options["chunk_len"]
        column = {f"T={chunk_len}": {"chunk_len": chunk_len}}
        common = {**SIZES, **{k: v for k, v in self.options.items() if k != "chunk_len"}}
        common["log_every"] = 100
        seeds = (1,) if role == "search" else None
        return Experiment(name, self.title, self.recipe, arms, column, common, role, seeds)


def _mnist(title: str, seconds: float, **options: Any) -> CreditTask:
    options = {"data_dir": ".", "evaluate_every": 10**6, **options}
    return CreditTask(title, "mnist", options, "test_accuracy", "held_out_bits", seconds)


TASKS = {
    "recall": CreditTask(
        "recall after 98 steps of noise",
        "recall",
        {"length": 98, "chunk_len": 10, "updates": 600, "chrono_steps": 100},
        "held_out_accuracy",
        "held_out_bits",
        30,
    ),
    "copy-memory": CreditTask(
        "copy memory, blank of 80 steps",
        "copy-memory",
        {"length": 80, "chunk_len": 10, "updates": 600, "chrono_steps": 100},
        "held_out_bits",
        "held_out_bits",
        45,
    ),
    "mnist-row": _mnist("MNIST by row", 15, by="row", chunk_len=7, updates=1500, chrono_steps=28),
    "mnist-7": _mnist("MNIST by 7 pixels", 70, by=7, chunk_len=7, updates=1500, chrono_steps=112),
    "adding": CreditTask(
        "adding, 200 steps",
        "adding",
        {"length": 200, "chunk_len": 20, "updates": 1500, "chrono_steps": 200},
        "held_out_mse",
        "held_out_mse",
        80,
    ),
    "mnist-permuted": _mnist(
        "MNIST by 7 pixels, permuted",
        70,
        **{"by": 7, "permute": True, "chunk_len": 7, "updates": 1500, "chrono_steps": 112},
    ),
    "mnist-pixel": _mnist(
        "MNIST by pixel", 250, by="pixel", chunk_len=28, updates=1000, chrono_steps=784
    )._replace(rates=(2e-3, 4e-3, 8e-3)),
    "mnist-row-4": _mnist("MNIST by row", 15, by="row", chunk_len=4, updates=1500, chrono_steps=28),
    "recall-long": CreditTask(
        "recall after 198 steps of noise",
        "recall",
        {"length": 198, "chunk_len": 10, "updates": 600, "chrono_steps": 200},
        "held_out_accuracy",
        "held_out_bits",
        60,
    ),
    "copy-memory-long": CreditTask(
        "copy memory, blank of 160 steps",
        "copy-memory",
        {"length": 160, "chunk_len": 10, "updates": 600, "chrono_steps": 200},
        "held_out_bits",
        "held_out_bits",
        80,
    ),
}
AUDITED = "mnist-7"
QUICK = ("recall", "mnist-row")
UNITS = {
    "held_out_accuracy": "accuracy",
    "test_accuracy": "test accuracy",
    "held_out_bits": "bits an answer",
    "held_out_mse": "squared error",
}


def search(name: str) -> Experiment:
    """The search for the learning rates of a task.

    Args:
        name: of the task.
    """
    rates = TASKS[name].rates
    arms = {f"{arm}, lr {lr:g}": {**ARMS[arm], "lr": lr} for arm in SEARCHED for lr in rates}
    return TASKS[name].experiment(f"{name}-search", arms, "search")


def best_rates(name: str, rows: Rows) -> dict[str, float] | None:
    """The best learning rate of each arm.

    Args:
        name: of the task.
        rows: of the suite.

    Returns:
        By arm; None where a run of the search is missing.
    """
    error: dict[str, dict[float, float]] = {arm: {} for arm in SEARCHED}
    for run in search(name).runs():
        row = row_of(run, rows)
        if row is None:
            return None
        arm = next(arm for arm in SEARCHED if run.arm.startswith(f"{arm}, "))
        error[arm][run.cell.options["lr"]] = row[TASKS[name].chosen_by]
    found = {arm: min(by_rate, key=lambda lr: by_rate[lr]) for arm, by_rate in error.items()}
    return found | {"shuffled": found["DNI"]}


def final(name: str, rates: Mapping[str, float]) -> Experiment:
    """The runs of a task that the table shows.

    Args:
        name: of the task.
        rates: by arm.
    """
    arms = {arm: {**options, "lr": rates[arm]} for arm, options in ARMS.items()}
    return TASKS[name].experiment(name, arms, "final")


def audited(rate: float) -> Experiment:
    """Least squares, which does harm on MNIST by 7 pixels, with and without an audit.

    Args:
        rate: TBPTT's learning rate there.
    """
    common = {"trainer": "dni", "synthesizer": "rls", "lr": rate}
    common |= {"evaluate_every": 500, "log_every": 50}
    arms = {"least squares": common, "least squares, audited": {**common, "audit_every": 40}}
    return TASKS[AUDITED].experiment(f"{AUDITED}-audited", arms, "final")


def audit_table(rows: Rows) -> str:
    """TBPTT, least squares, and least squares with an audit, seed by seed.

    Args:
        rows: of the suite.

    Returns:
        Markdown.
    """
    rates = best_rates(AUDITED, rows)
    lines = ["| | test accuracy | mean |", "|---|---|---|"]
    if rates is None:
        return "\n".join(lines)
    found: dict[str, list[float]] = {}
    for run in [*final(AUDITED, rates).runs(), *audited(rates["TBPTT"]).runs()]:
        row = row_of(run, rows)
        if row is not None and (run.arm == "TBPTT" or run.arm.startswith("least squares")):
            found.setdefault(run.arm, []).append(row["test_accuracy"])
    for arm, values in found.items():
        each = " / ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {arm} | {each} | {_cell(values)} |")
    return "\n".join(lines)


def table(names: Sequence[str], rows: Rows) -> str:
    """A line for each task whose runs are there.

    Args:
        names: of tasks.
        rows: of the suite.

    Returns:
        Markdown.
    """
    lines = [
        "| task | T | measure | TBPTT | DNI | full BPTT | shuffled | gap closed | by shuffled |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        rates = best_rates(name, rows)
        if rates is None:
            continue
        task, found = TASKS[name], {arm: [] for arm in ARMS}
        for run in final(name, rates).runs():
            row = row_of(run, rows)
            if row is not None:
                found[run.arm].append(row[task.shown])
        if any(len(values) < len(SEEDS["final"]) for values in found.values()):
            continue
        cells = [task.title, str(task.options["chunk_len"]), UNITS[task.shown]]
        cells += [_cell(found[arm]) for arm in ARMS]
        cells += [_share(found, "DNI"), _share(found, "shuffled")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.3g} ± {error:.1g}" if len(values) > 1 else f"{mean:.3g}"


def _share(found: Mapping[str, Sequence[float]], arm: str) -> str:
    low, here, high = (statistics.fmean(found[a]) for a in ("TBPTT", arm, "full BPTT"))
    gap = high - low
    noise = max(mean_and_error(found[a])[1] for a in ("TBPTT", "full BPTT"))
    return "no gap" if not abs(gap) > 2 * noise else f"{(here - low) / gap:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite, or only show what is there.

    Args:
        argv: its words; None takes the process's.

    Returns:
        The exit status: 0, 1 where a run failed, 130 where the user stopped it.
    """
    given = _parser().parse_args(argv)
    names = given.only or (QUICK if given.quick else list(TASKS))
    place = Place(
        rows=Path(given.rows),
        out=Path(given.out),
        jobs=given.jobs or os.cpu_count() or 1,
        mnist_dir=Path(given.mnist_dir) if given.mnist_dir else None,
    )
    if place.mnist_dir is None and not given.render:
        skipped = [name for name in names if TASKS[name].recipe == "mnist"]
        names = [name for name in names if name not in skipped]
        if skipped:
            print(f"skipped, since there is no --mnist-dir: {', '.join(skipped)}")
    failed = False
    for name in [] if given.render else names:
        for stage in ("search", "final", *(["audited"] if name == AUDITED else [])):
            rates = best_rates(name, read_rows(place.rows))
            if stage == "search":
                runs = search(name).runs()
            elif rates is None:
                break  # a run of the search failed
            elif stage == "final":
                runs = final(name, rates).runs()
            else:
                runs = audited(rates["TBPTT"]).runs()
            print(f"{name}, {stage}: {len(missing(runs, place))} of {len(runs)} runs to do")
            outcome = carry_out(runs, place, lambda run, _: _seconds(name, run))  # noqa: B023
            outcome.report()
            if outcome.stopped:
                print("stopped; the same command goes on")
                return 130
            failed |= bool(outcome.failures)
    rows = read_rows(place.rows)
    for marker, text in (("credit", table(list(TASKS), rows)), ("audit", audit_table(rows))):
        print(f"{text}\n")
        put_table(Path(given.page), marker, text)
    return int(failed)


def _seconds(name: str, run: Run) -> float:
    return TASKS[name].seconds * (2 if run.cell.options["trainer"] == "dni" else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="only the tasks " + " and ".join(QUICK))
    add("--only", nargs="+", choices=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    add("--jobs", type=int, metavar="N", help="runs at a time (default: the cores)")
    add("--mnist-dir", metavar="DIR", help="folder of MNIST; without, its tasks are skipped")
    add("--out", default=ROOT / "runs" / "credit", metavar="DIR", help="folders of the runs")
    add("--rows", default=ROOT / "benchmarks" / "results" / "credit.jsonl", metavar="FILE")
    add("--page", default=ROOT / "docs" / "credit.md", metavar="FILE", help="to write into")
    add("--render", action="store_true", help="run nothing, write the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
