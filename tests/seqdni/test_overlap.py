"""Overlapping chunks: how far a gradient reaches back, and where it must not."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from oracles import (
    COMPILED,
    KINDS,
    assert_close,
    full_bptt,
    gradients,
    make_model,
    make_stream,
    make_trainer,
    never_update,
    reference_loss,
    split,
)
from torch import nn

from seqdni import TorchCore, leaves, unroll

cores = pytest.mark.parametrize("kind", [*KINDS, *COMPILED])
depths = pytest.mark.parametrize("layers", [1, 2])
restarts = pytest.mark.parametrize("resets", [False, True], ids=["endless", "resets"])
STEPS, ROWS = 12, 4


@cores
@depths
@restarts
@pytest.mark.parametrize("sizes", [[3] * 4, [3, 1, 4, 2, 2], [1] * STEPS], ids=str)
def test_a_history_of_everything_is_full_bptt(kind, layers, resets, sizes):
    model = make_model(kind, layers)
    stream = make_stream(STEPS, ROWS, resets)
    trainer = never_update(copy.deepcopy(model), history=len(sizes))
    for chunk in split(stream, sizes):
        trainer.step(chunk)
    assert_close(gradients(trainer.model), full_bptt(model, stream))


@cores
@restarts
@pytest.mark.parametrize("history", [1, 2])
def test_each_chunk_reaches_back_through_its_history(kind, resets, history):
    """Chunk by chunk: the loss of the new steps, from the state ``history`` chunks before."""
    model = make_model(kind, 2)
    stream, size = make_stream(STEPS, ROWS, resets), 3
    trainer = never_update(copy.deepcopy(model), history=history)
    by_hand = copy.deepcopy(model)
    for k, chunk in enumerate(split(stream, [size] * 4)):
        trainer.step(chunk)
        t, first = k * size, max(0, k - history) * size
        inputs, targets, mask, reset = split(stream, [first, t + size - first, STEPS - t - size])[1]
        before = None if stream[3] is None else stream[3][: first + 1]
        with torch.no_grad():
            state = model.initial_state(ROWS)
            if first:
                _, state = unroll(model, stream[0][:first], state, before)
        scored = (torch.arange(first, t + size) >= t)[:, None] & mask
        (reference_loss(by_hand, (inputs, targets, scored, reset), state) / ROWS).backward()
    assert_close(gradients(trainer.model), gradients(by_hand))


@cores
@restarts
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_history_is_tbptt_bit_for_bit(kind, resets, dtype):
    chunks = split(make_stream(STEPS, ROWS, resets), [3, 1, 4, 2, 2]) * 2
    ends = []
    for options in ({}, {"history": 0}):
        trainer = make_trainer(make_model(kind, 1, dtype), "tbptt", **options)
        for chunk in chunks:
            trainer.step(chunk)
        ends.append([*trainer.model.parameters(), *leaves(trainer.carry)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_reset_row_gets_no_gradient_from_before():
    """Row 0 restarts before the second chunk, on its own: what it saw before does not matter."""

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.core = TorchCore(nn.GRU(1, 3))
            self.scale = nn.Parameter(torch.ones(1, 2, 1))

        def initial_state(self, batch_size):
            return self.core.initial_state(batch_size)

        def forward(self, x, state):
            return self.core(x * self.scale, state)

    torch.manual_seed(0)
    x, targets = torch.randn(3, 2, 1), torch.zeros(3, 2, dtype=torch.long)
    reset = torch.zeros(4, 2, dtype=torch.bool)
    reset[0, 0] = True
    nothing, later = torch.zeros(3, 2, dtype=torch.bool), torch.zeros(3, 2, 1)
    for resets, reached in ((None, [True, True]), (reset, [False, True])):
        trainer = never_update(Watched(), history=1)
        trainer.step((x, targets, nothing, None))
        trainer.step((later, targets, None, resets))
        assert (trainer.model.scale.grad.flatten() != 0).tolist() == reached


def test_an_unscored_chunk_is_run_once_and_counted_once():
    calls = []

    class Counted(nn.Module):
        def __init__(self, core):
            super().__init__()
            self.core = core
            self.initial_state = core.initial_state

        def forward(self, x, state):
            calls.append(len(x))
            return self.core(x, state)

    inputs, targets, _, _ = make_stream(STEPS, ROWS, resets=False)
    trainer = never_update(Counted(make_model("gru", 1)), history=2)
    nothing = torch.zeros(3, ROWS, dtype=torch.bool)
    for chunk, mask in zip(
        split((inputs, targets, None, None), [3] * 4), [nothing, nothing, None, None], strict=True
    ):
        trainer.step((*chunk[:2], mask, None))
    assert calls == [3, 3, 9, 9]
    assert trainer.tokens == STEPS * ROWS
    assert trainer.meter.read()["scored"] == 6 * ROWS


def test_another_stream_starts_without_a_past():
    chunks = split(make_stream(STEPS, ROWS, resets=False), [6, 6])
    fresh, used = (never_update(make_model("gru", 1), history=2) for _ in range(2))
    fresh.step(chunks[0])
    used.step(chunks[1])
    used.carry = None
    used.model.zero_grad()
    used.step(chunks[0])
    assert_close(gradients(used.model), gradients(fresh.model))


@cores
@pytest.mark.parametrize("update_every", [1, 3])
@pytest.mark.parametrize("stop", [1, 4, 5])
def test_overlap_resumed_is_never_stopped(kind, update_every, stop):
    chunks = split(make_stream(STEPS, ROWS, resets=True), [3, 1, 4, 2, 2]) * 2
    options = {"update_every": update_every, "clip": 0.5, "history": 2}
    straight, stopped = (make_trainer(make_model(kind, 1), "tbptt", **options) for _ in range(2))
    for chunk in chunks:
        straight.step(chunk)
    for chunk in chunks[:stop]:
        stopped.step(chunk)
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = make_trainer(make_model(kind, 1, seed=99), "tbptt", **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for chunk in chunks[stop:]:
        resumed.step(chunk)
    ends = [[*t.model.parameters(), *leaves(t.carry)] for t in (straight, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert straight.updates == resumed.updates > 0


def test_a_longer_history_does_not_fit():
    chunks = split(make_stream(STEPS, ROWS, resets=False), [3] * 4)
    longer, shorter = (never_update(make_model("gru", 1), history=n) for n in (3, 2))
    for chunk in chunks:
        longer.step(chunk)
    with pytest.raises(ValueError, match="kept 3 chunks, this one keeps 2"):
        shorter.load_state_dict(longer.state_dict())


MODEL = make_model("gru", 1)
MISTAKES = {
    "future": (lambda: never_update(MODEL, history=-1), "history is -1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_clear_error(mistake):
    make, expected = MISTAKES[mistake]
    with pytest.raises(ValueError, match=expected):
        make()
