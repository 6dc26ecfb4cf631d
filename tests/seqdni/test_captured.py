"""Captured chunks on the CPU, with a stand-in for the graph: they train as eager ones do.

Shapes: T steps of a chunk, B rows.
"""

from __future__ import annotations

import copy

import pytest
import torch
from fake_graphs import FakeGraphs
from oracles import HIDDEN, SYMBOLS, make_model
from torch import nn

from seqdni import (
    Boundary,
    Critic,
    Influence,
    Learner,
    LeastSquares,
    MLPSynthesizer,
    Overlap,
    SyntheticGradients,
    Trainer,
    Whitening,
    squared_error,
)
from seqdni.captured import chunks as captured_chunks
from seqdni.synthesizers import least_squares

ROWS, STEPS = 4, 4
SIZE = 2 * HIDDEN
SYNTHESIZERS = {
    "mlp": lambda: MLPSynthesizer(SIZE, (5,)),
    "aux": lambda: MLPSynthesizer(SIZE, (5,), aux=True),
    "whitened": lambda: MLPSynthesizer(
        SIZE, (5,), activation=nn.Tanh, whitening=Whitening(SIZE, refresh_every=40)
    ),
    "rls": lambda: LeastSquares(SIZE, solve_every=3),
    "critic": lambda: Critic(SIZE, classes=SYMBOLS),
    "none": lambda: None,
}
CASES = {
    # name: (synthesizer, stream, update_every, steps known ahead)
    "tbptt": (None, "rows", 1, 0),
    "tbptt-window": (None, "rows", 3, 0),
    "tbptt-endless": (None, "endless", 1, 0),
    "mlp": ("mlp", "rows", 1, 0),
    "mlp-endless": ("mlp", "endless", 2, 0),
    "mlp-episodes": ("mlp", "episodes", "episode", 0),
    "aux": ("aux", "rows", 1, 0),
    "whitened": ("whitened", "rows", 1, 0),
    "rls": ("rls", "rows", 1, 0),
    "rls-episodes": ("rls", "episodes", "episode", 0),
    "look-ahead": ("none", "rows", 1, 3),
    "look-ahead-endless": ("none", "endless", 1, 3),
    "look-ahead-mlp": ("mlp", "episodes", 1, 3),
    "critic": ("critic", "episodes", 1, 0),
}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(captured_chunks, "CudaGraphs", FakeGraphs)
    monkeypatch.setattr(least_squares, "PENDING", 0)  # as on a GPU


def build(case="mlp", capture=True, **learner):
    synthesizer, _, update_every, _ = CASES[case]
    model = make_model("lstm", 1)
    adam = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    credit = None
    if synthesizer is not None:
        torch.manual_seed(1)
        made = SYNTHESIZERS[synthesizer]()
        bound = None if made is None or synthesizer == "critic" else 1.0
        boundary = Boundary(made, bound=bound).to(torch.float64)
        own = list(boundary.parameters())
        descent = torch.optim.Adam(own, lr=0.01, fused=True) if own else None
        credit = SyntheticGradients(boundary, descent, clip=1.0 if own else None)
    settings = {"clip": 0.5, "update_every": update_every, **learner}
    trainer = Trainer(model, Learner(adam, **settings), credit, capture=capture)
    if capture:
        trainer.captured._graphs.trainer = trainer
    return trainer


