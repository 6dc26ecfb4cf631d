from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqdni.corpora import Batch, CorpusError, TokenStream, evaluation_chunks

sizes = st.integers(1, 9)


def tokens_of(n: int) -> np.ndarray:
    """Distinct read-only ids, so that a token says where it was read."""
    tokens = np.arange(n, dtype=np.uint16)
    tokens.flags.writeable = False
    return tokens


def resets(chunks: list[Batch]) -> list[tuple[list, list]]:
    """First and last row of each chunk's resets; checks that nothing in between restarts."""
    result = []
    for chunk in chunks:
        steps, rows = chunk.inputs.shape
        marks = chunk.should_reset
        if marks is None:
            marks = torch.zeros(steps + 1, rows, dtype=torch.bool)
        assert marks.shape == (steps + 1, rows)
        assert not marks[1:-1].any()
        result.append((marks[0].tolist(), marks[-1].tolist()))
    return result


@given(rows=sizes, chunk_len=sizes, extra=st.integers(1, 60))
def test_an_epoch_reads_contiguous_rows(rows, chunk_len, extra):
    n = rows + extra
    stream = TokenStream(tokens_of(n), rows, chunk_len)
    steps = (n - 1) // rows
    assert stream.tokens_per_epoch == steps * rows
    for epoch in range(2):
        assert stream.epoch == epoch
        chunks = list(islice(stream, stream.chunks_per_epoch))
        assert all(len(chunk.inputs) == chunk_len for chunk in chunks[:-1])
        assert 1 <= len(chunks[-1].inputs) <= chunk_len
        inputs = torch.cat([chunk.inputs for chunk in chunks])
        targets = torch.cat([chunk.targets for chunk in chunks])
        assert torch.equal(inputs.t().flatten(), torch.arange(rows * steps))
        assert torch.equal(targets, inputs + 1)
        assert all(chunk.mask is None for chunk in chunks)
        yes, no = [True] * rows, [False] * rows
        last = len(chunks) - 1
        assert resets(chunks) == [
            (yes if k == 0 else no, yes if k == last else no) for k in range(last + 1)
        ]


def test_inner_chunks_have_no_resets():
    chunks = list(islice(TokenStream(tokens_of(25), 2, 4), 3))
    assert [chunk.should_reset is None for chunk in chunks] == [False, True, False]


def test_types():
    chunk = next(TokenStream(tokens_of(9), 2, 4))
    assert chunk.inputs.dtype == chunk.targets.dtype == torch.int64
    assert chunk.should_reset is not None
    assert chunk.should_reset.dtype == torch.bool


@given(rows=sizes, chunk_len=sizes, stop=st.integers(0, 30))
def test_resume_at_any_chunk_is_identical(rows, chunk_len, stop):
    straight = TokenStream(tokens_of(40), rows, chunk_len)
    list(islice(straight, stop))
    resumed = TokenStream(tokens_of(40), rows, chunk_len)
    next(resumed)
    resumed.load_state_dict(straight.state_dict())
    for _ in range(10):
        assert resumed.epoch == straight.epoch
        for ours, theirs in zip(next(resumed), next(straight), strict=True):
            assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_state_is_of_primitives():
    stream = TokenStream(tokens_of(9), 2, 3)
    next(stream)
    assert stream.state_dict() == {"cursor": 3, "epoch": 0, "steps": 4}


@given(n=st.integers(2, 90), rows=sizes, chunk_len=sizes)
def test_evaluation_scores_every_target_once_and_in_order(n, rows, chunk_len):
    chunks = list(evaluation_chunks(tokens_of(n), rows, chunk_len))
    inputs, targets = (
        torch.cat([chunk[field] for chunk in chunks]).t().flatten() for field in (0, 1)
    )
    masks = [
        torch.ones_like(chunk.inputs, dtype=torch.bool) if chunk.mask is None else chunk.mask
        for chunk in chunks
    ]
    mask = torch.cat(masks).t().flatten()
    assert torch.equal(targets[mask], torch.arange(1, n))
    assert torch.equal(inputs[mask], torch.arange(n - 1))
    assert int(targets.max()) < n  # padding is a valid id too
    assert chunks[0].inputs.shape[1] <= rows
    assert all(chunk.mask is None or not chunk.mask.all() for chunk in chunks)
    assert all(chunk.mask is None for chunk in chunks[:-1]) or rows > 1
    first, *_, last = [chunks[0], *chunks]
    assert first.should_reset is not None
    assert first.should_reset[0].all()
    assert last.should_reset is not None
    assert last.should_reset[-1].all()
    assert resets(chunks)[1:] == [([False] * len(a), b) for a, b in resets(chunks)[1:]]


