"""Makes chunks of one long text: endless rows to train on, or each token once to evaluate.

Shapes: T steps of a chunk, B rows, U = T + 1 tokens (a chunk's inputs and the last target).
"""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from seqdni.corpora.batch import Batch
from seqdni.corpora.errors import CorpusError

Tokens: TypeAlias = np.ndarray | Tensor | Sequence[SupportsIndex]
"""Ids of one text, ``[n]``."""


class TokenStream:
    """An endless stream over a text that is cut into B contiguous rows.

        steps = (n - 1) // B
        row i: inputs tokens[i * steps : (i + 1) * steps], targets one token later

    An epoch's last chunk may be shorter. All rows restart with the epoch; in every other chunk
    `should_reset` is None. Up to B - 1 tokens at the end are not used. Every step is scored.

    Args:
        tokens: [n] ids.
        batch_size: number of rows, >= 1.
        chunk_len: steps of a chunk, >= 1.
        rows: which of the B rows the chunks have; None: all. Only their part of the text is read,
            so that several processes can each read a part. The state is the same in all of them.

    Raises:
        CorpusError: there are too few tokens for one step in each row.
        ValueError: the tokens are not one row of integers, a size is below 1, or there are no such
            rows.

    Example:
        >>> stream = TokenStream(np.arange(11), batch_size=2, chunk_len=3)
        >>> stream.chunks_per_epoch, stream.tokens_per_epoch
        (2, 10)
        >>> next(stream).inputs.t()
        tensor([[0, 1, 2],
                [5, 6, 7]])
        >>> next(stream).targets.t()
        tensor([[ 4,  5],
                [ 9, 10]])
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: SupportsIndex,
        chunk_len: SupportsIndex,
        rows: slice | None = None,
    ):
        batch_size, chunk_len = _sizes(batch_size, chunk_len)
        tokens = _one_row(tokens)
        if len(tokens) < batch_size + 1:
            raise CorpusError(
                f"{len(tokens)} tokens for {batch_size} rows, expected at least {batch_size + 1}: "
                "one step a row and a last target; use a smaller batch_size or a longer text"
            )
        self.batch_size = batch_size
        self.chunk_len = chunk_len
        self.rows = rows
        if not isinstance(rows, slice | None):
            raise ValueError(f"rows is {rows!r}, expected a slice, as slice(0, 8), or None for all")
        self._own_rows = range(batch_size)[slice(None) if rows is None else rows]
        if not self._own_rows:
            raise ValueError(f"rows is {rows}, which has none of the {batch_size} rows")
        self.epoch = 0
        self._tokens = tokens
        self._steps = (len(tokens) - 1) // batch_size
        self._cursor = 0  # of the next chunk's first step, in 0..steps - 1

    @property
    def chunks_per_epoch(self) -> int:
        return -(-self._steps // self.chunk_len)

    @property
    def tokens_per_epoch(self) -> int:
        """Targets scored in an epoch, of all B rows."""
        return self._steps * self.batch_size

    def __iter__(self) -> "TokenStream":
        return self

    def __next__(self) -> Batch:
        begin, end = self._cursor, min(self._cursor + self.chunk_len, self._steps)
        tokens_UB = _read(self._tokens, self._steps, self._own_rows, begin, end)
        chunk = _chunk(tokens_UB, is_first=begin == 0, is_last=end == self._steps)
        self._cursor = end % self._steps
        self.epoch += end == self._steps
        return chunk

    def peek(self, steps: int) -> Batch | None:
        """The next steps, without moving on in the stream.

        Args:
            steps: how many, >= 1.

        Returns:
            The first steps of the next chunk, fewer where the epoch ends; None where the next step
            begins an epoch.
        """
        begin, end = self._cursor, min(self._cursor + steps, self._steps)
        if begin == 0:
            return None
        tokens_UB = _read(self._tokens, self._steps, self._own_rows, begin, end)
        return _chunk(tokens_UB, is_first=False, is_last=end == self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Primitives that continue the stream exactly."""
        return {"cursor": self._cursor, "epoch": self.epoch, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError where its rows are of another length."""
        if state["steps"] != self._steps:
            raise ValueError(
                f"the state is of rows of {state['steps']} steps, these have {self._steps}: "
                "resume with the text and the batch_size that it was saved with"
            )
        self._cursor, self.epoch = state["cursor"], state["epoch"]


def evaluation_chunks(
    tokens: Tokens,
    batch_size: SupportsIndex,
    chunk_len: SupportsIndex,
    warmup: int = 0,
    align: int = 1,
) -> Iterator[Batch]:
    """Chunks for one pass over a text, in which each of the n - 1 targets is scored exactly once.

        steps = ceil((n - 1 - warmup) / B), but at least warmup, rounded up to a multiple of align
        row i reads tokens[i * steps : i * steps + warmup + steps]

    Every row except the first begins with `warmup` steps that the row before scores. They are run
    and masked, to bring the state near to that of a text read as one row. There are fewer rows than
    B where a row would score fewer steps than its warm-up has, so a text of up to 2 * warmup + 1
    tokens is one row. Steps after the end of the last row are masked. `mask` is None where a chunk
    scores every step.

    Args:
        tokens: [n] ids, n >= 2.
        batch_size: largest number of rows, >= 1.
        chunk_len: largest number of steps of a chunk, >= 1.
        warmup: steps, >= 0. With 0 each row starts from the initial state.
        align: rows begin at multiples of this, for models whose levels tick at certain steps; >= 1.

    Returns:
        The chunks, all with the same rows.

    Raises:
        CorpusError: there are fewer than two tokens.
        ValueError: a number is too small.

    Example:
        >>> chunks = list(evaluation_chunks(np.arange(6), batch_size=2, chunk_len=2))
        >>> [chunk.targets.t().tolist() for chunk in chunks]
        [[[1, 2], [4, 5]], [[3], [5]]]
        >>> chunks[0].mask, chunks[1].mask.t().tolist()
        (None, [[True], [False]])
        >>> (chunk,) = evaluation_chunks(np.arange(6), batch_size=2, chunk_len=9, warmup=1)
        >>> chunk.targets.t().tolist(), chunk.mask.t().tolist()
        ([[1, 2, 3], [3, 4, 5]], [[True, True, True], [False, True, True]])
    """
    batch_size, chunk_len = _sizes(batch_size, chunk_len)
    tokens = _one_row(tokens)
    if warmup < 0 or align < 1:
        raise ValueError(f"warmup is {warmup}, align {align}: expected at least 0 and 1")
    if len(tokens) < 2:
        raise CorpusError(
            f"{len(tokens)} tokens to evaluate, expected at least 2: one to read and one to predict"
        )
    beyond = max(len(tokens) - 1 - warmup, 1)  # targets that the first row's warm-up leaves
    steps = max(-(-beyond // batch_size), warmup)
    steps = -(-steps // align) * align
    return _evaluate(tokens, steps, -(-beyond // steps), chunk_len, warmup)


def _evaluate(
    tokens: np.ndarray, steps: int, rows: int, chunk_len: int, warmup: int
) -> Iterator[Batch]:
    targets = len(tokens) - 1
    length = min(warmup + steps, targets)
    row_B = torch.arange(rows)
    for begin in range(0, length, chunk_len):
        end = min(begin + chunk_len, length)
        chunk = _chunk(_read(tokens, steps, range(rows), begin, end), begin == 0, end == length)
        step_T1 = torch.arange(begin, end)[:, None]
        mask_TB = ((step_T1 >= warmup) | (row_B == 0)) & (steps * row_B + step_T1 < targets)
        yield chunk if bool(mask_TB.all()) else chunk._replace(mask=mask_TB)


def _read(
    tokens: np.ndarray, steps: int, rows: range, begin: int, end: int
) -> Int64[Tensor, "U B"]:
    """Tokens begin to end of some rows, `end` included; after the text, its last token again."""
    index_UB = np.arange(begin, end + 1)[:, None] + steps * np.asarray(rows)
    return torch.from_numpy(np.asarray(tokens.take(index_UB, mode="clip"), dtype=np.int64))


def _chunk(tokens_UB: Int64[Tensor, "U B"], is_first: bool, is_last: bool) -> Batch:
    should_reset_UB = None
    if is_first or is_last:
        should_reset_UB = torch.zeros(tokens_UB.shape, dtype=torch.bool)
        should_reset_UB[0] = is_first
        should_reset_UB[-1] = is_last
    return Batch(tokens_UB[:-1], tokens_UB[1:], None, should_reset_UB)


def _one_row(tokens: Tokens) -> np.ndarray:
    """The ids of one text as an array; a memory-mapped one is not copied."""
    array = np.asanyarray(tokens.cpu() if isinstance(tokens, Tensor) else tokens)
    if array.ndim != 1:
        raise ValueError(
            f"tokens are {list(array.shape)}, expected one row [n] of a whole text: the stream "
            "cuts it into batch_size rows itself (undo a batchify with tokens.T.reshape(-1))"
        )
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"tokens are of {array.dtype}, expected integer ids")
    return array


def _sizes(batch_size: SupportsIndex, chunk_len: SupportsIndex) -> tuple[int, int]:
    """Both as Python integers."""
    found = []
    for name, size in (("batch_size", batch_size), ("chunk_len", chunk_len)):
        if not hasattr(size, "__index__") or operator.index(size) < 1:
            raise ValueError(f"{name} is {size}, expected a whole number >= 1")
        found.append(operator.index(size))
    return found[0], found[1]
