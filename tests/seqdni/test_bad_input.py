"""Mistakes that users of PyTorch make: each simply works, or is one clear error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mistakes
import numpy as np
import pytest
import torch
from hierarchies import make_hierarchy
from hierarchies import make_stream as hierarchy_stream
from mistakes import SIZE, trainer
from oracles import SYMBOLS, make_model, make_stream, make_trainer, split
from torch import nn
from trainers import flat_trainer, flat_training

from seqdni import (
    Boundary,
    HierarchyTrainer,
    LeastSquares,
    MLPSynthesizer,
    OneHot,
    SequenceModel,
    TorchCore,
    Trainer,
    bootstrap_term,
    cut,
    leaves,
    map_state,
    pack,
    squared_error,
    state_size,
    target_grad,
    unpack,
)


@pytest.fixture(scope="module")
def errors():
    """What a user gets, in a process without the checks of annotations."""
    path = os.pathsep.join([str(Path(mistakes.__file__).parent), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, mistakes.__file__],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", mistakes.REFUSED)
def test_a_mistake_is_one_clear_error(name, errors):
    kind, text = errors[name]
    assert kind in ("ValueError", "TypeError", "CorpusError"), f"{kind}: {text}"
    assert re.search(mistakes.REFUSED[name][1], text), text
    assert "\n" not in text


# --- What simply works


def trained(chunks, **options):
    t = make_trainer(make_model("lstm", 1, torch.float32), "dni", **options)
    for chunk in chunks:
        t.step(chunk)
    return [p.detach() for p in t.model.parameters()], t.meter.read()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True)) and a[1] == b[1]


CHUNKS = split(make_stream(16, 4, resets=True), [4] * 4)
OTHER_TYPES = [torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", OTHER_TYPES, ids=str)
def test_masks_of_any_type_are_masks(dtype):
    others = [(x, y, mask.to(dtype), reset.to(dtype)) for x, y, mask, reset in CHUNKS]
    assert same(trained(CHUNKS), trained(others))


def hierarchy_trained(change):
    """Weights and sums of a hierarchy after a stream whose chunks are changed on the way in."""
    hierarchy = make_hierarchy((1, 2), contexts=True)
    fast = Boundary(LeastSquares(3, solve_every=1).double())
    learners = [
        flat_training(torch.optim.Adam(hierarchy.levels[0].parameters()), message_boundary=fast),
        flat_training(torch.optim.Adam(hierarchy.levels[1].parameters()), chunk_len=2),
    ]
    t = HierarchyTrainer(hierarchy, learners)
    for chunk in hierarchy_stream(hierarchy, 16, 3, resets=True).chunks([4] * 4):
        t.step(change(chunk._replace(conditions=None)))
    return [p.detach() for p in hierarchy.parameters()], t.meter.read()


@pytest.mark.parametrize("dtype", OTHER_TYPES, ids=str)
def test_masks_of_a_hierarchy_are_masks_too(dtype):
    def other_type(chunk):
        answers = [(targets, mask.to(dtype)) for targets, mask in chunk.answers]
        return chunk._replace(answers=answers, should_reset=chunk.should_reset.to(dtype))

    assert same(hierarchy_trained(lambda chunk: chunk), hierarchy_trained(other_type))


def test_numpy_arrays_are_tensors():
    arrays = [tuple(np.asarray(field) for field in chunk) for chunk in CHUNKS]
    assert same(trained(CHUNKS), trained(arrays))


def test_a_pair_is_a_chunk():
    pairs = [(x, y) for x, y, _, _ in CHUNKS]
    assert same(trained([(x, y, None, None) for x, y in pairs]), trained(pairs))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8], ids=str)
def test_targets_of_any_integer_type(dtype):
    others = [(x, y.to(dtype), mask, reset) for x, y, mask, reset in CHUNKS]
    assert same(trained(CHUNKS), trained(others))


def test_ignored_targets_are_neither_scored_nor_counted():
    """As in torch: the mean is over the targets that are not -100."""
    m = make_model("lstm", 1)
    inputs, targets, _, _ = make_stream(6, 3, resets=False)
    targets = targets.clone()  # inputs and targets are views of one stream
    targets[3:, 1:] = -100
    logits, _ = m(inputs, m.initial_state(3))
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    t = flat_trainer(m, torch.optim.SGD(m.parameters(), 0.0))
    t.step((inputs, targets))
    read = t.meter.read()
    assert read["scored"] == 6 * 3 - 3 * 2
    assert read["loss_sum"] / read["scored"] == pytest.approx(expected.item())


def test_ignored_targets_are_masked_steps_of_a_hierarchy():
    def ignored(chunk):
        answers = [(targets.masked_fill(~mask, -100), None) for targets, mask in chunk.answers]
        return chunk._replace(answers=answers)

    assert same(hierarchy_trained(lambda chunk: chunk), hierarchy_trained(ignored))


def test_a_dictionary_is_a_state():
    state = {"slow": torch.randn(2, 3), "fast": (torch.randn(1, 2, 4), torch.randn(2, 1))}
    assert pack(state).shape == (2, state_size(state)) == (2, 8)
    back = unpack(pack(state), state)
    assert list(back) == ["slow", "fast"]
    assert all(torch.equal(a, b) for a, b in zip(leaves(back), leaves(state), strict=True))
    doubled = map_state(torch.add, state, state)
    assert torch.equal(doubled["slow"], 2 * state["slow"])
    start = cut(state)
    boundary = Boundary(LeastSquares(8))
    (pack(start).sum() + boundary.bootstrap(start)).backward()
    assert torch.equal(target_grad(start), torch.ones(2, 8))
    assert boundary.loss(start) == 1


def test_a_core_whose_state_is_a_dictionary_trains_and_resumes():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(SYMBOLS, 6)

        def initial_state(self, batch_size):
            return {"hidden": torch.zeros(1, batch_size, 6)}

        def forward(self, x_TBD, state):
            y_TBH, hidden = self.rnn(x_TBD, state["hidden"])
            return y_TBH, {"hidden": hidden}

    def build():
        torch.manual_seed(0)
        m = SequenceModel(OneHot(SYMBOLS), Named(), nn.Linear(6, SYMBOLS))
        return flat_trainer(m, torch.optim.Adam(m.parameters()), boundary=Boundary(LeastSquares(6)))

    never, stopped = build(), build()
    for chunk in CHUNKS:
        never.step(chunk)
    for chunk in CHUNKS[:2]:
        stopped.step(chunk)
    resumed = build()
    resumed.load_state_dict(stopped.state_dict())
    for chunk in CHUNKS[2:]:
        resumed.step(chunk)
    pairs = zip(never.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_no_state_is_a_start_from_zero_in_a_loop_of_ones_own():
    """nn.LSTM takes None for zeros, and so does the loop of the README."""
    torch.manual_seed(0)
    lstm, boundary = nn.LSTM(3, 4), Boundary(MLPSynthesizer(8, ()))
    state, x = None, torch.randn(2, 3, 3)
    before = [p.detach().clone() for p in boundary.parameters()]
    for chunk in range(2):
        start = cut(state)
        y, state = lstm(x, start)
        (y.sum() + boundary.bootstrap(state)).backward()
        loss = boundary.loss(start)
        loss.backward()
        grads = [p.grad for p in boundary.parameters()]
        assert all(grad is None for grad in grads) == (chunk == 0)
    assert all(torch.equal(a, b) for a, b in zip(before, boundary.parameters(), strict=True))


def test_a_synthesizer_is_frozen_on_purpose():
    boundary = Boundary(MLPSynthesizer(SIZE)).requires_grad_(False)
    plain, frozen = trainer(), trainer(boundary=boundary)
    frozen.model.load_state_dict(plain.model.state_dict())
    for t in (plain, frozen):
        for chunk in CHUNKS:
            t.step(chunk)
    pairs = zip(plain.model.parameters(), frozen.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_star_import_leaves_torch_alone():
    names: dict = {}
    exec("from torch.nn.functional import *\nfrom seqdni import *", names)
    assert names["Trainer"] is Trainer
    assert "cross_entropy" not in names or names["cross_entropy"] is nn.functional.cross_entropy


# --- A masked step adds nothing, to the gradient either


def distance(outputs, targets):
    return squared_error(outputs, targets).sqrt()


def test_a_masked_step_adds_nothing_to_the_gradient():
    """The slope of a square root at zero is infinite; under the mask it must not matter."""
    torch.manual_seed(0)
    core = TorchCore(nn.GRU(2, 3))
    x = torch.randn(4, 2, 2)
    with torch.no_grad():
        outputs, _ = core(x, core.initial_state(2))
    mask = torch.ones(4, 2, dtype=torch.bool)
    mask[1, 0] = False
    targets = torch.randn(4, 2, 3)
    targets[1, 0] = outputs[1, 0]
    t = flat_trainer(core, torch.optim.SGD(core.parameters(), 0.1), loss=distance)
    t.step((x, targets, mask))
    expected = torch.autograd.grad(
        distance(core(x, core.initial_state(2))[0], torch.randn(4, 2, 3))[mask].sum(),
        list(core.parameters()),
    )
    assert all(grad.isfinite().all() for grad in expected)
    assert all(p.isfinite().all() for p in core.parameters())
    assert t.updates == 1


def test_bootstrap_term_is_not_changed_by_the_hook():
    state = torch.ones(1, 2, requires_grad=True)
    bootstrap_term(state, torch.tensor([[3.0, 4.0]])).backward()
    assert state.grad.tolist() == [[3.0, 4.0]]
