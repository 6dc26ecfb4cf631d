"""Chunks of a stream, which a trainer learns from, and the restarts of rows in them.

Shapes: T steps, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqdni.cores.base import Core, TraceableCore, unroll, unroll_traced
from seqdni.cores.state_gradients import Trace
from seqdni.losses import IGNORE, scored_loss
from seqdni.state import State, leaves


class Chunk(NamedTuple):
    """T steps of a stream, for B rows. A trainer takes any tuple of two to four such fields.

    Keep ``mask`` and ``should_reset`` on the CPU. They decide how a chunk is run, and to read them
    from a GPU would be to wait for it.

    Args:
        inputs: ``[T, B, ...]``, what the model takes.
        targets: ``[T, B, ...]``, what the loss takes. Integer targets ``[T, B]`` of -100 are not
            scored, and not counted.
        mask: ``[T, B]``, True where a step is scored; None scores every step.
        should_reset: ``[T + 1, B]``, True where a row restarts before a step; None: no row does.
            The last entry is about the step after the chunk: a row that is True there ends its
            episode with the chunk, and gets no gradient from what follows.

    Example:
        >>> x = torch.zeros(4, 2)
        >>> Chunk(x, x).mask is None
        True
    """

    inputs: Tensor
    targets: Tensor
    mask: Bool[Tensor, "T B"] | None = None
    should_reset: Bool[Tensor, "Tplus1 B"] | None = None


ChunkLike: TypeAlias = tuple[Any, ...]
"""A :class:`Chunk`, or any tuple of two to four such fields."""


def as_chunk(fields: ChunkLike) -> Chunk:
    """Convert a tuple of fields to a :class:`Chunk`.

    Args:
        fields: ``(inputs, targets)``, ``(inputs, targets, mask)`` or all four. Masks may be of any
            type with the values 0 and 1, and any field may be a NumPy array.

    Returns:
        The chunk with Boolean masks, in which targets of -100 are masked out.

    Raises:
        TypeError: it is not a tuple of two to four fields, or a field is not an array.
        ValueError: a mask has values other than 0 and 1.

    Example:
        >>> x = torch.tensor([[1, 2], [3, -100]])
        >>> as_chunk((x, x)).mask
        tensor([[ True,  True],
                [ True, False]])
    """
    if isinstance(fields, PackedSequence) or any(isinstance(x, PackedSequence) for x in fields):
        raise TypeError(
            "got a PackedSequence, whose rows have no fixed place; pad it with "
            "torch.nn.utils.rnn.pad_packed_sequence and give a mask of the steps that are scored"
        )
    if not isinstance(fields, tuple) or not 2 <= len(fields) <= 4:
        got = f"{type(fields).__name__} of {len(fields)}" if hasattr(fields, "__len__") else fields
        raise TypeError(
            f"got a {got}, expected a chunk: a tuple (inputs, targets), "
            "(inputs, targets, mask) or (inputs, targets, mask, should_reset)"
        )
    inputs, targets, mask, should_reset = (*fields, None, None)[:4]
    inputs, targets = as_tensor(inputs, "inputs"), as_tensor(targets, "targets")
    targets, mask = without_ignored(targets, as_mask(mask, "mask"))
    return Chunk(inputs, targets, mask, as_mask(should_reset, "should_reset"))


def as_tensor(value: Any, name: str) -> Tensor:
    """Convert a NumPy array to a tensor; return a tensor as it is.

    Args:
        value: a tensor or an array.
        name: the field's name, for the message.

    Returns:
        A tensor.

    Raises:
        TypeError: the value is neither.
    """
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "__array__"):
        return torch.as_tensor(value)
    raise TypeError(f"{name} is a {type(value).__name__}, expected a tensor [T, B, ...]")


def as_mask(value: Any, name: str) -> Tensor | None:
    """Convert a mask of any type to a Boolean one.

    Args:
        value: a mask with the values 0 and 1, or None.
        name: the field's name, for the message.

    Returns:
        A Boolean tensor on the CPU, where it is read; or None.

    Raises:
        ValueError: the mask has other values.

    Example:
        >>> as_mask(torch.tensor([[1, 0]], dtype=torch.uint8), "mask")
        tensor([[ True, False]])
    """
    if value is None:
        return None
    mask = as_tensor(value, name).cpu()
    if mask.dtype == torch.bool:
        return mask
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"{name} has values other than 0 and 1; expected True or False for each step and row"
        )
    return mask.bool()


def without_ignored(targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Mask the steps whose target is -100.

    Targets on a GPU are left as they are, because to look for such values would be to wait for it.

    Args:
        targets: of any type and shape.
        mask: ``[T, B]``, or None.

    Returns:
        Targets in which 0 stands for -100, and a mask that leaves out these steps.

    Example:
        >>> without_ignored(torch.tensor([[5, -100]]), None)
        (tensor([[5, 0]]), tensor([[ True, False]]))
    """
    if targets.is_floating_point() or targets.dim() != 2 or targets.device.type != "cpu":
        return targets, mask
    if not targets.numel() or targets.min().item() > IGNORE:  # valid ids are not negative
        return targets, mask
    ignored = targets == IGNORE
    return targets.masked_fill(ignored, 0), ~ignored if mask is None else mask & ~ignored


