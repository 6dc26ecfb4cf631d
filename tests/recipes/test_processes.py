"""Runs in several processes, as torchrun starts them: real processes, on the loopback."""

from __future__ import annotations

import json
import signal
import time

import pytest
import torch
from launched import launch, outcome, wait_for
from runs import rows_of

from seqdni.recipes.cli import main
from seqdni.recipes.directory import RunDirectory

COPY = ("run", "copy", "--hidden", "16", "--batch", "8", "--seed", "3", "--threads", "1")


def weights(path):
    return list(RunDirectory(path).load("last")["trainer"]["model"].values())


def errors(path):
    rows = (path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["train_bits"] for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes that was never stopped."""
    path = tmp_path_factory.mktemp("processes") / "whole"
    found = outcome(launch(*COPY, "--updates", 40, "--out", path))
    assert [status for status, *_ in found] == [0, 0], found
    assert "All of it is in" in found[0][1]
    assert found[1][1] == ""  # the second prints nothing
    return path


def test_two_processes_train_as_one(whole, tmp_path):
    assert main([*COPY, "--updates", "40", "--out", str(tmp_path / "one")]) == 0
    assert errors(whole) == pytest.approx(errors(tmp_path / "one"), abs=2e-5)
    for a, b in zip(weights(whole), weights(tmp_path / "one"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", ["--audit-every 3", "--control shuffled"])
def test_audits_and_controls_are_those_of_one_process(options, tmp_path):
    words = [*COPY, *options.split(), "--updates", "60", "--log-every", "16"]
    found = outcome(launch(*words, "--out", tmp_path / "two"))
    assert [status for status, *_ in found] == [0, 0], found
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    for a, b in zip(*(rows_of(tmp_path / name) for name in ("two", "one")), strict=True):
        assert {**a, "seconds": 0} == pytest.approx({**b, "seconds": 0}, rel=1e-3, abs=1e-3)
    for a, b in zip(weights(tmp_path / "two"), weights(tmp_path / "one"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


DIGITS = (
    *("run", "count-digits", "--hidden", "8", "--encoder", "8", "--batch", "8", "--chunk-len", "3"),
    *("--threads", "1", "--log-every", "21", "--evaluate-every", "42", "--synthesizer", "rls"),
)


def test_two_processes_train_a_hierarchy_as_one_and_go_on(tmp_path):
    pytest.importorskip("sklearn")
    two, one = tmp_path / "two", tmp_path / "one"
    for words in ((*DIGITS, "--max-tokens", 1500), ("run", "--max-tokens", 3000, "--resume", two)):
        out = () if "--resume" in words else ("--out", two)
        found = outcome(launch(*words, *out))
        assert [status for status, *_ in found] == [0, 0], found
    assert main([*DIGITS, "--max-tokens", "3000", "--out", str(one)]) == 0
    for a, b in zip(weights(two), weights(one), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    rows = [rows_of(path) for path in (two, one)]
    for a, b in zip(*rows, strict=True):
        assert {**a, "seconds": 0} == pytest.approx({**b, "seconds": 0}, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "options", ["dni", "random", "overlap", "influence", "dni --hierarchy 2 --slow-chunk-len 2"]
)
def test_each_process_reads_its_part_of_a_text(options, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    words = ["run", "lm", "--corpus", str(text), "--hidden", "16", "--trainer", *options.split()]
    words += ["--batch", "4", "--updates", "12", "--threads", "1"]
    found = outcome(launch(*words, "--out", tmp_path / "two"))
    assert [status for status, *_ in found] == [0, 0], found
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    for a, b in zip(weights(tmp_path / "two"), weights(tmp_path / "one"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_stopped_run_goes_on_with_as_many_processes_or_others(whole, tmp_path):
    path = tmp_path / "stopped"
    first = outcome(launch(*COPY, "--updates", 20, "--out", path))
    assert [status for status, *_ in first] == [0, 0], first
    saved = {file.name: file.read_bytes() for file in path.iterdir()}
    more = outcome(launch("run", "--resume", path, "--updates", 40))
    assert [status for status, *_ in more] == [0, 0], more
    assert all(map(torch.equal, weights(path), weights(whole)))
    assert errors(path) == errors(whole)
    alone = tmp_path / "alone"
    alone.mkdir()
    for name, content in saved.items():
        (alone / name).write_bytes(content)
    assert main(["run", "--resume", str(alone), "--updates", "40"]) == 0
    for a, b in zip(weights(alone), weights(whole), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_killed_process_ends_the_others_with_one_line(tmp_path):
    path = tmp_path / "killed"
    started = launch(*COPY, "--updates", 10**6, "--checkpoint-seconds", 1, "--out", path)
    wait_for(path / "metrics.jsonl")
    time.sleep(1.5)
    started[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    status, _, error = outcome(started)[0]
    assert time.monotonic() - killed < 10
    assert status == 1
    assert "process 0 lost another process of this run" in error.splitlines()[-1]
    assert "Traceback" not in error
    done = RunDirectory(path).load("last")["trainer"]["steps"]["updates"]
    assert main(["run", "--resume", str(path), "--updates", str(done + 5)]) == 0


def test_processes_with_other_options_are_refused(tmp_path):
    each = [["--lr", "0.001"], ["--lr", "0.002"]]
    found = outcome(launch(*COPY, "--updates", 5, "--out", tmp_path / "other", each=each))
    assert [status for status, *_ in found] == [1, 1]
    for _, _, error in found:
        assert "the processes have different options" in error
        assert "Traceback" not in error
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*COPY, "--batch", "9"), "--batch 9 cannot be dealt equally to 2 processes"),
        (("run", "layers"), "or start the run without torchrun"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(words, message, tmp_path):
    found = outcome(launch(*words, "--updates", 5, "--out", tmp_path / "refused"))
    assert [status for status, *_ in found] == [1, 1]
    assert message in found[0][2]
    assert "Traceback" not in found[0][2] + found[1][2]


def test_resume_auto_begins_a_run_and_then_continues_it(whole, tmp_path):
    path = tmp_path / "auto"
    words = (
        *COPY,
        "--updates",
        40,
        "--checkpoint-seconds",
        0.01,
        "--out",
        path,
        "--resume",
        "auto",
    )
    started = launch(*words)
    wait_for(path / "metrics.jsonl")
    for process in started:
        process.send_signal(signal.SIGKILL)
    outcome(started)
    again = outcome(launch(*words))
    assert [status for status, *_ in again] == [0, 0], again
    assert all(map(torch.equal, weights(path), weights(whole)))
    assert errors(path) == errors(whole)


def test_resume_auto_needs_a_folder_and_the_same_options(tmp_path, capsys):
    assert main([*COPY, "--updates", "2", "--resume", "auto"]) == 1
    assert "--resume auto needs --out DIR" in capsys.readouterr().err
    words = [*COPY, "--updates", "2", "--out", str(tmp_path / "run"), "--resume", "auto"]
    assert main(words) == 0
    assert main([*words, "--lr", "0.5"]) == 1
    assert "has --lr 0.003, and this command has 0.5" in capsys.readouterr().err