def chunks(kind, count, seed=0):
    """Random chunks. In ``episodes`` all rows play in step, and the last chunk is shorter."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for k in range(count):
        steps = STEPS - 1 if kind == "episodes" and k % 3 == 2 else STEPS
        tokens = torch.randint(SYMBOLS, (steps + 1, ROWS), generator=g)
        if kind == "endless":
            made.append((tokens[:-1], tokens[1:], None, None))
            continue
        mask = torch.rand(steps, ROWS, generator=g) < 0.6
        reset = torch.zeros(steps + 1, ROWS, dtype=torch.bool)
        if kind == "rows":
            reset = torch.rand(steps + 1, ROWS, generator=g) < 0.1 * (k % 3)
            if made and made[-1][3] is not None:
                reset[0] = made[-1][3][-1]
        else:
            reset[0], reset[-1] = k % 3 == 0, k % 3 == 2
            mask &= k % 3 != 0
        made.append((tokens[:-1], tokens[1:], mask, reset))
    return made


def train(trainer, case, first, last):
    """Train on some chunks of the case's stream, with a learning rate that falls."""
    synthesizer, kind, _, ahead = CASES[case]
    stream = chunks(kind, last + 1)
    for k in range(first, last):
        for optimizer in trainer.optimizers()[:1]:
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + k / 50)
        arguments = {}
        if ahead:
            x, y, mask, reset = stream[k + 1]
            parts = (x[:ahead], y[:ahead], mask, reset)
            if mask is not None:
                parts = (x[:ahead], y[:ahead], mask[:ahead], reset[: ahead + 1])
            arguments["ahead"] = parts
        if synthesizer == "critic":
            critic = trainer.boundary.synthesizer
            answers = [critic.condition(each[1][:1]).double() for each in stream[k : k + 2]]
            arguments["condition"] = tuple(answers)
        trainer.step(stream[k], **arguments)


def assert_same(got, expected):
    torch.testing.assert_close(
        list(got.model.parameters()), list(expected.model.parameters()), rtol=1e-5, atol=1e-8
    )
    for a, b in zip(got.optimizers(), expected.optimizers(), strict=True):
        for x, y in zip(a.state.values(), b.state.values(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-9)
    if got.boundary is not None:
        ours, theirs = got.boundary.state_dict(), expected.boundary.state_dict()
        for name in ours.keys() - {"guard._extra_state"}:  # which only a CPU has a use for
            value = ours[name]
            torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-9)
    assert got.meter.read() == pytest.approx(expected.meter.read(), rel=1e-6)
    counts = lambda t: (t.chunks, t.updates, t.tokens, t._updater.window)  # noqa: E731
    assert counts(got) == counts(expected)


@pytest.mark.parametrize("case", CASES)
def test_captured_chunks_train_as_eager_ones_do(case):
    captured, eager = build(case), build(case, capture=False)
    train(captured, case, 0, 200)
    train(eager, case, 0, 200)
    assert captured.captured.replayed >= 40, captured.captured.eager
    assert captured.captured.replayed + captured.captured.eager.total() == 200
    assert_same(captured, eager)


@pytest.mark.parametrize("case", ["mlp-endless", "aux", "whitened", "rls-episodes"])
def test_a_checkpoint_goes_on_with_graphs_and_without(case):
    never, stopped = build(case), build(case)
    train(never, case, 0, 170)
    train(stopped, case, 0, 131)
    saved = copy.deepcopy(stopped.state_dict())
    train(stopped, case, 131, 140)  # what was saved stays as it was
    for capture in (True, False):
        resumed = build(case, capture=capture)
        resumed.load_state_dict(copy.deepcopy(saved))
        train(resumed, case, 131, 170)
        assert_same(resumed, never)


def test_a_checkpoint_is_that_of_an_eager_trainer():
    captured, eager = build("mlp"), build("mlp", capture=False)
    train(captured, "mlp", 0, 150)
    train(eager, "mlp", 0, 150)
    ours, theirs = captured.state_dict(), eager.state_dict()
    for name in ("optimizer", "steps", "tokens"):
        assert str(ours[name]["param_groups"] if name == "optimizer" else ours[name]) == str(
            theirs[name]["param_groups"] if name == "optimizer" else theirs[name]
        )
    assert ours["synthetic"]["optimizer"]["param_groups"][0]["lr"] == 0.01


def test_a_loaded_trainer_that_was_captured_uses_the_new_tensors():
    case = "mlp-endless"
    trainer, eager = build(case), build(case, capture=False)
    train(eager, case, 0, 140)
    train(trainer, case, 20, 160)  # graphs of other weights
    trainer.load_state_dict(copy.deepcopy(eager.state_dict()))
    assert trainer.captured.graphs == 0
    train(trainer, case, 140, 180)
    train(eager, case, 140, 180)
    assert_same(trainer, eager)


