"""Copy memory: hold several symbols through a long blank, then emit them.

Shapes: L steps of an episode, B rows, N symbols to remember. Tokens for V kinds of symbols:

    inputs   0..V-1 symbols, V blank, V+1 the read cue
    outputs  0..V-1 symbols
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from seqdni.corpora.tasks.rendering import aligned, glyph
from seqdni.corpora.tasks.task import Difficulty, Episode, check_at_least_one


@dataclass(frozen=True)
class CopyMemoryTask:
    r"""Emit N symbols, in order, after a blank of `difficulty.length` steps and a cue.

        input    s_1 .. s_N  blank x length  cue  blank x (N - 1)
        target                               s_1   s_2 .. s_N

    An episode has `2 N + length` steps. Chance is :math:`\log_2 V` bits a symbol. Only the N
    answers are scored; the blanks, which the paper also scores, carry no information.

    Args:
        symbols: number V of kinds of symbols, >= 2.
        count: number N of symbols to remember, >= 1.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> task = CopyMemoryTask(symbols=3, count=2)
        >>> episode = task.episode(Difficulty(4), batch_size=1, generator=torch.Generator())
        >>> print(task.render(*(field_LB[:, 0] for field_LB in episode)))
        input  0 2 . . . . ? .
        target             0 2

    Source: Hochreiter & Schmidhuber, Long Short-Term Memory (1997); in this form Arjovsky et al.,
    Unitary Evolution Recurrent Neural Networks (arXiv 1511.06464).
    """

    symbols: int = 8
    count: int = 10

    def __post_init__(self):
        if self.symbols < 2:
            raise ValueError(f"symbols is {self.symbols}, expected >= 2: one needs no memory")
        check_at_least_one("count", self.count)

    @property
    def input_size(self) -> int:
        return self.symbols + 2

    @property
    def output_size(self) -> int:
        return self.symbols

    @property
    def first(self) -> Difficulty:
        return Difficulty()

    @property
    def chance_accuracy(self) -> float:
        return 1 / self.symbols

    @property
    def chance_bits(self) -> float:
        return math.log2(self.symbols)

    def check(self, difficulty: Difficulty) -> None:
        check_at_least_one("difficulty.length", difficulty.length)
        if difficulty.repeats != 1:
            raise ValueError(
                f"difficulty.repeats is {difficulty.repeats}, but the symbols are emitted once: "
                "use repeats=1"
            )

    def episode(
        self, difficulty: Difficulty, batch_size: int, generator: torch.Generator
    ) -> Episode:
        self.check(difficulty)
        check_at_least_one("batch_size", batch_size)
        written_NB = torch.randint(self.symbols, (self.count, batch_size), generator=generator)
        steps = 2 * self.count + difficulty.length
        inputs_LB = torch.full((steps, batch_size), self.symbols)
        inputs_LB[: self.count] = written_NB
        inputs_LB[-self.count] = self.symbols + 1
        targets_LB = torch.zeros_like(inputs_LB)
        targets_LB[-self.count :] = written_NB
        mask_LB = torch.zeros(inputs_LB.shape, dtype=torch.bool)
        mask_LB[-self.count :] = True
        return Episode(inputs_LB, targets_LB, mask_LB)

    def advance(self, difficulty: Difficulty) -> Difficulty:
        self.check(difficulty)
        return Difficulty(difficulty.length + 1)

    def render(
        self,
        inputs_L: Int64[Tensor, " L"],
        targets_L: Int64[Tensor, " L"],
        mask_L: Bool[Tensor, " L"],
        outputs_L: Int64[Tensor, " L"] | None = None,
    ) -> str:
        """Aligned lines: symbols as digits or letters, `.` for a blank, `?` for the read cue."""
        signs = {self.symbols: ".", self.symbols + 1: "?"}
        cells = [signs.get(token) or glyph(token, self.symbols) for token in inputs_L.tolist()]
        return aligned(
            cells, lambda token: glyph(token, self.symbols), targets_L, mask_L, outputs_L
        )
