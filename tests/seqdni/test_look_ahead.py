"""Looking ahead: exact over the known steps, synthetic beyond, and never across a restart."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from oracles import (
    COMPILED,
    KINDS,
    gradients,
    make_model,
    make_stream,
    make_trainer,
    reference_loss,
    split,
)
from trainers import flat_trainer

from seqdni import (
    Boundary,
    SequenceModel,
    controls,
    cross_entropy,
    leaves,
    look_ahead,
    measure_horizon,
    pack,
    unroll,
)
from seqdni.chunk import steps_ahead

cores = pytest.mark.parametrize("kind", [*KINDS, *COMPILED])
restarts = pytest.mark.parametrize("resets", [False, True], ids=["endless", "resets"])
STEPS, ROWS = 12, 4
SIZES = [3, 1, 4, 2, 2]


def sgd(model, boundary, **options):
    steps = torch.optim.SGD(model.parameters(), lr=0.0)
    return flat_trainer(model, steps, boundary=boundary, update_every=10**9, **options)


@cores
@restarts
def test_it_is_the_gradient_of_the_known_steps(kind, resets):
    model, stream = make_model(kind, 2), make_stream(STEPS, ROWS, resets)
    first, known = split(stream, [7, 5])
    _, end = unroll(model, first[0], model.initial_state(ROWS), first[3])
    state = tuple(x.detach() for x in end) if isinstance(end, tuple) else end.detach()
    inside = [leaf.requires_grad_() for leaf in leaves(state)]
    expected = torch.autograd.grad(reference_loss(model, known, state), inside, allow_unused=True)
    found = look_ahead(model, known, state)
    zeros = [torch.zeros_like(x) if g is None else g for x, g in zip(inside, expected, strict=True)]
    torch.testing.assert_close(found, pack(tuple(zeros)))
    assert all(parameter.grad is None for parameter in model.parameters())


@cores
@restarts
def test_all_steps_known_is_full_bptt(kind, resets):
    """The oracle of an exact synthesizer, with the model itself as the synthesizer."""
    model, stream = make_model(kind, 1), make_stream(STEPS, ROWS, resets)
    chunks = split(stream, SIZES)
    trainer = sgd(trained := copy.deepcopy(model), Boundary(None))
    for k, chunk in enumerate(chunks):
        ahead = steps_ahead(chunks[k + 1 :], STEPS) if chunks[k + 1 :] else None
        trainer.step(chunk, ahead=ahead)
    (reference_loss(model, stream) / ROWS).backward()
    for got, expected in zip(gradients(trained), gradients(model), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_few_steps_known_are_overlapping_losses():
    """With K known steps each loss is felt up to K steps before its own chunk, and no further."""
    model, stream = make_model("lstm", 1), make_stream(6, ROWS, resets=False)
    chunks = split(stream, [3, 3])
    trainer = sgd(trained := copy.deepcopy(model), Boundary(None))
    trainer.step(chunks[0], ahead=steps_ahead(chunks[1:], 2))
    five = tuple(part[:5] for part in stream[:3])
    # the weights' gradient of chunk one, the loss of steps 4 and 5 included
    outputs, end = unroll(model, chunks[0][0], model.initial_state(ROWS))
    crossing = look_ahead(model, (five[0][3:], five[1][3:], five[2][3:], None), detached(end))
    nats = (cross_entropy(outputs, chunks[0][1]) * chunks[0][2]).sum()
    ((nats + (pack(end) * crossing).sum()) / ROWS).backward()
    for got, expected in zip(gradients(trained), gradients(model), strict=True):
        torch.testing.assert_close(got, expected)


def detached(state):
    return type(state)(*(leaf.detach() for leaf in state))


def test_beyond_the_known_steps_the_synthesizer_is_asked():
    model, stream = make_model("gru", 1), make_stream(4, ROWS, resets=False)
    state, seen = model.initial_state(ROWS), []

    def beyond(far):
        seen.append(far)
        return torch.full((ROWS, pack(far).shape[1]), 2.0, dtype=torch.float64)

    with_it, without = (
        look_ahead(model, stream, state, beyond=beyond),
        look_ahead(model, stream, state),
    )
    _, far = model(stream[0], start := state.clone().requires_grad_())
    (2 * far.sum()).backward()
    torch.testing.assert_close(with_it - without, pack(start.grad))
    torch.testing.assert_close(seen[0], far)


def test_known_steps_count_while_a_synthesizer_warms_up():
    """Nobody listens to it, as if there were none; afterwards it is asked for what lies beyond."""
    model = make_model("lstm", 1)
    chunks = split(make_stream(18, ROWS, resets=False), [3] * 6)
    alone = sgd(copy.deepcopy(model), Boundary(None))
    warming = make_trainer(copy.deepcopy(model), "dni-rls", "sgd", update_every=10**9)
    warming.synthetic.warmup_chunks = 4
    found = []
    for k in range(5):
        for trainer in (alone, warming):
            trainer.step(chunks[k], ahead=chunks[k + 1])
        pairs = zip(gradients(alone.model), gradients(warming.model), strict=True)
        found.append([torch.allclose(a, b, rtol=1e-6, atol=1e-12) for a, b in pairs])
    assert warming.boundary.synthesizer.weight.any()
    assert all(map(all, found[:4]))
    assert not all(found[4])


def test_the_control_applies_to_what_is_known():
    model, chunks = make_model("lstm", 1), split(make_stream(6, ROWS, resets=False), [3, 3])
    plain = sgd(copy.deepcopy(model), None)
    plain.step(chunks[0])
    ignored = sgd(copy.deepcopy(model), Boundary(None, control=controls.zero))
    ignored.step(chunks[0], ahead=chunks[1])
    for got, expected in zip(gradients(ignored.model), gradients(plain.model), strict=True):
        torch.testing.assert_close(got, expected)


@restarts
def test_what_a_synthesizer_is_taught_beside_it(resets, monkeypatch):
    """With all steps known its target is the true gradient of all that follows, per example."""
    model, chunks = make_model("lstm", 1), split(make_stream(STEPS, ROWS, resets), SIZES)
    trainer = make_trainer(model, "dni-rls", "sgd", loss_scale=0.1, update_every=10**9)
    synthesizer, taught = trainer.boundary.synthesizer, []
    monkeypatch.setattr(
        synthesizer, "loss", lambda *pair, **_: taught.append(pair) or torch.zeros(())
    )
    state, expected = model.initial_state(ROWS), []
    for k, chunk in enumerate(chunks):
        trainer.step(chunk, ahead=steps_ahead(chunks[k + 1 :], STEPS) if chunks[k + 1 :] else None)
        if k:
            rest = steps_ahead(chunks[k:], STEPS)
            start = type(state)(*(leaf.detach().requires_grad_() for leaf in state))
            loss = reference_loss(model, rest, start)
            grads = torch.autograd.grad(loss, leaves(start), allow_unused=True)
            expected.append([0 * x if g is None else g for x, g in zip(start, grads, strict=True)])
        _, state = unroll(model, chunk[0], detached(state), chunk[3])
    assert len(taught) == len(chunks) - 1
    for (_, target), true in zip(taught, expected, strict=True):
        torch.testing.assert_close(target, pack(tuple(true)))


@pytest.mark.parametrize("name", ["dni", "dni-rls"])
def test_a_synthesizer_learns_beside_it(name):
    chunks = split(make_stream(STEPS, ROWS, resets=True), SIZES) * 20
    trainer = make_trainer(make_model("lstm", 1), name)
    for chunk, after in pairwise(chunks):
        trainer.step(chunk, ahead=after)
    assert trainer.meter.read()["synth_steps"] > 0
    assert all(leaf.isfinite().all() for leaf in leaves(trainer.carry))


def test_with_every_step_known_the_horizon_is_full():
    model, stream = make_model("lstm", 1), make_stream(STEPS, ROWS, resets=False)
    chunks = split(stream, [4, 4, 4])
    full = measure_horizon(model, Boundary(None), chunks, steps_known=STEPS)
    assert all(
        at.cosine == pytest.approx(1) and at.r2 == pytest.approx(1) for at in full.boundaries
    )
    assert full.dni_cosine == pytest.approx(1)
    part = measure_horizon(model, Boundary(None), chunks, steps_known=1)
    assert 0 < part.boundaries[0].cosine < 1


def test_nonsense_is_refused():
    chunks = split(make_stream(6, ROWS, resets=False), [3, 3])
    with pytest.raises(ValueError, match=r"ahead needs a boundary.*Boundary\(None\)"):
        make_trainer(make_model("lstm", 1), "tbptt").step(chunks[0], ahead=chunks[1])
    narrow = tuple(None if part is None else part[:, :1] for part in chunks[1])
    with pytest.raises(ValueError, match="ahead has 1 rows, the chunk 4"):
        make_trainer(make_model("lstm", 1), "dni").step(chunks[0], ahead=narrow)
    context = (torch.zeros(ROWS, 1), torch.zeros(ROWS, 1))
    with pytest.raises(ValueError, match="not both"):
        make_trainer(make_model("lstm", 1), "dni").step(chunks[0], context, ahead=chunks[1])
    with pytest.raises(ValueError, match="no synthesizer to teach"):
        Boundary(None).loss(torch.zeros(1, 2, 3, requires_grad=True))


@cores
@pytest.mark.parametrize("layers", [1, 2])
def test_fixed_weights_compute_the_same_and_get_no_gradient(kind, layers):
    model = make_model(kind, layers)
    inputs, targets, *_ = make_stream(5, ROWS, resets=False)
    found = []
    for run in (model, model.with_fixed_weights):
        start = [leaf.requires_grad_() for leaf in leaves(model.initial_state(ROWS))]
        state = model.initial_state(ROWS)
        state = type(state)(*start) if isinstance(state, tuple) else start[0]
        logits, end = run(inputs, state)
        loss = cross_entropy(logits, targets).sum() + pack(end).sin().sum()
        found.append((logits, end, torch.autograd.grad(loss, start, allow_unused=True)))
    torch.testing.assert_close(*found)


class Scaled(SequenceModel):
    """A model whose own forward must not be passed over."""

    def forward(self, inputs, state):
        logits, state = super().forward(inputs, state)
        return 5 * logits, state


def test_a_forward_of_ones_own_is_looked_ahead_through():
    model, chunk = make_model("lstm", 1), make_stream(4, ROWS, resets=False)
    scaled = Scaled(model.encoder, model.core, model.readout)
    start = scaled.initial_state(ROWS)
    inside = [leaf.requires_grad_() for leaf in leaves(start)]
    logits, _ = scaled(chunk[0], start)
    expected = torch.autograd.grad((cross_entropy(logits, chunk[1]) * chunk[2]).sum(), inside)
    found = look_ahead(scaled, chunk, scaled.initial_state(ROWS))
    torch.testing.assert_close(found, pack(tuple(expected)))
