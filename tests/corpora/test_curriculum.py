import math

import pytest

from seqdni.corpora import CopyTask, Difficulty, RepeatCopyTask, next_difficulty


def climb(task, steps: int) -> list[tuple[int, int]]:
    difficulties = [Difficulty()]
    for _ in range(steps):
        difficulties.append(next_difficulty(task, difficulties[-1], error_bits=0.0))
    return [tuple(difficulty) for difficulty in difficulties]


def test_copy_grows_by_one():
    assert climb(CopyTask(), 3) == [(1, 1), (2, 1), (3, 1), (4, 1)]


def test_repeat_copy_alternates_length_first():
    assert climb(RepeatCopyTask(), 5) == [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3)]


def test_repeat_copy_stops_at_max_repeats():
    assert climb(RepeatCopyTask(max_repeats=2), 4) == [(1, 1), (2, 1), (2, 2), (3, 2), (4, 2)]


@pytest.mark.parametrize(
    ("error_bits", "advances"),
    [(0.0, True), (0.149, True), (0.15, False), (1.0, False), (math.nan, False), (math.inf, False)],
)
def test_advances_below_the_threshold_only(error_bits, advances):
    expected = Difficulty(4) if advances else Difficulty(3)
    assert next_difficulty(CopyTask(), Difficulty(3), error_bits) == expected


def test_own_threshold():
    assert next_difficulty(CopyTask(), Difficulty(3), 0.4, threshold=0.5) == Difficulty(4)


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_threshold_must_be_positive(threshold):
    with pytest.raises(ValueError, match="expected > 0 bits"):
        next_difficulty(CopyTask(), Difficulty(3), 0.0, threshold)


def test_impossible_level_is_an_error_even_when_it_does_not_advance():
    with pytest.raises(ValueError, match=r"difficulty\.length is 0"):
        next_difficulty(CopyTask(), Difficulty(0), math.nan)
