"""The study of the horizon: its cells exist, nothing is run twice, nothing is lost."""

from __future__ import annotations

import doctest
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import render
import run_study
import study
from study import SEEDS, Experiment, Place, append_row, key, make_row, read_rows

from seqdni.recipes.cli import main

ROOT = Path(__file__).parents[2]
SMALL = {"updates": 2, "hidden": 8, "batch": 2}


def tiny(seeds=(21,), **common):
    arms = {"DNI": {"trainer": "dni"}, "TBPTT": {"trainer": "tbptt"}}
    columns = run_study.horizons(2)
    return Experiment("tiny", "Tiny", "copy", arms, columns, SMALL | common, seeds=seeds)


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Of a study of two small runs, all of whose files are elsewhere."""
    monkeypatch.setitem(run_study.PRESETS, "cpu", lambda: [tiny()])
    page = tmp_path / "page.md"
    page.write_text(
        "Before.\n\n<!-- table cpu/tiny -->\nold\n<!-- end -->\n\n![](figures/cpu-tiny.svg)\n"
    )
    places = {"--rows": "rows.jsonl", "--out": "runs", "--page": "page.md"}
    return [word for flag, name in places.items() for word in (flag, str(tmp_path / name))]


def result(**measured):
    return {
        "updates": 2,
        "tokens": 64,
        "wall_seconds": 1.5,
        "device": "cpu",
        "torch": "2",
    } | measured


@pytest.mark.parametrize("preset", run_study.PRESETS)
def test_cells_of_an_experiment_differ_but_for_full_bptt(preset):
    for experiment in run_study.PRESETS[preset]():  # parses and checks every cell
        runs = [run for run in experiment.runs() if run.cell.options["trainer"] != "bptt"]
        assert len(study.unique(runs)) == len(runs) > 0
        assert {run.seed for run in experiment.runs()} <= set(SEEDS[experiment.role])


def test_full_bptt_is_run_once_and_stands_in_every_column():
    arms = {"full BPTT": {"trainer": "bptt"}}
    runs = Experiment("e", "E", "copy", arms, run_study.horizons(2, 4), seeds=(21,)).runs()
    assert [run.column for run in runs] == ["T=2", "T=4"]
    assert len(study.unique(runs)) == 1


def test_the_search_is_as_large_for_both_and_its_seeds_are_its_own():
    assert len(run_study.SEARCH_TBPTT) == len(run_study.SEARCH_DNI)
    assert not set(SEEDS["search"]) & set(SEEDS["final"])
    with pytest.raises(AssertionError, match="seeds of another role"):
        tiny(seeds=(1,)).runs()


@pytest.mark.parametrize(("preset", "minutes"), [("quick", 5), ("cpu", 60), ("ahead", 30)])
def test_expected_time_on_two_cores(preset, minutes):
    runs = study.unique(run for each in run_study.PRESETS[preset]() for run in each.runs())
    assert sum(run_study.estimate(run, "cpu") for run in runs.values()) / 2 / 60 <= minutes


def test_the_quick_cells_are_cells_of_the_whole_study():
    names = {
        p: study.unique(r for e in run_study.PRESETS[p]() for r in e.runs())
        for p in run_study.PRESETS
    }
    assert set(names["quick"]) < set(names["cpu"])


def test_every_arm_of_the_paper_runs_at_a_tiny_size(tmp_path):
    """The study for a GPU, each arm in its first column, cut down to seconds on a CPU."""
    text = tmp_path / "text.txt"
    text.write_text("no it was n't black monday \n" * 40)
    for experiment in run_study.PRESETS["paper"]():
        for arm in experiment.arms:
            run = experiment.part([arm], [next(iter(experiment.columns))], 1).runs()[0]
            given = {**run.cell.given, **SMALL, "device": "cpu", "out": tmp_path / str(run)}
            if "synth_hidden" in given:
                given["synth_hidden"] = 4
            if run.cell.recipe == "lm":
                given |= {"corpus": text, "evaluations": 1}
            assert main(["run", run.cell.recipe, *study.words(given)]) == 0
            measured = json.loads((tmp_path / str(run) / "result.json").read_text())
            assert measured["updates"] == 2
            assert measured["trainer"] == experiment.arms[arm]["trainer"]


def test_a_row_is_found_by_what_its_cell_computes_with(tmp_path):
    rows, place = tmp_path / "rows.jsonl", Place(tmp_path / "rows.jsonl", tmp_path)
    for run in tiny().runs():
        append_row(rows, make_row(run, result(solved_length=1), place))
    found = read_rows(rows)
    for run in tiny().runs():
        assert found[key("copy", run.cell.options)]["arm"] == run.arm
    assert not study.missing(tiny().runs(), place)
    assert study.missing(tiny(lr=1e-4).runs(), place)
    assert not study.missing(tiny(lr=3e-3).runs(), place)  # the default, spelled out
    assert str(tmp_path) not in rows.read_text()


def test_a_torn_last_line_is_left_out_and_written_over(tmp_path):
    rows, place = tmp_path / "rows.jsonl", Place(tmp_path / "rows.jsonl", tmp_path)
    first, second = (make_row(run, result(solved_length=1), place) for run in tiny().runs())
    append_row(rows, first)
    whole = rows.read_text()
    rows.write_text(whole + json.dumps(second)[:40])
    assert [row["arm"] for row in read_rows(rows).values()] == ["DNI"]
    append_row(rows, second)
    assert rows.read_text() == whole + json.dumps(second) + "\n"


def test_a_study_runs_is_shown_and_is_not_run_again(words, tmp_path, monkeypatch, capsys):
    assert run_study.main([*words, "--dry-run"]) == 0
    assert "2 runs, 2 of them to do" in capsys.readouterr().out
    assert not (tmp_path / "rows.jsonl").exists()

    assert run_study.main([*words, "--jobs", "2", "--compare", "tiny", "DNI", "TBPTT"]) == 0
    lines = (tmp_path / "rows.jsonl").read_text()
    row = min(map(json.loads, lines.splitlines()), key=lambda row: row["arm"])
    assert (row["arm"], row["task"], row["role"], row["seed"]) == ("DNI", "copy", "final", 21)
    assert (row["trainer"], row["synthesizer"], row["chunk_len"]) == ("dni", "rls", 2)
    assert (row["updates"], row["solved_length"], row["threads"]) == (2, 0, 1)
    assert row["hyperparameters"]["lr"] == 3e-3
    assert str(tmp_path) not in lines

    page, figure = tmp_path / "page.md", tmp_path / "figures" / "cpu-tiny.svg"
    assert "Before.\n\n<!-- table cpu/tiny -->\n\nTiny" in page.read_text()
    assert "| | T=2 |\n|---|---|\n| DNI | 0 |\n| TBPTT | 0 |\n\n<!-- end -->" in page.read_text()
    assert "copy tasks" not in figure.read_text()
    assert "TBPTT" in figure.read_text()
    assert "tiny T=2, solved_length: DNI - TBPTT = +0" in capsys.readouterr().out

    before = page.read_bytes(), figure.read_bytes()
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing more is started
    assert run_study.main(words) == 0
    (tmp_path / "rows.jsonl").write_text(lines.splitlines(keepends=True)[0] + "{torn")
    assert run_study.main(words) == 0  # the other is taken from its folder
    assert sorted((tmp_path / "rows.jsonl").read_text().splitlines()) == sorted(lines.splitlines())
    assert run_study.main([*words, "--render"]) == 0
    assert (page.read_bytes(), figure.read_bytes()) == before


def test_a_failed_run_is_reported_and_does_not_stop_the_others(
    words, tmp_path, monkeypatch, capsys
):
    def with_ptb():
        bad = Experiment("lm", "LM", "lm", {"TBPTT": {"trainer": "tbptt"}}, run_study.horizons(2))
        common = {"corpus": "ptb", **SMALL}
        return [bad._replace(common=common, seeds=(21,)), tiny().part(["TBPTT"], ["T=2"], 1)]

    monkeypatch.setitem(run_study.PRESETS, "cpu", with_ptb)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ptb.train.txt").write_text("alone")
    assert run_study.main([*words, "--jobs", "1", "--data-dir", str(tmp_path / "data")]) == 1
    assert "failed: lm: TBPTT, T=2, seed 21: seqdni: error: " in capsys.readouterr().err
    assert len(read_rows(tmp_path / "rows.jsonl")) == 1

    assert run_study.main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "Penn Treebank is skipped: no --data-dir" in shown.err
    assert "1 runs, 0 of them to do" in shown.out


def test_another_scheduler_can_do_the_runs(words, tmp_path, capsys):
    assert run_study.main([*words, "--commands"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 2
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    for line in [commands[0], *commands]:  # one is done twice, as after a failure of a machine
        subprocess.run(["sh", "-c", line], env=env, cwd=ROOT, capture_output=True, timeout=120)
    assert run_study.main([*words, "--commands"]) == 0
    assert capsys.readouterr().out == ""
    assert run_study.main(words) == 0
    assert len(read_rows(tmp_path / "rows.jsonl")) == 2


STOPPABLE = """
import signal, sys, run_study, test_horizon_study as t
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
run_study.PRESETS["cpu"] = lambda: [t.tiny(updates=600)._replace(arms={"DNI": {"trainer": "dni"}})]
sys.exit(run_study.main(sys.argv[1:]))
"""


def test_a_stopped_study_saves_its_runs_and_goes_on(words, tmp_path, monkeypatch, capsys):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks", Path(__file__).parent)))
    env = os.environ | {"PYTHONPATH": path}
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPABLE, *words], env=env, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        "stopped, 1 runs left; the same command goes on:\n  python benchmarks/run_study.py" in out
    )

    stopped = tiny(updates=600)._replace(arms={"DNI": {"trainer": "dni"}})
    monkeypatch.setitem(run_study.PRESETS, "cpu", lambda: [stopped])
    place = Place(tmp_path / "rows.jsonl", tmp_path / "runs")
    assert "--resume" in study.command(stopped.runs()[0], place)
    assert run_study.main(words) == 0
    (row,) = read_rows(place.rows).values()
    assert row["updates"] == 600


def test_values_of_each_seed_then_mean_and_error(tmp_path):
    experiment, rows = tiny(seeds=(21, 22, 23)), {}
    place = Place(tmp_path / "rows.jsonl", tmp_path)
    for run, length in zip(experiment.runs()[:-1], [8, 5, 8, 4, 7], strict=True):
        row = make_row(run, result(solved_length=length), place)
        rows[key("copy", run.cell.options)] = row
    table = render.tables(experiment, rows)
    assert "| DNI | 8 / 8 / 7 (7.7 ± 0.3) |" in table
    assert "| TBPTT | 5 / 4 / - (4.5 ± 0.5) |" in table
    assert "= +3.5 ± 0.5 (2 pairs)" in render.compare(experiment, rows, "DNI", "TBPTT")


def test_the_page_has_a_place_for_every_experiment():
    page = (ROOT / "docs" / "horizon.md").read_text()
    for preset in ("cpu", "ahead", "text"):
        for experiment in run_study.PRESETS[preset]():
            assert f"<!-- table {preset}/{experiment.name} -->" in page


@pytest.mark.parametrize("module", [study, render, run_study])
def test_examples(module):
    assert doctest.testmod(module).failed == 0
