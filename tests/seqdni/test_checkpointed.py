"""Recomputed activations: the gradient of full BPTT in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from oracles import (
    COMPILED,
    KINDS,
    SYMBOLS,
    assert_close,
    full_bptt,
    gradients,
    make_model,
    make_stream,
    make_trainer,
    never_update,
    one_episode,
    split,
)
from torch import nn
from torch.profiler import ProfilerActivity, profile

from seqdni import (
    Checkpointed,
    OneHot,
    SequenceModel,
    TorchCore,
    leaves,
    pack,
    unroll,
    whole_episodes,
)
from seqdni.cores.base import pieces

cores = pytest.mark.parametrize("kind", [*KINDS, *COMPILED])
depths = pytest.mark.parametrize("layers", [1, 2])
restarts = pytest.mark.parametrize("resets", [False, True], ids=["endless", "resets"])
STEPS, ROWS = 12, 4


@cores
@depths
@restarts
@pytest.mark.parametrize("steps", [1, 3, 5, 12, 20])
def test_checkpointed_is_full_bptt(kind, layers, resets, steps):
    model = make_model(kind, layers)
    stream = make_stream(STEPS, ROWS, resets)
    trainer = never_update(Checkpointed(copy.deepcopy(model), steps))
    trainer.step(stream)
    assert_close(gradients(trainer.model), full_bptt(model, stream))


class InPieces(nn.Module):
    """What Checkpointed runs, keeping everything."""

    def __init__(self, core, steps):
        super().__init__()
        self.core, self.steps = core, steps
        self.initial_state = core.initial_state

    def unroll(self, x, state, should_reset):
        outputs = []
        for piece, reset in pieces(x, should_reset, self.steps):
            y, state = unroll(self.core, piece, state, reset)
            outputs.append(y)
        return torch.cat(outputs), state


@cores
@restarts
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_recomputing_changes_no_bit(kind, resets, dtype):
    stream = make_stream(STEPS, ROWS, resets)
    ends = []
    for wrapper in (Checkpointed, InPieces):
        trainer = never_update(wrapper(make_model(kind, 2, dtype), 5))
        trainer.step(stream)
        ends.append([*gradients(trainer.model), *leaves(trainer.carry)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_one_piece_is_the_bare_core_bit_for_bit():
    stream = make_stream(STEPS, ROWS, resets=False)
    bare, wrapped = make_model("lstm", 1), Checkpointed(make_model("lstm", 1), STEPS)
    for model in (bare, wrapped):
        never_update(model).step(stream)
    assert all(torch.equal(a, b) for a, b in zip(gradients(bare), gradients(wrapped), strict=True))


def test_dropout_draws_the_same_numbers_again():
    stream = make_stream(STEPS, ROWS, resets=False)
    ends = []
    for wrapper in (Checkpointed, InPieces):
        torch.manual_seed(0)
        rnn = nn.LSTM(SYMBOLS, 6, num_layers=2, dropout=0.5)
        model = SequenceModel(OneHot(SYMBOLS), TorchCore(rnn), nn.Linear(6, SYMBOLS)).double()
        trainer = never_update(wrapper(model, 4))
        torch.manual_seed(1)
        trainer.step(stream)
        ends.append([*gradients(model), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_checkpointed_trains_on_whole_episodes():
    stream = one_episode(STEPS, ROWS)
    ends = []
    for wrapped in (False, True):
        model = make_model("lstm", 1)
        trainer = make_trainer(Checkpointed(model, 3) if wrapped else model, "tbptt", clip=0.5)
        for episode in whole_episodes(split(stream, [3, 3, 3, 3]) * 3):
            trainer.step(episode)
        assert trainer.updates == 3
        ends.append([p.detach() for p in model.parameters()])
    assert_close(*ends)


def peak_bytes(step):
    """Peak of what one call allocates, above what was allocated before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def test_checkpointed_memory_is_that_of_a_piece():
    def peak(length, steps):
        torch.manual_seed(0)
        core = TorchCore(nn.LSTM(SYMBOLS, 32))
        model = SequenceModel(OneHot(SYMBOLS), core, nn.Linear(32, SYMBOLS))
        trainer = never_update(model if steps is None else Checkpointed(model, steps))
        stream = make_stream(length, 16, resets=False)
        trainer.step(stream)
        return peak_bytes(lambda: trainer.step(stream))

    bare, checkpointed = peak(256, None), peak(256, 16)
    assert checkpointed < bare / 3
    # what the episode adds is its outputs and a state a piece, not its activations
    assert peak(256, 16) - peak(128, 16) < (bare - peak(128, None)) / 3


def test_checkpointed_without_gradients_is_the_bare_core():
    model = make_model("gru", 1)
    inputs, _, _, should_reset = make_stream(STEPS, ROWS, resets=True)
    with torch.no_grad():
        expected, end = unroll(model, inputs, model.initial_state(ROWS), should_reset)
        wrapped = Checkpointed(model, 5)
        got, wrapped_end = unroll(wrapped, inputs, wrapped.initial_state(ROWS), should_reset)
    assert torch.equal(got, expected)
    assert torch.equal(pack(end), pack(wrapped_end))


MODEL = make_model("gru", 1)
MISTAKES = {"piece of 0": (lambda: Checkpointed(MODEL, 0), "steps is 0")}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_clear_error(mistake):
    make, expected = MISTAKES[mistake]
    with pytest.raises(ValueError, match=expected):
        make()
