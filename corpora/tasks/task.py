"""What an episodic task is: difficulties, episodes, and the things a task can do.

Shapes: L steps of an episode, B rows, D features of a step.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor


class Difficulty(NamedTuple):
    """How long an episode is.

    Args:
        length: what the task makes longer, >= 1: symbols to remember, a delay, steps.
        repeats: times that the symbols are emitted, >= 1.

    Example:
        >>> Difficulty(5)
        Difficulty(length=5, repeats=1)
    """

    length: int = 1
    repeats: int = 1


class Episode(NamedTuple):
    """B whole episodes of the same difficulty, time-major.

    Args:
        inputs_LB: token ids, [L, B], or real features, [L, B, D].
        targets_LB: ids to answer with, or real values, [L, B]; 0 where unscored.
        mask_LB: True where a step is scored, [L, B].
    """

    inputs_LB: Int64[Tensor, "L B"] | Float32[Tensor, "L B D"]
    targets_LB: Int64[Tensor, "L B"] | Float32[Tensor, "L B"]
    mask_LB: Bool[Tensor, "L B"]

    def part(self, begin: int, most: int | None) -> tuple["Episode", bool]:
        """The steps from one on, as a view.

        Args:
            begin: the first of them.
            most: how many at most; None takes all that are left.

        Returns:
            That part, and whether the episode ends with it.
        """
        steps = len(self.inputs_LB)
        end = steps if most is None else min(begin + most, steps)
        return Episode(*(field_LB[begin:end] for field_LB in self)), end == steps


@runtime_checkable
class EpisodicTask(Protocol):
    """The interface that the streams and the curriculum need; any class with it will do."""

    @property
    def input_size(self) -> int:
        """Number of input token types, or of features."""
        ...

    @property
    def output_size(self) -> int:
        """Number of output token types, or 1 for a real value."""
        ...

    @property
    def first(self) -> Difficulty:
        """The shortest difficulty: where a curriculum begins."""
        ...

    def check(self, difficulty: Difficulty) -> None:
        """Raise ValueError where the task has no such difficulty."""
        ...

    def episode(
        self, difficulty: Difficulty, batch_size: int, generator: torch.Generator
    ) -> Episode:
        """Draw `batch_size` episodes of exactly `difficulty`, from `generator` alone."""
        ...

    def advance(self, difficulty: Difficulty) -> Difficulty:
        """The difficulty after `difficulty` in the curriculum."""
        ...
