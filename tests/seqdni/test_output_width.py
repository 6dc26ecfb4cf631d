"""Synthesizers whose output is not as wide as their input, and the one for feature maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seqdni import ConvSynthesizer, LeastSquares, MLPSynthesizer


def taught(synthesizer, pairs, steps, lr=1e-2):
    parameters = list(synthesizer.parameters())
    optimizer = torch.optim.Adam(parameters, lr) if parameters else None
    for _ in range(steps):
        loss = synthesizer.loss(*next(pairs)[:2])
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    synthesizer.eval()
    return synthesizer


def linear_pairs():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(6, 2, generator=generator)
    while True:
        state = torch.randn(64, 6, generator=generator)
        yield state, state @ true


@pytest.mark.parametrize(
    ("synthesizer", "steps"),
    [
        (lambda: LeastSquares(6, output_size=2, solve_every=1), 5),
        (lambda: MLPSynthesizer(6, (), output_size=2), 1500),
        (lambda: MLPSynthesizer(6, (32,), output_size=2, batch_norm=True), 1500),
    ],
)
def test_a_synthesizer_can_predict_another_width_than_it_reads(synthesizer, steps):
    torch.manual_seed(0)
    pairs = linear_pairs()
    found = taught(synthesizer(), pairs, steps)
    state, target = next(pairs)
    assert found(state).shape == (64, 2)
    assert (found(state) - target).square().mean() < 0.02 * target.square().mean()


def test_batch_norm_stands_before_each_activation():
    trunk = MLPSynthesizer(6, (5, 4), batch_norm=True).trunk
    assert [type(layer) for layer in trunk] == 2 * [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert nn.BatchNorm1d not in [type(layer) for layer in MLPSynthesizer(6, (5, 4)).trunk]


@pytest.mark.parametrize("kind", [LeastSquares, MLPSynthesizer])
def test_an_output_of_no_width_is_refused(kind):
    with pytest.raises(ValueError, match="output_size"):
        kind(6, output_size=0)


# Feature maps

SHAPE = (2, 4, 5)


def map_pairs(by_label=False):
    """The gradient is a blur of the maps; or, with a label, a picture that belongs to it."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(3, 40, generator=generator)
    kernel = torch.randn(2, 2, 3, 3, generator=generator)
    while True:
        state = torch.randn(32, *SHAPE, generator=generator)
        label = torch.randint(3, (32,), generator=generator)
        blurred = nn.functional.conv2d(state, kernel, padding=1).flatten(1)
        yield state.flatten(1), pictures[label] if by_label else blurred, torch.eye(3)[label]


def test_a_convolution_is_learned_from_flat_maps():
    torch.manual_seed(0)
    pairs = map_pairs()
    synthesizer = ConvSynthesizer(SHAPE, (16,), kernel_size=3)
    state, target, _ = next(pairs)
    assert synthesizer(state).abs().max() == 0  # training starts as without it
    taught(synthesizer, pairs, 600)
    state, target, _ = next(pairs)
    assert (synthesizer(state) - target).square().mean() < 0.1 * target.square().mean()


def test_positions_and_the_condition_tell_maps_apart():
    torch.manual_seed(0)
    pairs = map_pairs(by_label=True)
    synthesizer = ConvSynthesizer(SHAPE, (64,), condition_size=3)
    optimizer = torch.optim.Adam(synthesizer.parameters(), 1e-2)
    for _ in range(300):
        state, target, label = next(pairs)
        optimizer.zero_grad()
        synthesizer.loss(state, target, condition_BK=label).backward()
        optimizer.step()
    state, target, label = next(pairs)
    synthesizer.eval()
    missed = (synthesizer(state, label) - target).square().mean()
    assert missed < 0.4 * target.square().mean()
    shuffled = (synthesizer(state, label.roll(1, 1)) - target).square().mean()
    assert shuffled > target.square().mean()


def test_only_valid_rows_teach_and_the_layout_is_kept():
    torch.manual_seed(0)
    synthesizer = ConvSynthesizer(SHAPE, ()).eval()  # one linear map at every position
    maps = torch.randn(3, *SHAPE)
    with torch.no_grad():
        synthesizer.head.mean_square.fill_(1.0)
        synthesizer.head.head.weight[:, :2] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    predicted = synthesizer(maps.flatten(1)).view(3, *SHAPE)
    assert torch.allclose(predicted, maps.flip(1))  # the two channels are swapped, no position is
    target = maps.flip(1).flatten(1).clone()
    target[2] = 1e6
    valid = torch.tensor([True, True, False])
    assert synthesizer.loss(maps.flatten(1), target, valid_B=valid).item() < 1e-9
    assert synthesizer.loss(maps.flatten(1), target).item() > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (4, 5)}, r"got shape \(4, 5\).*three sizes \(C, H, W\)"),
        ({"shape": (2, 0, 5)}, "three sizes"),
        ({"shape": SHAPE, "channels": (0,)}, r"channels \(0,\)"),
        ({"shape": SHAPE, "kernel_size": 4}, "kernel_size is 4, expected an odd number"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvSynthesizer(**settings)


def test_maps_and_conditions_of_another_size_are_refused():
    synthesizer = ConvSynthesizer(SHAPE, condition_size=3)
    with pytest.raises(ValueError, match="state_size=40, and the state has 41"):
        synthesizer(torch.zeros(2, 41), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="condition_size=3, got no condition"):
        synthesizer(torch.zeros(2, 40))
    with pytest.raises(ValueError, match="no Aux head"):
        synthesizer.loss(
            torch.zeros(2, 40),
            torch.zeros(2, 40),
            condition_BK=torch.zeros(2, 3),
            next_predicted_BS=torch.zeros(2, 40),
        )
