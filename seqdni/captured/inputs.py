"""What a captured chunk reads: buffers that stay at one place, and are filled before each chunk.

Shapes: T steps of a chunk, K steps ahead, B rows, M rows of all masks together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqdni.chunk import Chunk, Rows, no_rows
from seqdni.chunk_step import ChunkPlan
from seqdni.cores.base import Core, unroll, unroll_between
from seqdni.state import State


class ChunkData(NamedTuple):
    """What a step is given, besides the carry.

    Args:
        chunk: the chunk.
        at_start: the condition at its start, ``[B, K]``, or None.
        at_end: the condition at its end.
        ahead: the known steps after it, or None.
        goes_on_B: rows whose episode goes on after the known steps; None: all.
    """

    chunk: Chunk
    at_start: Tensor | None = None
    at_end: Tensor | None = None
    ahead: Chunk | None = None
    goes_on_B: Tensor | None = None


class KnownRestarts:
    """A model whose rows restart at known steps at most, so that nothing reads the mask.

    Args:
        model: the model.
        steps: the steps before which rows may restart.
    """

    def __init__(self, model: Core, steps: tuple[int, ...]):
        self._model = model
        self._steps = steps

    def initial_state(self, batch_size: int) -> State:
        """The model's initial state.

        Args:
            batch_size: B.
        """
        return self._model.initial_state(batch_size)

    def __call__(self, x_TBD: Tensor, state: State) -> tuple[Tensor, State]:
        return self._model(x_TBD, state)

    def unroll(self, x: Tensor, state: State, should_reset: Tensor | None) -> tuple[Tensor, State]:
        """Run a chunk with its restarts.

        Args:
            x: inputs ``[T, B, ...]``.
            state: the state before the first step.
            should_reset: ``[T + 1, B]``, or None.

        Returns:
            Outputs ``[T, B, ...]`` and the state after the last step.
        """
        if should_reset is None:
            return unroll(self._model, x, state)
        return unroll_between(self._model, x, state, should_reset, self._steps)


def restart_steps(chunk: Chunk | None) -> tuple[int, ...]:
    """The steps before which rows may restart: none, the first, or all.

    With these three cases a stream has few kinds of chunks, wherever its rows restart.

    Args:
        chunk: its masks are on the CPU.

    Example:
        >>> reset = torch.tensor([[True], [False], [False]])
        >>> restart_steps(Chunk(torch.ones(2, 1), torch.ones(2, 1), None, reset))
        (0,)
    """
    if chunk is None or chunk.should_reset is None:
        return ()
    steps = len(chunk.inputs)
    first, *inside = chunk.should_reset[:steps].any(dim=1).tolist()
    return tuple(range(steps)) if any(inside) else (0,) * first


def general_plan(plan: ChunkPlan) -> ChunkPlan:
    """The plan with masks of all rows where others are given, so that there are fewer kinds.

    It trains the synthesizer only where there is a row to learn from.

    Args:
        plan: with masks on the CPU.
    """
    restarts, taught_B = plan.restarts, plan.taught_B
    trains = plan.trains_synthesizer and plan.continues_stream and not no_rows(taught_B)
    given = (restarts.continues, restarts.spans, taught_B)
    if all(mask is None for mask in given):
        continues = spans = None
    else:
        every_B = torch.ones(plan.rows, dtype=torch.bool)
        continues, spans, taught_B = (every_B if mask is None else mask for mask in given)
    rows = Rows(None, None, continues, spans, restarts.final)
    return replace(plan, restarts=rows, taught_B=taught_B, trains_synthesizer=trains)


def general_data(data: ChunkData) -> ChunkData:
    """The data without restarts where no row restarts within the steps.

    Args:
        data: of a chunk, with masks on the CPU.
    """
    chunk, ahead = data.chunk, data.ahead
    if not restart_steps(chunk):
        chunk = chunk._replace(should_reset=None)
    if ahead is not None and not restart_steps(ahead):
        ahead = ahead._replace(should_reset=None)
    return data._replace(chunk=chunk, ahead=ahead)


class StaticInputs:
    """Buffers on the device for a plan and its data; the masks lie together, as one copy.

    Args:
        plan: from :func:`general_plan`.
        data: from :func:`general_data`. That of the next chunks must have the same shapes and
            types, and the same fields.
        device: where the buffers are.
    """

    def __init__(self, plan: ChunkPlan, data: ChunkData, device: torch.device):
        tensors, masks = _tensors(data), _masks(plan, data)
        own = [None if x is None else torch.empty_like(x, device=device) for x in tensors]
        self._tensors = [x for x in own if x is not None]
        self._packed_MB = _packed(masks).to(device)
        lengths = [0 if x is None else x.numel() // plan.rows for x in masks]
        parts = zip(self._packed_MB.split(lengths), masks, strict=True)
        views = [None if x is None else part.view(x.shape) for part, x in parts]

        inputs, targets, at_start, at_end, ahead_inputs, ahead_targets = own
        mask, reset, ahead_mask, ahead_reset, goes_on_B, continues, spans, final, taught = views
        assert inputs is not None
        assert targets is not None
        ahead = None
        if ahead_inputs is not None:
            assert ahead_targets is not None
            ahead = Chunk(ahead_inputs, ahead_targets, ahead_mask, ahead_reset)
        chunk = Chunk(inputs, targets, mask, reset)
        self.data = ChunkData(chunk, at_start, at_end, ahead, goes_on_B)
        rows = Rows(None, None, continues, spans, final)
        self.plan = replace(plan, restarts=rows, taught_B=taught)

    def fill(self, plan: ChunkPlan, data: ChunkData) -> None:
        """Copy a chunk into the buffers, without waiting for the device.

        Args:
            plan: of the chunk, from :func:`general_plan`.
            data: of the chunk, from :func:`general_data`.
        """
        given = [x for x in _tensors(data) if x is not None]
        for buffer, x in zip(self._tensors, given, strict=True):
            buffer.copy_(x, non_blocking=True)
        if len(self._packed_MB):
            self._packed_MB.copy_(_packed(_masks(plan, data)), non_blocking=True)


def shapes(plan: ChunkPlan, data: ChunkData) -> tuple[Any, ...]:
    """Shapes and types of all inputs, for a graph's key.

    Args:
        plan: from :func:`general_plan`.
        data: from :func:`general_data`.
    """
    fields = (*_tensors(data), *_masks(plan, data))
    return tuple(None if x is None else (x.shape, x.dtype) for x in fields)


def _tensors(data: ChunkData) -> list[Tensor | None]:
    ahead = (None, None) if data.ahead is None else data.ahead[:2]
    return [*data.chunk[:2], data.at_start, data.at_end, *ahead]


def _masks(plan: ChunkPlan, data: ChunkData) -> list[Tensor | None]:
    ahead = (None, None) if data.ahead is None else data.ahead[2:]
    return [*data.chunk[2:], *ahead, data.goes_on_B, *plan.restarts[2:], plan.taught_B]


def _packed(masks: list[Tensor | None]) -> Tensor:
    given = [x.reshape(-1, x.shape[-1]) for x in masks if x is not None]
    return torch.cat(given) if given else torch.zeros(0, 1, dtype=torch.bool)
