"""Delayed recall: remember one symbol during a delay in which noise is read.

Shapes: L steps of an episode, B rows. Tokens for V symbols and W kinds of noise:

    inputs   0..V-1 symbols, V the read cue, V+1..V+W noise
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
class RecallTask:
    r"""The task to emit the first symbol, at a cue, after `difficulty.length` steps of noise.

        input    s  n_1 .. n_N  cue
        target                   s

    Noise tokens are drawn uniformly and independently, so that a model must learn which tokens to
    ignore. A guess has an accuracy of 1 / V and an error of :math:`\log_2 V` bits. Episodes back to
    back, each with another delay, are a stream of writes and reads: a flip-flop of V states.

    Args:
        symbols: number V of different symbols, >= 2.
        distractors: number W of different noise tokens, >= 1; with 1 the noise is a blank.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> task = RecallTask()
        >>> episode = task.episode(Difficulty(4), batch_size=1, generator=torch.Generator())
        >>> print(task.render(*(field_LB[:, 0] for field_LB in episode)))
        input   2 ~0 ~1 ~0 ~1  ?
        target                 2
        >>> task.chance_accuracy, task.chance_bits
        (0.25, 2.0)

    Source: after experiments 2 and 3 of Hochreiter & Schmidhuber, Long Short-Term Memory (1997);
    as a stream, the flip-flop of Liu et al. (arXiv 2306.00946).
    """

    symbols: int = 4
    distractors: int = 4

    def __post_init__(self):
        if self.symbols < 2:
            raise ValueError(f"symbols is {self.symbols}, expected >= 2: one needs no memory")
        check_at_least_one("distractors", self.distractors)

    @property
    def input_size(self) -> int:
        return self.symbols + 1 + self.distractors

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
                f"difficulty.repeats is {difficulty.repeats}, but recall reads once: use repeats=1"
            )

    def episode(
        self, difficulty: Difficulty, batch_size: int, generator: torch.Generator
    ) -> Episode:
        self.check(difficulty)
        check_at_least_one("batch_size", batch_size)
        written_1B = torch.randint(self.symbols, (1, batch_size), generator=generator)
        noise_NB = torch.randint(
            self.symbols + 1, self.input_size, (difficulty.length, batch_size), generator=generator
        )
        inputs_LB = torch.cat([written_1B, noise_NB, torch.full_like(written_1B, self.symbols)])
        targets_LB = torch.zeros_like(inputs_LB)
        targets_LB[-1] = written_1B
        mask_LB = torch.zeros(inputs_LB.shape, dtype=torch.bool)
        mask_LB[-1] = True
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
        """Aligned lines: symbols as digits or letters, noise with a `~`, `?` for the read cue."""
        cells = [self._cell(token) for token in inputs_L.tolist()]
        return aligned(
            cells, lambda token: glyph(token, self.symbols), targets_L, mask_L, outputs_L
        )

    def _cell(self, token: int) -> str:
        if token == self.symbols:
            return "?"
        noise = token - self.symbols - 1
        return glyph(token, self.symbols) if noise < 0 else f"~{glyph(noise, self.distractors)}"
