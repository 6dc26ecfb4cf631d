"""What a hierarchy is trained on: steps of a stream, with the targets of each level in them.

Shapes: T steps, n ticks of a level in them, B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from seqdni.chunk import as_mask, as_tensor, without_ignored
from seqdni.hierarchy.model import Hierarchy

Answers: TypeAlias = tuple[Tensor, Tensor | None]
"""``(targets, mask)`` of n ticks of a level: ``[n, B, ...]``, and ``[n, B]`` (None scores all)."""


class HierarchyChunk(NamedTuple):
    """Consecutive steps of a stream, for all levels.

    Args:
        inputs: of the lowest level, ``[T, B, ...]``.
        answers: targets and mask for each level, of the n ticks that it makes in these steps; None
            for a level without a readout, or without a tick here.
        should_reset: ``[T + 1, B]`` on the CPU, rows that restart before a step; None: no row does.
        conditions: for each level below the top, ``[m, B, K]``: what the synthesizer of its
            messages reads besides each of the m messages that the level sends in these steps, if it
            was built with ``condition_size=K`` (cDNI); None for none. They are used only in
            training.
    """

    inputs: Tensor
    answers: Sequence[Answers | None]
    should_reset: Bool[Tensor, "Tplus1 B"] | None = None
    conditions: Sequence[Tensor | None] | None = None


class Ticks(NamedTuple):
    """Targets, mask and restarts of n ticks of one level.

    Args:
        targets: ``[n, B, ...]``; None for a level without a readout.
        mask: ``[n, B]`` bool, the scored ticks; None scores all.
        should_reset: ``[n + 1, B]`` bool on the CPU, rows that restart before each tick and, in the
            last entry, after the last one.
    """

    targets: Tensor | None
    mask: Tensor | None
    should_reset: Tensor


def as_hierarchy_chunk(chunk: HierarchyChunk) -> HierarchyChunk:
    """Convert a chunk to Boolean masks and masked targets; see :func:`seqdni.chunk.as_chunk`.

    Args:
        chunk: masks may be of any type with the values 0 and 1; targets of -100 are not scored.

    Returns:
        The chunk with Boolean masks, in which targets of -100 are masked out.
    """
    inputs, answers, should_reset, conditions = chunk
    taken: list[Answers | None] = []
    for pair in answers:
        if pair is not None:
            targets, mask = pair
            pair = without_ignored(as_tensor(targets, "targets"), as_mask(mask, "mask"))
        taken.append(pair)
    return HierarchyChunk(
        as_tensor(inputs, "inputs"), taken, as_mask(should_reset, "should_reset"), conditions
    )


def filled_mask(answers: Answers) -> Tensor:
    """The mask of some answers, also where none is given.

    Args:
        answers: targets, with or without a mask.

    Returns:
        ``[n, B]``, all True where none is given.
    """
    targets, mask = answers
    return torch.ones(targets.shape[:2], dtype=torch.bool) if mask is None else mask


def one_by_one(ticks: Ticks) -> list[Ticks]:
    """Split several ticks into single ones.

    Args:
        ticks: any number.

    Returns:
        One element for each tick, with a mask where there are targets.
    """
    targets, mask, should_reset = ticks
    if targets is not None:
        mask = filled_mask((targets, mask))
    return [
        Ticks(
            None if targets is None else targets[t : t + 1],
            None if mask is None else mask[t : t + 1],
            should_reset[t : t + 2],
        )
        for t in range(len(should_reset) - 1)
    ]


def joined(ticks: Sequence[Ticks]) -> Ticks:
    """Join consecutive ticks, the opposite of :func:`one_by_one`.

    Args:
        ticks: at least one element; each continues the one before.

    Returns:
        All ticks in one. Whether a row restarts between two elements is taken from the later one.

    Example:
        >>> reset = torch.tensor([[False], [True], [False]])
        >>> joined(one_by_one(Ticks(None, None, reset))).should_reset.flatten().tolist()
        [False, True, False]
    """
    targets = [each.targets for each in ticks if each.targets is not None]
    masks = [filled_mask((each.targets, each.mask)) for each in ticks if each.targets is not None]
    resets = [each.should_reset for each in ticks]
    return Ticks(
        torch.cat(targets) if targets else None,
        torch.cat(masks) if masks else None,
        torch.cat([*(reset[:-1] for reset in resets), resets[-1][-1:]]),
    )


def check_chunk(chunk: HierarchyChunk, model: Hierarchy, steps_before: int, rows: int) -> None:
    """Refuse a chunk that does not fit the hierarchy, before anything is computed.

    Args:
        chunk: the next chunk of a stream.
        model: the hierarchy.
        steps_before: steps of the stream before this chunk.
        rows: B, of the stream.

    Raises:
        ValueError: something does not fit; the message says what was expected.
    """
    inputs, answers, should_reset, conditions = chunk
    steps, got = inputs.shape[:2]
    if steps == 0:
        raise ValueError("the chunk has no steps; expected T >= 1")
    if got != rows:
        raise ValueError(
            f"the chunk has {got} rows, the ones before {rows}; a stream keeps its batch size "
            "(call finish() to begin another stream)"
        )
    if should_reset is not None and should_reset.shape != (steps + 1, rows):
        raise ValueError(
            f"should_reset is {list(should_reset.shape)}, expected [{steps + 1}, {rows}]"
        )
    if len(answers) != len(model.levels):
        raise ValueError(
            f"answers are for {len(answers)} levels, the hierarchy has {len(model.levels)}; "
            "give None for a level without a readout"
        )
    if conditions is not None and len(conditions) != len(model.levels) - 1:
        raise ValueError(
            f"conditions are for {len(conditions)} levels, expected {len(model.levels) - 1}: "
            "all but the top"
        )
    for k, (given, period) in enumerate(zip(answers, model.periods, strict=True)):
        ticks = (steps_before + steps) // period - steps_before // period
        has_readout = model.levels[k].readout is not None
        if given is not None and not has_readout:
            raise ValueError(f"level {k} has answers and no readout; give None")
        if given is None and has_readout and ticks:
            raise ValueError(
                f"level {k} has a readout and no answers; give targets for its {ticks} ticks in "
                f"these {steps} steps, masked where they do not count"
            )
        for name, field in zip(("targets", "mask"), given or (), strict=False):
            if field is not None and field.shape[:2] != (ticks, rows):
                raise ValueError(
                    f"{name} of level {k} is {list(field.shape)}, expected [{ticks}, {rows}, "
                    f"...]: it makes {ticks} ticks in these {steps} steps"
                )
        condition = conditions[k - 1] if conditions is not None and k > 0 else None
        if condition is not None and condition.shape[:2] != (ticks, rows):
            raise ValueError(
                f"conditions of level {k - 1} are {list(condition.shape)}, expected "
                f"[{ticks}, {rows}, K]: it sends {ticks} messages in these {steps} steps"
            )
