"""Learning curves: which runs become one line, what it goes through, what cannot be drawn."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seqdni.recipes.cli import main
from seqdni.recipes.commands import curves
from seqdni.recipes.copying import CopyOptions
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.lm.options import Options as TextOptions

COPY = CopyOptions(trainer="dni", synthesizer="rls")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, options, rows):
    """A run's folder as seqdni run leaves it, with what a plot reads."""
    RunDirectory.create(replace(options, out=name))
    Path(name, "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(updates, values, metric="length", tokens_each=4):
    return [
        {"update": u, "tokens": tokens_each * u, "seconds": u / 10, metric: value}
        for u, value in zip(updates, values, strict=True)
    ]


def drawn(options, metric="length", axis="update"):
    """The curves of runs with these options and rows."""
    return curves.curves([curves.Run(Path(), o, r) for o, r in options], metric, axis)


def failed(capsys, *words):
    assert main(["plot", *words]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_seeds_become_their_mean_in_a_band():
    alike = {"recipe": "copy", "trainer": "dni", "chunk_len": 4}
    (curve,) = drawn([(alike, rows([1, 2, 3], [1, 2, 3])), (alike, rows([1, 2, 3], [3, 4, 8]))])
    assert curve.x.tolist() == [1, 2, 3]
    assert curve.mean.tolist() == [2, 3, 5.5]
    assert curve.low.tolist() == [1, 2, 3]
    assert curve.high.tolist() == [3, 4, 8]
    assert curve.label == "copy, trainer=dni, chunk_len=4 (2 runs: mean, range)"


def test_runs_with_points_apart_are_interpolated_where_all_of_them_are():
    alike = {"recipe": "copy", "trainer": "dni", "chunk_len": 4}
    (curve,) = drawn([(alike, rows([0, 4], [0, 4])), (alike, rows([1, 3, 9], [1, 3, 9]))])
    assert curve.x.tolist() == [1, 3, 4]
    np.testing.assert_allclose(curve.mean, [1, 3, 4])


def test_rows_without_the_metric_are_passed_over():
    some = rows([1, 2, 3], [5, 6, 7])
    del some[1]["length"]
    (curve,) = drawn([({"recipe": "copy", "trainer": "dni", "chunk_len": 4}, some)])
    assert curve.x.tolist() == [1, 3]


def test_only_the_seed_and_what_computes_nothing_may_differ(capsys):
    write("a", replace(COPY, seed=1), rows([1, 2], [1, 2]))
    write("b", replace(COPY, seed=2, threads=1, device="cpu"), rows([1, 2], [1, 3]))
    write("c", replace(COPY, seed=1, bound=None), rows([1, 2], [1, 1]))
    assert main(["plot", "a", "b", "c", "b/"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "length where a line ends: mean (least to greatest)",
        "  bound=1.0 (2 runs: mean, range): 2.5 (2 to 3) at 2 updates",
        "  bound=null: 1 (1 to 1) at 2 updates",
        "picture in length-by-updates.png",
    ]
    assert Path("length-by-updates.png").read_bytes().startswith(b"\x89PNG")


def test_an_axis_that_a_run_does_not_count_is_refused(capsys):
    write("a", COPY, [{**row, "epoch": row["update"] / 4} for row in rows([1, 2], [1, 2])])
    assert main(["plot", "a", "--against", "epochs"]) == 0
    assert "2 (2 to 2) at 0.5 epochs" in capsys.readouterr().out
    assert "has no metric 'epoch'" in failed(capsys, "a", "--metric", "epoch")
    write("b", COPY, rows([1, 2], [1, 2]))
    assert "b has no epoch in its metrics; draw it" in failed(
        capsys, "a", "b", "--against", "epochs"
    )


def test_labels_leave_out_options_without_effect(capsys):
    write("dni", COPY, rows([1, 2], [1, 2]))
    write("loose", replace(COPY, bound=None), rows([1, 2], [1, 2]))
    write("tbptt", CopyOptions(trainer="tbptt"), rows([1, 2], [1, 2]))
    write("bptt", CopyOptions(trainer="bptt"), rows([1, 2], [1, 2]))
    assert main(["plot", "dni", "loose", "tbptt", "bptt"]) == 0
    found = [line.split(": ")[0].strip() for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert found == ["trainer=dni, bound=1.0", "trainer=dni, bound=null"] + [
        f"trainer={trainer}" for trainer in ("tbptt", "bptt")
    ]


@pytest.mark.parametrize(("against", "end"), [("tokens", "8,000"), ("seconds", "200")])
def test_the_other_axes_and_an_svg_that_is_the_same_each_time(against, end, capsys):
    write("a", COPY, rows([1, 2000], [1.0, 1.5], metric="train_bits"))
    pictures = []
    for _ in range(2):
        assert main(["plot", "a", "--against", against, "--out", "x.svg"]) == 0
        assert f"1.5 (1.5 to 1.5) at {end} {against}" in capsys.readouterr().out
        pictures.append(Path("x.svg").read_text())
    assert pictures[0] == pictures[1]
    assert "training, bits per symbol</text>" in pictures[0]
    assert f">{end}</text>" in pictures[0]


def test_the_default_metric_is_one_that_all_runs_have(capsys):
    write("copy", COPY, [{**row, "train_bits": 1.0} for row in rows([1, 2], [1, 2])])
    text = [{**row, "train_bits": 3.0} for row in rows([1, 2], [4, 3], metric="valid_bpc")]
    write("text", TextOptions(trainer="tbptt"), text)
    for runs, metric in ((["copy"], "length"), (["text"], "valid_bpc")):
        assert main(["plot", *runs]) == 0
        assert capsys.readouterr().out.startswith(f"{metric} where")
    assert main(["plot", "text", "copy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train_bits")
    assert [line.split(":")[0].strip() for line in lines[1:3]] == ["lm", "copy"]


def test_half_a_line_of_a_killed_run_is_not_read(capsys):
    write("a", COPY, rows([1, 2], [1, 2]))
    with open("a/metrics.jsonl", "a") as file:
        file.write('{"update": 3, "tok')
    assert main(["plot", "a"]) == 0
    assert "at 2 updates" in capsys.readouterr().out


def test_mistakes_get_a_line_that_says_what_to_do(capsys, monkeypatch):
    write("a", COPY, rows([1, 2], [1, 2]))
    write("late", replace(COPY, seed=1), rows([5, 6], [1, 2]))
    write("text", TextOptions(trainer="tbptt"), rows([1], [2.0], metric="valid_bpc"))
    write("empty", COPY, [])
    write("odd", COPY, [])
    Path("odd/metrics.jsonl").write_text("[1, 2]\n")
    assert "nowhere is not the folder of a run" in failed(capsys, "nowhere")
    assert "empty has no metrics yet" in failed(capsys, "empty")
    assert "odd/metrics.jsonl, line 1: expected a JSON object with seconds" in failed(capsys, "odd")
    assert "a has no metric 'cost'; it has: length" in failed(capsys, "a", "--metric", "cost")
    error = failed(capsys, "a", "text", "--metric", "length")
    assert "text has no metric 'length'; all the runs have: none" in error
    error = failed(capsys, "a", "text")
    assert "no metric in common: a (copy) has length; text (lm) has valid_bpc" in error
    assert "no stretch of length in common" in failed(capsys, "a", "late")
    assert "ends in .png or .svg" in failed(capsys, "a", "--out", "x.pdf")
    assert "there is no folder new" in failed(capsys, "a", "--out", "new/x.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'seqdni[plots]'" in failed(capsys, "a")
    assert not list(Path().glob("*.png"))


def test_a_true_run(capsys):
    words = ["copy", "--hidden", "8", "--batch", "2", "--threads", "1", "--updates", "30"]
    assert main(["run", *words, "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["plot", "run"]) == 0
    assert "copy, trainer=dni, chunk_len=4: 1 (1 to 1) at 30 updates" in capsys.readouterr().out
