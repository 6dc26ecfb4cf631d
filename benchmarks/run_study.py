r"""How far credit reaches: copy tasks and text, by trainer, synthesizer, control and T.

A study is a list of experiments, declared below; an experiment is a grid of ``seqdni run``
commands. They are run in parallel processes, each ends with a row in a file of JSON lines, and what
has a row is not run again: a study that was stopped goes on with the same command. Afterwards, or
with ``--render``, the rows become tables and figures of docs/horizon.md.

    python benchmarks/run_study.py --quick
    python benchmarks/run_study.py
    python benchmarks/run_study.py --preset ahead
    python benchmarks/run_study.py --preset text --data-dir DIR
    python benchmarks/run_study.py --only copy search --dry-run
    python benchmarks/run_study.py --render --compare copy "DNI" "TBPTT, lr 0.001"
    python benchmarks/run_study.py --preset ahead --commands | xargs -P 8 -d '\n' -n 1 sh -c

With ``--commands`` any scheduler can do the runs (xargs as above, or an array of jobs of a
cluster): each line is one run, and starts it or continues it. The study then finds the finished
runs in their folders and writes their rows.

The times that it announces are guesses, from two busy cores; for a GPU from nothing measured. Runs
that share a machine disturb each other, so read a row's ``wall_seconds`` as a rough number.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from render import compare, tables, write_page
from study import (
    ROOT,
    Experiment,
    Place,
    Run,
    carry_out,
    command,
    missing,
    needs_ptb,
    read_rows,
    state,
    unique,
)

from seqdni.recipes.common_options import RunOptions, device_of
from seqdni.recipes.errors import RunError

TUNED = 1e-3  # TBPTT's learning rate in ``search``
TBPTT, DNI, BPTT = f"TBPTT, lr {TUNED:g}", "DNI", "full BPTT"
AUX = "DNI + Aux, MLP, scale 0.1, lr 0.001"  # the best of ``search``

COPY_ARMS: dict[str, dict[str, Any]] = {
    TBPTT: {"trainer": "tbptt", "lr": TUNED},
    "TBPTT, lr 0.003": {"trainer": "tbptt", "lr": 3e-3},
    DNI: {"trainer": "dni"},
    "DNI, lr 0.006": {"trainer": "dni", "lr": 6e-3},
    "DNI, shuffled": {"trainer": "dni", "control": "shuffled"},
    "DNI, half the chunks": {"trainer": "dni", "train_fraction": 0.5},
    "DNI, dense targets": {"trainer": "dni", "targets": "dense"},
    "DNI, whitened MLP": {
        **{"trainer": "dni", "synthesizer": "whitened", "targets": "dense"},
        **{"updates_per_chunk": 4, "synth_lr": 3e-3, "synth_hidden": 128},
    },
    "DNI, MLP": {"trainer": "dni", "synthesizer": "mlp"},
    "DNI + Aux, MLP": {"trainer": "dni-aux"},
    AUX: {"trainer": "dni-aux", "grad_scale": 0.1, "lr": 1e-3},
    "overlapping chunks": {"trainer": "overlap", "history": 1, "lr": TUNED},
    "overlapping chunks, lr 0.006": {"trainer": "overlap", "history": 1, "lr": 6e-3},
    "random truncation": {"trainer": "random", "lr": TUNED},
    "random truncation, lr 0.006": {"trainer": "random", "lr": 6e-3},
    BPTT: {"trainer": "bptt"},
}
AHEAD_4 = "DNI, look-ahead 4, lr 0.01"
AHEAD_ARMS: dict[str, dict[str, Any]] = {
    AHEAD_4: {"trainer": "dni", "look_ahead": 4, "lr": 1e-2},
    "DNI, look-ahead 4, shuffled": {
        **{"trainer": "dni", "look_ahead": 4, "lr": 1e-2, "control": "shuffled"},
    },
    "look-ahead 4 alone, lr 0.006": {
        **{"trainer": "dni", "look_ahead": 4, "lr": 6e-3, "synthesizer": "none"},
    },
    "DNI, look-ahead 8, lr 0.01": {"trainer": "dni", "look_ahead": 8, "lr": 1e-2},
    "DNI, look-ahead 8, shuffled": {
        **{"trainer": "dni", "look_ahead": 8, "lr": 1e-2, "control": "shuffled"},
    },
    "look-ahead 8 alone, lr 0.006": {
        **{"trainer": "dni", "look_ahead": 8, "lr": 6e-3, "synthesizer": "none"},
    },
    "overlapping chunks, history 2, lr 0.006": {"trainer": "overlap", "history": 2, "lr": 6e-3},
    "full BPTT, lr 0.006": {"trainer": "bptt", "lr": 6e-3},
}
AHEAD = {"trainer": "dni", "synthesizer": "none", "look_ahead": 4}
PTB_ARMS: dict[str, dict[str, Any]] = {
    "TBPTT": {"trainer": "tbptt"},
    "DNI, look-ahead": AHEAD,
    "DNI, look-ahead, shuffled": {**AHEAD, "control": "shuffled"},
    "DNI, state": {"trainer": "dni", "synthesizer": "mlp", "look_ahead": 0},
    "overlapping chunks": {"trainer": "overlap", "history": 1},
    "random truncation": {"trainer": "random"},
}
# As many settings of each: a grid for TBPTT, for DNI changes of its defaults; fewer of the rivals.
SEARCH_TBPTT = [
    {"lr": lr, "forget_bias": bias}
    for bias in (0.0, 1.0)
    for lr in (3e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 4e-3, 6e-3, 1e-2)
]
MINUTE = {"max_seconds": 60.0, "updates": 1_000_000}
SEARCH_60S = [{"lr": lr, "forget_bias": bias} for bias in (0.0, 1.0) for lr in (3e-4, 1e-3, 3e-3)]
SEARCH_DNI: list[dict[str, Any]] = [
    *({"lr": lr} for lr in (1e-3, 2e-3, 3e-3, 6e-3)),
    {"forget_bias": 1.0},
    {"forgetting": 0.9},
    {"forgetting": 0.99},
    {"ridge": 1e-5},
    {"ridge": 1e-3},
    {"bound": 10.0},
    {"bound": None},
    {"solve_every": 1},
    {"lr": 6e-3, "forgetting": 0.9},
    {"lr": 6e-3, "bound": None},
    {"lr": 6e-3, "forgetting": 0.9, "bound": None},
    {"lr": 1e-2},
]
SEARCH_RIVALS = [{"lr": lr} for lr in (1e-3, 3e-3, 6e-3, 1e-2)]
SEARCH_AUX = [{"grad_scale": s, "lr": lr} for s in (1.0, 0.1) for lr in (3e-4, 1e-3, 3e-3)]
SEARCH_AHEAD = [
    {"look_ahead": steps, **beyond, "lr": lr}
    for steps in (4, 8)
    for beyond in ({}, {"synthesizer": "none"})
    for lr in (3e-3, 6e-3, 1e-2)
]
SEARCH_HISTORY = [{"history": 2, "lr": lr} for lr in (3e-3, 6e-3, 1e-2)]


def horizons(*lengths: int) -> dict[str, dict[str, Any]]:
    """Columns: one a truncation length."""
    return {f"T={length}": {"chunk_len": length} for length in lengths}


def settings(name: str, trainer: str, changes: Sequence[dict[str, Any]]) -> dict[str, dict]:
    """Arms of a search, named by what they set."""
    return {
        ", ".join([name, *(f"{k.replace('_', ' ')} {v}" for k, v in change.items())]): {
            "trainer": trainer,
            **change,
        }
        for change in changes
    }


def cpu() -> list[Experiment]:
    """Copy tasks, at sizes for two cores and an hour."""
    search = settings("TBPTT", "tbptt", SEARCH_TBPTT) | settings("DNI", "dni", SEARCH_DNI)
    search |= settings("overlapping chunks", "overlap", SEARCH_RIVALS)
    search |= settings("random truncation", "random", SEARCH_RIVALS)
    search |= settings("DNI + Aux", "dni-aux", SEARCH_AUX)
    by_length, repeated, timed = (
        {arm: COPY_ARMS[arm] for arm in arms}
        for arms in (
            (TBPTT, DNI, AUX, BPTT),
            (TBPTT, "TBPTT, lr 0.003", DNI, "DNI, shuffled", AUX, BPTT),
            (TBPTT, DNI, "DNI, half the chunks", BPTT),
        )
    )
    timed |= settings("TBPTT", "tbptt", [{"lr": 3e-4, "forget_bias": 1.0}])
    return [
        Experiment(
            "search", "Copy, 4000 updates, search", "copy", search, horizons(4), {}, "search"
        ),
        Experiment("copy", "Copy, 4000 updates", "copy", COPY_ARMS, horizons(4)),
        Experiment("copy-by-T", "Copy, 4000 updates", "copy", by_length, horizons(2, 4, 8)),
        Experiment(
            "repeat-copy", "Repeat-copy, 4000 updates", "repeat-copy", repeated, horizons(4)
        ),
        Experiment(
            "copy-60s-search",
            "Copy, 60 s of training on one thread, search",
            "copy",
            settings("TBPTT", "tbptt", SEARCH_60S),
            horizons(4),
            MINUTE,
            "search",
            (1,),
        ),
        Experiment(
            "copy-60s", "Copy, 60 s of training on one thread", "copy", timed, horizons(4), MINUTE
        ),
    ]


def ahead() -> list[Experiment]:
    """Copy tasks where the model also looks ahead, and who reaches as far: twenty minutes."""
    search = settings("DNI", "dni", SEARCH_AHEAD)
    search |= settings("overlapping chunks", "overlap", SEARCH_HISTORY)
    search |= settings("full BPTT", "bptt", SEARCH_RIVALS)
    first = {AHEAD_4: AHEAD_ARMS[AHEAD_4]}
    column = horizons(4)
    minute = "Copy, 60 s of training on one thread"
    return [
        Experiment("search", "Copy, 4000 updates, search", "copy", search, column, {}, "search"),
        Experiment("copy", "Copy, 4000 updates", "copy", AHEAD_ARMS, column),
        Experiment("repeat-copy", "Repeat-copy, 4000 updates", "repeat-copy", first, column),
        Experiment("copy-60s", minute, "copy", first, column, MINUTE),
    ]


def quick() -> list[Experiment]:
    """Some of the same cells, in five minutes."""
    of = {experiment.name: experiment for experiment in cpu()}
    return [
        of["copy"].part((TBPTT, DNI, "DNI, shuffled"), ["T=4"]),
        of["repeat-copy"].part(["TBPTT, lr 0.003", DNI], ["T=4"], 1),
    ]


def text(ptb_tokens: int = 5_000_000) -> list[Experiment]:
    """Penn Treebank characters at sizes for two cores: half a day."""
    common = {"corpus": "ptb", "max_tokens": ptb_tokens, "updates": 10**9, "evaluations": 2}
    title = f"Penn Treebank, {ptb_tokens:,} characters"
    rates = {
        f"{arm}, lr {lr:g}": {**PTB_ARMS[arm], "lr": lr}
        for lr in (2e-3, 4e-3, 6e-3)
        for arm in ("TBPTT", "DNI, look-ahead", "random truncation")
    }
    return [
        Experiment(
            "ptb-search",
            f"Penn Treebank, {ptb_tokens // 4:,} characters, search",
            "lm",
            rates,
            horizons(4),
            {**common, "max_tokens": ptb_tokens // 4},
            "search",
            (1,),
        ),
        Experiment("ptb", title, "lm", PTB_ARMS, horizons(2, 4, 8, 20), common),
        Experiment(
            "ptb-long-search",
            f"Penn Treebank, {ptb_tokens // 4:,} characters, search",
            "lm",
            settings("TBPTT", "tbptt", [{"lr": lr} for lr in (4e-3, 6e-3, 8e-3, 1.2e-2)]),
            horizons(40),
            {**common, "max_tokens": ptb_tokens // 4},
            "search",
            (1,),
        ),
        Experiment(
            "ptb-long",
            title,
            "lm",
            settings("TBPTT", "tbptt", [{"lr": lr} for lr in (4e-3, 8e-3)]),
            horizons(40),
            common,
        ),
        Experiment(
            "ptb-precision",
            f"Penn Treebank, {ptb_tokens // 4:,} characters, 256 units",
            "lm",
            {
                f"{arm}, {precision}": {**PTB_ARMS[arm], "precision": precision}
                for arm in ("TBPTT", "DNI, look-ahead")
                for precision in ("float32", "bfloat16")
            },
            horizons(8),
            {**common, "max_tokens": ptb_tokens // 4, "hidden": 256},
        ),
    ]


def paper(ptb_tokens: int = 50_000_000) -> list[Experiment]:
    """The sizes and rates of arXiv 1608.05343, for a GPU: days of it, so choose with --only."""
    copy = {"hidden": 256, "batch": 256, "lr": 7e-5, "updates": 100_000}
    text = {"hidden": 1024, "batch": 256, "lr": 7e-5, "updates": 10**9}
    text |= {"corpus": "ptb", "max_tokens": ptb_tokens, "evaluations": 20}
    scaled = {"synth_lr": 7e-5, "grad_scale": 0.1, "bound": None, "synthesizer": "mlp"}
    arms: dict[str, dict[str, Any]] = {"TBPTT": {"trainer": "tbptt"}}
    narrow, wide = ({**scaled, "synth_hidden": width} for width in (256, 1024))
    mlp = {"DNI, MLP": {"trainer": "dni"}, "DNI + Aux, MLP": {"trainer": "dni-aux"}}
    copying = (
        arms
        | {arm: {**what, **narrow} for arm, what in mlp.items()}
        | {
            DNI: {"trainer": "dni"},
            "DNI, shuffled": {"trainer": "dni", "control": "shuffled"},
        }
    )
    ahead = ("DNI, look-ahead", "DNI, look-ahead, shuffled")
    reading = arms | {arm: PTB_ARMS[arm] for arm in ahead}
    reading |= {arm: {**what, **wide, "look_ahead": 0} for arm, what in mlp.items()}
    characters = f"Penn Treebank, {ptb_tokens:,} characters"
    return [
        Experiment("copy", "Copy", "copy", copying, horizons(2, 3, 4, 5), copy),
        Experiment(
            "repeat-copy", "Repeat-copy", "repeat-copy", copying, horizons(2, 3, 4, 5), copy
        ),
        Experiment("ptb", characters, "lm", reading, horizons(2, 3, 4, 5, 8), text),
        Experiment("ptb-long", characters, "lm", arms, horizons(20, 40), text),
    ]


PRESETS: dict[str, Callable[..., list[Experiment]]] = {
    "cpu": cpu,
    "ahead": ahead,
    "quick": quick,
    "text": text,
    "paper": paper,
}

# Milliseconds of a chunk by its synthesizer, and of a step; seconds to start, to evaluate.
CHUNK_MS = {
    "cpu": {None: 1.2, "none": 1.2, "rls": 2.0, "whitened": 6.0, "mlp": 1.0, "linear": 1.0},
    "cuda": {None: 3, "none": 3, "rls": 6, "whitened": 20, "mlp": 5, "linear": 5},
}
STEP_MS = {"copy": 0.1, "repeat-copy": 0.1, "lm": 1.0}
EPISODE = {"copy": 12, "repeat-copy": 20}  # steps, on average over a run


def estimate(run: Run, device: str) -> float:
    """Seconds that a run will take, about.

    Args:
        run: of a study.
        device: cpu, cuda ...

    Returns:
        Seconds.
    """
    recipe, options = run.cell.recipe, run.cell.options
    if options["max_seconds"] is not None:
        return 5 + options["max_seconds"]
    kind = "cpu" if device == "cpu" else "cuda"
    synthesizer = options.get("synthesizer")
    chunk_ms = CHUNK_MS[kind][synthesizer] * (1.4 if options["trainer"] == "dni-aux" else 1)
    step_ms = STEP_MS[recipe] if kind == "cpu" else 0.1
    again = 1.0  # how often a step is run
    if options["trainer"] != "bptt":
        again += options.get("look_ahead", 0) / options["chunk_len"] + options.get("history", 0)
    if recipe == "lm":
        steps = options["updates"] * options["update_every"] * options["chunk_len"]
        if options["max_tokens"] is not None:
            steps = min(steps, options["max_tokens"] / options["batch"])
        chunks = steps / options["chunk_len"]
        steps *= again
        return 12 + 4 * options["evaluations"] + (2.5 * chunks * chunk_ms + steps * step_ms) / 1e3
    steps = EPISODE[recipe] * (2 if options["trainer"] == "bptt" else 1)
    chunks = 1 if options["trainer"] == "bptt" else steps / options["chunk_len"] + 0.5
    return 4 + options["updates"] * (chunks * chunk_ms + again * steps * step_ms) / 1e3


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study, or only say or show what is there.

    Args:
        argv: its words; None takes the process's.

    Returns:
        The exit status: 0, 1 where a run failed, 130 where the user stopped it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    given = parser.parse_args(words)
    preset = "quick" if given.quick else given.preset
    size = [] if given.ptb_tokens is None else [given.ptb_tokens]
    if size and preset not in ("text", "paper"):
        parser.error(f"--ptb-tokens is for --preset text and paper, not {preset}")
    experiments = {each.name: each for each in PRESETS[preset](*size)}
    if unknown := sorted({*(given.only or []), *(given.compare or [])[:1]} - set(experiments)):
        parser.error(
            f"{', '.join(unknown)}: no such experiment; there are {', '.join(experiments)}"
        )
    if given.compare and (bad := set(given.compare[1:]) - set(experiments[given.compare[0]].arms)):
        parser.error(f"{' and '.join(sorted(bad))}: no arm of {given.compare[0]}")
    if given.jobs is not None and given.jobs < 1:
        parser.error(f"--jobs is {given.jobs}, expected at least 1")
    chosen = [each for name, each in experiments.items() if not given.only or name in given.only]
    device = given.device or ("cuda" if preset == "paper" else "cpu")
    place = Place(
        rows=Path(given.rows or ROOT / "benchmarks" / "results" / f"horizon-{preset}.jsonl"),
        out=Path(given.out or ROOT / "runs" / f"horizon-{preset}"),
        jobs=given.jobs or ((os.cpu_count() or 1) if device == "cpu" else 1),
        device=device,
        data_dir=Path(given.data_dir) if given.data_dir else None,
    )
    failed = False
    if not given.render:
        runs = [run for each in chosen for run in each.runs()]
        if not place.has_ptb() and any(map(needs_ptb, runs)):
            print(
                "Penn Treebank is skipped: "
                + (f"no ptb.train.txt in {given.data_dir}" if given.data_dir else "no --data-dir")
                + " (the folder with ptb.train.txt, ptb.valid.txt and ptb.test.txt)",
                file=sys.stderr,
            )
            runs = [run for run in runs if not needs_ptb(run)]
        if given.commands:
            for run in missing(runs, place):
                if state(run, place) != "finished":
                    print(shlex.join(command(run, place, restartable=True)))
            return 0
        announce(runs, place, each_run=given.dry_run)
        if given.dry_run:
            return 0
        try:
            device_of(RunOptions(device=device))
        except RunError as error:
            parser.error(str(error))
        outcome = carry_out(runs, place, estimate)
        outcome.report()
        if outcome.stopped:
            left = len(missing(runs, place))
            print(f"stopped, {left} runs left; the same command goes on:")
            print("  python benchmarks/run_study.py " + shlex.join(words))
            return 130
        failed = bool(outcome.failures)
    rows = read_rows(place.rows)
    for each in chosen:
        print(f"\n{tables(each, rows)}")
    written = write_page(Path(given.page), preset, chosen, rows)
    print(f"\n{given.page}: {', '.join(written) or f'shows nothing of the preset {preset}'}")
    if given.compare:
        print(f"\n{compare(experiments[given.compare[0]], rows, *given.compare[1:])}")
    return int(failed)


def announce(runs: Sequence[Run], place: Place, each_run: bool) -> None:
    """Say what is to be done and how long it will take.

    Args:
        runs: of the study.
        place: where.
        each_run: also list them.
    """
    todo = missing(runs, place)
    for run in todo if each_run else []:
        print(f"{estimate(run, place.device):6.0f} s  {state(run, place):<8}  {run}")
    minutes = sum(estimate(run, place.device) for run in todo) / place.jobs / 60
    found = sum(state(run, place) == "finished" for run in todo)
    print(
        f"{len(unique(runs))} runs, {len(todo)} of them to do, {found} of those found finished in "
        f"{place.out}; about {minutes:.0f} minutes, {place.jobs} at a time on {place.device}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="cpu", help="default: cpu")
    add("--quick", action="store_true", help="the same as --preset quick")
    add("--only", nargs="+", metavar="EXPERIMENT", help="these experiments (default: all)")
    add("--jobs", type=int, metavar="N", help="runs at a time (default: the cores; 1 on a GPU)")
    add("--device", help="default: cpu, one thread a run; paper: cuda")
    add("--data-dir", metavar="DIR", help="folder of ptb.train.txt ...; without, ptb is skipped")
    add(
        "--ptb-tokens", type=int, metavar="N", help="characters to train on (default: the preset's)"
    )
    add("--out", metavar="DIR", help="folders of the runs (default: runs/horizon-PRESET)")
    add("--rows", metavar="FILE", help="default: benchmarks/results/horizon-PRESET.jsonl")
    add("--page", metavar="FILE", default=ROOT / "docs" / "horizon.md", help="to write tables into")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="list what would be run")
    instead.add_argument(
        "--commands",
        action="store_true",
        help="print the command of each run that is to be done, a line each, for a scheduler",
    )
    instead.add_argument(
        "--render", action="store_true", help="run nothing, write tables and figures"
    )
    add(
        "--compare",
        nargs=3,
        metavar=("EXPERIMENT", "ARM", "ARM"),
        help="also print the difference of two arms, paired by seed, with its standard error",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
