"""Copy memory: its layout, its chance, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdni.corpora import CopyMemoryTask, Difficulty, EpisodicTask

TASK = CopyMemoryTask(symbols=5, count=3)
BLANK, CUE = 5, 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_has_the_interface():
    assert isinstance(TASK, EpisodicTask)
    assert TASK.advance(TASK.first) == Difficulty(2)
    assert (TASK.input_size, TASK.output_size) == (7, 5)
    assert CopyMemoryTask().chance_bits == 3


@given(length=st.integers(1, 20), count=st.integers(1, 6), seed=st.integers(0, 99))
@settings(deadline=None)
def test_layout(length, count, seed):
    task = CopyMemoryTask(symbols=5, count=count)
    inputs, targets, mask = task.episode(Difficulty(length), 4, generator(seed))
    assert inputs.shape == (2 * count + length, 4)
    assert (inputs[:count] < BLANK).all()
    assert (inputs[count : count + length] == BLANK).all()
    assert (inputs[count + length] == CUE).all()
    assert (inputs[count + length + 1 :] == BLANK).all()
    assert torch.equal(targets[-count:], inputs[:count])
    assert mask[-count:].all()
    assert not mask[:-count].any()
    assert not targets[:-count].any()


def test_only_the_generator_decides():
    state = torch.get_rng_state()
    first, again, other = (TASK.episode(Difficulty(9), 9, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.inputs_LB, other.inputs_LB)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CopyMemoryTask(symbols=1), "symbols is 1, expected >= 2"),
        (lambda: CopyMemoryTask(count=0), "count is 0, expected >= 1"),
        (lambda: TASK.check(Difficulty(0)), "length is 0, expected >= 1"),
        (lambda: TASK.check(Difficulty(2, 2)), "use repeats=1"),
        (lambda: TASK.episode(Difficulty(2), 0, generator()), "batch_size is 0, expected >= 1"),
    ],
)
def test_what_it_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
