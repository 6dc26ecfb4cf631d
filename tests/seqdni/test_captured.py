"""Captured chunks on the CPU, with a stand-in for the graph: they train as eager ones do."""

from __future__ import annotations

import copy

import captured_cases
import pytest
import torch
from captured_cases import CASES, RATE, SIZE, assert_same, chunks, train
from fake_graphs import FakeGraphs
from oracles import make_model
from torch import nn

from seqdni import (
    Boundary,
    Influence,
    Learner,
    LeastSquares,
    Overlap,
    SyntheticGradients,
    Trainer,
    squared_error,
)
from seqdni.captured import chunks as captured_chunks
from seqdni.synthesizers import least_squares


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(captured_chunks, "CudaGraphs", FakeGraphs)
    monkeypatch.setattr(least_squares, "PENDING", 0)  # as on a GPU


def build(case, capture=True):
    trainer = captured_cases.build(case, capture)
    if capture:
        trainer.captured._graphs.trainer = trainer
    return trainer


@pytest.mark.parametrize("case", CASES)
def test_captured_chunks_train_as_eager_ones_do(case):
    captured, eager = build(case), build(case, capture=False)
    train(captured, case, 0, 200)
    train(eager, case, 0, 200)
    assert captured.captured.replayed >= 40, captured.captured.eager
    assert captured.captured.replayed + captured.captured.eager.total() == 200
    assert_same(captured, eager)


STOP = 71  # in the middle of an episode


@pytest.mark.parametrize("case", ["mlp-endless", "aux", "whitened", "rls-episodes"])
def test_a_checkpoint_goes_on_with_graphs_and_without(case):
    never, stopped = build(case), build(case)
    train(never, case, 0, STOP + 39)
    train(stopped, case, 0, STOP)
    saved = copy.deepcopy(stopped.state_dict())
    train(stopped, case, STOP, STOP + 6)  # what was saved stays as it was
    for capture in (True, False):
        resumed = build(case, capture=capture)
        resumed.load_state_dict(copy.deepcopy(saved))
        train(resumed, case, STOP, STOP + 39)
        assert_same(resumed, never)


def test_a_checkpoint_is_that_of_an_eager_trainer():
    captured, eager = build("mlp"), build("mlp", capture=False)
    train(captured, "mlp", 0, 80)
    train(eager, "mlp", 0, 80)
    assert captured.captured.replayed
    ours, theirs = captured.state_dict(), eager.state_dict()
    for name in ("optimizer", "steps", "tokens"):
        assert str(ours[name]["param_groups"] if name == "optimizer" else ours[name]) == str(
            theirs[name]["param_groups"] if name == "optimizer" else theirs[name]
        )
    assert ours["synthetic"]["optimizer"]["param_groups"][0]["lr"] == RATE


def test_a_loaded_trainer_that_was_captured_uses_the_new_tensors():
    case = "mlp-endless"
    trainer, eager = build(case), build(case, capture=False)
    train(eager, case, 0, 70)
    train(trainer, case, 20, 90)  # graphs of other weights
    assert trainer.captured.graphs
    trainer.load_state_dict(copy.deepcopy(eager.state_dict()))
    assert trainer.captured.graphs == 0
    train(trainer, case, 70, 80)
    train(eager, case, 70, 80)
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
    train(captured, case, 0, 100)
    train(eager, case, 0, 100)
    reasons = dict(captured.captured.eager)
    assert captured.captured.replayed == 0
    why = "cannot be recorded: RuntimeError: operation not permitted when stream is capturing"
    (failed,) = [reason for reason in reasons if reason.startswith(why)]
    assert reasons[failed] > 30
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
    assert trainer.captured.eager[why] == 9
    assert trainer.boundary.synthesizer.calls == 8
    trainer.boundary.eval()  # it may compute anything when it only predicts, too
    trainer.step(chunks("endless", 1)[0])
    assert trainer.captured.eager[why] == 10


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


def test_a_checkpoint_can_be_used_twice():
    """What is trained from it does not change it, and not what is trained from it next."""
    case = "mlp-episodes"
    never, stopped = build(case), build(case)
    train(never, case, 0, 180)
    train(stopped, case, 0, 151)
    saved = stopped.state_dict()
    for capture in (True, False):
        resumed = build(case, capture)
        resumed.load_state_dict(saved)
        train(resumed, case, 151, 180)
        assert_same(resumed, never)


def test_graphs_from_before_do_not_train_what_is_frozen_now():
    case = "mlp-endless"
    captured, eager = build(case), build(case, capture=False)
    for trainer in (captured, eager):
        train(trainer, case, 0, 150)
        trainer.model.readout.requires_grad_(False)
        train(trainer, case, 150, 170)
    assert captured.captured.replayed > 30
    assert_same(captured, eager)
