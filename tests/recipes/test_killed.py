"""A run whose process is killed at any moment goes on as if it had never been stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import torch
from runs import TINY, assert_same, result_of, rows_of, run, without_times

from seqdni.recipes.cli import main

COMMAND = [sys.executable, "-m", "seqdni", "run", "copy"]


def killed_in_a_checkpoint(out, words):
    """Start a run, and send it SIGKILL while it replaces a checkpoint that is there."""
    command = [*COMMAND, *map(str, words), "--checkpoint-seconds", "1e-9"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if (out / "last.pt").exists() and list(out.glob(".last.pt.*.part")):
            break
    child.kill()
    errors = child.communicate()[1]
    assert child.returncode == -signal.SIGKILL, errors


def assert_the_same_end(straight, killed):
    a, b = (torch.load(path / "last.pt", weights_only=True) for path in (straight, killed))
    assert_same(without_times(a), without_times(b))
    rows = [[{**row, "seconds": 0} for row in rows_of(path)] for path in (straight, killed)]
    assert rows[0] == rows[1]


def test_a_run_killed_while_it_saves_goes_on_bit_for_bit(tmp_path):
    straight, out = tmp_path / "straight", tmp_path / "run"
    words = ["--updates", 60, *TINY]
    run("copy", *words, "--out", straight)
    killed_in_a_checkpoint(out, [*words, "--out", out])
    killed_in_a_checkpoint(out, ["--resume", out])
    run("copy", "--resume", out)
    assert_the_same_end(straight, out)
    assert not list(out.glob(".*part"))


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(tmp_path):
    """Only its options are there yet, and they are all that the run begins from."""
    straight, out = tmp_path / "straight", tmp_path / "run"
    for folder in (straight, out):
        run("copy", "--updates", 20, "--out", folder, *TINY)
    for path in out.iterdir():
        if path.name not in ("config.yaml", ".lock"):
            path.unlink()
    assert main(["run", "copy", "--resume", str(out)]) == 0
    assert_the_same_end(straight, out)


def test_a_run_killed_while_its_options_are_written_can_be_begun_again(tmp_path):
    """Nothing of it is there yet: what is left is no run, and in nobody's way."""
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").write_text("123\n")
    (out / ".config.yaml.0123456789abcdef.part").write_text("recipe: co")
    assert main(["run", "copy", "--updates", "20", "--out", str(out), *TINY]) == 0
    assert result_of(out)["updates"] == 20
    assert not list(out.glob(".*part"))
