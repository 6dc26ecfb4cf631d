"""Numbers that are not finite, and factors on the whole objective."""

from __future__ import annotations

import math

import pytest
import torch
from hierarchies import make_hierarchy
from hierarchies import make_stream as hierarchy_stream
from oracles import make_model, make_stream, make_trainer, split
from torch import nn
from torch.nn.functional import one_hot
from trainers import flat_trainer, flat_training

from seqdni import (
    Boundary,
    HierarchyTrainer,
    LeastSquares,
    MLPSynthesizer,
    SyntheticGradients,
    cross_entropy,
    cut,
    leaves,
    squared_error,
    target_grad,
)
from seqdni.guard import TargetGuard
from seqdni.targets import Pairs

CHUNKS = split(make_stream(16, 4, resets=True), [4] * 4)


# --- A factor on the whole objective


class Recorder(MLPSynthesizer):
    def __init__(self, size):
        super().__init__(size, ())
        self.taught = []

    def loss(self, state_BS, target_BS, **others):
        self.taught.append(target_BS.clone())
        return super().loss(state_BS, target_BS, **others)


def own_loop(backward, learn=lambda loss, boundary: loss.backward()):
    """The README's loop with a backward pass of one's own; what the synthesizer was taught."""
    torch.manual_seed(0)
    lstm, readout, boundary = nn.LSTM(5, 6), nn.Linear(6, 5), Boundary(Recorder(12))
    nn.init.normal_(boundary.synthesizer.head.weight, std=0.1)
    boundary.synthesizer.mean_square.fill_(1e-4)
    optimizer = torch.optim.SGD(boundary.parameters(), 0.01)
    state = None
    for x, y, _, _ in CHUNKS:
        start = cut(state)
        outputs, state = lstm(one_hot(x, 5).float(), start)
        loss = cross_entropy(readout(outputs), y).sum()
        optimizer.zero_grad()
        backward(loss + boundary.bootstrap(state))
        learn(boundary.loss(start), boundary)
        optimizer.step()
    return boundary.synthesizer.taught, boundary


def test_the_synthesizer_learns_the_same_under_a_gradient_scaler():
    """A power of two as the scale, so that nothing is rounded."""
    plain, _ = own_loop(lambda objective: objective.backward())
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    scaled, boundary = own_loop(lambda objective: scaler.scale(objective).backward())
    assert boundary.objective_scale == 65536.0
    assert len(plain) == 3
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


def test_the_synthesizer_learns_the_same_under_accumulation():
    """Divided by four for four chunks of an update, credit crosses a boundary undiminished."""
    plain, _ = own_loop(lambda objective: objective.backward())
    divided, _ = own_loop(lambda objective: (objective / 4).backward())
    assert all(torch.equal(a, b) for a, b in zip(plain, divided, strict=True))


def test_a_scale_that_changes_is_followed():
    plain, _ = own_loop(lambda objective: objective.backward())
    scales = iter([1.0, 2.0**16, 2.0**-10, 2.0**4])
    moving, _ = own_loop(lambda objective: (objective * next(scales)).backward())
    assert all(torch.equal(a, b) for a, b in zip(plain, moving, strict=True))


def test_targets_of_half_precision_keep_their_small_numbers():
    """A gradient of 1e-7 scaled by 65536 is exact in float16; divided there it would be zero."""
    boundary = Boundary(Recorder(2))
    start = cut(torch.ones(1, 2, dtype=torch.float16))
    end = start * 1
    ((end.float() * 1e-7).sum() + boundary.bootstrap(end)).mul(65536.0).backward()
    boundary.loss(start)
    target = boundary.synthesizer.taught[0]
    torch.testing.assert_close(target, torch.full((1, 2), 1e-7), rtol=1e-3, atol=0)


# --- Targets that cannot be right


def taught(boundary, target):
    state = torch.randn(4, 2)
    return boundary.regression(state, target)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6], ids=str)
@pytest.mark.parametrize(
    "make", [lambda: LeastSquares(2, solve_every=1), lambda: MLPSynthesizer(2)]
)
def test_a_target_that_cannot_be_right_teaches_nothing_and_is_told(make, bad):
    torch.manual_seed(0)
    boundary = Boundary(make(), bound=1.0)
    probe = torch.randn(5, 2)
    for _ in range(10):
        taught(boundary, torch.randn(4, 2))
    before = boundary.predict(probe), boundary.gradient_scale.square.clone()
    target = torch.randn(4, 2)
    target[1, 0] = bad
    with pytest.warns(RuntimeWarning, match="synthesizer does not learn from it"):
        loss = taught(boundary, target)
    assert loss.isfinite()
    assert boundary.guard.refused == 1
    assert torch.equal(boundary.gradient_scale.square, before[1])
    assert boundary.predict(probe).isfinite().all()
    torch.testing.assert_close(boundary.predict(probe), before[0], rtol=0.1, atol=1e-3)


