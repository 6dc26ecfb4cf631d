"""The critic: its gradient, its zero start, what it learns, and what it refuses.

Shapes: B rows, S features of a state, n answers, P positions.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from seqdni import (
    Boundary,
    Chunk,
    Critic,
    Learner,
    OneHot,
    SequenceModel,
    SyntheticGradients,
    TorchCore,
    Trainer,
)

ROWS, SIZE = 5, 4


def made(classes, answers, positions, seed=0):
    """A critic with random readouts, answers with some unknown, and its condition."""
    generator = torch.Generator().manual_seed(seed)
    critic = Critic(SIZE, classes, answers=answers, positions=positions).double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    if classes is None:
        due_nB = torch.randn(answers, ROWS, generator=generator, dtype=torch.float64)
    else:
        due_nB = torch.randint(classes, (answers, ROWS), generator=generator)
    known_nB = torch.rand(answers, ROWS, generator=generator) < 0.7
    state_BS = torch.randn(ROWS, SIZE, generator=generator, dtype=torch.float64)
    return critic, due_nB, known_nB, state_BS


def value(critic, due_nB, known_nB, state_BS, position):
    """The loss of the predicted answers, written from scratch."""
    outputs = critic.readout(state_BS).view(ROWS, critic.positions, critic.answers, -1)
    total = torch.zeros((), dtype=torch.float64)
    for b in range(ROWS):
        for j in range(critic.answers):
            if known_nB[j, b]:
                output, due = outputs[b, position, j], due_nB[j, b]
                if critic.classes is None:
                    total = total + (output[0] - due) ** 2
                else:
                    total = total + functional.cross_entropy(output, due)
    return total


@pytest.mark.parametrize("classes", [3, None])
@pytest.mark.parametrize("answers", [1, 3])
@pytest.mark.parametrize("positions", [1, 4])
def test_it_predicts_the_gradient_of_its_value(classes, answers, positions):
    critic, due_nB, known_nB, state_BS = made(classes, answers, positions)
    for position in range(positions):
        condition_BK = critic.condition(due_nB, known_nB, position)
        assert condition_BK.shape == (ROWS, critic.condition_size)
        leaf = state_BS.clone().requires_grad_()
        loss = value(critic, due_nB, known_nB, leaf, position)
        (expected,) = torch.autograd.grad(loss, leaf)
        # The condition is float32, so real answers are rounded.
        torch.testing.assert_close(critic(state_BS, condition_BK), expected, rtol=1e-5, atol=1e-6)


def test_each_row_has_a_position_of_its_own():
    critic, due_nB, known_nB, state_BS = made(3, 2, 4)
    each = [critic.condition(due_nB, known_nB, position) for position in range(4)]
    rows = torch.arange(ROWS)
    mixed = torch.stack(each)[rows % 4, rows]
    expected = torch.stack([critic(state_BS, one) for one in each])[rows % 4, rows]
    assert torch.equal(critic(state_BS, mixed), expected)


def test_its_mean_over_what_it_believes_is_zero():
    critic, _, _, state_BS = made(3, 1, 1)
    belief_BC = critic.readout(state_BS).softmax(-1)
    mean = torch.zeros(ROWS, SIZE, dtype=torch.float64)
    for answer in range(3):
        label_BK = critic.condition(torch.full((1, ROWS), answer))
        mean += belief_BC[:, answer, None] * critic(state_BS, label_BK)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [3, None])
def test_its_loss_is_relative_to_a_prediction_of_zero_and_counts_valid_rows(classes):
    critic, due_nB, known_nB, state_BS = made(classes, 3, 2)
    condition_BK = critic.condition(due_nB, known_nB, 1)
    zero = Critic(SIZE, classes, answers=3, positions=2).double()
    unused = torch.zeros_like(state_BS)
    assert zero.loss(state_BS, unused, condition_BK=condition_BK).item() == pytest.approx(1)
    valid_B = torch.tensor([True, False, True, True, False])
    found = critic.loss(state_BS, unused, valid_B=valid_B, condition_BK=condition_BK)
    by_hand = critic.loss(state_BS[valid_B], unused[valid_B], condition_BK=condition_BK[valid_B])
    torch.testing.assert_close(found, by_hand)
    nobody = torch.zeros(ROWS, dtype=torch.bool)
    nothing = critic.loss(state_BS, unused, valid_B=nobody, condition_BK=condition_BK)
    assert nothing.item() == 0


@pytest.mark.parametrize("trains", [False, True])
def test_training_starts_as_truncated_bptt_and_stays_so_while_the_critic_is_frozen(trains):
    def train(with_critic):
        torch.manual_seed(0)
        model = SequenceModel(OneHot(3), TorchCore(nn.LSTM(3, 6)), nn.Linear(6, 3))
        credit, critic = None, Critic(12, classes=3, positions=2)
        if with_critic:
            boundary = Boundary(critic, grad_scale=0.1)
            boundary.requires_grad_(trains)
            adam = torch.optim.Adam(boundary.parameters(), 0.01) if trains else None
            credit = SyntheticGradients(boundary, adam)
        learner = Learner(torch.optim.SGD(model.parameters(), 0.1), update_every="episode")
        trainer = Trainer(model, learner, credit)
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):  # episodes of three chunks
            x = torch.randint(3, (6, ROWS), generator=generator)
            label_1B = x[:1]
            mask = torch.zeros(6, ROWS, dtype=torch.bool)
            mask[-1] = True
            for k in range(3):
                here = slice(2 * k, 2 * k + 2)
                reset = torch.zeros(3, ROWS, dtype=torch.bool)
                reset[0], reset[-1] = k == 0, k == 2
                chunk = Chunk(x[here], label_1B.expand(6, -1)[here], mask[here], reset)
                seen = [critic.condition(label_1B, position=p) for p in (max(k - 1, 0), k)]
                trainer.step(chunk, condition=tuple(seen) if with_critic else None)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(train(True), train(False)) == (not trains)


@pytest.mark.parametrize("classes", [4, None])
def test_it_learns_what_the_state_says_of_the_answers(classes):
    generator = torch.Generator().manual_seed(0)
    critic = Critic(SIZE, classes, positions=2)
    adam = torch.optim.Adam(critic.parameters(), 0.05)
    for _ in range(300):
        state_BS = torch.randn(64, SIZE, generator=generator)
        due_1B = state_BS.argmax(1)[None] if classes else state_BS.sum(1)[None]
        condition_BK = critic.condition(due_1B, position=1)
        loss = critic.loss(state_BS, torch.zeros_like(state_BS), condition_BK=condition_BK)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss.item() < 0.2
    untaught = critic.readout.weight.view(2, -1, SIZE)[0]
    assert not untaught.any()  # the other position has learned nothing


def test_a_position_past_the_last_counts_as_the_last_and_further_answers_are_left_out():
    critic = Critic(SIZE, classes=3, answers=2, positions=3)
    many = torch.randint(3, (5, ROWS))
    assert torch.equal(critic.condition(many, position=9), critic.condition(many[:2], position=2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Critic(0, 3), "state_size >= 1"),
        (lambda: Critic(4, 1), "classes is 1, expected >= 2, or None"),
        (lambda: Critic(4, 3, positions=0), "positions >= 1"),
        (lambda: Critic(4, 3)(torch.ones(2, 4)), "got no condition, expected the 3 features"),
        (
            lambda: Critic(4, 3)(torch.ones(2, 4), torch.ones(2, 5)),
            "got 5 features, expected the 3",
        ),
        (lambda: Critic(4, 3)(torch.ones(2, 5), torch.ones(2, 3)), "4"),
        (lambda: Critic(4, 3).condition(torch.tensor([1, 2])), r"shape \[2\], expected \[n, B\]"),
        (lambda: Critic(4, 3).condition(torch.tensor([[3]])), "got an answer of 3, expected ids"),
        (lambda: Critic(4, 3).condition(torch.ones(1, 2)), "classes=None"),
        (
            lambda: Critic(4, 3, positions=2).condition(torch.tensor([[1]]), position=-1),
            "position is -1, expected >= 0",
        ),
        (
            lambda: Critic(4, 3).loss(
                torch.ones(2, 4), torch.ones(2, 4), next_predicted_BS=torch.ones(2, 4)
            ),
            "no Aux head",
        ),
    ],
)
def test_what_it_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_targets_that_are_not_scored_are_unknown_and_answers_of_zero_are_no_division_by_zero():
    critic = Critic(SIZE, classes=3)
    assert critic.condition(torch.tensor([[1, -100]])).tolist() == [[0, 1, 0], [0, 0, 0]]
    real = Critic(SIZE, classes=None)
    torch.nn.init.ones_(real.readout.bias)
    state_BS = torch.randn(ROWS, SIZE)
    zeros_BK = real.condition(torch.zeros(1, ROWS))
    assert real.loss(state_BS, state_BS, condition_BK=zeros_BK).item() == pytest.approx(1)


@pytest.mark.parametrize("core", [nn.LSTM, nn.GRU])
def test_it_reads_the_states_of_a_core_in_bfloat16(core):
    model = SequenceModel(OneHot(3), TorchCore(core(3, 6)), nn.Linear(6, 3))
    critic = Critic(12 if core is nn.LSTM else 6, classes=3)
    boundary = Boundary(critic, grad_scale=0.1)
    adam = torch.optim.Adam(boundary.parameters(), 0.01)
    learner = Learner(torch.optim.Adam(model.parameters()), autocast=torch.bfloat16)
    trainer = Trainer(model, learner, SyntheticGradients(boundary, adam))
    x = torch.randint(3, (4, ROWS))
    label_BK = critic.condition(x[:1])
    for _ in range(3):
        trainer.step((x, x), condition=(label_BK, label_BK))
    assert critic.readout.weight.any()
