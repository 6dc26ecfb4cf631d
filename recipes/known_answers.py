"""The answers of an episode, which training knows before they are due.

Shapes: L steps of an episode, T of a chunk, B rows, K of a condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqdni import Critic
from seqdni.corpora import Batch, Episode

WHOLE = 2**31  # steps: more than any episode has


@dataclass(frozen=True)
class KnownAnswers:
    """What a critic predicts in episodes that all have the same length.

    Args:
        classes: kinds of answers; None for real values.
        answers: scored steps of an episode.
        boundaries: ends of chunks inside an episode, >= 1.
        chunk_len: T.
    """

    classes: int | None
    answers: int
    boundaries: int
    chunk_len: int

    @classmethod
    def of(cls, episode: Episode, classes: int, chunk_len: int) -> KnownAnswers:
        """Those of a task.

        Args:
            episode: of the task.
            classes: kinds of answers, where they are ids.
            chunk_len: T.

        Returns:
            What a critic is built from.

        Example:
            >>> from seqdni.corpora import Difficulty, RecallTask
            >>> episode = RecallTask().episode(Difficulty(9), 1, torch.Generator())
            >>> KnownAnswers.of(episode, classes=4, chunk_len=4)
            KnownAnswers(classes=4, answers=1, boundaries=2, chunk_len=4)
        """
        steps = len(episode.targets_LB)
        return cls(
            None if episode.targets_LB.is_floating_point() else classes,
            int(episode.mask_LB.any(1).sum()),
            max(1, (steps - 1) // chunk_len),
            chunk_len,
        )

    def critic(self, state_size: int) -> Critic:
        """A critic of these answers.

        Args:
            state_size: S, the width of a packed state.
        """
        return Critic(state_size, self.classes, answers=self.answers, positions=self.boundaries)

    def condition(self, critic: Critic, rest: Sequence[Batch], rows: int) -> Tensor:
        """What the critic sees besides the state at a boundary.

        Args:
            critic: made by :meth:`critic`.
            rest: the episode after the boundary, in pieces; none where the episode is over.
            rows: B.

        Returns:
            ``[B, K]``; zeros where the episode is over.
        """
        if not rest:
            return torch.zeros(rows, critic.condition_size)
        targets_LB = torch.cat([piece.targets for piece in rest])
        masks = [piece.mask for piece in rest]
        assert all(mask is not None for mask in masks)
        mask_LB = torch.cat(masks)  # pyright: ignore[reportArgumentType]
        scored_L = mask_LB.any(1)
        chunks_left = -(-len(scored_L) // self.chunk_len)
        position = max(0, self.boundaries - chunks_left)
        return critic.condition(targets_LB[scored_L], mask_LB[scored_L], position)
