"""What a process does with a chunk of a hierarchy: it works all levels, or one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from seqdni.channel import Channel
from seqdni.hierarchy.chunk import Ticks
from seqdni.hierarchy.level_trainer import Ahead, LevelTrainer
from seqdni.hierarchy.remote_level import Answering, RemoteLevel, Said


@runtime_checkable
class Work(Protocol):
    """The work of a process."""

    def begin(self) -> None:
        """Begin a stream, after the levels have begun it."""
        ...

    def step(self, inputs: Tensor, chunk: Ticks, ahead: Ahead | None) -> None:
        """Take a chunk of the lowest level, and let each level learn whose chunk it completes."""
        ...

    def finish(self) -> None:
        """Learn from the incomplete chunks, because the stream is over."""
        ...


class EveryLevel:
    """Works all levels, one after another.

    Args:
        levels: from the lowest.
    """

    def __init__(self, levels: Sequence[LevelTrainer]):
        self.levels = levels

    def begin(self) -> None:
        """Begin a stream."""

    def step(self, inputs: Tensor, chunk: Ticks, ahead: Ahead | None) -> None:
        """Take a chunk of the lowest level.

        Args:
            inputs: ``[T, B, ...]``.
            chunk: targets, mask and restarts of the same steps.
            ahead: looks ahead; None where the steps after the chunk are not known.
        """
        self.levels[0].step(inputs, chunk, ahead)
        self.levels[0].let_level_above_learn()

    def finish(self) -> None:
        """Learn from the incomplete chunks."""
        for level in self.levels:
            level.let_level_above_learn(all_of_it=True)


class OneLevel:
    """Works one level; other processes work those below and above it.

    Args:
        level: that this process works. What stands for the level above it is changed.
        below: the channel to the process of the level below; None: it is the lowest level.
        above: stands for the level above; None: it is the top.
    """

    def __init__(self, level: LevelTrainer, below: Channel | None, above: RemoteLevel | None):
        self.level = level
        self.below = below
        self.remote = above
        self.answering = None if below is None else Answering(below, level)
        level.above = above

    def begin(self) -> None:
        """Begin a stream."""
        if self.remote is not None:
            self.remote.begin()

    def step(self, inputs: Tensor, chunk: Ticks, ahead: Ahead | None) -> None:
        """Take a chunk of the lowest level, or do what the level below asks for meanwhile.

        Args:
            inputs: ``[T, B, ...]``.
            chunk: targets, mask and restarts of the same steps.
            ahead: must be None.
        """
        if self.answering is None:
            self.level.step(inputs, chunk, ahead)
            self.level.let_level_above_learn()
        else:
            self._answer(self.answering)
        self._done()

    def finish(self) -> None:
        """Learn from the incomplete chunks of the level above."""
        if self.answering is not None:
            self._answer(self.answering)
        self.level.let_level_above_learn(all_of_it=True)
        self._done()

    def settle(self) -> None:
        """Take all answers of the level above that are still to come."""
        if self.remote is not None:
            self.level.learn_message_gradients(self.remote.arrived(0))

    def _answer(self, answering: Answering) -> None:
        """Carry out what the level below asks for, until it is done with a step of the stream."""
        assert self.below is not None
        while True:
            kind, tensors = self.below.receive_any(Said, self.level.received)
            if kind is Said.DONE:
                (taken,) = tensors
                assert taken is not None
                self.below.flush(keep=answering.answers - int(taken))
                return
            answering.carry_out(kind, tensors)

    def _done(self) -> None:
        if self.remote is not None:
            self.remote.done()
