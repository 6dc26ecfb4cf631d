"""The adding problem: the sum of two marked values among many.

Shapes: L steps of an episode, B rows, 2 features of a step: a value and a marker.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from seqdni.corpora.tasks.task import Difficulty, Episode, check_at_least_one

VALUES_A_LINE = 10


@dataclass(frozen=True)
class AddingTask:
    r"""The task to answer, at the last step, with the sum of the two marked values.

        value   u_1 u_2 .. u_L     uniform in [0, 1)
        marker   0   1  ..  0      1 at one step of each half, chosen uniformly
        target              u_i + u_j

    `Difficulty.length` is L; the first half has L // 2 steps. The error is squared. The answer 1,
    which is the mean, has the variance of the sum of two uniform values as its mean squared error,
    :math:`2 \cdot 1/12 = 1/6`. The task is learned if the error is far smaller.

    Example:
        >>> task = AddingTask()
        >>> episode = task.episode(Difficulty(5), batch_size=1, generator=torch.Generator())
        >>> print(task.render(*(field_LB[:, 0] for field_LB in episode)))
        value   0.27 *0.87  0.34  0.40 *0.79
        target  1.6596
        >>> task.chance_mse
        0.16666666666666666

    Source: Hochreiter & Schmidhuber, Long Short-Term Memory (1997), experiment 4; lengths, value
    range and marker positions as in Le et al. (arXiv 1504.00941).
    """

    @property
    def input_size(self) -> int:
        return 2

    @property
    def output_size(self) -> int:
        return 1

    @property
    def first(self) -> Difficulty:
        return Difficulty(2)

    @property
    def chance_mse(self) -> float:
        return 1 / 6

    def check(self, difficulty: Difficulty) -> None:
        if difficulty.length < 2:
            raise ValueError(
                f"difficulty.length is {difficulty.length}, expected >= 2: a marker in each half"
            )
        if difficulty.repeats != 1:
            raise ValueError(
                f"difficulty.repeats is {difficulty.repeats}, but the adding problem has one "
                "answer: use repeats=1"
            )

    def episode(
        self, difficulty: Difficulty, batch_size: int, generator: torch.Generator
    ) -> Episode:
        self.check(difficulty)
        check_at_least_one("batch_size", batch_size)
        steps, half = difficulty.length, difficulty.length // 2
        values_LB = torch.rand(steps, batch_size, generator=generator)
        marked_2B = torch.stack(
            [
                torch.randint(begin, end, (batch_size,), generator=generator)
                for begin, end in ((0, half), (half, steps))
            ]
        )
        markers_LB = torch.zeros(steps, batch_size).scatter_(0, marked_2B, 1.0)
        targets_LB = torch.zeros(steps, batch_size)
        targets_LB[-1] = values_LB.gather(0, marked_2B).sum(0)
        mask_LB = torch.zeros(steps, batch_size, dtype=torch.bool)
        mask_LB[-1] = True
        return Episode(torch.stack([values_LB, markers_LB], dim=2), targets_LB, mask_LB)

    def advance(self, difficulty: Difficulty) -> Difficulty:
        self.check(difficulty)
        return Difficulty(difficulty.length + 1)

    def render(
        self,
        inputs_L2: Float32[Tensor, "L 2"],
        targets_L: Float32[Tensor, " L"],
        mask_L: Bool[Tensor, " L"],
        outputs_L: Float32[Tensor, " L"] | None = None,
    ) -> str:
        """The values, ten in a line, the marked ones with a star; then the sum and the answer."""
        cells = [f"{'*' if marker else ' '}{value:.2f}" for value, marker in inputs_L2.tolist()]
        lines = [
            " ".join(["value " if i == 0 else " " * 6, *cells[i : i + VALUES_A_LINE]])
            for i in range(0, len(cells), VALUES_A_LINE)
        ]
        target = targets_L[mask_L].item()
        lines.append(f"target  {target:.4f}")
        if outputs_L is not None:
            output = outputs_L[mask_L].item()
            lines += [f"output  {output:.4f}", f"error   {(output - target) ** 2:.4f} squared"]
        return "\n".join(lines)
