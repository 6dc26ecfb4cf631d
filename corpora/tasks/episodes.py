"""Endless streams of chunks of an episodic task, whose rows play episodes together or each alone.

Shapes: T steps of a chunk, L steps of an episode, B rows.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from seqdni.corpora.batch import Batch
from seqdni.corpora.tasks.task import Difficulty, Episode, EpisodicTask, check_at_least_one


class LockstepEpisodes:
    """A stream whose rows begin and end their episodes together, all of one difficulty.

    The last chunk of an episode may be shorter. Assign `stream.difficulty` to change the difficulty
    from the next episode on.

    Args:
        task: draws the episodes.
        difficulty: of every episode.
        batch_size: number of rows, >= 1.
        chunk_len: steps of a chunk, >= 1; None: a chunk is a whole episode.
        seed: of the stream's own generator; any integer.

    Raises:
        ValueError: a size is below 1, or the task has no such difficulty.

    Example:
        >>> from seqdni.corpora.tasks.copying import CopyTask
        >>> stream = LockstepEpisodes(CopyTask(), Difficulty(2), batch_size=3, chunk_len=4, seed=0)
        >>> [next(stream).inputs.shape for _ in range(3)]
        [torch.Size([4, 3]), torch.Size([1, 3]), torch.Size([4, 3])]
    """

    def __init__(
        self,
        task: EpisodicTask,
        difficulty: Difficulty,
        batch_size: int,
        chunk_len: int | None,
        seed: int,
    ):
        check_at_least_one("batch_size", batch_size)
        check_at_least_one("chunk_len", 1 if chunk_len is None else chunk_len)
        task.check(difficulty)
        self.difficulty = difficulty
        self.batch_size = batch_size
        self.chunk_len = chunk_len
        self._player = _Player(
            lambda difficulty, generator: task.episode(difficulty, batch_size, generator),
            seed,
            row=0,
        )

    def __iter__(self) -> "LockstepEpisodes":
        return self

    def __next__(self) -> Batch:
        starts = self._player.position == 0
        piece = self._player.read(self.difficulty, self.chunk_len)
        return in_step(piece, starts, ends=self._player.position == 0)

    def peek(self, steps: int) -> Batch | None:
        """The next steps of the episode, without moving on in the stream.

        Args:
            steps: how many, >= 1.

        Returns:
            The first steps of the next chunk, fewer where the episode ends; None where the next
            step begins an episode.
        """
        if (rest := self._player.peek(steps)) is None:
            return None
        piece, ends = rest
        return in_step(piece, starts=False, ends=ends)

    def state_dict(self) -> dict[str, Any]:
        """Primitives and tensors that continue the stream exactly, mid-episode too."""
        return {
            "difficulty": list(self.difficulty),
            "batch_size": self.batch_size,
            "player": self._player.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError where it is of another batch size."""
        _check_batch_size(state["batch_size"], self.batch_size)
        self.difficulty = Difficulty(*state["difficulty"])
        self._player.load_state_dict(state["player"])


