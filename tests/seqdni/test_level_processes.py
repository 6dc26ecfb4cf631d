"""Levels in processes of their own train as in one process, bit for bit; the processes are real."""

from __future__ import annotations

import ast

import level_cases
import pytest
import torch
import torch.distributed as dist
from hierarchies import CONTEXT, learning, make_hierarchy, make_stream
from launched import run_program
from runs import assert_same
from torch import nn

from seqdni import (
    DataParallel,
    HierarchyTrainer,
    TorchCore,
    train_levels_in_processes,
)

SUMS_OF_SEVERAL_LEVELS = ("loss_sum", "synth_loss")  # they are added up in another order


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process came to, and the folder with the errors."""
    out = tmp_path_factory.mktemp("levels")
    statuses, errors = run_program(level_cases.__file__, level_cases.PROCESSES, out)
    assert statuses == [0, 7, 0], errors
    states = [
        torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(level_cases.PROCESSES)
    ]
    return states, out


@pytest.mark.parametrize("number", range(len(level_cases.CASES)), ids=map(str, level_cases.CASES))
def test_each_process_gets_what_one_process_trains_bit_for_bit(number, found):
    case = level_cases.CASES[number]
    alone = level_cases.trained_alone(case).state_dict()
    expected = alone.pop("meter")
    for rank in range(len(level_cases.PERIODS[case.periods])):
        state = dict(found[0][rank][number])
        sums = state.pop("meter")
        assert_same(state, alone)
        assert sums.keys() == expected.keys()
        for name, value in sums.items():
            if name in SUMS_OF_SEVERAL_LEVELS:
                assert float(value) == pytest.approx(float(expected[name]), rel=1e-12)
            else:
                assert value == expected[name], name


def test_staleness_changes_what_is_learned():
    states = [
        level_cases.trained_alone(level_cases.CASES[1]._replace(staleness=staleness)).state_dict()
        for staleness in (0, 2)
    ]
    assert not all(map(torch.equal, *(state["model"].values() for state in states)))


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_a_stale_context_is_that_of_so_many_ticks_before_and_its_gradient_goes_there(staleness):
    """Tick by tick, from what the levels say to each other; nothing is learned meanwhile."""
    model = make_hierarchy((1, 2), contexts=True)
    stream = make_stream(model, 20, level_cases.ROWS, resets=True)
    stream.should_reset[3, 0] = True
    trainer = HierarchyTrainer(model, learning(model))
    for each in trainer.optimizers():
        each.step = lambda *_: None
    lowest, slow = trainer.levels
    trainer.work = level_cases.Delayed(trainer.levels, staleness)
    given, used, sent, arrived = [torch.zeros(3, CONTEXT).double()], [], {}, {}

    def receive(messages, inner=slow.receive):
        inner(messages)
        given.append(slow.context)

    def learn(x, chunk, seen, *rest, inner=lowest._learn):
        used.append(seen[0])
        inner(x, chunk, seen, *rest)

    def take(grads, expired, inner=slow.receive_context_gradients):
        inner(grads, expired)
        arrived.update({tick: arrived.get(tick, 0) + grad for tick, grad in grads.items()})

    def send(grads, expired, inner=lowest.above.receive_context_gradients):
        sent.update(grads)
        inner(grads, expired)

    slow.receive, lowest._learn, slow.receive_context_gradients = receive, learn, take
    lowest.above.receive_context_gradients = send
    for chunk in stream.chunks([2] * 10):
        trainer.step(chunk)
    restarts = stream.should_reset
    expected = {}
    for n, seen in enumerate(used):
        tick = max(n - staleness, 0)
        old = restarts[2 * tick : 2 * n].any(0)[:, None]
        assert torch.equal(seen, given[tick].masked_fill(old, 0.0)), n
        if tick:
            expected[tick] = expected.get(tick, 0) + sent[n].masked_fill(old, 0.0)
    assert expected.keys() == arrived.keys()
    for tick, grad in expected.items():
        assert torch.equal(grad, arrived[tick])


def test_a_process_that_ends_is_named(found):
    assert errors_of(found, 0)["lost"].startswith(
        "ProcessEnded: process 1, which works level 1, has ended; its message says why"
    )


def test_processes_that_got_different_chunks_are_told_so(found):
    assert errors_of(found, 0)["different"].startswith(
        "ValueError: the processes have different chunks or batches (checksums)"
    )


def errors_of(found, rank):
    """The errors that a process has written, by what went wrong."""
    return ast.literal_eval((found[1] / f"{rank}.txt").read_text())


def test_what_processes_cannot_run_is_refused(tmp_path):
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = make_hierarchy((1, 2), contexts=False)
        trainer = HierarchyTrainer(model, learning(model), parallel=DataParallel())
        with pytest.raises(ValueError, match="each process trains all levels on rows of its own"):
            train_levels_in_processes(trainer, [])
        trainer = HierarchyTrainer(model, learning(model), "joint")
        with pytest.raises(ValueError, match="'joint' is one graph over all levels"):
            train_levels_in_processes(trainer, [])
        trainer = HierarchyTrainer(model, learning(model))
        with pytest.raises(ValueError, match="got 1 processes for 2 levels"):
            train_levels_in_processes(trainer, [])
        with pytest.raises(ValueError, match="staleness is -1, expected a whole number >= 0"):
            train_levels_in_processes(trainer, [], staleness=-1)
        trainer.levels[0].level.core = TorchCore(nn.LSTM(3, 4, num_layers=2, dropout=0.5).double())
        with pytest.raises(ValueError, match="level 0 has dropout"):
            train_levels_in_processes(trainer, [])
    finally:
        dist.destroy_process_group()
