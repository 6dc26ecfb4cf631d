"""Copy and repeat-copy: remember some symbols, then emit them.

Shapes: L steps of an episode, B rows, N symbols to remember. Tokens for V symbols:

    inputs   0..V-1 symbols, V stop, V+1 blank, V+1+R the number R (repeat-copy only)
    outputs  0..V-1 symbols, V end

Sources: Graves et al., Neural Turing Machines (arXiv 1410.5401); Jaderberg et al., Decoupled
Neural Interfaces using Synthetic Gradients (arXiv 1608.05343).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from seqdni.corpora.tasks.rendering import aligned, glyph
from seqdni.corpora.tasks.task import Difficulty, Episode, check_at_least_one


@dataclass(frozen=True)
class CopyTask:
    """The task to emit the N symbols that were read, then the end: 2N + 1 steps, N + 1 scored.

        input    s_1 .. s_N  stop  blank x N
        target               s_1   s_2 .. s_N end

    Args:
        symbols: number V of different symbols, >= 1; with 2 a symbol is one bit, as in the papers.

    Raises:
        ValueError: `symbols` < 1.

    Example:
        >>> task = CopyTask()
        >>> episode = task.episode(Difficulty(3), batch_size=1, generator=torch.Generator())
        >>> print(task.render(*(field_LB[:, 0] for field_LB in episode)))
        input  0 0 1 | . . .
        target       0 0 1 $
        >>> task.advance(Difficulty(3))
        Difficulty(length=4, repeats=1)
    """

    symbols: int = 2

    def __post_init__(self):
        check_at_least_one("symbols", self.symbols)

    @property
    def input_size(self) -> int:
        return self.symbols + 2

    @property
    def output_size(self) -> int:
        return self.symbols + 1

    @property
    def first(self) -> Difficulty:
        return Difficulty()

    def check(self, difficulty: Difficulty) -> None:
        check_at_least_one("difficulty.length", difficulty.length)
        if difficulty.repeats != 1:
            raise ValueError(
                f"difficulty.repeats is {difficulty.repeats}, but copy emits once: "
                "use repeats=1, or RepeatCopyTask"
            )

    def episode(
        self, difficulty: Difficulty, batch_size: int, generator: torch.Generator
    ) -> Episode:
        self.check(difficulty)
        return _episode(self.symbols, difficulty, [self.symbols], batch_size, generator)

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
        return _render(self.symbols, inputs_L, targets_L, mask_L, outputs_L)


@dataclass(frozen=True)
class RepeatCopyTask:
    """The task to emit the N symbols R times, then the end: N + 2 + N R steps, N R + 1 scored.

        input    s_1 .. s_N  stop  R     blank x N R
        target                     s_1   s_2 .. s_N s_1 .. s_N end

    Args:
        symbols: number V of different symbols, >= 1.
        max_repeats: the largest R, >= 1; each R has a token of its own.

    Raises:
        ValueError: `symbols` or `max_repeats` < 1.

    Example:
        >>> task = RepeatCopyTask(max_repeats=9)
        >>> episode = task.episode(Difficulty(2, 2), batch_size=1, generator=torch.Generator())
        >>> outputs_L = episode.targets_LB[:, 0].clone()
        >>> outputs_L[5] = 1
        >>> print(task.render(*(field_LB[:, 0] for field_LB in episode), outputs_L))
        input   0  0  | x2  .  .  .  .
        target           0  0  0  0  $
        output           0  0  1  0  $
        error                  ^
        >>> task.advance(Difficulty(2, 1)), task.advance(Difficulty(2, 2))
        (Difficulty(length=2, repeats=2), Difficulty(length=3, repeats=2))
    """

    symbols: int = 2
    max_repeats: int = 32

    def __post_init__(self):
        check_at_least_one("symbols", self.symbols)
        check_at_least_one("max_repeats", self.max_repeats)

    @property
    def input_size(self) -> int:
        return self.symbols + 2 + self.max_repeats

    @property
    def output_size(self) -> int:
        return self.symbols + 1

    @property
    def first(self) -> Difficulty:
        return Difficulty()

    def check(self, difficulty: Difficulty) -> None:
        check_at_least_one("difficulty.length", difficulty.length)
        if not 1 <= difficulty.repeats <= self.max_repeats:
            raise ValueError(
                f"difficulty.repeats is {difficulty.repeats}, expected 1..{self.max_repeats}: "
                "raise max_repeats for more"
            )

    def episode(
        self, difficulty: Difficulty, batch_size: int, generator: torch.Generator
    ) -> Episode:
        self.check(difficulty)
        cue = [self.symbols, self.symbols + 1 + difficulty.repeats]
        return _episode(self.symbols, difficulty, cue, batch_size, generator)

    def advance(self, difficulty: Difficulty) -> Difficulty:
        self.check(difficulty)
        if difficulty.repeats < min(difficulty.length, self.max_repeats):
            return Difficulty(difficulty.length, difficulty.repeats + 1)
        return Difficulty(difficulty.length + 1, difficulty.repeats)

    def render(
        self,
        inputs_L: Int64[Tensor, " L"],
        targets_L: Int64[Tensor, " L"],
        mask_L: Bool[Tensor, " L"],
        outputs_L: Int64[Tensor, " L"] | None = None,
    ) -> str:
        return _render(self.symbols, inputs_L, targets_L, mask_L, outputs_L)


def _episode(
    symbols: int,
    difficulty: Difficulty,
    cue: list[int],
    batch_size: int,
    generator: torch.Generator,
) -> Episode:
    """Symbols, cue and blanks as inputs. The first answer is scored at the cue's last token."""
    check_at_least_one("batch_size", batch_size)
    reading = difficulty.length + len(cue) - 1
    emitted = difficulty.length * difficulty.repeats
    symbols_NB = torch.randint(symbols, (difficulty.length, batch_size), generator=generator)

    def filled(steps: int, value: int) -> Tensor:
        return torch.full((steps, batch_size), value)

    cue_CB = [filled(1, token) for token in cue]
    inputs_LB = torch.cat([symbols_NB, *cue_CB, filled(emitted, symbols + 1)])
    answer_NB = [symbols_NB] * difficulty.repeats
    targets_LB = torch.cat([filled(reading, 0), *answer_NB, filled(1, symbols)])
    mask_LB = torch.cat([filled(reading, False), filled(emitted + 1, True)])
    return Episode(inputs_LB, targets_LB, mask_LB)


def _glyph(symbols: int, token: int, marks: str) -> str:
    """A symbol as :func:`glyph`, the tokens after the symbols as `marks`, and a number as `x3`."""
    if token < symbols:
        return glyph(token, symbols)
    after = token - symbols
    return marks[after] if after < len(marks) else f"x{after - 1}"


def _render(
    symbols: int,
    inputs_L: Tensor,
    targets_L: Tensor,
    mask_L: Tensor,
    outputs_L: Tensor | None,
) -> str:
    return aligned(
        [_glyph(symbols, token, "|.") for token in inputs_L.tolist()],
        lambda token: _glyph(symbols, token, "$"),
        targets_L,
        mask_L,
        outputs_L,
    )
