"""The diagnostics, checked where the answer is known."""

from __future__ import annotations

import pytest
import torch
from oracles import ExactSynthesizer, make_model, make_stream, split

from seqdni import Boundary, LeastSquares, measure_horizon, pack, state_size

SIZES = [4, 4, 4]


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_an_exact_synthesizer_agrees_everywhere(kind):
    model = make_model(kind, 2)
    chunks = split(make_stream(12, 3, resets=False), SIZES)
    boundary = Boundary(ExactSynthesizer(model, chunks)).requires_grad_(False)
    exact = boundary.synthesizer.forward
    said = []

    def remember(state, context=None):  # it is asked twice for each boundary, in order
        if len(said) < 2:
            said.append(exact(state))
            return said[-1]
        said.append(None)
        return said[len(said) - 3]

    boundary.synthesizer.forward = remember
    found = measure_horizon(model, boundary, chunks)
    assert [agreement.step for agreement in found.boundaries] == [4, 8]
    for agreement in found.boundaries:
        assert agreement[1:] == pytest.approx((1.0, 1.0, 1.0))
    assert found.dni_cosine == pytest.approx(1.0)
    assert found.dni_norm_ratio == pytest.approx(1.0)
    assert found.tbptt_cosine < 0.9999
    assert [lag.steps for lag in found.lags] == [4, 8]
    assert [lag.share for lag in found.lags] == pytest.approx([1.0, 1.0])
    assert sum(lag.energy for lag in found.lags) == pytest.approx(1.0)
    assert found.effective == 12


def test_a_synthesizer_of_zeros_is_tbptt():
    model = make_model("lstm", 1)
    boundary = Boundary(LeastSquares(state_size(model.initial_state(1))).double(), bound=10.0)
    found = measure_horizon(model, boundary, split(make_stream(12, 3, resets=False), SIZES))
    assert found.dni_cosine == found.tbptt_cosine
    assert found.dni_norm_ratio == found.tbptt_norm_ratio
    assert [agreement[1:] for agreement in found.boundaries] == [(0.0, 0.0, 0.0)] * 2
    assert [lag.share for lag in found.lags] == [0.0, 0.0]
    assert found.effective == 4


def test_known_steps_reach_their_lag_and_no_further():
    """Steps that are known are carried whole: one chunk of them is all credit of the first lag."""
    model = make_model("gru", 1)
    inputs, targets, _, _ = make_stream(16, 3, resets=False)
    chunks = split((inputs, targets, None, None), [4, 4, 4, 4])
    found = measure_horizon(model, Boundary(None), chunks, steps_known=4)
    assert [lag.share for lag in found.lags] == pytest.approx([1.0, 0.0, 0.0])
    assert found.effective == 8
    only_first = split(
        (inputs, targets, torch.arange(16)[:, None].expand(16, 3) < 8, None), [4] * 4
    )
    found = measure_horizon(model, Boundary(None), only_first, steps_known=4)
    assert [lag.energy for lag in found.lags] == [1.0, 0.0, 0.0]
    assert [lag.share for lag in found.lags] == pytest.approx([1.0, 0.0, 0.0])


def test_the_spectrum_is_that_of_the_states_at_the_boundaries():
    model = make_model("lstm", 2)
    chunks = split(make_stream(12, 9, resets=False), SIZES)
    found = measure_horizon(model, Boundary(None), chunks)
    state, states = model.initial_state(9), []
    for chunk in chunks[:-1]:
        _, state = model(chunk[0], state)
        states.append(pack(state))
    expected = torch.cov(torch.cat(states).T, correction=0)
    assert len(found.spectrum) == state_size(state)
    assert sum(found.spectrum) == pytest.approx(expected.trace().item())
    assert found.spectrum == sorted(found.spectrum, reverse=True)


def test_it_leaves_no_trace():
    model = make_model("gru", 1)
    boundary = Boundary(LeastSquares(6).double())
    measure_horizon(model, boundary, split(make_stream(12, 3, resets=True), SIZES))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert boundary.synthesizer.steps == 0
    assert not boundary.synthesizer.pending


def test_one_chunk_has_no_boundary():
    model = make_model("gru", 1)
    with pytest.raises(ValueError, match="got 1 chunk, expected at least 2"):
        measure_horizon(model, Boundary(LeastSquares(6)), [make_stream(4, 2, resets=False)])
    assert torch.is_grad_enabled()


def test_one_row_and_one_boundary_are_enough():
    model = make_model("gru", 1)
    found = measure_horizon(model, Boundary(None), split(make_stream(8, 1, resets=False), [4, 4]))
    assert found.spectrum == pytest.approx([0.0] * 6)