def run_chunk(
    model: Core,
    chunk: Chunk,
    start: State,
    loss: Callable[[Tensor, Tensor], Tensor],
    autocast: torch.dtype | None = None,
    traced: bool = False,
) -> tuple[Tensor, State, Trace | None]:
    r"""Run a chunk, and sum its loss: :math:`\sum_{t,b} mask_{t,b} \, \ell_{t,b}`.

    Args:
        model: what is run.
        chunk: its tensors may be on any device. There may be more inputs than targets: the first
            inputs are then run and not scored.
        start: the state at its start, on the model's device.
        loss: ``(outputs, targets) -> [T, B]``.
        autocast: compute the model in this type where that is safe; the loss is in float32.
        traced: also trace the states, of a :class:`seqdni.TraceableCore`.

    Returns:
        The summed loss, the state after the last step, and the trace or None.
    """
    inputs, targets, mask, should_reset = chunk
    device = leaves(start)[0].device
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        x, trace = inputs.to(device, non_blocking=True), None
        if traced:
            assert isinstance(model, TraceableCore)
            outputs, end, trace = unroll_traced(model, x, start, should_reset)
        else:
            outputs, end = unroll(model, x, start, should_reset)
    outputs = outputs[-len(targets) :] if len(outputs) > len(targets) else outputs
    outputs = outputs.float() if autocast else outputs
    mask = None if mask is None else mask.to(device, non_blocking=True)
    loss_sum = scored_loss(loss, outputs, targets.to(device, non_blocking=True), mask)
    return loss_sum, end, trace


def steps_ahead(chunks: Sequence[ChunkLike], steps: int) -> Chunk:
    """The first steps of the given chunks as one chunk.

    Args:
        chunks: consecutive chunks, at least one.
        steps: how many steps, >= 1.

    Returns:
        One chunk of so many steps, or of fewer where the given chunks have fewer.

    Example:
        >>> x = torch.arange(6).view(6, 1)
        >>> first, second = (x[:4], x[:4], None, None), (x[4:], x[4:], None, None)
        >>> steps_ahead([first, second], 5)[0].flatten()
        tensor([0, 1, 2, 3, 4])
    """
    enough, got = [], 0
    for chunk in map(as_chunk, chunks):
        if got < steps:
            enough.append(chunk)
            got += len(chunk[0])
    inputs, targets, mask, should_reset = join(enough)
    return Chunk(
        inputs[:steps],
        targets[:steps],
        None if mask is None else mask[:steps],
        None if should_reset is None else should_reset[: steps + 1],
    )


def whole_episodes(chunks: Iterable[ChunkLike]) -> Iterator[Chunk]:
    """Join the chunks of each episode into one: TBPTT over the result is full BPTT.

    Args:
        chunks: a stream whose rows begin and end their episodes together (in *lock-step*).

    Yields:
        One chunk for each episode. The stream is read no further than the episode's end. An episode
        that the stream does not complete is left out.

    Raises:
        ValueError: the stream has no episodes, or its rows do not end them together.

    Example:
        >>> x, reset = torch.zeros(2, 1), torch.zeros(3, 1, dtype=torch.bool)
        >>> first, last = (x, x, None, reset.clone()), (x, x, None, reset.clone())
        >>> first[3][0], last[3][-1] = True, True
        >>> [chunk[0].shape for chunk in whole_episodes([first, last])]
        [torch.Size([4, 1])]
    """
    episode: list[Chunk] = []
    for chunk in map(as_chunk, chunks):
        episode.append(chunk)
        if lockstep_end(rows_of(chunk.should_reset).ended):
            yield join(episode)
            episode = []


def join(chunks: list[Chunk]) -> Chunk:
    """Join consecutive chunks into one.

    Args:
        chunks: at least one; each continues the one before.

    Returns:
        One chunk over all their steps.
    """
    if len(chunks) == 1:
        return chunks[0]
    inputs, targets, masks, resets = zip(*chunks, strict=True)
    mask = None
    if any(part is not None for part in masks):
        filled = [
            torch.ones(x.shape[:2], dtype=torch.bool) if m is None else m
            for m, x in zip(masks, inputs, strict=True)
        ]
        mask = torch.cat(filled)
    return Chunk(torch.cat(inputs), torch.cat(targets), mask, join_resets(inputs, resets))


