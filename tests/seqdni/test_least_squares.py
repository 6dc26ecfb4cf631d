"""The synthesizer that is solved for, and the bound on what is consumed of any."""

from __future__ import annotations

import pytest
import torch
from oracles import ill_conditioned

from seqdni import Boundary, LeastSquares, MLPSynthesizer, cut


def test_it_is_the_weighted_least_squares_solution():
    torch.manual_seed(0)
    synthesizer = LeastSquares(3, forgetting=0.8, ridge=1e-12, solve_every=1).double()
    batches = [(torch.randn(8, 3).double(), torch.randn(8, 3).double()) for _ in range(5)]
    for state, target in batches:
        synthesizer.loss(state, target)
    weights = torch.cat([torch.full((8,), 0.8 ** (4 - k)) for k in range(5)]).sqrt().double()
    states = torch.cat([state for state, _ in batches])
    phi = torch.cat([states, torch.ones(40, 1)], dim=1) * weights[:, None]
    targets = torch.cat([target for _, target in batches]) * weights[:, None]
    expected = torch.linalg.lstsq(phi, targets).solution
    torch.testing.assert_close(synthesizer.weight, expected, rtol=1e-5, atol=1e-7)


def test_blocks_of_moments_and_steps_that_wait_are_the_same_solution():
    """More features than a block, steps of different sizes, a copy taken while some wait."""
    torch.manual_seed(0)
    synthesizer, resumed = (LeastSquares(300, solve_every=7).double() for _ in range(2))
    a, c = torch.zeros(301, 301).double(), torch.zeros(301, 300).double()
    for k, rows in enumerate([100, 3, 50, 300, 90, 1, 80]):
        state, target = torch.randn(rows, 300).double(), torch.randn(rows, 300).double()
        phi = torch.cat([state, torch.ones(rows, 1)], dim=1)
        a, c = 0.97 * a + phi.T @ phi, 0.97 * c + phi.T @ target
        synthesizer.loss(state, target)
        if k == 4:
            assert len(synthesizer.pending) == 1
            resumed.load_state_dict(synthesizer.state_dict())
            synthesizer = resumed
    expected = torch.linalg.solve(a + 1e-4 * a.diagonal().diag(), c)
    torch.testing.assert_close(synthesizer.weight, expected, rtol=1e-5, atol=1e-7)


def test_small_directions_are_found_where_descent_on_the_raw_state_finds_none():
    """An equal budget of steps for both."""
    solved = LeastSquares(16, ridge=1e-9, accumulate=torch.float64)
    descended = MLPSynthesizer(16, (64,))
    optimizer = torch.optim.Adam(descended.parameters(), lr=1e-3)
    for k in range(200):
        state, target = ill_conditioned(k)
        solved.loss(state, target)
        optimizer.zero_grad()
        descended.loss(state, target).backward()
        optimizer.step()
    state, target = ill_conditioned(10**6)
    errors = [(model(state) - target).square().mean() for model in (solved, descended)]
    assert errors[0] < 0.05 * target.square().mean()
    assert errors[1] > 0.8 * target.square().mean()


def test_it_starts_at_zero():
    synthesizer = LeastSquares(4)
    assert synthesizer(torch.randn(3, 4)).abs().max() == 0


def test_what_is_old_is_forgotten():
    torch.manual_seed(0)
    synthesizer = LeastSquares(2, forgetting=0.5, solve_every=1)
    for sign in (1.0, -1.0):
        for _ in range(30):
            state = torch.randn(16, 2)
            synthesizer.loss(state, sign * state)
    probe = torch.randn(5, 2)
    torch.testing.assert_close(synthesizer(probe), -probe, rtol=1e-3, atol=1e-3)


def test_invalid_rows_teach_nothing():
    torch.manual_seed(0)
    state, target = torch.randn(8, 3), torch.randn(8, 3)
    valid = torch.tensor([True, False] * 4)
    masked, dropped = LeastSquares(3, solve_every=1), LeastSquares(3, solve_every=1)
    a = masked.loss(state, target, valid_B=valid)
    b = dropped.loss(state[valid], target[valid])
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(masked.weight, dropped.weight)


