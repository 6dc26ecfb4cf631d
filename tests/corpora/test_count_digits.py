"""The stream of digits: its answers, counted again from scratch, and how it goes on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdni.corpora import CorpusError, CountDigits, Images, read_small_digits

IMAGES = Images(torch.arange(50, dtype=torch.uint8).repeat(9, 1).T, torch.arange(50) % 10)


@settings(max_examples=20, deadline=None)
@given(window=st.integers(1, 5), rows=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_answers_are_the_counts(window, rows, seed):
    stream = CountDigits(IMAGES, window, rows, seed)
    for _ in range(2):  # long windows
        seen = []
        for w in range(window):
            digits = next(stream)
            seen += digits.digits_TB.tolist()
            assert torch.equal(digits.odd_TB[-1], torch.tensor(seen[-window:]).remainder(2).sum(0))
            assert digits.odd_due_TB.all(1).tolist() == [False] * (window - 1) + [True]
            assert digits.threes_due_wB.tolist() == [[w == window - 1] * rows]
            threes = [sum(row[b] == 3 for row in seen) for b in range(rows)]
            assert digits.threes_wB.tolist() == [threes]
            shown = (digits.inputs_TBP[..., 0] * 255).round().long() % 10
            assert torch.equal(shown, digits.digits_TB)


def test_it_goes_on_exactly():
    stream = CountDigits(IMAGES, 3, 2, seed=1)
    for _ in range(4):
        next(stream)
    other = CountDigits(IMAGES, 3, 2, seed=9)
    other.load_state_dict(stream.state_dict())
    for _ in range(4):
        for a, b in zip(next(stream), next(other), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(ValueError, match="of 50 images and 2 rows, this one has 50 and 3"):
        CountDigits(IMAGES, 3, 3, seed=0).load_state_dict(stream.state_dict())


@pytest.mark.parametrize(("window", "rows"), [(0, 1), (1, 0)])
def test_sizes_are_positive(window, rows):
    with pytest.raises(ValueError, match="expected >= 1"):
        CountDigits(IMAGES, window, rows, seed=0)


def test_the_small_digits():
    pytest.importorskip("sklearn")
    data = read_small_digits()
    assert [len(part.labels_n) for part in data[:3]] == [1197, 300, 300]
    assert data.train.pixels_nP.shape == (1197, 64)
    assert data.train.pixels_nP.max() == 255
    assert set(data.valid.labels_n.tolist()) == set(range(10))
    assert data.digest == read_small_digits().digest


def test_without_scikit_learn_there_is_advice(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(CorpusError, match=r"seqdni\[digits\]"):
        read_small_digits()