@given(n=st.integers(2, 90), rows=sizes, chunk_len=sizes, warmup=st.integers(0, 20), align=sizes)
def test_rows_are_warmed_up_on_what_the_row_before_scores(n, rows, chunk_len, warmup, align):
    chunks = list(evaluation_chunks(tokens_of(n), rows, chunk_len, warmup, align))
    inputs_BT, targets_BT = (torch.cat([chunk[field] for chunk in chunks]).t() for field in (0, 1))
    mask_BT = torch.cat(
        [
            torch.ones_like(chunk.inputs, dtype=torch.bool) if chunk.mask is None else chunk.mask
            for chunk in chunks
        ]
    ).t()
    assert torch.equal(targets_BT[mask_BT], torch.arange(1, n))  # each once, in order
    assert len(inputs_BT) <= rows
    assert inputs_BT[0, 0] == 0
    assert mask_BT[0, 0]
    for row, mask in zip(inputs_BT[1:], mask_BT[1:], strict=True):
        assert row[0] % align == 0
        assert not mask[:warmup].any()
        assert mask[warmup]
        assert mask_BT[1].sum() >= mask.sum()
    if len(inputs_BT) > 1:
        first = inputs_BT[1, 0]  # the steps that a row scores
        assert warmup <= first
        assert inputs_BT.shape[1] == warmup + first
    if n - 1 <= 2 * warmup:
        assert len(inputs_BT) == 1


def test_evaluation_uses_all_rows_that_it_can():
    assert next(evaluation_chunks(tokens_of(101), 10, 7)).inputs.shape == (7, 10)
    assert next(evaluation_chunks(tokens_of(3), 10, 7)).inputs.shape == (1, 2)
    (chunk,) = evaluation_chunks(tokens_of(101), 10, 10)  # 100 targets: nothing to pad
    assert chunk.mask is None


def test_errors():
    with pytest.raises(CorpusError, match="5 tokens for 5 rows, expected at least 6"):
        TokenStream(tokens_of(5), 5, 1)
    with pytest.raises(CorpusError, match="1 tokens to evaluate, expected at least 2"):
        evaluation_chunks(tokens_of(1), 1, 1)
    for make in (TokenStream, evaluation_chunks):
        with pytest.raises(ValueError, match="batch_size is 0, expected a whole number >= 1"):
            make(tokens_of(9), 0, 1)
        with pytest.raises(ValueError, match="chunk_len is 0, expected a whole number >= 1"):
            make(tokens_of(9), 1, 0)
    for warmup, align in ((-1, 1), (0, 0)):
        with pytest.raises(ValueError, match=f"warmup is {warmup}, align {align}: expected at"):
            evaluation_chunks(tokens_of(9), 1, 1, warmup, align)
    state = TokenStream(tokens_of(9), 2, 3).state_dict()
    with pytest.raises(ValueError, match="rows of 4 steps, these have 2"):
        TokenStream(tokens_of(9), 4, 3).load_state_dict(state)


def test_peeking_shows_the_next_steps_and_moves_nothing():
    stream = TokenStream(np.arange(23), batch_size=2, chunk_len=4)
    assert stream.peek(3) is None
    for _ in range(2):
        next(stream)
        seen = stream.peek(3)
        following = TokenStream(np.arange(23), batch_size=2, chunk_len=4)
        following.load_state_dict(stream.state_dict())
        expected = next(following)
        steps = min(3, len(expected.inputs))
        assert torch.equal(seen.inputs, expected.inputs[:steps])
        assert torch.equal(seen.targets, expected.targets[:steps])
    assert seen.should_reset[-1].all()  # the epoch ends there
    next(stream)
    assert stream.peek(3) is None


class Recorded(np.ndarray):
    """Tokens that know what was read of them."""

    read: list

    def take(self, indices, **options):
        self.read += np.unique(indices).tolist()
        return np.asarray(self).take(indices, **options)


def test_parts_of_the_rows_are_the_whole_and_read_their_part_of_the_text():
    whole = TokenStream(tokens_of(41), batch_size=4, chunk_len=4)
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        tokens = tokens_of(41).view(Recorded)
        tokens.read = []
        parts.append((TokenStream(tokens, 4, 4, rows), tokens))
    for _ in range(7):  # over the end of an epoch
        assert all(part.state_dict() == whole.state_dict() for part, _ in parts)
        seen, expected = [part.peek(3) for part, _ in parts], whole.peek(3)
        assert (expected is None) == (seen[0] is None) == (seen[1] is None)
        got, expected = [next(part) for part, _ in parts], next(whole)
        assert torch.equal(torch.cat([x.inputs for x in got], dim=1), expected.inputs)
        assert torch.equal(torch.cat([x.targets for x in got], dim=1), expected.targets)
        if expected.should_reset is not None:
            marks = torch.cat([x.should_reset for x in got], dim=1)
            assert torch.equal(marks, expected.should_reset)
    assert set(parts[0][1].read) == set(range(11))  # ten steps and the last target
    assert set(parts[1][1].read) == set(range(10, 41))
    assert parts[1][0].tokens_per_epoch == whole.tokens_per_epoch
    with pytest.raises(ValueError, match="none of the 4 rows"):
        TokenStream(tokens_of(41), 4, 4, slice(4, 8))


KINDS = {"list": list, "tensor": torch.tensor, "uint16": np.uint16, "array": np.asarray}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_tokens_of_any_kind_make_the_same_stream(kind):
    ids = np.arange(23) % 7
    expected = TokenStream(ids, 2, 4)
    given = TokenStream(kind(ids), np.int64(2), np.int32(4))
    for _ in range(5):
        a, b = next(expected), next(given)
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