def test_a_scheduler_of_torch_changes_the_rate_of_a_graph():
    def run(capture):
        trainer = build("tbptt-endless", capture)
        schedule = torch.optim.lr_scheduler.ExponentialLR(trainer.learner.optimizer, 0.9)
        for chunk in chunks("endless", 40):
            trainer.step(chunk)
            schedule.step()
        return trainer

    captured, eager = run(True), run(False)
    assert captured.captured.replayed > 30
    torch.testing.assert_close(
        list(captured.model.parameters()), list(eager.model.parameters()), rtol=1e-5, atol=1e-8
    )


def test_a_recording_that_fails_leaves_an_eager_step_and_a_reason():
    case = "mlp-endless"
    captured, eager = build(case), build(case, capture=False)
    captured.captured._graphs.refuse = lambda: True
    train(captured, case, 0, 150)
    train(eager, case, 0, 150)
    reasons = dict(captured.captured.eager)
    assert captured.captured.replayed == 0
    why = "cannot be recorded: RuntimeError: operation not permitted when stream is capturing"
    assert reasons[why] > 30
    assert_same(captured, eager)


@pytest.mark.parametrize(
    ("credit", "why"),
    [
        (lambda: Overlap(1), "overlapping chunks"),
        (lambda: Influence(), "the influence of the parameters on the state"),
        (
            lambda: SyntheticGradients(
                Boundary(LeastSquares(SIZE)).to(torch.float64), targets="dense"
            ),
            "dense targets",
        ),
    ],
    ids=["overlap", "influence", "dense"],
)
def test_what_no_graph_can_compute_runs_from_python(credit, why):
    def run(capture):
        model = make_model("lstm", 1)
        adam = torch.optim.Adam(model.parameters(), lr=0.01)
        trainer = Trainer(model, Learner(adam), credit(), capture=capture)
        for chunk in chunks("rows", 6):
            trainer.step(chunk)
        return trainer

    captured, eager = run(True), run(False)
    assert captured.captured.eager == {why: 6}
    torch.testing.assert_close(list(captured.model.parameters()), list(eager.model.parameters()))


def test_a_synthesizer_of_ones_own_runs_from_python():
    class Own(nn.Module):
        condition_size = 0

        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, state_BS, condition_BK=None):
            return torch.full_like(state_BS, 0.01 * self.calls)

        def loss(self, state_BS, target_BS, **_):
            self.calls += 1
            return state_BS.new_zeros(())

    model = make_model("lstm", 1)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = Trainer(model, Learner(adam), SyntheticGradients(Boundary(Own())), capture=True)
    for chunk in chunks("endless", 9):
        trainer.step(chunk)
    (why,) = [reason for reason in trainer.captured.eager if "capture_key" in reason]
    assert trainer.captured.eager[why] == 8
    assert trainer.boundary.synthesizer.calls == 8


def test_another_stream_starts_anew_with_the_same_graphs():
    captured, eager = build("tbptt-endless"), build("tbptt-endless", capture=False)
    for trainer in (captured, eager):
        for _ in range(5):
            trainer.carry = None
            train(trainer, "tbptt-endless", 0, 6)
    assert captured.captured.graphs == 2  # with and without a carry
    assert_same(captured, eager)


def test_settings_that_change_get_a_graph_of_their_own():
    captured, eager = build("tbptt-endless"), build("tbptt-endless", capture=False)
    for trainer in (captured, eager):
        train(trainer, "tbptt-endless", 0, 10)
        trainer.learner.clip = 0.01
        trainer.learner.optimizer.param_groups[0]["weight_decay"] = 0.1
        train(trainer, "tbptt-endless", 10, 20)
    assert captured.captured.graphs == 2
    assert_same(captured, eager)


def test_an_optimizer_that_no_graph_can_hold_is_refused():
    model = make_model("lstm", 1)
    learner = Learner(torch.optim.SGD(model.parameters(), lr=0.1), loss=squared_error)
    with pytest.raises(ValueError, match="got SGD, expected an optimizer that a CUDA graph"):
        Trainer(model, learner, capture=True)


def test_without_a_gpu_it_is_refused(monkeypatch):
    monkeypatch.undo()
    model = make_model("lstm", 1)
    learner = Learner(torch.optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match="capture=True needs a model on a CUDA device"):
        Trainer(model, learner, capture=True)
