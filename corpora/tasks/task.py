"""The interface of an episodic task: its difficulties, its episodes, its methods.

Shapes: L steps of an episode, B rows, D features of a step.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor


class Difficulty(NamedTuple):
    """The difficulty of an episode, which is how long it is.

    Args:
        length: number of symbols to remember, of steps of a delay, or of all steps; >= 1.
        repeats: how many times the symbols must be emitted, >= 1.

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
        targets_LB: ids or real values to answer with, [L, B]; 0 where a step is not scored.
        mask_LB: True where a step is scored, [L, B].
    """

    inputs_LB: Int64[Tensor, "L B"] | Float32[Tensor, "L B D"]
    targets_LB: Int64[Tensor, "L B"] | Float32[Tensor, "L B"]
    mask_LB: Bool[Tensor, "L B"]

    def part(self, begin: int, most: int | None) -> tuple["Episode", bool]:
        """Consecutive steps of the episodes, as a view.

        Args:
            begin: the first step.
            most: the largest number of steps; None takes all that are left.

        Returns:
            That part, and whether the episode ends with it.
        """
        steps = len(self.inputs_LB)
        end = steps if most is None else min(begin + most, steps)
        return Episode(*(field_LB[begin:end] for field_LB in self)), end == steps


@runtime_checkable
class EpisodicTask(Protocol):
    """The methods that the streams and the curriculum need; any class that has them is a task."""

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
        """The lowest difficulty, with which a curriculum begins."""
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


def check_at_least_one(name: str, value: int) -> None:
    """Refuse a size below 1.

    Args:
        name: of the size, in the message.
        value: the size.

    Raises:
        ValueError: it is below 1.

    Example:
        >>> check_at_least_one("batch_size", 0)
        Traceback (most recent call last):
            ...
        ValueError: batch_size is 0, expected >= 1
    """
    if value < 1:
        raise ValueError(f"{name} is {value}, expected >= 1")
