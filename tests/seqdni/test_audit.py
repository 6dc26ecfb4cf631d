"""The audit: it finds the true gradients, what predictions are worth, and goes on after a resume.

Shapes: T steps of a chunk, B rows, S features of a state.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from seqdni import (
    Audit,
    Boundary,
    Chunk,
    Learner,
    LeastSquares,
    OneHot,
    SequenceModel,
    SyntheticGradients,
    TorchCore,
    Trainer,
    cross_entropy,
    pack,
    unroll,
)

ROWS, CHUNKS, STEPS, HIDDEN = 6, 4, 3, 5


class Told(nn.Module):
    """Predicts a multiple of what the condition says."""

    def __init__(self, size, factor=1.0):
        super().__init__()
        self.condition_size = size
        self.factor = factor

    def forward(self, state_BS, condition_BK=None):
        return self.factor * condition_BK

    def loss(self, state_BS, target_BS, **_):
        return torch.zeros(())


def make_model(kind=nn.LSTM):
    torch.manual_seed(0)
    core = TorchCore(kind(4, HIDDEN))
    return SequenceModel(OneHot(4), core, nn.Linear(HIDDEN, 4)).double()


def episode(seed, chunks=CHUNKS):
    """Chunks of an episode that all rows play in step."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for k in range(chunks):
        x = torch.randint(4, (2, STEPS, ROWS), generator=generator)
        mask = torch.rand(STEPS, ROWS, generator=generator) < 0.5
        reset = torch.zeros(STEPS + 1, ROWS, dtype=torch.bool)
        reset[0], reset[-1] = k == 0, k == chunks - 1
        found.append(Chunk(x[0], x[1], mask, reset))
    return found


def true_gradients(model, chunks):
    """At the end of every chunk but the last: of all the loss to come, in one graph."""
    state, losses, ends = model.initial_state(ROWS), [], []
    for chunk in chunks:
        outputs, state = unroll(model, chunk.inputs, state)
        losses.append((cross_entropy(outputs, chunk.targets) * chunk.mask).sum())
        ends.append(state)
    found = []
    for k in range(len(chunks) - 1):
        later = torch.stack(losses[k + 1 :]).sum()
        leaves = list(ends[k]) if isinstance(ends[k], tuple) else [ends[k]]
        grads = torch.autograd.grad(later, leaves, retain_graph=True)
        found.append(pack(tuple(grads)) if len(grads) > 1 else pack(grads[0]))
    return found


def still_trainer(model, synthesizer, audit):
    """A trainer that changes nothing, so that true gradients stay true."""
    boundary = Boundary(synthesizer).double()
    learner = Learner(torch.optim.SGD(model.parameters(), 0.0), update_every="episode")
    return Trainer(model, learner, SyntheticGradients(boundary, audit=audit))


def play(trainer, chunks, true, times=2):
    """Play an episode; the first one is not audited, for synthesizers start at zero."""
    for _ in range(times):
        play_once(trainer, chunks, true)


def play_once(trainer, chunks, true):
    zeros = torch.zeros_like(true[0])
    for k, chunk in enumerate(chunks):
        at_start = true[k - 1] if k else zeros
        trainer.step(chunk, condition=(at_start, true[k] if k < len(true) else zeros))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    ("factor", "worth"),
    [
        (1.0, 1.0),
        (4.0, 0.25),  # too long: the nearest multiple
        (0.5, 1.0),  # too short: it is not made longer
        (-1.0, 0.0),  # the wrong way: not applied
        (0.0, 0.0),
    ],
)
def test_it_finds_the_multiple_that_is_nearest_to_the_true_gradient(kind, factor, worth):
    model, chunks = make_model(kind), episode(1)
    true = true_gradients(model, chunks)
    audit = Audit(every=1)
    trainer = still_trainer(model, Told(true[0].shape[1], factor), audit)
    play(trainer, chunks, true)
    expected = torch.full((CHUNKS - 1,), worth)
    torch.testing.assert_close(audit.worth(), expected, rtol=1e-5, atol=1e-6)
    signs = torch.tensor(factor).sign().expand(CHUNKS - 1)
    torch.testing.assert_close(audit.cosine(), signs, rtol=1e-5, atol=1e-6)
    energy = torch.stack([weight_gradient(model, chunks, k, true[k]) for k in range(CHUNKS - 1)])
    torch.testing.assert_close(audit.sums[:, 2], energy.square().sum(1))


