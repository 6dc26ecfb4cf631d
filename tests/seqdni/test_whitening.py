"""Whitening: what it makes of states, and that a change of coordinates changes no prediction."""

from __future__ import annotations

import pytest
import torch
from oracles import ill_conditioned
from torch import nn

from seqdni import MLPSynthesizer, Whitening


def test_it_is_the_running_mean_and_covariance():
    torch.manual_seed(0)
    whitening = Whitening(3, refresh_every=100, decay=0.5).double()
    mean, second = torch.zeros(3).double(), torch.zeros(3, 3).double()
    for k in range(7):
        state = torch.randn(10, 3).double() * 2 + torch.tensor([1.0, k, -1.0])
        whitening.update(state)
        rate = max(0.5, 1 / (k + 1))
        mean += rate * (state.mean(0) - mean)
        second += rate * (state.T @ state / 10 - second)
    torch.testing.assert_close(whitening.running_mean, mean)
    torch.testing.assert_close(whitening.running_cov, second - torch.outer(mean, mean))


def test_whitened_states_are_white():
    whitening = Whitening(16, refresh_every=1, ridge=1e-9).double()
    states = torch.cat([ill_conditioned(k)[0] for k in range(50)]).double() + 3
    whitening.update(states)
    white = whitening(states)
    torch.testing.assert_close(white.mean(0), torch.zeros(16).double(), atol=1e-5, rtol=0)
    found = torch.cov(white.T)
    torch.testing.assert_close(found, torch.eye(16).double(), atol=0.01, rtol=0)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
@pytest.mark.parametrize("context", [0, 2])
def test_a_refresh_changes_no_prediction(hidden, context):
    torch.manual_seed(0)
    whitening = Whitening(4, refresh_every=3)
    synthesizer = MLPSynthesizer(
        4, hidden, condition_size=context, activation=nn.Tanh, whitening=whitening
    ).double()
    for parameter in synthesizer.parameters():
        nn.init.normal_(parameter)
    synthesizer.mean_square.fill_(1.0)
    synthesizer.targets_seen = 10**9
    probe, told = torch.randn(9, 4).double(), torch.randn(9, context).double() if context else None
    before, changes = synthesizer(probe, told), 0
    for _ in range(9):
        state = torch.randn(20, 4).double() @ torch.randn(4, 4).double() + 1
        now = whitening.matrix.clone()
        synthesizer._update_whitening(state, None)
        changes += not torch.equal(now, whitening.matrix)
        torch.testing.assert_close(synthesizer(probe, told), before)
    assert changes == 3


def test_descent_on_the_whitened_state_finds_small_directions():
    torch.manual_seed(0)
    whitening = Whitening(16, refresh_every=10, ridge=1e-9)
    synthesizer = MLPSynthesizer(16, (64,), activation=nn.Tanh, whitening=whitening)
    optimizer = torch.optim.Adam(synthesizer.parameters(), lr=3e-3)
    for k in range(400):
        state, target = ill_conditioned(k)
        optimizer.zero_grad()
        synthesizer.loss(state, target).backward()
        optimizer.step()
    state, target = ill_conditioned(10**6)
    assert (synthesizer(state) - target).square().mean() < 0.2 * target.square().mean()


def test_invalid_rows_and_constant_states():
    whitening, state = Whitening(3, refresh_every=1), torch.randn(8, 3)
    valid = torch.tensor([True, False] * 4)
    other = Whitening(3, refresh_every=1)
    whitening.update(state, valid)
    other.update(state[valid])
    torch.testing.assert_close(whitening.running_cov, other.running_cov)
    torch.testing.assert_close(whitening.matrix, other.matrix)
    for _ in range(3):
        whitening.update(torch.zeros(4, 3))
    assert whitening(torch.zeros(2, 3)).isfinite().all()
    with pytest.raises(ValueError, match="refresh_every >= 1, 0 < decay < 1 and ridge > 0, got 0"):
        Whitening(3, refresh_every=0)


def test_no_valid_row_is_no_news():
    torch.manual_seed(0)
    whitening = Whitening(3, refresh_every=1)
    whitening.update(torch.randn(8, 3) + 2)
    before = whitening.running_mean.clone(), whitening.running_cov.clone()
    whitening.update(torch.randn(8, 3), torch.zeros(8, dtype=torch.bool))
    assert torch.equal(whitening.running_mean, before[0])
    assert torch.equal(whitening.running_cov, before[1])


def test_frozen_it_learns_nothing():
    whitening = Whitening(3, refresh_every=1)
    synthesizer = MLPSynthesizer(3, (4,), whitening=whitening).eval()
    synthesizer.loss(torch.randn(8, 3), torch.randn(8, 3))
    assert whitening.updates == 0
    assert torch.equal(whitening.matrix, torch.eye(3))


def test_what_is_not_finite_changes_no_coordinates():
    whitening = Whitening(3, refresh_every=1)
    whitening.update(torch.full((4, 3), torch.nan))
    assert torch.equal(whitening.matrix, torch.eye(3))
