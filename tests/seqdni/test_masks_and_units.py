"""Who is bootstrapped, who teaches, and in what units: right values where a slip would go unseen.

Each test fails for a fault that every other test lets pass.
"""

from __future__ import annotations

import copy

import pytest
import torch
from hierarchies import CONDITION, MESSAGE, WIDTH, Fixed, gradients, make_hierarchy, recorded
from hierarchies import make_stream as hierarchy_stream
from oracles import make_model, make_stream, make_trainer, never_update, split
from torch import nn
from trainers import flat_trainer, flat_training

from seqdni import (
    Boundary,
    Chunk,
    HierarchyTrainer,
    LeastSquares,
    MLPSynthesizer,
    SyntheticGradients,
    Whitening,
    controls,
    cut,
    pack,
    target_grad,
    unroll,
)
from seqdni.chunk import as_chunk, join, rows_of
from seqdni.chunk_step import BackwardPass
from seqdni.hierarchy.messages import message_pairs
from seqdni.targets import Pairs, boundary_pairs
from seqdni.truncation.look_ahead import ahead_grad

ROWS, SIZE = 4, 6
ENDED = torch.tensor([True, False, True, False])


def chunk_that_ends(ended=ENDED, steps=4, seed=0):
    """A chunk with every step scored, at whose end some rows end their episodes."""
    inputs, targets, _, _ = make_stream(steps, ROWS, resets=False, seed=seed)
    reset = torch.zeros(steps + 1, ROWS, dtype=torch.bool)
    reset[-1] = ended
    return inputs, targets, None, reset


def summed(model, chunk, start):
    inputs, targets, _, reset = chunk
    logits, end = unroll(model, inputs, start, reset)
    picked = -logits.log_softmax(-1).gather(2, targets[..., None])
    return picked.sum(), end


# --- Rows whose episode ended


def test_rows_whose_episode_ended_are_not_bootstrapped():
    model, fixed = make_model("gru", 1), Fixed(SIZE, 1)
    by_hand = copy.deepcopy(model)
    chunk = chunk_that_ends()
    never_update(model, boundary=Boundary(fixed)).step(chunk)
    nats, end = summed(by_hand, chunk, by_hand.initial_state(ROWS))
    grad_BS = fixed.answer(pack(end)).detach()
    grad_BS[ENDED] = 0
    ((nats + (grad_BS * pack(end)).sum()) / ROWS).backward()
    for got, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad)
    assert grad_BS[~ENDED].abs().min() > 0


def test_beyond_known_steps_ended_rows_get_nothing_either():
    """Row 0 ends with the known steps, row 1 with the chunk before them, rows 2 and 3 go on."""
    model, fixed = make_model("gru", 1), Fixed(SIZE, 1)
    ahead = chunk_that_ends(torch.tensor([True, False, False, False]), steps=3)
    state = torch.randn(1, ROWS, SIZE, dtype=torch.float64)
    continues_B = torch.tensor([True, False, True, True])
    goes_on_B = rows_of(ahead[3]).continues
    got = ahead_grad(Boundary(fixed), model, Chunk(*ahead), state, continues_B, goes_on_B=goes_on_B)
    start = cut(state)
    nats, far = summed(model, ahead, start)
    beyond_BS = fixed.answer(pack(far)).detach()
    beyond_BS[0] = 0
    (nats + (beyond_BS * pack(far)).sum()).backward()
    expected = target_grad(start)
    expected[1] = 0
    torch.testing.assert_close(got, expected)


def test_a_control_never_brings_a_gradient_over_an_episodes_end():
    """The control comes first and the mask second: rows that ended have zero, the others never."""
    boundary = Boundary(LeastSquares(2), control=controls.shuffled)
    grad_BS = torch.randn(ROWS, 2) + 5
    for _ in range(50):
        passed = boundary.masked(grad_BS, ~ENDED)
        assert passed[ENDED].abs().max() == 0
        assert passed[~ENDED].abs().min() > 0
    batch_mean = Boundary(LeastSquares(2), control=controls.batch_mean)
    torch.testing.assert_close(
        batch_mean.masked(grad_BS, ~ENDED)[1], grad_BS.mean(0), rtol=0, atol=1e-6
    )