def join_resets(
    inputs: Sequence[Tensor], resets: Sequence[Tensor | None]
) -> Bool[Tensor, "Tplus1 B"] | None:
    """Join the restarts of consecutive chunks into one ``should_reset``; None where all are None.

    Whether a row restarts between two chunks is taken from the later chunk.

    Args:
        inputs: of each chunk, for their sizes.
        resets: ``should_reset`` of each chunk.

    Returns:
        ``[T + 1, B]`` for the T steps of all chunks.
    """
    if all(reset is None for reset in resets):
        return None
    filled = [
        torch.zeros(len(x) + 1, x.shape[1], dtype=torch.bool) if reset is None else reset
        for x, reset in zip(inputs, resets, strict=True)
    ]
    return torch.cat([reset[:-1] for reset in filled[:-1]] + [filled[-1]])


class Rows(NamedTuple):
    """Which rows begin, end or continue an episode in a chunk: masks ``[B]`` on the CPU.

    Except in ``ended`` and ``final``, None stands for all rows.

    Args:
        ended: rows whose episode ends with the chunk; None if the stream has no episodes.
        continued: rows that continue an episode at the chunk's start.
        continues: rows whose episode goes on after the chunk.
        spans: rows whose episode began before the chunk and goes on after it.
        final: rows whose episode ends in the chunk or with it; None: no row.
    """

    ended: Tensor | None
    continued: Tensor | None
    continues: Tensor | None
    spans: Tensor | None
    final: Tensor | None


def rows_of(should_reset: Tensor | None) -> Rows:
    """Find from a chunk's restarts which rows begin, end or continue an episode.

    Args:
        should_reset: ``[T + 1, B]``, or None where no row restarts.

    Returns:
        The masks.

    Example:
        >>> rows_of(torch.tensor([[True, False], [False, False], [False, True]])).final
        tensor([False,  True])
    """
    if should_reset is None:
        return Rows(None, None, None, None, None)
    ended, final = should_reset[-1], should_reset[1:].any(dim=0)
    masks = (~should_reset[0], ~ended, ~should_reset.any(dim=0))
    continued, continues, spans = (None if bool(mask.all()) else mask for mask in masks)
    return Rows(ended, continued, continues, spans, final if final.any() else None)


def no_rows(rows_B: Tensor | None) -> bool:
    """Whether a mask has no row; None means all rows."""
    return rows_B is not None and not bool(rows_B.any())


def lockstep_end(ended_B: Tensor | None) -> bool:
    if ended_B is None or (bool(ended_B.any()) and not bool(ended_B.all())):
        raise ValueError(
            "this needs episodes that all rows end together (should_reset[-1] all True or all "
            "False); the stream has "
            + ("no episodes" if ended_B is None else "rows that end apart")
            + ": use TBPTT or DNI with an update every chunk"
        )
    return bool(ended_B.all())


def check_ahead(ahead: Chunk, rows: int) -> None:
    if (got := check_shapes(ahead, None)[1]) != rows:
        raise ValueError(f"ahead has {got} rows, the chunk {rows}")


def check_shapes(chunk: Chunk, carry: State | None) -> tuple[int, int]:
    inputs, targets, mask, should_reset = chunk
    if inputs.dim() < 2 or targets.dim() < 2:
        raise ValueError(
            f"inputs are {list(inputs.shape)} and targets {list(targets.shape)}, expected "
            "[T, B, ...] each: steps first, then rows; give one row an axis: x[:, None]"
        )
    steps, rows = inputs.shape[:2]
    expected = {"targets": (targets, steps), "mask": (mask, steps)}
    expected["should_reset"] = (should_reset, steps + 1)
    for name, (tensor, length) in expected.items():
        if tensor is not None and tensor.shape[:2] != (length, rows):
            raise ValueError(
                f"{name} is {list(tensor.shape)}, expected [{length}, {rows}, ...] "
                f"for inputs {list(inputs.shape)}"
            )
    if mask is not None and mask.dim() != 2:
        raise ValueError(f"mask is {list(mask.shape)}, expected [T, B] = [{steps}, {rows}]")
    if steps == 0 or rows == 0:
        raise ValueError(
            f"the chunk has no {'rows' if steps else 'steps'}: inputs are {list(inputs.shape)}, "
            "expected [T, B, ...] with T >= 1 and B >= 1"
        )
    if carry is not None and (carried := leaves(carry)[0].shape[-2]) != rows:
        raise ValueError(
            f"the chunk has {rows} rows, the carried state {carried}; "
            "a stream keeps its batch size (set trainer.carry = None to start another stream)"
        )
    return steps, rows