@pytest.mark.filterwarnings("ignore:a gradient that arrived")
def test_a_change_of_scale_that_stays_is_accepted():
    boundary = Boundary(MLPSynthesizer(2, ()))
    taught(boundary, torch.randn(4, 2))
    for _ in range(4):
        taught(boundary, 1e7 * torch.randn(4, 2))
    assert 1 <= boundary.guard.refused <= 3
    assert boundary.synthesizer.scale > 1e5


def test_targets_of_zero_set_no_limit():
    boundary = Boundary(MLPSynthesizer(2, ()))
    for size in (0.0, 0.0, 1e-9, 1e-6, 0.0, 1e-3):
        taught(boundary, torch.full((4, 2), size))
    assert boundary.guard.refused == 0


def test_the_limit_falls_slowly():
    """One small target leaves it nearly where it was, a thousand small ones do not."""
    guard = TargetGuard()
    assert guard.admits(1.0)
    assert guard.admits(1e-6)
    assert guard.admits(100.0)
    for _ in range(2000):
        assert guard.admits(1e-6)
    assert not guard.admits(100.0)


# --- Losses and gradients that are not finite


def broken(outputs, targets):
    """A loss that is not a number where the target is 4."""
    losses = cross_entropy(outputs, targets)
    return torch.where(targets == 4, torch.full_like(losses, float("nan")), losses)


def chunk(target):
    return torch.zeros(4, 2, dtype=torch.long), torch.full((4, 2), target)


