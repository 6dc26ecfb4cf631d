import io
from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdni.corpora import (
    AddingTask,
    BackToBackEpisodes,
    Batch,
    CopyTask,
    Difficulty,
    LockstepEpisodes,
    RepeatCopyTask,
)

COPY, REPEAT, ADDING = CopyTask(), RepeatCopyTask(max_repeats=4), AddingTask()
STREAMS = [LockstepEpisodes, BackToBackEpisodes]
sizes = st.integers(1, 7)


def cat(chunks: list[Batch]) -> Batch:
    """Chunks as one; checks that each chunk's last reset row is the next one's first."""
    for chunk, following in pairwise(chunks):
        assert chunk.should_reset is not None
        assert following.should_reset is not None
        assert torch.equal(chunk.should_reset[-1], following.should_reset[0])
    resets = [chunk.should_reset[:-1] for chunk in chunks] + [chunks[-1].should_reset[-1:]]
    fields = [torch.cat([chunk[i] for chunk in chunks]) for i in range(3)]
    return Batch(*fields, torch.cat(resets))


def same(ours: Batch, theirs: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def saved_and_loaded(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@given(length=sizes, repeats=st.integers(1, 4), chunk_len=st.integers(1, 40), batch_size=sizes)
@settings(max_examples=25, deadline=None)
def test_lockstep_chunks_are_the_whole_episodes(length, repeats, chunk_len, batch_size):
    difficulty = Difficulty(length, repeats)
    whole = LockstepEpisodes(REPEAT, difficulty, batch_size, None, seed=5)
    chunked = LockstepEpisodes(REPEAT, difficulty, batch_size, chunk_len, seed=5)
    steps = length + 2 + length * repeats
    for _ in range(3):
        episode = next(whole)
        assert episode.inputs.shape == (steps, batch_size)
        expected_resets = torch.zeros(steps + 1, batch_size, dtype=torch.bool)
        expected_resets[[0, steps]] = True
        assert torch.equal(episode.should_reset, expected_resets)
        chunks = list(islice(chunked, -(-steps // chunk_len)))
        assert [len(chunk.inputs) for chunk in chunks[:-1]] == [chunk_len] * (len(chunks) - 1)
        assert 1 <= len(chunks[-1].inputs) <= chunk_len
        assert same(cat(chunks), episode)


def test_lockstep_episodes_differ():
    stream = LockstepEpisodes(COPY, Difficulty(20), 4, None, seed=0)
    first, second = next(stream), next(stream)
    assert not torch.equal(first.inputs, second.inputs)
    assert not torch.equal(first.inputs[:, 0], first.inputs[:, 1])


def episodes_of_row(chunk: Batch, b: int):
    """(inputs, targets, mask) of each whole episode of row b, by its reset marks."""
    at = chunk.should_reset[:, b].nonzero().flatten().tolist()
    assert at[0] == 0
    return [tuple(field[i:j, b] for field in chunk[:3]) for i, j in pairwise(at)]


@pytest.mark.parametrize("chunk_len", [4, 100])
def test_back_to_back_rows_are_whole_episodes_of_all_levels(chunk_len):
    stream = BackToBackEpisodes(REPEAT, Difficulty(4, 3), 5, chunk_len, seed=1)
    chunks = list(islice(stream, 600 // chunk_len))
    assert all(chunk.inputs.shape == (chunk_len, 5) for chunk in chunks)
    seen = []
    for b in range(5):
        for inputs, targets, mask in episodes_of_row(cat(chunks), b):
            length = int((inputs < 2).sum())
            repeats = int(inputs[length + 1]) - REPEAT.symbols - 1
            assert len(inputs) == length + 2 + length * repeats
            assert targets[mask].tolist() == inputs[:length].tolist() * repeats + [2]
            seen.append((length, repeats))
    assert set(seen) == {(n, r) for n in range(1, 5) for r in range(1, 4)}
    for n in range(1, 5):  # uniform: 1/4 of some 290 episodes, 5 standard deviations are 0.13
        assert abs(sum(length == n for length, _ in seen) / len(seen) - 1 / 4) < 0.13


@given(batch_size=sizes, chunk_len=sizes, seed=st.integers(0, 9))
@settings(max_examples=12, deadline=None)
def test_back_to_back_rows_do_not_depend_on_other_rows_or_chunks(batch_size, chunk_len, seed):
    steps = chunk_len * 10
    chunked = BackToBackEpisodes(COPY, Difficulty(5), batch_size, chunk_len, seed)
    ours = cat(list(islice(chunked, 10)))
    wider = next(BackToBackEpisodes(COPY, Difficulty(5), 8, steps, seed))
    assert same(ours, Batch(*(field[:, :batch_size] for field in wider)))


def test_back_to_back_rows_of_real_features_are_whole_episodes():
    """From the task's first difficulty on: two steps are the fewest that adding has."""
    chunks = list(islice(BackToBackEpisodes(ADDING, Difficulty(5), 3, 7, seed=1), 40))
    assert all(chunk.inputs.shape == (7, 3, 2) for chunk in chunks)
    lengths = set()
    for b in range(3):
        for inputs, targets, mask in episodes_of_row(cat(chunks), b):
            assert inputs[:, 1].sum() == 2
            torch.testing.assert_close(targets[-1], inputs.prod(1).sum())
            assert mask.tolist() == [False] * (len(mask) - 1) + [True]
            lengths.add(len(inputs))
    assert lengths == {2, 3, 4, 5}


def test_rows_and_seeds_differ():
    a = next(BackToBackEpisodes(COPY, Difficulty(9), 3, 200, seed=0))
    b = next(BackToBackEpisodes(COPY, Difficulty(9), 3, 200, seed=1))
    rows = [tuple(chunk.inputs[:, i].tolist()) for chunk in (a, b) for i in range(3)]
    assert len(set(rows)) == 6


@pytest.mark.parametrize("stream_type", STREAMS)
def test_global_generator_is_left_alone(stream_type):
    state = torch.get_rng_state()
    list(islice(stream_type(COPY, Difficulty(5), 3, 4, seed=0), 9))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("stream_type", STREAMS)
@pytest.mark.parametrize("task", [COPY, ADDING], ids=["ids", "real"])
@given(stop=st.integers(0, 12), level_at=st.integers(0, 12), chunk_len=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_resume_at_any_chunk_is_identical(stream_type, task, stop, level_at, chunk_len):
    straight = stream_type(task, Difficulty(4), 3, chunk_len, seed=7)
    for k in range(stop):
        if k == level_at:  # often in mid-episode: the difficulty drawn at and the difficulty differ
            straight.difficulty = Difficulty(2)
        next(straight)
    state = saved_and_loaded(straight.state_dict())
    resumed = stream_type(task, Difficulty(6), 3, chunk_len, seed=99)
    next(resumed)
    resumed.load_state_dict(state)
    assert resumed.difficulty == straight.difficulty
    for _ in range(6):
        assert same(next(resumed), next(straight))


@pytest.mark.parametrize("stream_type", STREAMS)
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_peeking_shows_the_next_steps_of_the_episodes_and_moves_nothing(stream_type, steps):
    stream = stream_type(REPEAT, Difficulty(3, 2), 3, 4, seed=1)
    following = stream_type(REPEAT, Difficulty(3, 2), 3, steps, seed=1)
    twin = stream_type(REPEAT, Difficulty(3, 2), 3, 4, seed=1)  # never peeked
    assert stream.peek(steps) is None
    begun = ended = 0
    for _ in range(60):
        chunk = next(stream)
        assert same(chunk, next(twin))
        before = saved_and_loaded(stream.state_dict())
        seen = stream.peek(steps)
        following.load_state_dict(before)
        expected = next(following)
        over = chunk.should_reset[-1]
        if seen is None:
            assert over.all()
            continue
        count = len(seen.inputs)
        assert 0 < count <= steps
        assert not over.all()
        for b in range(3):
            ends = seen.should_reset[:, b].nonzero().flatten().tolist()
            assert (0 in ends) == over[b]
            until = ends[0] if ends else count
            for field, theirs in zip(seen[:3], expected, strict=False):
                assert torch.equal(field[:until, b], theirs[:until, b])
            assert not seen.mask[until:, b].any()
            if until < steps:
                assert ends  # it is the episode's end that there is no more to see
                assert expected.should_reset[until, b]
            begun, ended = begun + 1, ended + bool(ends)
    assert begun > 0
    assert ended > 0 or steps < 3


def test_saved_state_does_not_move_with_the_stream():
    stream = LockstepEpisodes(COPY, Difficulty(4), 3, 2, seed=7)
    next(stream)
    state = stream.state_dict()
    expected = list(islice(stream, 9))
    stream.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(islice(stream, 9), expected, strict=True))


def test_new_level_waits_for_the_next_episode():
    stream = LockstepEpisodes(COPY, Difficulty(2), 1, 3, seed=0)
    next(stream)
    stream.difficulty = Difficulty(5)
    assert len(next(stream).inputs) == 2  # the rest of 5 steps
    assert len(cat(list(islice(stream, 4))).inputs) == 11


def test_new_level_in_back_to_back():
    stream = BackToBackEpisodes(COPY, Difficulty(1), 1, 300, seed=0)
    assert {len(inputs) for inputs, *_ in episodes_of_row(next(stream), 0)} == {3}
    stream.difficulty = Difficulty(3)
    assert {len(inputs) for inputs, *_ in episodes_of_row(next(stream), 0)} == {3, 5, 7}


@pytest.mark.parametrize("stream_type", STREAMS)
def test_errors(stream_type):
    with pytest.raises(ValueError, match="batch_size is 0, expected >= 1"):
        stream_type(COPY, Difficulty(1), 0, 4, seed=0)
    with pytest.raises(ValueError, match="chunk_len is 0, expected >= 1"):
        stream_type(COPY, Difficulty(1), 1, 0, seed=0)
    with pytest.raises(ValueError, match=r"difficulty\.length is 0"):
        stream_type(COPY, Difficulty(0), 1, 4, seed=0)
    stream = stream_type(COPY, Difficulty(1), 1, 3, seed=0)
    stream.difficulty = Difficulty(0)
    with pytest.raises(ValueError, match=r"difficulty\.length is 0"):
        next(stream)
    state = stream_type(COPY, Difficulty(1), 2, 4, seed=0).state_dict()
    with pytest.raises(ValueError, match="a stream of 2 rows, this one has 1"):
        stream.load_state_dict(state)
