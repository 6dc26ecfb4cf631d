from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdni.corpora import BackToBackEpisodes, Difficulty, EpisodicTask, RecallTask

TASK = RecallTask(symbols=3, distractors=5)
CUE = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_has_the_interface():
    assert isinstance(TASK, EpisodicTask)
    assert TASK.advance(TASK.first) == Difficulty(2)
    assert (TASK.input_size, TASK.output_size) == (9, 3)


@given(length=st.integers(1, 20), seed=st.integers(0, 99))
@settings(deadline=None)
def test_layout(length, seed):
    inputs, targets, mask = TASK.episode(Difficulty(length), 5, generator(seed))
    assert inputs.shape == (length + 2, 5)
    assert ((inputs[0] >= 0) & (inputs[0] < CUE)).all()
    assert ((inputs[1:-1] > CUE) & (inputs[1:-1] < TASK.input_size)).all()
    assert (inputs[-1] == CUE).all()
    assert torch.equal(targets[-1], inputs[0])
    assert mask[-1].all()
    assert not mask[:-1].any()


def test_symbols_and_noise_are_uniform_and_tell_nothing_of_each_other():
    inputs, targets, _ = TASK.episode(Difficulty(4), 30_000, generator())
    assert (inputs[0].bincount() / 30_000 - 1 / 3).abs().max() < 0.015
    for step in range(1, 5):
        joint = torch.bincount(inputs[0] * 5 + inputs[step] - CUE - 1, minlength=15) / 30_000
        assert (joint - 1 / 15).abs().max() < 0.008
    accuracy = (targets[-1] == 1).double().mean().item()
    assert accuracy == pytest.approx(TASK.chance_accuracy, abs=0.015)
    assert 2**TASK.chance_bits == pytest.approx(3)


def test_only_the_generator_decides():
    state = torch.get_rng_state()
    first, again, other = (TASK.episode(Difficulty(9), 9, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.inputs_LB, other.inputs_LB)
    assert torch.equal(torch.get_rng_state(), state)


def test_back_to_back_it_is_a_flip_flop():
    """Each read is of the write before it, at every delay up to the difficulty's."""
    stream = BackToBackEpisodes(TASK, Difficulty(4), 3, 50, seed=0)
    chunks = list(islice(stream, 6))
    inputs, targets, mask = (torch.cat([chunk[i] for chunk in chunks]) for i in range(3))
    assert torch.equal(mask, inputs == CUE)
    delays = set()
    for row in range(3):
        held, since = None, 0
        for token, target in zip(inputs[:, row].tolist(), targets[:, row].tolist(), strict=True):
            if token < CUE:
                held, since = token, 0
            elif token == CUE:
                assert target == held
                delays.add(since)
            else:
                since += 1
    assert delays == {1, 2, 3, 4}


def test_render():
    inputs, targets = torch.tensor([2, 4, 8, CUE]), torch.tensor([0, 0, 0, 2])
    lines = TASK.render(inputs, targets, inputs == CUE, torch.tensor([1, 1, 1, 1])).splitlines()
    assert lines == [
        "input   2 ~0 ~4  ?",
        "target           2",
        "output           1",
        "error            ^",
    ]


@pytest.mark.parametrize(
    ("difficulty", "message"),
    [
        (Difficulty(0), r"difficulty\.length is 0, expected >= 1"),
        (Difficulty(5, 2), r"difficulty\.repeats is 2, but recall reads once"),
    ],
)
def test_impossible_levels(difficulty, message):
    with pytest.raises(ValueError, match=message):
        TASK.episode(difficulty, 1, generator())
    with pytest.raises(ValueError, match=message):
        TASK.advance(difficulty)


def test_impossible_sizes():
    with pytest.raises(ValueError, match="symbols is 1, expected >= 2"):
        RecallTask(symbols=1)
    with pytest.raises(ValueError, match="distractors is 0"):
        RecallTask(distractors=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        TASK.episode(Difficulty(5), 0, generator())
