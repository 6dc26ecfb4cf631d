"""Hierarchies: the oracles that joint and decoupled training satisfy."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hierarchies import (
    CLASSES,
    CONDITION,
    CONTEXT,
    INPUTS,
    MESSAGE,
    WIDTH,
    Frozen,
    Taps,
    gradients,
    learning,
    make_hierarchy,
    make_stream,
    oracles,
    recorded,
    unrolled,
)
from torch import nn
from trainers import flat_training

from seqdni import (
    Audit,
    Boundary,
    Hierarchy,
    HierarchyTrainer,
    Learner,
    LeastSquares,
    Level,
    LevelTraining,
    MLPSynthesizer,
    SequenceModel,
    SyntheticGradients,
    TorchCore,
    Trainer,
    cross_entropy,
    state_size,
)

ROWS = 3
SYSTEMS = {"2": (1, 3), "2-every-step": (1, 1), "3": (1, 2, 3)}
systems = pytest.mark.parametrize("periods", SYSTEMS.values(), ids=SYSTEMS)
contexts = pytest.mark.parametrize("contexts", [False, True], ids=["messages", "contexts"])
restarts = pytest.mark.parametrize("resets", [False, True], ids=["endless", "resets"])
CUTS = {
    "periods": [3] * 6 + [2],
    "ragged": [3, 1, 4, 2, 5, 1, 4],
    "long": [13, 7],
    "ones": [1] * 20,
}
SCALES = [1.0, 0.5, 2.0]


def assert_close(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def frozen(model: Hierarchy, chunk_len: int = 2) -> list[LevelTraining]:
    """Learners without boundaries that let gradients pile up."""
    lengths = [None, *[chunk_len] * (len(model.levels) - 1)]
    return [
        flat_training(Frozen(level.parameters()), length, loss_scale=scale)
        for level, length, scale in zip(model.levels, lengths, SCALES, strict=False)
    ]


# --- 1. What the gradient is


@systems
@contexts
@restarts
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_exact_synthesizers_make_the_gradient_of_one_graph(periods, contexts, resets, cuts):
    model = make_hierarchy(periods, contexts)
    stream = make_stream(model, 20, ROWS, resets)
    expected, learners = oracles(model, stream, SCALES)
    trainer = HierarchyTrainer(model, learners)
    for chunk in stream.chunks(cuts):
        trainer.step(chunk)
    trainer.finish()
    assert_close(gradients(model), expected)


@restarts
@pytest.mark.parametrize("mode", ["joint", "dni"])
def test_a_top_level_may_only_give_context(mode, resets):
    """As in a language model: all that the slow level does is to condition the fast one."""
    model = make_hierarchy((1, 3), contexts=True)
    model.levels[1].readout = None
    stream = make_stream(model, 20, ROWS, resets)
    expected, learners = oracles(model, stream)
    learners[1].chunk_len = 2 if mode == "dni" else 100
    trainer = HierarchyTrainer(model, learners, mode)
    for chunk in stream.chunks(CUTS["periods"]):
        trainer.step(chunk._replace(answers=[chunk.answers[0], None]))
    trainer.finish()
    assert_close(gradients(model), expected)
    assert any(p.grad.any() for p in model.levels[1].parameters())


@restarts
@pytest.mark.parametrize(
    ("periods", "cuts"),
    [
        ((1, 3), [3] * 6 + [2]),
        ((1, 3), [2, 1, 1, 2, 3] * 2 + [1, 1]),
        ((1, 1), [1] * 20),
        ((1, 3, 2), [3] * 6 + [2]),
    ],
    ids=["periods", "parts", "every-step", "3-levels"],
)
@pytest.mark.parametrize("warmup", [0, 100], ids=["at once", "warms up"])
def test_looking_ahead_to_the_end_makes_the_gradient_of_one_graph(periods, cuts, resets, warmup):
    """State and message need no synthesizer where all that follows is known, nor its warm-up."""
    model = make_hierarchy(periods, contexts=True)
    for level in model.levels[1:]:
        level.readout = None
    stream = make_stream(model, 20, ROWS, resets)
    expected, learners = oracles(model, stream)
    learners[0].credit = SyntheticGradients(Boundary(None), warmup_chunks=warmup)
    learners[0].message_credit = SyntheticGradients(Boundary(None), warmup_chunks=warmup)
    trainer = HierarchyTrainer(model, learners)
    (targets, mask), silent, t = stream.answers[0], [None] * (len(periods) - 1), 0
    for chunk in stream.chunks(cuts):
        t += len(chunk.inputs)
        ahead = (stream.inputs[t:], targets[t:], mask[t:], stream.should_reset[t:])
        chunk = chunk._replace(answers=[chunk.answers[0], *silent], conditions=None)
        trainer.step(chunk, ahead=ahead if t < 20 else None)
    trainer.finish()
    assert_close(gradients(model), expected)


def test_a_chunk_beyond_a_tick_looks_ahead_at_its_state_alone():
    """The level above has ticked on its messages by then, and must not tick on them twice."""
    model = make_hierarchy((1, 3), contexts=True)
    model.levels[1].readout = None
    stream = make_stream(model, 20, ROWS, resets=False)
    learners = frozen(model)
    learners[0].credit = learners[0].message_credit = SyntheticGradients(Boundary(None))
    trainer = HierarchyTrainer(model, learners)
    (targets, mask), t = stream.answers[0], 0
    for chunk in stream.chunks([9, 4, 5, 2])[:3]:  # two of them end with a tick
        t += len(chunk.inputs)
        ahead = (stream.inputs[t:], targets[t:], mask[t:], stream.should_reset[t:])
        trainer.step(chunk._replace(answers=[chunk.answers[0], None], conditions=None), ahead=ahead)
        assert trainer.levels[1].running_carry.ticks == t // 3
    assert model.levels[0].message.weight.grad is None
    assert model.levels[0].core.rnn.weight_hh_l0.grad.any()


def test_looking_ahead_where_it_cannot_be_used_is_refused():
    model = make_hierarchy((1, 3), contexts=True)
    stream = make_stream(model, 6, ROWS, resets=False)
    chunk, later = stream.chunks([3, 3])
    ahead = (later.inputs, later.answers[0][0], None, None)
    learners = frozen(model)
    learners[0].message_credit = SyntheticGradients(Boundary(None))
    with pytest.raises(ValueError, match="ahead needs credit for the lowest level"):
        HierarchyTrainer(model, learners).step(chunk, ahead=ahead)
    learners[0].credit = SyntheticGradients(Boundary(None))
    with pytest.raises(ValueError, match="other than 'joint'"):
        HierarchyTrainer(model, learners, "joint").step(chunk, ahead=ahead)
    with pytest.raises(ValueError, match="lowest level alone has a readout"):
        HierarchyTrainer(model, learners).step(chunk, ahead=ahead)
    learners[0].message_credit = SyntheticGradients(recorded(MESSAGE, 1))
    with pytest.raises(ValueError, match="takes the place of the lowest level's message synth"):
        HierarchyTrainer(model, learners).step(chunk, ahead=ahead)
    learners[0].message_credit = SyntheticGradients(Boundary(None))
    with pytest.raises(ValueError, match="ahead has 2 rows, the chunk 3"):
        HierarchyTrainer(model, learners).step(
            chunk, ahead=(*[x[:, :2] for x in ahead[:2]], None, None)
        )


@systems
@contexts
@restarts
def test_joint_is_the_gradient_of_one_graph(periods, contexts, resets):
    model = make_hierarchy(periods, contexts)
    stream = make_stream(model, 20, ROWS, resets)
    unrolled(model, stream, Taps(), SCALES).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    trainer = HierarchyTrainer(model, frozen(model, chunk_len=100), "joint")
    for chunk in stream.chunks(CUTS["ragged"]):
        trainer.step(chunk)
    assert all(p.grad is None for p in model.parameters())
    trainer.finish()
    assert_close(gradients(model), expected)


@contexts
def test_joint_updates_once_in_a_chunk_of_the_slowest_level_and_cuts_there(contexts):
    model = make_hierarchy((1, 3), contexts)
    stream = make_stream(model, 12, ROWS, resets=False)
    trainer = HierarchyTrainer(model, frozen(model), "joint")
    assert trainer.window == 6
    updates = []
    for chunk in stream.chunks([3, 3, 2, 2, 2]):
        trainer.step(chunk)
        updates.append(trainer.updates)
    assert updates == [0, 1, 1, 1, 2]
    expected, carry = [torch.zeros_like(p) for p in model.parameters()], None
    for chunk in stream.chunks([6, 6]):
        model.zero_grad()
        carry = carry and [each.detached() for each in carry]
        outputs, carry = model(chunk.inputs, carry, chunk.should_reset)
        losses = [
            (cross_entropy(y, targets) * mask).sum() * scale / ROWS
            for y, (targets, mask), scale in zip(outputs, chunk.answers, SCALES, strict=False)
        ]
        sum(losses).backward()
        expected = [a + b for a, b in zip(expected, gradients(model), strict=True)]
    model.zero_grad()
    again = HierarchyTrainer(model, frozen(model), "joint")
    for chunk in stream.chunks([3, 3, 2, 2, 2]):
        again.step(chunk)
    assert_close(gradients(model), expected)


@contexts
@restarts
def test_any_cutting_says_the_same(contexts, resets):
    model = make_hierarchy((1, 2, 3), contexts)
    stream = make_stream(model, 20, ROWS, resets)
    whole, _ = model(stream.inputs, None, stream.should_reset)
    parts, carry = [[], [], []], None
    for chunk in stream.chunks(CUTS["ragged"]):
        outputs, carry = model(chunk.inputs, carry, chunk.should_reset)
        for found, y in zip(parts, outputs, strict=True):
            found += [] if y is None else [y]
    assert [len(y) for y in whole] == [20, 10, 3]
    assert_close([torch.cat(found) for found in parts], whole)


# --- 2. One level is the plain trainer


WAYS = {  # kind of synthesizer, settings of the learner, settings of the synthetic gradients
    "tbptt": (None, {}, {}),
    "rls": ("rls", {}, {}),
    "mlp": ("mlp", {}, {}),
    "windows": ("rls", {"update_every": 3}, {}),
    "dense targets": ("mlp", {}, {"targets": "dense"}),
    "several updates of the synthesizer": ("mlp", {}, {"updates_per_chunk": 2}),
    "half of the chunks": ("rls", {}, {"train_fraction": 0.5}),
    "warm-up": ("rls", {}, {"warmup_chunks": 2}),
    "clips": ("mlp", {"clip": 0.1}, {"clip": 0.01}),
}


@restarts
@pytest.mark.parametrize("way", WAYS)
def test_one_level_is_the_plain_trainer(way, resets):
    """Whatever a network can be trained with, a level can."""
    kind, of_learner, of_synthesizer = WAYS[way]
    model = make_hierarchy((1,), contexts=False)
    stream = make_stream(model, 20, ROWS, resets)
    if not resets:
        stream.should_reset[-1] = False
    level = copy.deepcopy(model.levels[0])
    plain = SequenceModel(level.encoder, level.core, level.readout)

    def learner_of(network):
        adam = torch.optim.Adam(network.parameters(), 0.01)
        return Learner(adam, **({"clip": 1.0} | of_learner))

    def credit():
        if kind is None:
            return None
        boundary = copy.deepcopy(learning(model, kind)[0].credit.boundary)
        descent = torch.optim.Adam(boundary.parameters(), 0.01) if kind == "mlp" else None
        return SyntheticGradients(boundary, descent, **of_synthesizer)

    trainer = Trainer(plain, learner_of(plain), credit())
    apart = HierarchyTrainer(model, [LevelTraining(learner_of(model), credit=credit())])
    for chunk in stream.chunks(CUTS["ragged"]):
        (targets, mask) = chunk.answers[0]
        apart.step(chunk)
        trainer.step((chunk.inputs, targets, mask, chunk.should_reset))
    assert apart.updates == trainer.updates > 0
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    for got, expected in pairs:  # with restarts the readout runs in other pieces: other rounding
        assert torch.equal(got, expected) or (resets and torch.allclose(got, expected))
    assert apart.meter.read()["loss_sum"] == pytest.approx(
        trainer.meter.read()["loss_sum"], rel=1e-12
    )
    if kind is not None:
        assert apart.meter.read()["synth_steps"] == trainer.meter.read()["synth_steps"]
        assert apart.meter.read()["synth_loss"] == pytest.approx(
            trainer.meter.read()["synth_loss"], rel=1e-9
        )


@pytest.mark.parametrize("mode", ["dni", "joint"])
def test_levels_compute_in_bfloat16_and_learn_in_float32(mode):
    model = make_hierarchy((1, 2), contexts=True).float()
    trainings = [
        LevelTraining(
            Learner(torch.optim.Adam(level.parameters()), autocast=torch.bfloat16),
            2 if k else None,
            SyntheticGradients(Boundary(LeastSquares(state_size(level.initial_state(1))))),
            None if k else SyntheticGradients(Boundary(LeastSquares(MESSAGE))),
        )
        for k, level in enumerate(model.levels)
    ]
    trainer = HierarchyTrainer(model, trainings, mode)
    before = [p.detach().clone() for p in model.parameters()]
    stream = make_stream(model, 20, ROWS, resets=True)
    for chunk in stream.chunks([4, 2, 6, 4, 4]):
        trainer.step(chunk._replace(inputs=chunk.inputs.float(), conditions=None))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    assert not any(map(torch.equal, before, model.parameters()))
    again = HierarchyTrainer(model, trainings, mode)
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    if mode == "dni":
        assert trainer.levels[0].trained_carry.state.hidden.dtype == torch.bfloat16
        assert again.levels[0].trained_carry.state.hidden.dtype == torch.bfloat16


# --- 3. What is predicted when, and when each correction arrives (docs/hierarchy.md)


def test_the_timing_of_two_levels_with_messages():
    """T = 2, period 2, slow chunks of 2: every prediction and every update, by hand."""
    model = make_hierarchy((1, 2), contexts=False, kind=nn.GRU)
    stream = make_stream(model, 12, ROWS, resets=False)
    stream.should_reset[-1] = False
    learners = frozen(model)
    for learner in learners:
        learner.learner.loss_scale = 1.0
    learners[0].credit = SyntheticGradients(recorded(WIDTH, 1))
    learners[1].credit = SyntheticGradients(recorded(WIDTH, 2))
    learners[0].message_credit = SyntheticGradients(recorded(MESSAGE, 3))
    trainer = HierarchyTrainer(model, learners)
    own, slow_own, message = (
        each.synthesizer
        for each in (
            learners[0].credit.boundary,
            learners[1].credit.boundary,
            learners[0].message_credit.boundary,
        )
    )
    watched = {"fast state": own, "slow state": slow_own, "message": message}
    for each in watched.values():
        each.asked.clear()  # the trainer asks once at its construction, whether the sizes fit
    log = {name: [] for name in watched}
    for chunk in stream.chunks([2] * 6):
        trainer.step(chunk)
        for name, each in watched.items():
            log[name].append((len(each.asked), len(each.taught)))
    expected = {  # asked and taught, so far
        "fast state": [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5)],
        "slow state": [(0, 0), (1, 0), (1, 0), (2, 1), (2, 1), (3, 2)],
        "message": [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)],
    }
    assert log == expected

    fast, slow = model.levels
    state, slow_state = fast.initial_state(ROWS), slow.initial_state(ROWS)
    sent = []
    for n in range(6):  # fast chunks
        start = state.detach().requires_grad_()
        x = fast.encoder(stream.inputs[2 * n : 2 * n + 2])
        first, state = fast.core(x[:1], start)
        second, state = fast.core(x[1:], state)
        targets, mask = (part[2 * n : 2 * n + 2] for part in stream.answers[0])
        nats = cross_entropy(fast.readout(torch.cat([first, second])), targets)
        m = fast.message(second[0])
        torch.testing.assert_close(own.asked[n], state[0])
        torch.testing.assert_close(message.asked[n], m)
        objective = (nats * mask).sum() / ROWS
        objective = objective + (own.answer(state[0]).detach() * state[0]).sum() / ROWS
        objective = objective + (message.answer(m).detach() * m).sum() / ROWS
        (grad,) = torch.autograd.grad(objective, start)
        if n > 0:
            torch.testing.assert_close(own.taught[n - 1][0], start[0])
            torch.testing.assert_close(own.taught[n - 1][1], grad[0] * ROWS)
        sent.append(m.detach().requires_grad_())
        if n % 2 == 0:
            continue
        c = n // 2  # the slow chunk that is over now
        start = slow_state.detach().requires_grad_()
        first, slow_state = slow.core(slow.encoder(sent[-2])[None], start)
        second, slow_state = slow.core(slow.encoder(sent[-1])[None], slow_state)
        targets, mask = (part[2 * c : 2 * c + 2] for part in stream.answers[1])
        nats = cross_entropy(slow.readout(torch.cat([first, second])), targets)
        objective = (nats * mask).sum() / ROWS
        end = slow_state[0]
        objective = objective + (slow_own.answer(end).detach() * end).sum() / ROWS
        grad, *of_messages = torch.autograd.grad(objective, [start, *sent[-2:]])
        torch.testing.assert_close(message.taught[c][0], torch.cat(sent[-2:]))
        torch.testing.assert_close(message.taught[c][1], torch.cat(of_messages) * ROWS)
        if c > 0:
            torch.testing.assert_close(slow_own.taught[c - 1][1], grad[0] * ROWS)
    assert len(sent) == 6


def test_a_slow_level_that_gives_contexts_learns_one_fast_chunk_later():
    model = make_hierarchy((1, 2), contexts=True)
    stream = make_stream(model, 12, ROWS, resets=False)
    trainer = HierarchyTrainer(model, learning(model))
    done = []
    for chunk in stream.chunks([2] * 6):
        trainer.step(chunk)
        done.append(trainer.updates_of_levels)
    assert done == [[1, 0], [2, 0], [3, 1], [4, 1], [5, 2], [6, 2]]


class Recorder:
    """Stands for the level above, and keeps all that it is handed."""

    def __init__(self, context_BC):
        self.context = context_BC
        self.calls = []

    def receive(self, messages_mBM):
        self.calls.append(("message", messages_mBM))

    def receive_context_gradients(self, grads, used):
        self.calls.append(("context's gradient", *grads.values()))

    def learn_complete_chunks(self, all_of_it=False):
        return iter(())


def test_levels_exchange_messages_contexts_and_gradients_alone():
    model = make_hierarchy((1, 2), contexts=True)
    stream = make_stream(model, 6, ROWS, resets=False)
    trainer = HierarchyTrainer(model, learning(model))
    recorder = Recorder(torch.ones(ROWS, CONTEXT, dtype=torch.float64))
    trainer.levels[0].above = recorder
    for chunk in stream.chunks([2] * 3):
        trainer.step(chunk)
    names = [name for name, *_ in recorder.calls]
    assert names == ["context's gradient", "message"] * 3
    for name, *values in recorder.calls:
        for value in values:
            assert not value.requires_grad
            assert value.shape[-2:] == (ROWS, MESSAGE if name == "message" else CONTEXT)
    assert [len(call) for call in recorder.calls[::2]] == [1, 2, 2]  # none before its first tick
    assert trainer.updates_of_levels == [3, 0]
    assert all(p.grad is None for p in model.levels[1].parameters())


def test_without_feedback_a_level_is_trained_as_if_it_were_alone():
    model = make_hierarchy((1, 3), contexts=False)
    alone = Hierarchy([copy.deepcopy(model.levels[0])], torch.zeros(1, 1, INPUTS).double())
    stream = make_stream(model, 20, ROWS, resets=True)
    trainer = HierarchyTrainer(model, learning(model), "no-feedback")
    learner = learning(alone)[0]
    single = HierarchyTrainer(alone, [learner])
    for chunk in stream.chunks(CUTS["ragged"]):
        trainer.step(chunk)
        single.step(chunk._replace(answers=chunk.answers[:1], conditions=None))
    assert_close(alone.levels[0].core.parameters(), model.levels[0].core.parameters())


# --- 4. Stop anywhere and go on


@pytest.mark.parametrize(
    ("mode", "contexts", "kind"),
    [
        ("joint", True, "rls"),
        ("dni", False, "rls"),
        ("dni", True, "rls"),
        ("dni", True, "mlp"),
        ("dni", False, "condition"),
        ("dni", False, "critic"),
        ("no-feedback", True, "mlp"),
    ],
)
def test_stopped_in_the_middle_of_slow_chunks_is_as_never_stopped(mode, contexts, kind):
    model = make_hierarchy((1, 2, 3), contexts)
    stream = make_stream(model, 26, ROWS, resets=True)
    stream.should_reset[-1] = False
    chunks = stream.chunks([4, 3, 1, 5, 2, 5, 4, 2])
    before = copy.deepcopy(model)
    trainer, saved = HierarchyTrainer(model, learning(model, kind), mode), {}
    for n, chunk in enumerate(chunks):
        if n in (1, 4, 6):
            torch.save(trainer.state_dict(), buffer := io.BytesIO())
            buffer.seek(0)
            saved[n] = torch.load(buffer, weights_only=True)
        trainer.step(chunk)
    for n, state in saved.items():
        fresh = copy.deepcopy(before)
        stopped = HierarchyTrainer(fresh, learning(fresh, kind), mode)
        stopped.load_state_dict(state)
        for chunk in chunks[n:]:
            stopped.step(chunk)
        for a, b in zip(model.parameters(), fresh.parameters(), strict=True):
            assert torch.equal(a, b)
        assert trainer.meter.read() == stopped.meter.read()
        assert trainer.updates_of_levels == stopped.updates_of_levels


def test_another_stream_after_the_end_of_one():
    """finish() forgets the stream, not what was learned: the next one may have other rows."""
    model = make_hierarchy((1, 2), contexts=True)
    trainer = HierarchyTrainer(model, learning(model))
    for rows in (3, 2):
        for chunk in make_stream(model, 7, rows, resets=False).chunks([3, 4]):
            trainer.step(chunk)
        trainer.finish()
    assert trainer.updates_of_levels == [4, 4]
    assert trainer.tokens == 7 * 5


# --- 5. Conditions


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_a_condition_goes_with_its_message_in_prediction_and_learning(cuts):
    model = make_hierarchy((1, 2), contexts=False)
    stream = make_stream(model, 20, ROWS, resets=True)
    learners = frozen(model)
    learners[0].message_credit = SyntheticGradients(recorded(MESSAGE, 3, condition_size=CONDITION))
    trainer = HierarchyTrainer(model, learners)
    synthesizer = learners[0].message_credit.boundary.synthesizer
    synthesizer.asked.clear()
    synthesizer.conditions.clear()
    for chunk in stream.chunks(cuts):
        trainer.step(chunk)
    trainer.finish()
    conditions_NK = stream.conditions[0].flatten(0, 1)
    assert torch.equal(torch.cat(synthesizer.conditions), conditions_NK)
    taught_NK = torch.cat([condition for *_, condition in synthesizer.taught])
    assert torch.equal(taught_NK, conditions_NK)
    asked, taught = (
        torch.cat(parts) for parts in (synthesizer.asked, [pair[0] for pair in synthesizer.taught])
    )
    torch.testing.assert_close(asked, taught)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 13])
@pytest.mark.parametrize("chunk_lens", [(1, 1), (3, 1), (2, 3)])
def test_conditions_of_a_level_in_the_middle_are_there_when_it_needs_them(size, chunk_lens):
    """It may learn from a message after the level above has corrected it."""
    model = make_hierarchy((1, 2, 2), contexts="lowest")
    stream = make_stream(model, 8 * size, ROWS, resets=True)
    learners = learning(model, "condition")
    for learner, chunk_len in zip(learners[1:], chunk_lens, strict=True):
        learner.chunk_len = chunk_len
    trainer = HierarchyTrainer(model, learners)
    asked = []
    for k, level in enumerate(trainer.levels[:2]):
        seen = level.message_gradients._condition

        def noting(first, messages, k=k, seen=seen):
            asked.append((k, first, messages, seen(first, messages)))
            return asked[-1][-1]

        level.message_gradients._condition = noting
    for chunk in stream.chunks([size] * 8):
        trainer.step(chunk)
    trainer.finish()
    for k, first, messages, condition_NK in asked:
        expected_NK = stream.conditions[k][first : first + messages].flatten(0, 1)
        assert torch.equal(condition_NK, expected_NK)
    assert {k for k, *_ in asked} == {0, 1}
    assert not any(level.message_gradients.conditions for level in trainer.levels)


def test_a_solved_and_a_descended_boundary_in_one_level():
    model = make_hierarchy((1, 2), contexts=False)
    stream = make_stream(model, 12, ROWS, resets=False)
    learners = learning(model, "mlp")
    learners[0].message_credit = SyntheticGradients(Boundary(LeastSquares(MESSAGE)).double())
    trainer = HierarchyTrainer(model, learners)
    for chunk in stream.chunks([2] * 6):
        trainer.step(chunk)
    assert trainer.updates == 6


def test_a_refused_chunk_leaves_nothing_behind():
    model = make_hierarchy((1, 2), contexts=False)
    trainer = HierarchyTrainer(model, learning(model))
    wrong = make_stream(model, 4, ROWS + 1, resets=False).chunks([4])[0]
    with pytest.raises(ValueError, match="has a readout and no answers"):
        trainer.step(wrong._replace(answers=[wrong.answers[0], None]))
    trainer.step(make_stream(model, 4, ROWS, resets=False).chunks([4])[0])


def test_a_checkpoint_of_another_mode_is_refused():
    model = make_hierarchy((1, 2), contexts=False)
    saved = HierarchyTrainer(model, learning(model), mode="joint").state_dict()
    with pytest.raises(ValueError, match=r"mode and chunk lengths \['joint', None, 2\], this one"):
        HierarchyTrainer(model, learning(model), mode="dni").load_state_dict(saved)


def test_a_synthesizer_that_needs_conditions_gets_them_or_there_is_an_error():
    model = make_hierarchy((1, 2), contexts=False)
    chunk = make_stream(model, 4, ROWS, resets=False).chunks([4])[0]
    trainer = HierarchyTrainer(model, learning(model, "condition"))
    with pytest.raises(ValueError, match="give conditions with chunks"):
        trainer.step(chunk._replace(conditions=None))
    with pytest.raises(
        ValueError, match=r"conditions of level 0 are \[1, 3, 2\], expected \[2, 3, K"
    ):
        trainer.step(chunk._replace(conditions=[chunk.conditions[0][:1]]))


# --- 6. Clear errors


def level(inputs=2, readout=True, period=1, context=0, given=0, message=None):
    return Level(
        TorchCore(nn.GRU(inputs + context, WIDTH)),
        readout=nn.Linear(WIDTH, CLASSES) if readout else None,
        context=nn.Linear(WIDTH, given) if given else None,
        context_size=given,
        message=message,
        period=period,
    )


@pytest.mark.parametrize("period", [0, -2, 2.0, "4", True])
def test_a_period_is_a_positive_integer(period):
    with pytest.raises(Exception, match=r"expected an integer >= 1|period"):
        level(period=period)


X = torch.zeros(1, 1, 2)
BAD_SYSTEMS = {
    "no level": (lambda: [], "at least one level"),
    "lowest period": (lambda: [level(period=2)], "has period 2, expected 1"),
    "no loss": (lambda: [level(readout=False)], "no level has a readout"),
    "idle top": (
        lambda: [level(), level(WIDTH, readout=False, period=2)],
        "neither a readout .* nor a context",
    ),
    "message": (
        lambda: [level(), level(WIDTH + 1, period=2)],
        "level 1 must take messages of 4 features and a context of 0",
    ),
    "mapped message": (
        lambda: [level(message=nn.Linear(WIDTH, 3)), level(WIDTH, period=2)],
        "level 1 must take messages of 3 features",
    ),
    "context": (
        lambda: [level(context=2), level(WIDTH, period=2, given=3)],
        "level 0 must take inputs .* and a context of 3",
    ),
    "context for no_rows": (lambda: [level(given=2)], "no level below it"),
}


@pytest.mark.parametrize("name", BAD_SYSTEMS)
def test_a_hierarchy_that_does_not_fit_is_refused(name):
    make, message = BAD_SYSTEMS[name]
    with pytest.raises(ValueError, match=message):
        Hierarchy(make(), X)


def test_a_context_is_as_wide_as_it_says():
    top = level(WIDTH, period=2, given=3)
    top.context_size = 2
    with pytest.raises(ValueError, match="gives a context of 3, its context_size is 2"):
        Hierarchy([level(context=2), top], X)
    with pytest.raises(ValueError, match="give a context with its width"):
        Level(TorchCore(nn.GRU(1, 1)), context_size=3)


def test_learners_that_do_not_fit_are_refused():
    model = make_hierarchy((1, 2), contexts=False)
    for change, mode, message in [
        (lambda all_: all_.pop(), "dni", "1 trainings for 2 levels"),
        (lambda all_: setattr(all_[0], "chunk_len", 2), "dni", "leave out its chunk_len"),
        (lambda all_: setattr(all_[1], "chunk_len", None), "dni", "needs a chunk_len"),
        (lambda all_: setattr(all_[0], "message_credit", None), "dni", "needs a message_credit"),
        (
            lambda all_: setattr(all_[1], "message_credit", SyntheticGradients(Boundary(None))),
            "dni",
            "top level sends no messages",
        ),
        (
            lambda all_: setattr(
                all_[0], "message_credit", SyntheticGradients(Boundary(LeastSquares(9)))
            ),
            "dni",
            "message_credit of level 0 does not take 3 features",
        ),
        (
            lambda all_: setattr(all_[1], "credit", SyntheticGradients(Boundary(LeastSquares(9)))),
            "no-feedback",
            "credit of level 1 does not take 8 features",
        ),
        (lambda all_: setattr(all_[1].credit, "audit", Audit()), "dni", "level 1 has an audit"),
    ]:
        learners = learning(model)
        change(learners)
        with pytest.raises(ValueError, match=message):
            HierarchyTrainer(model, learners, mode)
    adam = torch.optim.Adam(model.parameters())
    learners = learning(model)
    learners[1].learner.optimizer = adam
    with pytest.raises(ValueError, match="optimizer of level 1 holds parameters of something"):
        HierarchyTrainer(model, learners)
    aux = Boundary(MLPSynthesizer(8, (4,), aux=True))
    with pytest.raises(ValueError, match="Aux"):
        flat_training(adam, boundary=aux, synth_lr=0.01)


def test_chunks_that_do_not_fit_are_refused():
    model = make_hierarchy((1, 2), contexts=False)
    stream = make_stream(model, 8, ROWS, resets=False)
    good = stream.chunks([4, 4])[0]
    fast, _ = good.answers
    for bad, message in [
        (good._replace(answers=[fast]), "answers are for 1 levels"),
        (good._replace(answers=[fast, None]), "level 1 has a readout and no answers"),
        (good._replace(answers=[fast, fast]), r"targets of level 1 is \[4, 3\], expected \[2, 3"),
        (good._replace(should_reset=torch.zeros(4, ROWS).bool()), r"expected \[5, 3\]"),
        (good._replace(inputs=good.inputs[:0]), "no steps"),
    ]:
        trainer = HierarchyTrainer(model, learning(model))
        trainer.step(good)
        with pytest.raises(ValueError, match=message):
            trainer.step(bad)
    other = make_stream(model, 4, ROWS + 1, resets=False).chunks([4])[0]
    with pytest.raises(ValueError, match="the chunk has 4 rows, the ones before 3"):
        trainer.step(other)