def test_frozen_it_learns_nothing():
    synthesizer = LeastSquares(3, solve_every=1).eval()
    error = synthesizer.loss(torch.randn(8, 3), torch.randn(8, 3))
    assert synthesizer.steps == 0
    assert not synthesizer.pending
    assert error == pytest.approx(1.0)


def test_a_singular_start_stays_finite():
    synthesizer = LeastSquares(3, solve_every=1)
    for _ in range(3):
        synthesizer.loss(torch.zeros(2, 3), torch.zeros(2, 3))
    assert synthesizer.weight.isfinite().all()
    synthesizer.loss(torch.full((2, 3), torch.nan), torch.zeros(2, 3))
    assert synthesizer.weight.isfinite().all()


def test_it_takes_a_context():
    torch.manual_seed(0)
    synthesizer = LeastSquares(2, condition_size=1, solve_every=1)
    context = torch.randn(32, 1)
    synthesizer.loss(torch.randn(32, 2), context.expand(32, 2), condition_BK=context)
    said = synthesizer(torch.zeros(1, 2), torch.ones(1, 1))
    torch.testing.assert_close(said, torch.ones(1, 2), rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="condition_size=1, got no condition"):
        synthesizer(torch.zeros(1, 2))


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="condition_size >= 0, got 3, 3, 0 and 0"):
        LeastSquares(3, solve_every=0)
    with pytest.raises(ValueError, match="0 < forgetting <= 1 and ridge > 0, got 0"):
        LeastSquares(3, forgetting=0.0)
    with pytest.raises(ValueError, match="no Aux head"):
        LeastSquares(1).loss(torch.ones(1, 1), torch.ones(1, 1), next_predicted_BS=torch.ones(1, 1))
    with pytest.raises(ValueError, match="bound is 0"):
        Boundary(LeastSquares(1), bound=0.0)


# --- The bound on what is consumed


def boundary_at_level(level, bound):
    boundary = Boundary(LeastSquares(2), bound=bound)
    boundary.gradient_scale.square.fill_(level**2)
    return boundary


def test_long_rows_are_cut_to_the_bound_and_short_ones_left():
    boundary = boundary_at_level(level=2.0, bound=3.0)
    said = torch.tensor([[1.0, -1.0], [60.0, 60.0], [0.0, 0.0]])
    expected = torch.tensor([[1.0, -1.0], [6.0, 6.0], [0.0, 0.0]])
    torch.testing.assert_close(boundary.applied(said), expected)
    boundary.grad_scale = 0.5
    torch.testing.assert_close(boundary.applied(said), expected / 2)
    unbounded = Boundary(LeastSquares(2), bound=None)
    assert torch.equal(unbounded.applied(said), said)


def arrive(boundary, size, **rows):
    start = cut(torch.zeros(1, 4, 2))
    (start * size).sum().backward()
    boundary.loss(start, **rows)


def test_the_level_is_that_of_targets_without_a_bootstrap():
    """Once an episode has ended, targets that contain predictions no longer move the level."""
    boundary = Boundary(LeastSquares(2), bound=1.0)
    arrive(boundary, 5.0)
    assert boundary.gradient_scale.square.item() == pytest.approx(25.0)
    final = torch.tensor([True, False, False, False])
    arrive(boundary, 2.0, final_B=final)
    assert boundary.gradient_scale.square.item() == pytest.approx(4.0)
    for _ in range(50):
        arrive(boundary, 1e3)
    assert boundary.gradient_scale.square.item() == pytest.approx(4.0)
    arrive(boundary, 3.0, final_B=final, valid_B=~final)  # no row is both
    assert boundary.gradient_scale.square.item() == pytest.approx(4.0)
    arrive(boundary, 3.0, final_B=final)
    assert 4.0 < boundary.gradient_scale.square.item() < 9.0


def test_in_evaluation_the_level_stays():
    boundary = Boundary(LeastSquares(2), bound=1.0)
    arrive(boundary, 5.0)
    boundary.eval()
    arrive(boundary, 2.0)
    assert boundary.gradient_scale.square.item() == pytest.approx(25.0)
    assert boundary.gradient_scale.seen == [1, 0]


def test_without_any_level_nothing_is_consumed():
    boundary = Boundary(LeastSquares(2), bound=10.0)
    assert boundary.applied(torch.ones(1, 2)).abs().max() == 0
