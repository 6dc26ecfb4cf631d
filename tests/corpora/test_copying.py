import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqdni.corpora import CopyTask, Difficulty, EpisodicTask, RepeatCopyTask

SYMBOLS = 3
STOP, BLANK, END = SYMBOLS, SYMBOLS + 1, SYMBOLS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(episode):
    return [
        tuple(field_LB[:, b].tolist() for field_LB in episode)
        for b in range(episode.inputs_LB.shape[1])
    ]


@pytest.mark.parametrize("task", [CopyTask(), RepeatCopyTask()])
def test_tasks_have_the_interface(task):
    assert isinstance(task, EpisodicTask)


@given(length=st.integers(1, 9), seed=st.integers(0, 99))
def test_copy_layout(length, seed):
    episode = CopyTask(SYMBOLS).episode(Difficulty(length), 4, generator(seed))
    for inputs, targets, mask in columns(episode):
        symbols = inputs[:length]
        assert all(0 <= symbol < SYMBOLS for symbol in symbols)
        assert inputs == [*symbols, STOP, *[BLANK] * length]
        assert targets == [*[0] * length, *symbols, END]
        assert mask == [False] * length + [True] * (length + 1)


@given(length=st.integers(1, 5), repeats=st.integers(1, 4), seed=st.integers(0, 99))
def test_repeat_copy_layout(length, repeats, seed):
    task = RepeatCopyTask(SYMBOLS, max_repeats=4)
    episode = task.episode(Difficulty(length, repeats), 4, generator(seed))
    for inputs, targets, mask in columns(episode):
        symbols = inputs[:length]
        number = SYMBOLS + 1 + repeats
        assert inputs == [*symbols, STOP, number, *[BLANK] * (length * repeats)]
        assert targets == [*[0] * (length + 1), *symbols * repeats, END]
        assert mask == [False] * (length + 1) + [True] * (length * repeats + 1)


def test_sizes_cover_exactly_the_tokens_used():
    copy, repeat = CopyTask(SYMBOLS), RepeatCopyTask(SYMBOLS, max_repeats=4)
    assert (copy.input_size, copy.output_size) == (SYMBOLS + 2, SYMBOLS + 1)
    assert (repeat.input_size, repeat.output_size) == (SYMBOLS + 2 + 4, SYMBOLS + 1)
    longest = repeat.episode(Difficulty(20, 4), 8, generator())
    assert longest.inputs_LB.max() == repeat.input_size - 1
    assert longest.targets_LB.max() == repeat.output_size - 1


def test_symbols_are_uniform_and_rows_differ():
    episode = CopyTask(SYMBOLS).episode(Difficulty(50), 400, generator())
    symbols_NB = episode.inputs_LB[:50]
    counts = torch.bincount(symbols_NB.flatten(), minlength=SYMBOLS)
    assert (counts / counts.sum() - 1 / SYMBOLS).abs().max() < 0.02
    assert len(set(map(tuple, symbols_NB.t().tolist()))) == 400


def test_only_the_generator_decides():
    state = torch.get_rng_state()
    first, again, other = (CopyTask().episode(Difficulty(9), 9, generator(s)) for s in (1, 1, 2))
    assert torch.equal(first.inputs_LB, again.inputs_LB)
    assert not torch.equal(first.inputs_LB, other.inputs_LB)
    assert torch.equal(torch.get_rng_state(), state)


def test_render_copy_with_a_wrong_output():
    inputs, targets = torch.tensor([1, 0, 2, 3, 3]), torch.tensor([0, 0, 1, 0, 2])
    mask = targets.new_tensor([0, 0, 1, 1, 1]).bool()
    outputs = torch.tensor([1, 1, 1, 2, 2])
    assert CopyTask().render(inputs, targets, mask, outputs).splitlines() == [
        "input  1 0 | . .",
        "target     1 0 $",
        "output     1 $ $",
        "error        ^",
    ]


def test_render_aligns_wide_cells():
    task = RepeatCopyTask(symbols=2, max_repeats=20)
    episode = task.episode(Difficulty(1, 11), 1, generator())
    lines = task.render(*(field_LB[:, 0] for field_LB in episode)).splitlines()
    assert lines[0].split()[1:5] == [str(int(episode.inputs_LB[0])), "|", "x11", "."]
    assert lines[0].index("x11") + 2 == lines[1].index(lines[1].split()[1])  # right-aligned


def test_render_many_symbols():
    token = torch.tensor([70])
    text = CopyTask(symbols=80).render(token, token, token.bool())
    assert text.splitlines() == ["input  s70", "target s70"]


@pytest.mark.parametrize(
    ("task", "difficulty", "message"),
    [
        (CopyTask(), Difficulty(0), r"difficulty\.length is 0, expected >= 1"),
        (CopyTask(), Difficulty(2, 2), r"difficulty\.repeats is 2, but copy emits once"),
        (RepeatCopyTask(), Difficulty(-1), r"difficulty\.length is -1"),
        (RepeatCopyTask(), Difficulty(1, 0), r"difficulty\.repeats is 0, expected 1\.\.32"),
        (RepeatCopyTask(max_repeats=3), Difficulty(1, 4), r"expected 1\.\.3: raise max_repeats"),
    ],
)
def test_impossible_levels(task, difficulty, message):
    with pytest.raises(ValueError, match=message):
        task.episode(difficulty, 1, generator())
    with pytest.raises(ValueError, match=message):
        task.advance(difficulty)


def test_impossible_sizes():
    with pytest.raises(ValueError, match="symbols is 0"):
        CopyTask(0)
    with pytest.raises(ValueError, match="max_repeats is 0"):
        RepeatCopyTask(max_repeats=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        CopyTask().episode(Difficulty(1), 0, generator())