def weight_gradient(model, chunks, k, grad_BS):
    """What a gradient at the end of chunk k does to the weights through this chunk alone."""
    state = model.initial_state(ROWS)
    with torch.no_grad():
        for chunk in chunks[:k]:
            _, state = unroll(model, chunk.inputs, state)
    _, state = unroll(model, chunks[k].inputs, state)
    grads = torch.autograd.grad(
        (pack(state) * grad_BS).sum(), list(model.parameters()), allow_unused=True
    )
    return torch.cat([g.flatten() for g in grads if g is not None])


def test_an_error_that_all_rows_share_weighs_more_than_one_that_cancels():
    model, chunks = make_model(), episode(1)
    true = true_gradients(model, chunks)
    error_1S = torch.randn(1, true[0].shape[1], generator=torch.Generator().manual_seed(3)).double()
    sign_B1 = torch.tensor([1.0, -1.0] * (ROWS // 2))[:, None].double()
    found = []
    for error_BS in (error_1S.expand(ROWS, -1), error_1S * sign_B1):
        audit = Audit(every=1)
        told = [grad + 0.5 * error_BS for grad in true]
        play(still_trainer(model, Told(true[0].shape[1]), audit), chunks, told)
        found.append(audit.worth())
    assert (found[0] < found[1]).all()


def test_what_the_model_gets_is_what_it_is_worth():
    model, chunks = make_model(), episode(1)
    true = true_gradients(model, chunks)
    found = {}
    for factor in (1.0, 2.0):
        copied = copy.deepcopy(model)
        trainer = still_trainer(copied, Told(true[0].shape[1], factor), Audit(every=1))
        play(trainer, chunks, true)  # measured
        found[factor] = []
        for parameter in copied.parameters():
            parameter.register_post_accumulate_grad_hook(
                lambda p, grads=found[factor]: grads.append(p.grad.clone())
            )
        play_once(trainer, chunks, true)
    for first, second in zip(found[1.0], found[2.0], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-9)


def train(audit, credit=True, episodes=6, saved_at=None):
    """A few episodes with least squares; perhaps stopped in the middle of one and resumed."""

    def make():
        model = make_model()
        boundary = Boundary(LeastSquares(2 * HIDDEN, solve_every=1).double())
        synthetic = SyntheticGradients(boundary, audit=copy.deepcopy(audit)) if credit else None
        learner = Learner(torch.optim.Adam(model.parameters(), 0.01), update_every="episode")
        return Trainer(model, learner, synthetic)

    trainer = make()
    chunks = [chunk for seed in range(episodes) for chunk in episode(seed)]
    for k, chunk in enumerate(chunks):
        if k == saved_at:
            state = copy.deepcopy(trainer.state_dict())
            trainer = make()
            trainer.load_state_dict(state)
        trainer.step(chunk)
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_without_a_measurement_training_is_truncated_bptt():
    never = Audit(every=100)
    never.episodes = 65  # the next one to be audited is number 100
    assert torch.equal(train(never), train(None, credit=False))
    assert not torch.equal(train(Audit(every=2)), train(None, credit=False))


@pytest.mark.parametrize("saved_at", [1, 6, 9, 11])
def test_a_resumed_run_equals_one_that_was_not_stopped(saved_at):
    assert torch.equal(train(Audit(every=2)), train(Audit(every=2), saved_at=saved_at))


def test_longer_episodes_begin_with_the_worth_of_all_boundaries():
    model = make_model()
    audit = Audit(every=1)
    chunks = episode(1)
    true = true_gradients(model, chunks)
    trainer = still_trainer(model, Told(true[0].shape[1], 2.0), audit)
    play(trainer, chunks, true)
    audit.position = 9
    torch.testing.assert_close(audit.worth()[9], torch.tensor(0.5))


def test_what_it_refuses():
    with pytest.raises(ValueError, match="every"):
        Audit(every=0)
    with pytest.raises(ValueError, match="decay is 1"):
        Audit(decay=1.0)
    model = make_model()
    boundary = Boundary(LeastSquares(2 * HIDDEN).double())
    learner = Learner(torch.optim.SGD(model.parameters(), 0.1))
    trainer = Trainer(model, learner, SyntheticGradients(boundary, audit=Audit()))
    x = torch.zeros(3, ROWS, dtype=torch.int64)
    with pytest.raises(ValueError, match="episodes that all rows end together"):
        trainer.step((x, x))
    assert all(p.grad is None for p in model.parameters())  # before anything was computed
    with pytest.raises(ValueError, match="the boundary has none"):
        SyntheticGradients(Boundary(None), audit=Audit())
    with pytest.raises(ValueError, match="does not go with ahead"):
        trainer.step(episode(1)[0], ahead=(x, x))
    other = Trainer(model, learner, SyntheticGradients(boundary))
    with pytest.raises(ValueError, match="one has no audit"):
        other.load_state_dict(trainer.state_dict())


def test_the_first_audits_are_early():
    audit, due = Audit(every=40), []
    for episode_number in range(130):
        audit.episodes = episode_number
        if audit.due():
            due.append(episode_number)
    assert due == [1, 2, 4, 8, 16, 32, 40, 80, 120]


def test_a_boundary_has_its_own_worth_and_vanishing_gradients_their_cosine():
    audit = Audit()
    audit.sums = torch.tensor([[-0.5, 1, 1], [0, 1, 1], [100, 100, 100]], dtype=torch.float64)
    assert audit.worth().tolist() == [0, 0, 1]
    audit.sums = torch.tensor([[1e-44, 1e-38, 1e-50]], dtype=torch.float64)
    assert audit.cosine().item() == pytest.approx(1)


def test_an_episode_that_is_not_finite_leaves_the_audit_as_it_was():
    model = make_model()
    boundary = Boundary(LeastSquares(2 * HIDDEN, solve_every=1).double())
    learner = Learner(
        torch.optim.Adam(model.parameters(), 0.01), update_every="episode", non_finite="skip"
    )
    audit = Audit(every=1)
    trainer = Trainer(model, learner, SyntheticGradients(boundary, audit=audit))
    for seed in range(4):
        for k, chunk in enumerate(episode(seed)):
            weight = model.readout.weight
            good = weight.detach().clone()
            if (seed, k) == (2, 1):
                weight.data.fill_(torch.inf)
            trainer.step(chunk)
            if (seed, k) == (2, 1):
                weight.data.copy_(good)
            if (seed, k) == (2, 3):
                assert audit.sums.isfinite().all()
    assert audit.worth().isfinite().all()
    assert trainer.updates >= 3


def test_a_stream_that_begins_anew_leaves_the_episode_before():
    model, chunks = make_model(), episode(1)
    true = true_gradients(model, chunks)
    audit = Audit(every=1)
    trainer = still_trainer(model, Told(true[0].shape[1]), audit)
    play_once(trainer, chunks, true)
    zeros = torch.zeros_like(true[0])
    trainer.step(chunks[0], condition=(zeros, true[0]))  # and then something else
    trainer.carry = None
    play_once(trainer, chunks, true)
    assert len(audit.sums) == CHUNKS - 1
    torch.testing.assert_close(audit.worth(), torch.ones(CHUNKS - 1), rtol=1e-5, atol=1e-6)