def test_shuffled_rows_are_the_same_rows_in_another_order():
    rows = torch.arange(32.0)[:, None].expand(32, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = controls.shuffled(rows), controls.shuffled(rows)
    assert torch.equal(first.sort(dim=0).values, rows)
    assert (first != rows).any(1).sum() > 20
    assert not torch.equal(first, second)


# --- Windows of several chunks


def no_score(seed=0):
    inputs, targets, _, _ = make_stream(4, ROWS, resets=False, seed=seed)
    return inputs, targets, torch.zeros(4, ROWS, dtype=torch.bool), None


def scored(seed=0):
    inputs, targets, _, _ = make_stream(4, ROWS, resets=False, seed=seed)
    return inputs, targets, None, None


def by_windows(chunks, resume_after=None):
    model = make_model("gru", 1)
    build = lambda: flat_trainer(  # noqa: E731
        model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), update_every=2
    )
    trainer = build()
    for n, chunk in enumerate(chunks):
        trainer.step(chunk)
        if n == resume_after:
            saved = copy.deepcopy(trainer.state_dict())
            trainer = build()
            trainer.load_state_dict(saved)
    return trainer


def test_a_window_without_gradient_after_one_with_it_is_no_update():
    """The optimiser has momentum, and would coast."""
    before = by_windows([scored(), scored(1)])
    after = by_windows([scored(), scored(1), no_score(2), no_score(3)])
    assert before.updates == after.updates == 1
    pairs = zip(before.model.parameters(), after.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_window_that_is_open_in_a_checkpoint_keeps_its_gradient():
    chunks = [scored(), no_score(1)]
    never, resumed = by_windows(chunks), by_windows(chunks, resume_after=0)
    assert never.updates == resumed.updates == 1
    pairs = zip(never.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# --- Masks of a chunk


def test_where_two_chunks_meet_the_later_one_says_who_restarts():
    earlier, later = torch.zeros(2, 3, 2, dtype=torch.bool).unbind()
    earlier[-1, 0] = later[0, 1] = True
    x = torch.zeros(2, 2)
    reset = join([Chunk(x, x, None, earlier), Chunk(x, x, None, later)]).should_reset
    assert reset.nonzero().tolist() == [[2, 1]]


def test_an_ignored_target_is_left_out_beside_a_mask_that_was_given():
    targets = torch.tensor([[1, -100], [2, 3]])
    mask = torch.tensor([[True, True], [False, True]])
    assert as_chunk((targets, targets, mask)).mask.tolist() == [[True, False], [False, True]]


# --- Units of a synthesizer's loss


@pytest.mark.parametrize("scaled", [True, False])
def test_the_aux_target_is_in_units_of_the_scale(scaled):
    synthesizer = MLPSynthesizer(2, (3,), aux=True, scaled=scaled).eval()
    synthesizer.mean_square.fill_(4.0)
    target, following = torch.full((5, 2), 6.0), torch.full((5, 2), 10.0)
    loss = synthesizer.loss(torch.randn(5, 2), target, next_predicted_BS=following)
    assert loss.item() == pytest.approx((6.0 / 2) ** 2 + (10.0 / 2) ** 2)


@pytest.mark.parametrize("units", [1e-3, 1e3])
def test_without_scale_a_prediction_is_the_output_and_its_error_still_relative(units):
    """The first step of Adam is of one size in any units; the loss does not depend on them."""
    torch.manual_seed(0)
    plain = MLPSynthesizer(2, (3,), scaled=False)
    adam = torch.optim.Adam(plain.parameters(), lr=0.01)
    state, target = torch.randn(50, 2), units * torch.randn(50, 2)
    loss = plain.loss(state, target)
    assert loss.item() == pytest.approx(1.0)  # as good as predicting zero
    loss.backward()
    adam.step()
    torch.testing.assert_close(plain.head.bias.abs(), torch.full((2,), 0.01))
    torch.testing.assert_close(plain(state), plain.head(plain.trunk(state)))
    expected = (plain(state) - target).square().mean() / plain.scale**2
    torch.testing.assert_close(plain.eval().loss(state, target), expected)


def test_the_mean_is_over_the_valid_rows():
    synthesizer = MLPSynthesizer(2, ()).eval()
    synthesizer.mean_square.fill_(1.0)
    target = torch.tensor([[3.0, 3.0], [100.0, 100.0], [5.0, 5.0], [100.0, 100.0]])
    valid = torch.tensor([True, False, True, False])
    loss = synthesizer.loss(torch.randn(4, 2), target, valid_B=valid)
    assert loss.item() == pytest.approx((9 + 25) / 2)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_whitening_does_not_depend_on_the_units_of_the_state(size):
    state = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    plain, other = (Whitening(3, refresh_every=1, ridge=0.5) for _ in range(2))
    plain.update(state)
    other.update(size * state)
    torch.testing.assert_close(other(size * state), plain(state), rtol=0.02, atol=0.02)
    assert plain(state).std() < 0.9  # the ridge does matter here


# --- Who teaches


class Falling(MLPSynthesizer):
    """Whatever it is taught, its loss is the sum of its biases."""

    def loss(self, *args, **kwargs):
        return self.head.bias.sum()


def test_each_update_is_a_step_of_its_own_gradient():
    boundary = Boundary(Falling(2, ()))
    synthetic = SyntheticGradients(boundary, torch.optim.SGD(boundary.parameters(), 0.1))
    pairs = Pairs(torch.ones(1, 2), torch.ones(1, 2), None, None)
    for _ in range(3):
        list(synthetic.teach(pairs, factor=1.0))
    bias = boundary.synthesizer.head.bias.detach()
    torch.testing.assert_close(bias, torch.full((2,), -0.3))


@pytest.mark.parametrize("name", ["dni", "dni-rls", "dni-aux", "dni-whitened"])
def test_the_first_chunk_of_a_stream_teaches_nothing(name):
    """Nothing was predicted where it begins, so there is nothing to correct."""
    trainer = make_trainer(make_model("lstm", 1), name)
    first, second = split(make_stream(8, ROWS, resets=False), [4, 4])
    trainer.step(first)
    assert "synth_steps" not in trainer.meter.read()
    trainer.step(second)
    assert trainer.meter.read()["synth_steps"] == 1


def test_dense_targets_of_a_first_chunk_leave_out_its_first_state():
    taught = []

    class Recorder(MLPSynthesizer):
        def loss(self, state_BS, target_BS, *, valid_B=None, **others):
            taught.append(valid_B)
            return super().loss(state_BS, target_BS, valid_B=valid_B, **others)

    model = make_model("gru", 1)
    boundary = Boundary(Recorder(SIZE, ()).double())
    learn = torch.optim.SGD(boundary.parameters(), 0.1)
    options = {"boundary": boundary, "synth_optimizer": learn, "targets": "dense"}
    trainer = never_update(model, **options)
    for chunk in split(make_stream(8, ROWS, resets=False), [4, 4]):
        trainer.step(chunk)
    assert taught[0].view(4, ROWS).tolist() == [[False] * ROWS] + [[True] * ROWS] * 3
    assert taught[1] is None


def test_targets_without_a_bootstrap_are_told_apart_for_the_bound():
    """Rows that ended inside the chunk: only they say how large true gradients are."""
    model, fixed = make_model("gru", 1), Fixed(SIZE, 1)
    boundary = Boundary(fixed, bound=1e3)
    trainer = never_update(model, boundary=boundary)
    first, second = scored(), scored(1)
    reset = torch.zeros(5, ROWS, dtype=torch.bool)
    reset[2] = ENDED  # rows 0 and 2 restart in the middle of the second chunk
    trainer.step(first)
    trainer.step((second[0], second[1], None, reset))
    _, target_BS, _ = fixed.taught[0]
    assert boundary.gradient_scale.seen == [0, 1]
    expected = target_BS[ENDED].square().mean()
    torch.testing.assert_close(boundary.gradient_scale.square.double(), expected, rtol=1e-5, atol=0)
    assert target_BS[~ENDED].square().mean() > 1.5 * expected


def test_rows_that_restart_where_a_chunk_begins_teach_nothing():
    start = cut(torch.ones(1, ROWS, SIZE))
    reset = torch.zeros(3, ROWS, dtype=torch.bool)
    reset[0] = ENDED
    taught_B = rows_of(reset).continued
    pairs = boundary_pairs(start, taught_B, None, gradient_at_end=True)
    assert pairs.valid_N.tolist() == (~ENDED).tolist()
    assert pairs.final_N is None
    assert boundary_pairs(start, taught_B, None, gradient_at_end=False).final_N.all()


# --- Messages between levels


def still(module):
    return torch.optim.SGD(module.parameters(), 0.0)


def two_levels(**options):
    """Two levels whose gradients pile up, with a fixed message synthesizer."""
    model = make_hierarchy((1, 2), contexts=False, kind=nn.GRU)
    has_condition = options.pop("condition", False)
    message = recorded(MESSAGE, 3, CONDITION if has_condition else 0)
    learners = [
        flat_training(still(model.levels[0]), message_boundary=message, **options),
        flat_training(still(model.levels[1]), 2, boundary=recorded(WIDTH, 2)),
    ]
    return model, learners, message.synthesizer


def fast_gradients(model, learners, mode):
    for learner in learners:
        optimizer = learner.learner.optimizer
        optimizer.step = optimizer.zero_grad = lambda: None
    trainer = HierarchyTrainer(model, learners, mode)
    for chunk in hierarchy_stream(model, 8, 3, resets=False).chunks([2] * 4):
        trainer.step(chunk._replace(conditions=None))
    return gradients(model.levels[0])


def test_messages_are_not_bridged_during_warmup():
    warming = fast_gradients(*two_levels(warmup_chunks=100)[:2], "dni")
    alone = fast_gradients(*two_levels()[:2], "no-feedback")
    gradient_at_end = fast_gradients(*two_levels()[:2], "dni")
    assert all(torch.equal(a, b) for a, b in zip(warming, alone, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(warming, gradient_at_end, strict=True))


def test_a_message_is_predicted_and_taught_with_its_own_condition():
    model, learners, message = two_levels(condition=True)
    stream = hierarchy_stream(model, 16, 3, resets=False)
    trainer = HierarchyTrainer(model, learners)
    message.asked.clear()
    message.conditions.clear()
    for chunk in stream.chunks([4, 2, 2, 6, 2]):
        trainer.step(chunk)
    trainer.finish()
    (conditions,) = stream.conditions
    assert torch.equal(torch.cat(message.conditions), conditions.flatten(0, 1))
    contexts = [context for _, _, context in message.taught]
    assert torch.equal(torch.cat(contexts), conditions.flatten(0, 1))
    states = [state for state, _, _ in message.taught]
    assert torch.equal(torch.cat(states), torch.cat(message.asked))


def test_a_message_is_final_where_its_row_restarts_later_in_the_chunk():
    received = torch.zeros(3, 2, MESSAGE, requires_grad=True)
    reset = torch.zeros(4, 2, dtype=torch.bool)
    reset[1, 0] = True  # row 0 restarts before its second message
    pairs = message_pairs(received, reset, bootstrapped=True)
    assert pairs.final_N.view(3, 2).tolist() == [[True, False], [False, False], [False, False]]
    assert message_pairs(received, reset * False, bootstrapped=True).final_N is None
    assert message_pairs(received, reset * False, bootstrapped=False).final_N.all()


def test_bootstrap_and_loss_take_the_same_factor():
    """An objective of half the summed loss: the bootstrap is halved, and the target doubled."""
    fixed = Fixed(SIZE, 1)
    boundary = Boundary(fixed)
    start = cut(torch.randn(1, ROWS, SIZE, dtype=torch.float64))
    end = start * 3
    term = boundary.bootstrap(end, loss_scale=0.5)
    expected = fixed.answer(pack(end).detach())
    torch.testing.assert_close(term, 0.5 * (expected * pack(end)).sum())
    (0.5 * end.sum() + term).backward()
    boundary.loss(start, loss_scale=0.5)
    torch.testing.assert_close(fixed.taught[0][1], 3 * (1 + expected))


def test_a_part_of_the_state_that_is_constant_takes_no_gradient():
    """A counter of steps, say: the other part gets its own columns of the packed gradient."""
    moving, counter = torch.zeros(1, ROWS, 2, requires_grad=True), torch.ones(1, ROWS, 1)
    grad_BS = torch.arange(ROWS * 3.0).view(ROWS, 3)
    backward = BackwardPass()
    backward.add(moving.sum())
    backward.add_gradient((moving * 5, counter), grad_BS)
    backward.run()
    torch.testing.assert_close(moving.grad, 1 + 5 * grad_BS[None, :, :2])