def weights(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


NAMES = ["tbptt", "overlap", "influence", "dni", "dni-rls", "dni-dense", "dni-bounded"]


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_not_finite_stops_with_the_chunk_named(name):
    """The chunk is as if it had never been given: what follows is what it would have been."""
    with_it, without = (
        make_trainer(make_model("lstm", 1, torch.float32), name, loss=broken) for _ in range(2)
    )
    for t in (with_it, without):
        for k in range(3):
            t.step(chunk(k))
    with pytest.raises(FloatingPointError, match=r"the loss of chunk 3 is nan.*non_finite='skip'"):
        with_it.step(chunk(4))
    for t in (with_it, without):
        t.step(chunk(1))
    assert same(weights(with_it), weights(without))
    assert with_it.updates == without.updates
    assert with_it.meter.read() == without.meter.read()


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_not_finite_is_passed_over_when_asked(name):
    t = make_trainer(
        make_model("lstm", 1, torch.float32), name, loss=broken, non_finite="skip", clip=1.0
    )
    for target in (0, 1, 4, 2, 4, 3):
        t.step(chunk(target))
    assert t.chunks == 6
    assert t.updates == 4
    read = t.meter.read()
    assert read["skipped"] == 2
    assert read["scored"] == 4 * 8
    assert all(p.isfinite().all() for p in t.model.parameters())
    assert read["loss_sum"] > 0


class SteepAtZero(torch.autograd.Function):
    """Zero, with a slope that is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x * 0

    @staticmethod
    def backward(ctx, *grads):
        return torch.where(grads[0] == 0, 0.0, float("nan"))


def steep(outputs, targets):
    losses = cross_entropy(outputs, targets)
    return torch.where(targets == 4, losses + SteepAtZero.apply(losses), losses)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_never_reaches_the_optimiser(clip):
    t = make_trainer(make_model("lstm", 1, torch.float32), "tbptt", loss=steep, clip=clip)
    t.step(chunk(1))
    before = weights(t)
    with pytest.raises(FloatingPointError, match="the gradient of chunk 1 is not finite"):
        t.step(chunk(4))
    assert same(before, weights(t))
    assert t.updates == 1
    t.step(chunk(1))
    assert t.updates == 2
    assert all(p.isfinite().all() for p in t.model.parameters())


class Rooted(nn.Module):
    """A loss whose own weight has an infinite gradient where it is zero."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, outputs, targets):
        return cross_entropy(outputs, targets) + self.weight.abs().sqrt()


def test_a_weight_of_the_loss_is_not_updated_by_such_a_gradient_either():
    model, loss = make_model("lstm", 1, torch.float32), Rooted()
    adam = torch.optim.Adam([*model.parameters(), *loss.parameters()], 0.01)
    t = flat_trainer(model, adam, loss=loss, clip=1.0)
    before = weights(t)
    with pytest.raises(FloatingPointError, match="the gradient of chunk 0 is not finite"):
        t.step(chunk(1))
    assert same(before, weights(t))
    assert loss.weight == 0


def test_the_chunks_of_a_window_are_named():
    t = make_trainer(make_model("lstm", 1, torch.float32), "tbptt", loss=steep, update_every=3)
    for target in (1, 2, 3, 1, 4):
        t.step(chunk(target))
    with pytest.raises(FloatingPointError, match="the gradient of chunks 3 to 5 is not finite"):
        t.step(chunk(1))
    assert t.updates == 1
    for target in (1, 2, 3):
        t.step(chunk(target))
    assert t.updates == 2  # and the window that follows is a whole one


def test_a_gradient_that_is_not_finite_is_passed_over_when_asked():
    t = make_trainer(
        make_model("lstm", 1, torch.float32), "dni", loss=steep, non_finite="skip", clip=1.0
    )
    t.step(chunk(1))
    with pytest.warns(RuntimeWarning, match="does not learn from it"):
        t.step(chunk(4))
    t.step(chunk(1))
    assert t.updates == 2
    assert t.boundary.guard.refused == 1
    assert all(p.isfinite().all() for p in [*t.model.parameters(), *t.boundary.parameters()])


def test_rows_whose_state_is_not_finite_restart_when_asked():
    """An input that is infinite breaks one row; the others go on where they were."""
    core = nn.GRU(2, 3)

    class Gru(nn.Module):
        def __init__(self):
            super().__init__()
            self.core = core

        def initial_state(self, batch_size):
            return torch.zeros(1, batch_size, 3)

        def forward(self, x_TBD, state):
            return self.core(x_TBD, state)

    model = Gru()
    t = flat_trainer(
        model, torch.optim.SGD(model.parameters(), 0.1), loss=squared_error, non_finite="skip"
    )
    x, y = torch.randn(3, 2, 2), torch.randn(3, 2, 3)
    t.step((x, y))
    expected = core(x, t.carry)[1].detach()
    x = x.clone()
    x[0, 1] = float("nan")
    t.step((x, y))
    assert t.updates == 1
    torch.testing.assert_close(t.carry[0, 0], expected[0, 0])
    assert t.carry[0, 1].abs().max() == 0


def test_a_level_whose_loss_is_not_finite_is_named():
    model = make_hierarchy((1, 2), contexts=False)
    learners = [
        flat_training(torch.optim.SGD(level.parameters(), 0.1), 2 if k else None)
        for k, level in enumerate(model.levels)
    ]
    learners[1].learner.loss = lambda outputs, targets: cross_entropy(outputs, targets) / 0.0
    trainer = HierarchyTrainer(model, learners, mode="no-feedback")
    first, *_ = hierarchy_stream(model, 16, 3, resets=False).chunks([4] * 4)
    with pytest.raises(FloatingPointError, match="the loss of chunk 0 of level 1 is inf"):
        trainer.step(first._replace(conditions=None))
    assert all(p.isfinite().all() for p in model.parameters())
    assert trainer.updates_of_levels[1] == 0


def test_a_synthesizer_loss_that_is_not_finite_is_passed_over():
    """A state with an infinite feature, and a target that looks harmless."""
    boundary = Boundary(MLPSynthesizer(2, ()))
    optimizer = torch.optim.Adam(boundary.parameters())
    synthetic = SyntheticGradients(boundary, optimizer, clip=1.0)
    pairs = Pairs(torch.tensor([[float("inf"), 1.0]]), torch.ones(1, 2), None, None)
    (loss,) = synthetic.teach(pairs, factor=1.0)
    assert not loss.isfinite()
    assert all(p.isfinite().all() for p in boundary.parameters())


def test_what_is_refused_survives_a_checkpoint():
    t = make_trainer(make_model("lstm", 1, torch.float32), "dni")
    for each in CHUNKS:
        t.step(each)
    other = make_trainer(make_model("lstm", 1, torch.float32, seed=5), "dni")
    other.load_state_dict(t.state_dict())
    assert other.boundary.guard.peak == t.boundary.guard.peak
    assert other.boundary.guard.peak > 0


def test_target_grad_is_not_confused_by_a_second_backward_pass():
    start = cut(torch.ones(1, 2))
    for _ in range(2):
        (start * 2).sum().backward()
    assert torch.equal(target_grad(start), torch.full((1, 2), 4.0))


@pytest.mark.parametrize("sends", [True, False], ids=["messages", "no message"])
def test_a_level_passes_over_a_chunk_whose_loss_is_not_finite(sends):
    """The chunk changes no weight, and the rows that broke begin anew."""
    model = make_hierarchy((1, 2 if sends else 8), contexts=True)
    learners = [
        flat_training(torch.optim.SGD(level.parameters(), 0.1), 2 if k else None, non_finite="skip")
        for k, level in enumerate(model.levels)
    ]
    trainer = HierarchyTrainer(model, learners, mode="no-feedback")
    first, second, third, _ = hierarchy_stream(model, 16, 3, resets=False).chunks([4] * 4)
    trainer.step(first._replace(conditions=None))
    before = [p.detach().clone() for p in model.levels[0].parameters()]
    broken = second.inputs.clone()
    broken[1, 0] = float("nan")
    trainer.step(second._replace(conditions=None, inputs=broken))
    assert trainer.meter.read()["skipped"] >= 1
    assert math.isfinite(trainer.meter.read()["loss_sum"])
    assert all(map(torch.equal, before, model.levels[0].parameters()))
    trainer.step(third._replace(conditions=None))
    assert not all(map(torch.equal, before, model.levels[0].parameters()))
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(
        leaf.isfinite().all()
        for each in trainer.levels
        for leaf in leaves(each.trained_carry.state)
    )
