"""Feed-forward nets on MNIST: what each way of decoupling layers costs in test error.

Every experiment is a grid of ``seqdni run layers``, on three seeds that no setting was chosen on. A
run that has a row in the file of rows is not run again: a study that was stopped goes on with the
same command. Afterwards, or with ``--render``, the rows become the tables of docs/feedforward.md.

    python benchmarks/feedforward.py --mnist-dir DIR
    python benchmarks/feedforward.py --mnist-dir DIR --only depth controls
    python benchmarks/feedforward.py --render
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from render import Rows, mean_and_error, put_table, row_of
from study import ROOT, Experiment, Place, carry_out, missing, read_rows

COMMON = {"batch": 256, "epochs": 5, "log_every": 107, "evaluate_every": 107}
BACKPROP, NONE, DNI = {"trainer": "backprop"}, {"trainer": "none"}, {"trainer": "dni"}
CDNI, UNLOCK = {"trainer": "cdni"}, {"trainer": "unlock"}
SHUFFLED = {**CDNI, "control": "shuffled"}


def _depth(hidden_layers: int, **options: Any) -> dict[str, dict[str, Any]]:
    return {f"{hidden_layers} hidden": {"hidden_layers": hidden_layers, **options}}


def _experiment(
    name: str,
    title: str,
    arms: dict,
    columns: dict,
    seeds: tuple[int, ...] | None = None,
    **common: Any,
) -> Experiment:
    return Experiment(name, title, "layers", arms, columns, {**COMMON, **common}, "final", seeds)


EXPERIMENTS = {
    each.name: each
    for each in (
        _experiment(
            "depth",
            "With the label, 5 epochs",
            {"backprop": BACKPROP, "cDNI, least squares": CDNI},
            _depth(2) | _depth(3) | _depth(4) | _depth(5),
        ),
        _experiment(
            "controls",
            "Controls and other synthesizers, 5 epochs",
            {
                "no backprop": NONE,
                "cDNI, shuffled": SHUFFLED,
                "cDNI, linear by Adam": {**CDNI, "synthesizer": "linear"},
            },
            _depth(3),
        ),
        _experiment(
            "chance",
            "Updates by chance, random order",
            {
                "p = 0.5, 5 epochs": {**CDNI, "update_probability": 0.5, "order": "random"},
                "p = 0.2, 15 epochs": {
                    **CDNI,
                    **{"update_probability": 0.2, "order": "random", "epochs": 15},
                },
            },
            _depth(3),
        ),
        _experiment(
            "no-label",
            "Without the label, 5 epochs",
            {"no backprop": NONE, "DNI, MLP": DNI},
            _depth(2),
        ),
        _experiment(
            "no-label-shuffled",
            "Without the label, gradients of other rows, 5 epochs",
            {"DNI, MLP, shuffled": {**DNI, "control": "shuffled"}},
            _depth(2),
            seeds=(21,),
        ),
        _experiment(
            "no-label-longer",
            "Without the label, 60 epochs",
            {"DNI, MLP": {**DNI, "epochs": 60}},
            _depth(2),
            seeds=(21,),
        ),
        _experiment(
            "unlock",
            "Complete unlock with the critic, 5 epochs",
            {"unlocked": UNLOCK},
            _depth(2) | _depth(3) | _depth(4) | _depth(5),
        ),
        _experiment(
            "unlock-longer",
            "Complete unlock with the critic, 10 epochs",
            {"unlocked": {**UNLOCK, "epochs": 10}},
            _depth(2),
        ),
        _experiment(
            "cnn",
            "Two convolutional layers and a linear one, 2 epochs",
            {"backprop": BACKPROP, "cDNI, critic": CDNI},
            {"8 and 16 channels": {"net": "cnn", "channels": 8}},
            epochs=2,
        ),
        _experiment(
            "curves",
            "All ways, 10 epochs",
            {
                "backprop": BACKPROP,
                "no backprop": NONE,
                "DNI, MLP": DNI,
                "cDNI, least squares": CDNI,
                "unlocked, critic": UNLOCK,
            },
            _depth(3),
            seeds=(21,),
            epochs=10,
        ),
        _experiment(
            "curves-by-chance",
            "cDNI, least squares, random order, 10 epochs",
            {
                f"p = {p}": {**CDNI, "order": "random", "update_probability": p}
                for p in (1.0, 0.5, 0.2, 0.1)
            },
            _depth(3),
            seeds=(21,),
            epochs=10,
        ),
    )
}


def table(experiment: Experiment, rows: Rows) -> str:
    """Test errors in percent: each seed's, and their mean with its standard error.

    Args:
        experiment: one of the study's.
        rows: of the study.

    Returns:
        Markdown; a cell without runs is empty.
    """
    found: dict[tuple[str, str], list[float]] = {}
    runs = experiment.runs()
    for run in runs:
        row = row_of(run, rows)
        if row is not None:
            found.setdefault((run.arm, run.column), []).append(100 * row["test_error"])
    seeds = sorted({run.seed for run in runs})
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    lines = [f"{experiment.title}: test error in %, {named}.", ""]
    lines += ["| | " + " | ".join(experiment.columns) + " |"]
    lines += ["|---" * (1 + len(experiment.columns)) + "|"]
    for arm in experiment.arms:
        cells = [_cell(found.get((arm, column), [])) for column in experiment.columns]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    each = " / ".join(f"{value:.2f}" for value in values)
    mean, error = mean_and_error(values)
    return each if len(values) < 2 else f"{each} ({mean:.2f} ± {error:.2f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, or only write its tables.

    Args:
        argv: its words; None takes the process's.

    Returns:
        The exit status: 0, 1 where a run failed, 130 where the user stopped it.
    """
    given = _parser().parse_args(argv)
    if not given.render and given.mnist_dir is None:
        raise SystemExit("give --mnist-dir, the folder with the four files of MNIST, or --render")
    mnist_dir = Path(given.mnist_dir) if given.mnist_dir else None
    place = Place(Path(given.rows), Path(given.out), given.jobs, mnist_dir=mnist_dir)
    failed = False
    for name in [] if given.render else given.only or EXPERIMENTS:
        runs = EXPERIMENTS[name].runs()
        print(f"{name}: {len(missing(runs, place))} of {len(runs)} runs to do", flush=True)
        outcome = carry_out(runs, place, lambda run, _: run.cell.options["epochs"])
        outcome.report()
        if outcome.stopped:
            print("stopped; the same command goes on")
            return 130
        failed |= bool(outcome.failures)
    rows = read_rows(place.rows)
    for name, experiment in EXPERIMENTS.items():
        made = table(experiment, rows)
        print(f"{made}\n")
        put_table(Path(given.page), f"feedforward/{name}", made)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=list(EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    add("--mnist-dir", metavar="DIR", help="folder of MNIST")
    add("--out", default=ROOT / "runs" / "feedforward", metavar="DIR", help="folders of the runs")
    add("--rows", default=ROOT / "benchmarks" / "results" / "feedforward.jsonl", metavar="FILE")
    add("--page", default=ROOT / "docs" / "feedforward.md", metavar="FILE", help="to write into")
    add("--render", action="store_true", help="run nothing, write the tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
