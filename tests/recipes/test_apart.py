"""Layers and levels in processes of their own, as torchrun starts them: real processes."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import other_scores
import pytest
import torch
from launched import launch, outcome, wait_for
from runs import VERSE, assert_same, result_of, rows_of, run, without_times

from seqdni.recipes.apart import check_not_dealt
from seqdni.recipes.cli import main
from seqdni.recipes.commands import curves
from seqdni.recipes.errors import RunError
from seqdni.recipes.registry import RECIPES

LAYERS = (
    *("layers", "--hidden-layers", 1, "--hidden", 16, "--threads", 1, "--updates", 200),
    *("--log-every", 10, "--evaluate-every", 50, "--checkpoint-seconds", 0.01),
)

ENDED = (  # inside of a section, and where all processes wait for each other
    "seqdni: error: process 0 stops: process 1, which runs stage 1, has ended; its message says",
    "seqdni: error: process 0 stops: another process has ended, or does not answer",
    "seqdni: error: process 0 lost another process of this run, which has ended",
)


def test_a_run_in_processes_is_killed_and_goes_on_as_one_process_bit_for_bit(tmp_path):
    pytest.importorskip("sklearn")
    path, alone = tmp_path / "apart", tmp_path / "alone"
    words = ["run", *LAYERS, "--apart", "processes", "--out", path, "--resume", "auto"]
    started = launch(*words)
    wait_for(path / "metrics.jsonl")
    started[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    status, _, error = outcome(started)[0]
    assert time.monotonic() - killed < 10
    assert status == 1
    assert error.splitlines()[-1].startswith(ENDED)
    assert "Traceback" not in error
    again = outcome(launch(*words))
    assert [status for status, *_ in again] == [0, 0], again
    assert again[1][1] == ""  # the second prints nothing
    run(*LAYERS, "--out", alone)
    assert_the_same_end(path, alone)


def assert_the_same_end(path, other):
    """Two runs have the same last checkpoint and the same rows, but for the seconds."""
    saved = []
    for each in (path, other):
        state = without_times(torch.load(each / "last.pt", weights_only=True))
        sums = state["trainer"].pop("meter")  # of several levels: added up in another order
        saved.append((state, {name: pytest.approx(float(x)) for name, x in sums.items()}))
    assert_same(saved[0][0], saved[1][0])
    assert saved[0][1] == saved[1][1]
    rows = [[{**row, "seconds": 0} for row in rows_of(each)] for each in (path, other)]
    assert rows[0] == [{**row, **approximate(row)} for row in rows[1]]


def approximate(row):
    """The numbers of a row, to the last digit that is shown."""
    return {name: pytest.approx(x, abs=2e-5) for name, x in row.items() if isinstance(x, float)}


LEVELS = {
    "count-digits": "count-digits --hidden 8 --encoder 8 --batch 8 --chunk-len 3 --threads 1 "
    "--max-tokens 3000 --log-every 21 --evaluate-every 42",
    "lm": "lm --hierarchy 2 --period 4 --chunk-len 4 --slow-chunk-len 2 --look-ahead 0 --threads 1 "
    "--synthesizer rls --hidden 8 --batch 8 --log-every 20 --updates 250 --evaluations 3",
}


@pytest.mark.parametrize("recipe", LEVELS)
def test_levels_in_processes_train_as_in_one_bit_for_bit(recipe, tmp_path, monkeypatch):
    words = LEVELS[recipe].split()
    if recipe == "lm":  # more than one pass over it
        monkeypatch.setenv("SEQDNI_CACHE", str(tmp_path / "cache"))
        (tmp_path / "verse.txt").write_text(VERSE)
        words += ["--corpus", tmp_path / "verse.txt"]
    else:
        pytest.importorskip("sklearn")
    path, alone = tmp_path / "apart", tmp_path / "alone"
    found = outcome(launch("run", *words, "--apart", "processes", "--out", path))
    assert [status for status, *_ in found] == [0, 0], found
    run(*words, "--out", alone)
    assert_the_same_end(path, alone)


def test_all_processes_stop_when_the_first_one_decides_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDNI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "verse.txt").write_text(VERSE)
    words = [*LEVELS["lm"].split(), "--corpus", tmp_path / "verse.txt", "--patience", 1]
    words += ["--apart", "processes", "--out", tmp_path / "run"]
    found = outcome(launch("run", *words, program=(other_scores.__file__,)))
    assert [status for status, *_ in found] == [0, 0], found
    assert result_of(tmp_path / "run")["updates"] == 250


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("layers --trainer cdni", "give --apart processes, which needs 3 of them for this model"),
        ("layers --trainer backprop", "--apart is not given; start the run without torchrun"),
        ("layers --trainer all", "--apart is not given; start the run without torchrun"),
    ],
)
def test_processes_without_apart_are_advised_what_works(words, advice, monkeypatch):
    recipe, *others = words.split()
    options = RECIPES[recipe].options()
    for name, value in zip(others[::2], others[1::2], strict=True):
        setattr(options, name.removeprefix("--"), int(value) if value.isdigit() else value)
    monkeypatch.setattr("seqdni.recipes.apart.launched", lambda: 2)
    with pytest.raises(RunError, match=advice):
        check_not_dealt(options, 3)


def test_ctrl_c_stops_a_run_apart_after_the_section_and_says_so(tmp_path):
    pytest.importorskip("sklearn")
    (started,) = launch(
        *("run", *LAYERS, "--updates", 10**6, "--apart", "threads", "--out", tmp_path / "run"),
        processes=1,
    )
    wait_for(tmp_path / "run" / "metrics.jsonl")
    started.send_signal(signal.SIGINT)
    ((status, printed, error),) = outcome([started])
    assert status == 130, error
    assert "stopping after this section; Ctrl-C once more" in error
    assert "all saved" in printed


def test_runs_apart_and_one_after_another_are_one_curve(tmp_path):
    options = RECIPES["layers"].options
    (tmp_path / "metrics.jsonl").write_text('{"update": 1, "tokens": 2, "seconds": 3}\n')
    of = [
        curves.read(tmp_path, options(apart=apart, staleness=staleness)).options
        for apart, staleness in ((None, 0), ("threads", 0), ("processes", 0), ("processes", 1))
    ]
    assert of[0] == of[1] == of[2] != of[3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("count-digits --apart processes", "each network in a process of its own, so it needs 2"),
        ("count-digits --apart processes --trainer joint", "--apart has no effect here; it needs"),
        ("count-digits --staleness 1", "--staleness has no effect here; it needs --apart"),
        ("count-digits --apart processes --control shuffled", "--control shuffled does not go"),
        ("lm --apart processes", "--apart has no effect here; it needs --hierarchy 2"),
        ("lm --hierarchy 2 --apart processes", "--look-ahead does not go with --apart: it runs"),
        (
            "lm --hierarchy 2 --apart processes --trainer tbptt --dropout 0.1",
            "--dropout does not go with --apart: the parts would draw",
        ),
        (
            "lm --hierarchy 3 --apart processes --trainer tbptt",
            "torchrun --nproc-per-node 3 $(which seqdni) run lm --apart processes",
        ),
    ],
)
def test_what_levels_cannot_do_apart_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *words.split()]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not Path("runs").exists()
