"""Runs from the command line: what they write, how they stop and go on, what they compute again."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from runs import TINY, VERSE, assert_same, result_of, rows_of, run, without_times
from tiny_mnist import accept_tiny_mnist, write_tiny_mnist

from seqdni import Trainer
from seqdni.recipes.cli import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDNI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def verse(tmp_path):
    path = tmp_path / "verse.txt"
    path.write_text(VERSE)
    return str(path)


COMMON = {
    "recipe",
    "trainer",
    "chunk_len",
    "seed",
    "updates",
    "tokens",
    "wall_seconds",
    "tokens_per_second",
    "parameters",
}


@pytest.mark.parametrize(
    "trainer", ["bptt", "tbptt", "random", "overlap", "influence", "dni", "dni-aux"]
)
@pytest.mark.parametrize("recipe", ["copy", "repeat-copy"])
def test_copy_runs_with_every_trainer(recipe, trainer, tmp_path, capsys):
    out = tmp_path / "run"
    # a lax threshold, so that the curriculum moves within a few updates
    run(recipe, "--trainer", trainer, "--updates", 60, "--threshold", 1.4, "--out", out, *TINY)
    result = result_of(out)
    assert result.keys() >= COMMON | {"solved_length"}
    assert (result["recipe"], result["trainer"], result["updates"]) == (recipe, trainer, 60)
    assert result["solved_length"] >= 1
    if recipe == "repeat-copy":
        assert result["solved_steps"] == result["solved_length"] * result["solved_repeats"]
    assert "solved_length" in capsys.readouterr().out

    rows = rows_of(out)
    assert [row["episodes"] for row in rows] == [10.0 * k for k in range(1, 7)]
    assert result["tokens"] == rows[-1]["tokens"]
    steps = {"copy": lambda n, r: 2 * n + 1, "repeat-copy": lambda n, r: n + 2 + n * r}[recipe]
    assert result["tokens"] == sum(10 * 4 * steps(row["length"], row["repeats"]) for row in rows)

    assert main(["eval", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"solved_length    {result['solved_length']}" in printed
    assert str(result["held_out_bits"]) in printed
    assert main(["sample", str(out), "--length", "3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["input", "target", "output", "error"]


@pytest.mark.parametrize("core", ["lstm", "gru", "rnn"])
def test_back_to_back_episodes_train(core, tmp_path):
    out = tmp_path / "run"
    words = ["--episodes", "back-to-back", "--update-every", "1", "--core", core, "--layers", "2"]
    run("copy", *words, "--updates", "40", "--threshold", "1.4", "--out", out, *TINY)
    assert result_of(out)["updates"] == 40
    assert result_of(out)["tokens"] == 40 * 4 * 4


def test_copy_learns(tmp_path):
    """Full BPTT copies two bits in a few hundred updates; the threshold is the real one."""
    run("copy", "--trainer", "bptt", "--updates", 300, "--out", tmp_path / "run", "--threads", 1)
    assert result_of(tmp_path / "run")["solved_length"] >= 2


@pytest.mark.parametrize("recipe", ["copy", "adding"])
def test_looking_ahead_to_the_end_of_the_episode_is_full_bptt(recipe, tmp_path):
    """Every loss then reaches every step: the weights are those of one graph an episode."""
    words = [recipe, *TINY, "--updates", 20, "--optimizer", "sgd", "--lr", 0.1]
    words += ["--threshold", 99] if recipe == "copy" else ["--length", 9]
    ahead = ["--trainer", "dni", "--look-ahead", 100, "--synthesizer", "none"]
    settings = {"ahead": ahead, "bptt": ["--trainer", "bptt"], "tbptt": ["--trainer", "tbptt"]}
    weights = {}
    for name, trainer in settings.items():
        run(*words, *trainer, "--out", tmp_path / name)
        saved = torch.load(tmp_path / name / "last.pt", weights_only=True)["trainer"]["model"]
        weights[name] = torch.cat([weight.flatten() for weight in saved.values()])
    assert torch.allclose(weights["ahead"], weights["bptt"], atol=1e-5)
    assert not torch.allclose(weights["tbptt"], weights["bptt"], atol=1e-3)


@pytest.mark.parametrize("recipe", ["copy", "adding"])
def test_influence_of_the_lru_is_full_bptt(recipe, tmp_path):
    """The weights are those of one graph an episode, though no graph is longer than a chunk."""
    words = [recipe, *TINY, "--updates", 20, "--optimizer", "sgd", "--lr", 0.1, "--core", "lru"]
    words += ["--threshold", 99] if recipe == "copy" else ["--length", 9]
    weights = {}
    for trainer in ("influence", "bptt", "tbptt"):
        run(*words, "--trainer", trainer, "--out", tmp_path / trainer)
        saved = torch.load(tmp_path / trainer / "last.pt", weights_only=True)["trainer"]["model"]
        weights[trainer] = torch.cat([weight.flatten() for weight in saved.values()])
    assert torch.allclose(weights["influence"], weights["bptt"], atol=1e-5)
    assert not torch.allclose(weights["tbptt"], weights["bptt"], atol=1e-4)


def test_horizon_of_a_copy_run(tmp_path, capsys):
    """Least squares, trained for a while on one length, points the right way at its boundaries."""
    out = tmp_path / "run"
    run("copy", "--updates", 250, "--out", out, "--threads", 1)
    capsys.readouterr()
    assert main(["horizon", str(out), "--length", "3"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "horizon.json").read_text())
    assert [row["step"] for row in found["boundaries"]] == [4]
    assert found["boundaries"][0]["cosine"] > 0.5
    assert -1 <= found["tbptt_cosine"] < 1
    assert f"{found['dni_cosine']:.3f}" in printed
    assert (out / "horizon.png").stat().st_size > 1000
    assert main(["horizon", str(out), "--length", "1"]) == 1
    assert "no boundary to look at" in capsys.readouterr().err


def test_horizon_of_a_text_run(tmp_path, verse, capsys):
    out = tmp_path / "run"
    run("lm", "--corpus", verse, "--updates", 20, "--out", out, *TINY)
    assert main(["horizon", str(out), "--length", "4"]) == 0
    found = json.loads((out / "horizon.json").read_text())
    assert [row["step"] for row in found["boundaries"]] == [8, 16, 24]
    run("lm", "--corpus", verse, "--updates", 5, "--trainer", "tbptt", "--out", out / "2", *TINY)
    assert main(["horizon", str(out / "2")]) == 1
    assert "it has no synthesizer" in capsys.readouterr().err


@pytest.mark.parametrize("trainer", ["tbptt", "random", "overlap", "influence", "dni", "dni-aux"])
def test_lm_runs_and_eval_recomputes_it(trainer, tmp_path, verse, capsys):
    out = tmp_path / "run"
    words = ["--corpus", verse, "--updates", "200", "--lr", "1e-2", "--log-every", "20"]
    run("lm", *words, "--trainer", trainer, "--out", out, *TINY)
    result = result_of(out)
    assert result.keys() >= COMMON | {"valid_bpc", "test_bpc"}
    chunks_an_update = 2.5 if trainer == "random" else 1  # two on average
    assert result["tokens"] <= 200 * 4 * 8 * chunks_an_update
    uniform = math.log2(len(set(VERSE)))
    assert result["valid_bpc"] < 0.8 * uniform
    curve = [row["valid_bpc"] for row in rows_of(out) if "valid_bpc" in row]
    assert len(curve) >= 9
    assert curve[-1] < curve[0]
    capsys.readouterr()

    assert main(["eval", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"valid_bpc  {result['valid_bpc']:.4f}" in printed
    assert f"test_bpc   {result['test_bpc']:.4f}" in printed
    assert main(["sample", str(out), "--length", "50", "--prompt", "the "]) == 0
    sampled = capsys.readouterr().out
    assert sampled.startswith("the ")
    assert len(sampled) == len("the ") + 50 + 1
    assert main(["sample", str(out), "--length", "50", "--prompt", "the "]) == 0
    assert capsys.readouterr().out == sampled


def test_max_tokens_stops_the_run(tmp_path, verse):
    run("lm", "--corpus", verse, "--max-tokens", 1600, "--out", tmp_path / "run", *TINY)
    assert result_of(tmp_path / "run")["tokens"] == 1600


def test_max_seconds_stops_the_run(tmp_path):
    run("copy", "--max-seconds", 1, "--updates", 10**6, "--out", tmp_path / "run", *TINY)
    result = result_of(tmp_path / "run")
    assert result["wall_seconds"] >= 1
    assert 1 < result["updates"] < 10**6


def test_the_effective_config_makes_the_same_run(tmp_path, capsys):
    run("copy", "--updates", 20, "--seed", 5, "--out", tmp_path / "a", *TINY)
    config = tmp_path / "a" / "config.yaml"
    assert yaml.safe_load(config.read_text())["seed"] == 5
    run("copy", "--config", config, "--out", tmp_path / "b")
    first, second = (torch.load(tmp_path / x / "last.pt", weights_only=True) for x in "ab")
    assert_same(without_times(first), without_times(second))


BACK_TO_BACK = ["copy", "--episodes", "back-to-back"]
RESUMED = {
    "copy-dni": ["copy", "--trainer", "dni", "--threshold", "1.4"],
    "copy-mlp": ["copy", "--trainer", "dni", "--synthesizer", "mlp", "--threshold", "1.4"],
    "copy-shuffled": ["copy", "--control", "shuffled", "--threshold", "1.4"],
    "copy-ahead": ["copy", "--look-ahead", "3", "--threshold", "1.4"],
    "copy-bptt": ["copy", "--trainer", "bptt", "--threshold", "1.4"],
    "copy-recompute": ["copy", "--trainer", "bptt", "--recompute", "true", "--threshold", "1.4"],
    "copy-random": ["copy", "--trainer", "random", "--threshold", "1.4"],
    "copy-overlap": ["copy", "--trainer", "overlap", "--threshold", "1.4"],
    "copy-influence": ["copy", "--trainer", "influence", "--threshold", "1.4"],
    "copy-lru": ["copy", "--core", "lru", "--trainer", "influence", "--threshold", "1.4"],
    "repeat-copy": ["repeat-copy", "--trainer", "dni-aux", "--threshold", "1.4"],
    "back-to-back": [*BACK_TO_BACK, "--update-every", "3"],
    "back-to-back-random": [*BACK_TO_BACK, "--update-every", "2", "--trainer", "random"],
    "back-to-back-overlap": [*BACK_TO_BACK, "--update-every", "3", "--trainer", "overlap"],
    "back-to-back-ahead": [*BACK_TO_BACK, "--update-every", "2", "--look-ahead", "3"],
    "adding": ["adding", "--length", "9", "--log-every", "7", "--evaluate-every", "20"],
    "recall": ["recall", "--length", "9", "--log-every", "7", "--trainer", "overlap"],
    "copy-audit": ["copy", "--audit-every", "3", "--threshold", "1.4"],
    "recall-audit": ["recall", "--length", "9", "--log-every", "7", "--audit-every", "2"],
    "copy-memory": ["copy-memory", "--length", "5", "--count", "3", "--log-every", "7"],
    "mnist": ["mnist", "--data-dir", "mnist", "--log-every", "7", "--update-every", "2"],
    "lm": ["lm", "--trainer", "dni", "--log-every", "7"],
    "lm-random": ["lm", "--trainer", "random", "--log-every", "7"],
    "lm-overlap": ["lm", "--trainer", "overlap", "--history", "2", "--log-every", "7"],
}


class Crash(Exception):
    """What a machine does in the middle of a chunk stream."""


@pytest.mark.parametrize("at", ["after an update", "anywhere"])
@pytest.mark.parametrize("kind", RESUMED)
def test_resumed_is_never_stopped(kind, at, tmp_path, verse, monkeypatch):
    """Stop, resume, and everything is as if never stopped: also in the middle of an episode."""
    words = [*RESUMED[kind], *TINY]
    if words[0] == "lm":
        words += ["--corpus", verse, "--evaluations", "1"]
    if words[0] == "mnist":
        accept_tiny_mnist(monkeypatch)
        words[words.index("mnist", 1)] = str(write_tiny_mnist(tmp_path / "mnist"))
    run(*words, "--updates", "60", "--out", tmp_path / "straight")
    if at == "after an update":
        run(*words, "--updates", "23", "--out", tmp_path / "stopped")
    else:  # saved after every chunk, crashed after 47 of them
        step = Trainer.step

        def crash(self, *args, **named):
            step(self, *args, **named)
            if self.chunks == 48:
                raise Crash

        every = ["--checkpoint-seconds", "1e-9", "--out", tmp_path / "stopped"]
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "step", crash)
            with pytest.raises(Crash):
                run(*words, "--updates", "60", *every)
        saved = torch.load(tmp_path / "stopped" / "last.pt", weights_only=True)
        assert saved["trainer"]["steps"]["chunks"] == 47
    run(words[0], "--resume", tmp_path / "stopped", "--updates", "60")
    straight, resumed = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)
        for name in ("straight", "stopped")
    )
    a, b = rows_of(tmp_path / "straight"), rows_of(tmp_path / "stopped")
    for row in a + b:
        row.pop("seconds")
    if words[0] == "lm" and at == "after an update":
        # the stopped run validated once more, at its first end
        straight["progress"] = resumed["progress"] = {}
        for row in a + b:
            row.pop("valid_bpc", None)
    assert_same(without_times(straight), without_times(resumed))
    assert a == b


def test_a_prolonged_run_goes_on_validating(tmp_path, verse):
    out = tmp_path / "run"
    words = ["--corpus", verse, "--log-every", "5", "--evaluations", "4", *TINY]
    run("lm", *words, "--updates", "40", "--out", out)
    run("lm", "--resume", out, "--updates", "80")
    validated = [row["update"] for row in rows_of(out) if "valid_bpc" in row]
    assert validated == [10, 20, 30, 40, 60, 80]
    assert yaml.safe_load((out / "config.yaml").read_text())["updates"] == 80
    assert [update for update, _, _ in result_of(out)["valid_curve"]] == validated


def test_a_run_killed_at_once_can_be_resumed(tmp_path, monkeypatch):
    def crash(self, *args, **named):
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", crash)
        with pytest.raises(Crash):
            run("copy", "--updates", 20, "--out", tmp_path / "run", *TINY)
    run("copy", "--resume", tmp_path / "run")
    assert result_of(tmp_path / "run")["updates"] == 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(number, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "seqdni", "run", "copy", "--updates", "1000000"]
    child = subprocess.Popen(
        [*command, "--out", str(out), *TINY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(number)
    printed, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert f"seqdni run copy --resume {out}" in printed
    assert "Traceback" not in errors
    saved = torch.load(out / "last.pt", weights_only=True)
    updates = saved["trainer"]["steps"]["updates"]
    assert updates >= 10
    run("copy", "--resume", out, "--updates", updates + 15)
    assert result_of(out)["updates"] == updates + 15
    logged = [row["episodes"] for row in rows_of(out)]
    assert logged == [10.0 * k for k in range(1, len(logged) + 1)]


@pytest.mark.parametrize("poison", ["weight", "carry", "scale"])
@pytest.mark.parametrize("save_first", [False, True])
def test_a_diverging_run_keeps_the_last_good_checkpoint(
    poison, save_first, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    run("copy", "--updates", 30, "--out", out, *TINY)
    good = torch.load(out / "last.pt", weights_only=True)
    step = Trainer.step

    def poisoned(self, *args, **named):
        step(self, *args, **named)
        with torch.no_grad():
            where = {"weight": next(self.model.parameters()), "carry": self.carry[0]}
            where["scale"] = self.boundary.gradient_scale.square
            where[poison].fill_(math.nan)

    monkeypatch.setattr(Trainer, "step", poisoned)
    words = ["--checkpoint-seconds", "1e-9"] if save_first else []
    assert main(["run", "copy", "--resume", str(out), "--updates", "100", *words]) == 1
    error = capsys.readouterr().err
    assert "no longer finite" in error
    assert str(out / "last.pt") in error
    assert_same(good, torch.load(out / "last.pt", weights_only=True))


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    run("copy", "--updates", 30, "--out", out, *TINY)
    before = (out / "last.pt").read_bytes()

    sync, attempts = os.fsync, []

    def full(descriptor):
        if os.fstat(descriptor).st_size > 10_000:  # the checkpoint, the only large file
            attempts.append(descriptor)
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert main(["run", "copy", "--resume", str(out), "--updates", "60"]) == 1
    assert attempts
    message = f"seqdni: error: {out / 'last.pt'}: No space left on device\n"
    assert capsys.readouterr().err == message
    assert (out / "last.pt").read_bytes() == before
    assert not list(out.glob(".*part"))


@pytest.mark.parametrize(
    "options",
    [
        ["--synthesizer", "none", "--look-ahead", 4],
        ["--synthesizer", "rls", "--look-ahead", 2, "--control", "shuffled"],
        ["--synthesizer", "whitened", "--targets", "dense"],
        ["--synthesizer", "rls", "--targets", "dense", "--core", "gru"],
    ],
)
def test_the_synthesizers_of_text_stop_and_go_on(options, verse, tmp_path, capsys):
    """Look-ahead, dense targets and whitening, with the horizon logged and resumed bit for bit."""
    words = ["lm", "--corpus", verse, *options, *TINY, "--horizon-every", 10, "--log-every", 10]
    run(*words, "--updates", 40, "--out", tmp_path / "whole")
    run(*words, "--updates", 20, "--out", tmp_path / "parts")
    run("lm", "--resume", tmp_path / "parts", "--updates", 40)
    whole, parts = (
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert_same(whole["trainer"], parts["trainer"])
    rows = rows_of(tmp_path / "whole")
    assert all(-1 <= row["horizon_cosine"] <= 1 and row["horizon_steps"] >= 8 for row in rows)
    if options[1] == "none":
        assert {row["horizon_steps"] for row in rows} == {16}
        assert all(row["horizon_cosine"] > 0.9 for row in rows)
    capsys.readouterr()
    assert main(["horizon", str(tmp_path / "whole")]) == 0
    printed = capsys.readouterr().out
    assert "effective horizon:" in printed
    assert "state covariance: eigenvalues from" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["lm", "--synthesizer", "none", "--look-ahead", 0],
            "--synthesizer none without --look-ahead is plain tbptt",
        ),
        (["copy", "--synthesizer", "none"], "--synthesizer none without --look-ahead is plain"),
        (["copy", "--trainer", "bptt", "--look-ahead", 2], "--look-ahead has no effect here"),
        (["lm", "--train-fraction", 0.5], "--train-fraction has no effect here"),
        (["lm", "--warmup-chunks", 5], "--warmup-chunks has no effect here"),
        (["copy", "--targets", "dense", "--precision", "bfloat16"], "leave --precision at float32"),
        (
            ["copy", "--targets", "dense", "--core", "rnn"],
            "--targets dense is for --core lstm, gru or lru",
        ),
        (["copy", "--trainer", "influence", "--core", "rnn"], "is for one layer of --core lstm"),
        (["copy", "--trainer", "influence", "--layers", 2], "is for one layer of --core lstm"),
        (
            ["lm", "--trainer", "influence", "--hierarchy", 2],
            "--trainer influence is for one level",
        ),
        (["copy", "--core", "lru", "--layers", 2], "--core lru has one layer"),
        (
            ["copy", "--trainer", "influence", "--precision", "bfloat16"],
            "--trainer influence computes the core in float32",
        ),
        (
            ["copy", "--targets", "dense", "--trainer", "dni-aux"],
            "--targets dense needs --trainer dni",
        ),
        (["lm", "--trainer", "tbptt", "--look-ahead", 2], "--look-ahead has no effect here"),
    ],
)
def test_synthesizers_that_make_no_sense_are_refused(words, message, tmp_path, capsys):
    assert main(["run", *map(str, words), "--out", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
