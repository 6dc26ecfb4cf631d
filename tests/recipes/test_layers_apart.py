"""Layers in processes of their own, as torchrun starts them: real processes, on the loopback."""

from __future__ import annotations

import signal
import time

import pytest
import torch
from launched import launch, outcome, wait_for
from runs import assert_same, rows_of, run, without_times

LAYERS = (
    *("layers", "--hidden-layers", 1, "--hidden", 16, "--threads", 1, "--updates", 300),
    *("--log-every", 10, "--evaluate-every", 50, "--checkpoint-seconds", 0.01),
)

ENDED = (  # inside of a section, and where all processes wait for each other
    "seqdni: error: process 0 stops: process 1, which runs stage 1, has ended; its message says",
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
    saved = [torch.load(each / "last.pt", weights_only=True) for each in (path, alone)]
    assert_same(*(without_times(each) for each in saved))
    rows = [[{**row, "seconds": 0} for row in rows_of(each)] for each in (path, alone)]
    assert rows[0] == rows[1]
