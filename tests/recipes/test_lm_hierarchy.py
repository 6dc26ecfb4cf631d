"""Recipe ``lm`` with ``--hierarchy``: cores above the one that reads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from runs import TINY, VERSE, assert_same, result_of, rows_of, run

from seqdni import LeastSquares, controls, cross_entropy, unroll
from seqdni.corpora import TokenStream
from seqdni.recipes.cli import main
from seqdni.recipes.lm import hierarchy as levels
from seqdni.recipes.lm import model as language_model
from seqdni.recipes.lm.model import build, loss_of, score
from seqdni.recipes.lm.options import Options, prepare

LEVELS = ["--hierarchy", "2", "--period", "4", "--chunk-len", "4", "--slow-chunk-len", "2"]


@pytest.fixture
def verse(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDNI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "verse.txt"
    path.write_text(VERSE)
    return str(path)


def made(symbols: int, **changes):
    """The options, and the model that they ask for."""
    options = Options(hidden=8, batch=3, chunk_len=4, device="cpu", hierarchy=2, **changes)
    prepare(options)
    return options, build(options, symbols)


@pytest.mark.parametrize("trainer", ["tbptt", "dni", "joint"])
def test_each_way_learns_and_is_asked_like_any_other_run(trainer, verse, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["--corpus", verse, *LEVELS, "--trainer", trainer, "--updates", 150, "--lr", "1e-2"]
    run("lm", *words, "--log-every", 30, "--out", out, *TINY)
    result = result_of(out)
    assert 0 < result["valid_bpc"] < 0.8 * math.log2(len(set(VERSE)))
    assert ("message_loss_0" in rows_of(out)[-1]) is False  # nothing is guessed here
    capsys.readouterr()
    assert main(["eval", str(out)]) == 0
    assert f"{result['test_bpc']:.4f}" in capsys.readouterr().out
    assert main(["sample", str(out), "--length", "30", "--prompt", "the quick"]) == 0
    assert len(capsys.readouterr().out.strip()) > 20
    assert main(["horizon", str(out)]) == 1
    assert "--hierarchy has several" in capsys.readouterr().err


def test_guessed_gradients_of_messages_are_told(verse, tmp_path):
    out = tmp_path / "run"
    words = ["--corpus", verse, *LEVELS, "--synthesizer", "rls", "--look-ahead", "0"]
    run("lm", *words, "--updates", 60, "--log-every", 30, "--out", out, *TINY)
    assert rows_of(out)[-1]["message_loss_0"] > 0
    assert rows_of(out)[-1]["synth_loss"] > 0


def test_the_slow_core_matters_and_the_score_is_that_of_one_row(monkeypatch):
    _, model = made(7, period=3, trainer="tbptt")
    tokens = np.random.default_rng(0).integers(0, 7, 64 * 50 + 1).astype(np.uint8)
    with torch.no_grad():
        model.hierarchy.levels[1].core.rnn.weight_ih_l0.mul_(20)
    row, answers = (
        torch.from_numpy(part.astype(np.int64))[:, None] for part in (tokens[:-1], tokens[1:])
    )
    said = unroll(model, row, model.initial_state(1))[0]
    expected = cross_entropy(said, answers).mean().item()
    assert score(model, tokens, 7) == pytest.approx(expected, rel=1e-6)  # in some rows, aligned
    monkeypatch.setattr(language_model, "EVALUATION_ROWS", 1)
    assert score(model, tokens, 7) == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        model.hierarchy.levels[1].core.rnn.weight_ih_l0.zero_()
    assert (said - unroll(model, row, model.initial_state(1))[0]).abs().max() > 1e-3


def test_each_pass_over_the_text_is_a_stream_of_its_own():
    """A pass of 22 steps has a chunk of 2; without that, chunks and ticks would go out of step."""
    options, model = made(7, period=4, slow_chunk_len=2)
    trainer = levels.build_trainer(options, model, loss_of(model))
    tokens = np.random.default_rng(0).integers(0, 7, 3 * 22 + 1).astype(np.uint8)
    stream = TokenStream(tokens, 3, 4)
    steps, finished = [], 0
    for chunk in levels.as_hierarchy_chunks(stream, trainer):
        before, fresh = trainer.stream_steps, trainer.carry is None
        finished += fresh
        trainer.step(chunk, ahead=stream.peek(4))
        steps.append((before, len(chunk.inputs)))
        if finished == 3:
            break
    passed = [(0, 4), (4, 4), (8, 4), (12, 4), (16, 4), (20, 2)]
    assert steps == [*passed, *passed, (0, 4)]
    # Of 5 ticks a pass, 2 and 2 and, when the pass is over, the last.
    assert trainer.updates_of_levels == [13, 6]


def test_the_trainer_is_as_the_options_say():
    settings = {"lr": 0.02, "clip": 0.7, "warmup_chunks": 3, "synthesizer": "rls", "bound": 2.0}
    settings |= {"grad_scale": 0.3, "control": "shuffled", "slow_chunk_len": 5, "period": 8}
    for look_ahead in (0, 4):
        options, model = made(7, **settings, look_ahead=look_ahead)
        trainer = levels.build_trainer(options, model, loss_of(model))
        fast, slow = trainer.trainings
        assert (fast.chunk_len, slow.chunk_len) == (None, 5)
        for learner in trainer.learners:
            assert (learner.loss_scale, learner.clip) == (1 / 4, 0.7)
            assert learner.optimizer.param_groups[0]["lr"] == 0.02
        guessed = [fast.credit, slow.credit, *([] if look_ahead else [fast.message_credit])]
        for synthetic in guessed:
            boundary = synthetic.boundary
            assert synthetic.warmup_chunks == 3
            assert (boundary.grad_scale, boundary.bound) == (0.3, 2.0)
            assert boundary.control is controls.shuffled
            assert isinstance(boundary.synthesizer, LeastSquares)
        if look_ahead:
            assert fast.message_credit.boundary.synthesizer is None
    options, model = made(7, trainer="joint", period=4, slow_chunk_len=3)
    trainer = levels.build_trainer(options, model, loss_of(model))
    assert [learner.loss_scale for learner in trainer.learners] == [1 / 12, 1 / 12]
    assert trainer.window == levels.window(options) == 12


def test_dni_looks_ahead_and_every_level_follows_the_schedule(verse, tmp_path):
    words = ["--corpus", verse, *LEVELS, "--updates", 40, "--log-every", 20, *TINY]
    told = {}
    for name, more in {
        "tbptt": ["--trainer", "tbptt"],
        "ahead-2": ["--look-ahead", "2"],
        "ahead-4": ["--schedule", "cosine"],
    }.items():
        run("lm", *words, *more, "--out", tmp_path / name)
        told[name] = rows_of(tmp_path / name)[0]["train_bits"]
    assert len(set(told.values())) == 3
    saved = torch.load(tmp_path / "ahead-4" / "last.pt", weights_only=True)["trainer"]
    rates = [steps["param_groups"][0]["lr"] for steps in saved["optimizers"]]
    assert rates[0] == rates[1] < 1e-3


def test_parameters_are_those_of_two_cores():
    options, model = made(50, slow_hidden=5)
    fast = 4 * 8 * (50 + 5 + 8 + 2) + 8 * 50 + 50
    slow = 4 * 5 * (8 + 5 + 2)
    assert sum(p.numel() for p in model.parameters()) == fast + slow
    assert levels.slow_width(options) == 5
    assert levels.slow_width(made(50)[0]) == 1  # an eighth


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer", "joint"], "--trainer joint is for several levels; add --hierarchy 2"),
        (["--period", "4"], "--period has no effect here; it needs --hierarchy 2"),
        (["--hierarchy", "2", "--trainer", "overlap"], "with --hierarchy: dni, tbptt or joint"),
        (["--hierarchy", "2", "--horizon-every", "2"], "--horizon-every has no effect here"),
        (["--hierarchy", "0"], "--hierarchy is 0, expected at least 1"),
        (["--hierarchy", "2", "--period", "0"], "--period is 0, expected at least 1"),
        (["--hierarchy", "2", "--chunk-len", "16"], "--period 8 is no multiple of --chunk-len 16"),
        (["--hierarchy", "3"], "add --synthesizer rls for the levels above it"),
        (
            ["--hierarchy", "2", "--trainer", "joint", "--slow-chunk-len", "1"],
            "would learn nothing; give at least 2",
        ),
        (
            ["--hierarchy", "2", "--trainer", "joint", "--chunk-len", "6"],
            "one graph of 64 steps, no multiple of --chunk-len 6",
        ),
        (
            ["--hierarchy", "2", "--period", "500", "--chunk-len", "4"],
            "a chunk of the slowest level 4000",
        ),
    ],
)
def test_options_that_do_not_go_together(words, message, verse, capsys):
    assert main(["run", "lm", "--corpus", verse, *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--update-every", "2", "--precision", "bfloat16"],
        ["--synthesizer=mlp", "--look-ahead=0", "--updates-per-chunk=2", "--targets=dense"],
        ["--synthesizer", "rls", "--train-fraction", "0.5"],
    ],
    ids=["windows", "dense targets", "half of the chunks"],
)
def test_what_one_level_can_levels_can_too(words, verse, tmp_path):
    words = ["--corpus", verse, *LEVELS, *words, *TINY]
    run("lm", *words, "--updates", 20, "--out", tmp_path / "straight")
    run("lm", *words, "--updates", 9, "--out", tmp_path / "stopped")
    run("lm", "--resume", tmp_path / "stopped", "--updates", 20)
    a, b = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["trainer"]
        for name in ("straight", "stopped")
    )
    assert_same(a, b)
