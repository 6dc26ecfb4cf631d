import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdni.corpora import AddingTask, Difficulty, EpisodicTask

TASK = AddingTask()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_has_the_interface():
    assert isinstance(TASK, EpisodicTask)
    assert TASK.advance(TASK.first) == Difficulty(3)


@given(length=st.integers(2, 30), seed=st.integers(0, 99))
@settings(deadline=None)
def test_layout(length, seed):
    inputs, targets, mask = TASK.episode(Difficulty(length), 5, generator(seed))
    assert inputs.shape == (length, 5, TASK.input_size)
    assert inputs.dtype == targets.dtype == torch.float32
    values, markers = inputs.unbind(2)
    assert ((values >= 0) & (values < 1)).all()
    assert set(markers.unique().tolist()) <= {0.0, 1.0}
    half = length // 2
    assert (markers[:half].sum(0) == 1).all()
    assert (markers[half:].sum(0) == 1).all()
    torch.testing.assert_close(targets[-1], (values * markers).sum(0))
    assert (targets[:-1] == 0).all()
    assert mask[-1].all()
    assert not mask[:-1].any()


def test_values_and_markers_are_uniform():
    values, markers = TASK.episode(Difficulty(9), 20_000, generator())[0].unbind(2)
    tenths = torch.histc(values, 10, 0, 1) / values.numel()
    assert (tenths - 0.1).abs().max() < 0.005
    chance_of_a_step = markers.mean(1)
    assert (chance_of_a_step[:4] - 1 / 4).abs().max() < 0.015
    assert (chance_of_a_step[4:] - 1 / 5).abs().max() < 0.015


def test_chance_is_what_the_constant_answer_gets():
    targets = TASK.episode(Difficulty(20), 100_000, generator())[1][-1]
    assert (targets - 1).square().mean().item() == pytest.approx(TASK.chance_mse, rel=0.02)
    for other in (0.9, 1.1):
        assert (targets - other).square().mean() > (targets - 1).square().mean()


def test_only_the_generator_decides():
    state = torch.get_rng_state()
    first, again, other = (TASK.episode(Difficulty(9), 9, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.inputs_LB, other.inputs_LB)
    assert torch.equal(torch.get_rng_state(), state)


def test_render_wraps_and_shows_the_answer():
    values = torch.arange(12) / 100
    markers = torch.zeros(12).index_fill_(0, torch.tensor([2, 11]), 1.0)
    mask = torch.arange(12) == 11
    targets = torch.where(mask, 0.13, 0.0)
    text = TASK.render(torch.stack([values, markers], 1), targets, mask, targets + 0.1)
    assert text.splitlines() == [
        "value   0.00  0.01 *0.02  0.03  0.04  0.05  0.06  0.07  0.08  0.09",
        "        0.10 *0.11",
        "target  0.1300",
        "output  0.2300",
        "error   0.0100 squared",
    ]


@pytest.mark.parametrize(
    ("difficulty", "message"),
    [
        (Difficulty(1), r"difficulty\.length is 1, expected >= 2"),
        (Difficulty(5, 2), r"difficulty\.repeats is 2, but the adding problem has one answer"),
    ],
)
def test_impossible_levels(difficulty, message):
    with pytest.raises(ValueError, match=message):
        TASK.episode(difficulty, 1, generator())
    with pytest.raises(ValueError, match=message):
        TASK.advance(difficulty)


def test_impossible_batch():
    with pytest.raises(ValueError, match="batch_size is 0"):
        TASK.episode(Difficulty(5), 0, generator())