class BackToBackEpisodes:
    """A stream in which each row has its own episodes, one after another, of random difficulties.

    Row i depends only on (`seed`, i), and not on the batch size, the chunk length or other rows.
    Assign `stream.difficulty` to change the difficulty of the episodes that start from then on.

    Args:
        task: draws the episodes.
        difficulty: the greatest; length and repeats are drawn uniformly from those of `task.first`
            up to these.
        batch_size: number of rows, >= 1.
        chunk_len: steps of a chunk, >= 1.
        seed: of the rows' own generators; any integer.

    Raises:
        ValueError: a size is below 1, or the task has no such difficulty.

    Example:
        >>> from seqdni.corpora.tasks.copying import CopyTask
        >>> stream = BackToBackEpisodes(CopyTask(), Difficulty(2), 1, chunk_len=8, seed=0)
        >>> next(stream).should_reset[:, 0].int().tolist()
        [1, 0, 0, 0, 0, 1, 0, 0, 1]
    """

    def __init__(
        self, task: EpisodicTask, difficulty: Difficulty, batch_size: int, chunk_len: int, seed: int
    ):
        check_at_least_one("batch_size", batch_size)
        check_at_least_one("chunk_len", chunk_len)
        task.check(difficulty)

        def draw(difficulty: Difficulty, generator: torch.Generator) -> Episode:
            task.check(difficulty)
            length, repeats = (
                int(torch.randint(least, most + 1, (), generator=generator))
                for least, most in zip(task.first, difficulty, strict=True)
            )
            return task.episode(Difficulty(length, repeats), 1, generator)

        self.difficulty = difficulty
        self.chunk_len = chunk_len
        self._rows = [_Player(draw, seed, row) for row in range(batch_size)]

    def __iter__(self) -> "BackToBackEpisodes":
        return self

    def __next__(self) -> Batch:
        pieces = []  # row after row: those of one row add up to its T steps
        should_reset = np.zeros((self.chunk_len + 1, len(self._rows)), dtype=np.bool_)
        for b, row in enumerate(self._rows):
            t = 0
            while t < self.chunk_len:
                should_reset[t, b] = row.position == 0
                pieces.append(row.read(self.difficulty, self.chunk_len - t))
                t += len(pieces[-1].inputs_LB)
            should_reset[t, b] = row.position == 0
        shape_BT = (len(self._rows), self.chunk_len)
        inputs_TB, targets_TB, mask_TB = (
            torch.cat(field).squeeze(1).unflatten(0, shape_BT).transpose(0, 1).contiguous()
            for field in zip(*pieces, strict=True)
        )
        return Batch(inputs_TB, targets_TB, mask_TB, torch.from_numpy(should_reset))

    def peek(self, steps: int) -> Batch | None:
        """The next steps of each row's episode, without moving on in the stream.

        A row whose episode ends sooner restarts there, and no step after that is scored.

        Args:
            steps: how many, >= 1.

        Returns:
            These steps; fewer if all episodes end sooner. None where every row begins an episode
            with its next step.
        """
        rests = [row.peek(steps) for row in self._rows]
        pieces = [rest[0] for rest in rests if rest is not None]
        if not pieces:
            return None
        longest = max(len(piece.inputs_LB) for piece in pieces)
        shape_TB = (longest, len(self._rows))
        whole = Episode(*(field.new_zeros(shape_TB + field.shape[2:]) for field in pieces[0]))
        should_reset = torch.zeros(longest + 1, len(self._rows), dtype=torch.bool)
        for b, rest in enumerate(rests):
            if rest is None:
                should_reset[0, b] = True
                continue
            piece, ends = rest
            count = len(piece.inputs_LB)
            should_reset[count, b] = ends
            for field, rows_field in zip(whole, piece, strict=True):
                field[:count, b] = rows_field[:, 0]
        return Batch(*whole, should_reset)

    def state_dict(self) -> dict[str, Any]:
        """Primitives and tensors that continue the stream exactly, mid-episode too."""
        return {
            "difficulty": list(self.difficulty),
            "rows": [row.state_dict() for row in self._rows],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError where it is of another batch size."""
        _check_batch_size(len(state["rows"]), len(self._rows))
        self.difficulty = Difficulty(*state["difficulty"])
        for row, row_state in zip(self._rows, state["rows"], strict=True):
            row.load_state_dict(row_state)


def in_step(piece: Episode, starts: bool, ends: bool) -> Batch:
    """Convert a part of an episode that all rows play together to a chunk.

    Args:
        piece: of the episode.
        starts: whether the episode starts with it.
        ends: whether the episode ends with it.

    Returns:
        The chunk.
    """
    steps, rows = piece.targets_LB.shape
    should_reset = torch.zeros(steps + 1, rows, dtype=torch.bool)
    should_reset[0], should_reset[-1] = starts, ends
    return Batch(*piece, should_reset)


class _Player:
    """Draws whole episodes and reads them piece by piece. At position 0 the next one is drawn.

    The saved state holds no episode: it has the state of the generator before the episode, with
    which the episode is drawn again.
    """

    def __init__(self, draw: Callable[[Difficulty, torch.Generator], Episode], seed: int, row: int):
        # Torch's generator takes a seed of 32 bits; the hash makes those of near rows unrelated.
        digest = hashlib.sha256(f"{seed} {row}".encode()).digest()
        self._draw = draw
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
        self.position = 0

    def read(self, difficulty: Difficulty, most: int | None) -> Episode:
        """The next `most` steps of the episode, or all that are left; with None always all."""
        if self.position == 0:
            self._begin(difficulty)
        piece, ends = self._episode.part(self.position, most)
        self.position = 0 if ends else self.position + len(piece.inputs_LB)
        return piece

    def peek(self, most: int) -> tuple[Episode, bool] | None:
        """The result of :meth:`read`, and whether the episode ends there; None at position 0."""
        return None if self.position == 0 else self._episode.part(self.position, most)

    def _begin(self, difficulty: Difficulty) -> None:
        self._level, self._generator_before = difficulty, self._generator.get_state()
        self._episode = self._draw(difficulty, self._generator)

    def state_dict(self) -> dict[str, Any]:
        if self.position == 0:
            return {"generator": self._generator.get_state(), "position": 0}
        return {
            "generator": self._generator_before,
            "position": self.position,
            "difficulty": list(self._level),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
        self.position = state["position"]
        if self.position:
            self._begin(Difficulty(*state["difficulty"]))


def _check_batch_size(got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(
            f"the state is of a stream of {got} rows, this one has {expected}: "
            "resume with the batch_size that it was saved with"
        )
