"""Recipes with a curriculum: when a level of difficulty is solved, training goes on with the next.

To add a task of this kind, add a file such as copying.py and a line in registry.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from tqdm import tqdm

from seqdni import (
    Chunk,
    Model,
    cross_entropy,
    masked_sum,
    to_bits,
)
from seqdni.corpora import (
    BackToBackEpisodes,
    Batch,
    Difficulty,
    EpisodicTask,
    LockstepEpisodes,
    next_difficulty,
)
from seqdni.recipes.build import build_model, build_trainer
from seqdni.recipes.common_options import Sampling, check
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError
from seqdni.recipes.held_out import HeldOut, log_horizon
from seqdni.recipes.session import Session
from seqdni.recipes.trained import Trained, check_no_text, load_last
from seqdni.recipes.trainers import chunks_of, way_of

FRESH_EPISODES, FRESH_SEED = 256, 2**31 - 1


class CurriculumTask(EpisodicTask, Protocol):
    """A task of symbols that can also show an episode as text."""

    def render(self, inputs_L: Any, targets_L: Any, mask_L: Any, outputs_L: Any, /) -> str:
        """An episode with the model's outputs, as lines of text."""
        ...


@dataclass(frozen=True)
class Curriculum:
    """The commands of a recipe with a curriculum; see :class:`seqdni.recipes.recipe.RecipeFile`.

    Args:
        task_of: takes the options and returns the task.
        repeats: whether a level has a number of repetitions R besides its length N.
    """

    task_of: Callable[[Any], CurriculumTask]
    repeats: bool = False

    def prepare(self, options: Any) -> None:
        """Refuse what cannot work.

        Args:
            options: of the run.

        Raises:
            RunError: an option cannot be used; the message names it.
        """
        check(options, synthesizer="rls")
        if options.episodes == "back-to-back":
            if options.audit_every:
                raise RunError(
                    "--audit-every needs episodes that end together; use --episodes lockstep"
                )
            if way_of(options).whole_episodes:
                raise RunError(
                    f"--trainer {options.trainer} needs episodes that end together; "
                    "use --episodes lockstep"
                )
            if options.update_every == "episode":
                raise RunError(
                    "--update-every episode needs episodes that end together; "
                    "use --episodes lockstep, or give a number of chunks"
                )

    def start(self, options: Any, directory: RunDirectory) -> Session:
        """Task, model and trainer of a run that has not begun.

        Args:
            options: of the run.
            directory: where it writes.

        Returns:
            The session.
        """
        task = self.task_of(options)
        episodes = LockstepEpisodes if options.episodes == "lockstep" else BackToBackEpisodes
        stream = episodes(task, Difficulty(), options.batch, options.chunk_len, options.seed)
        model = build_model(options, task.input_size, task.output_size)
        trainer = build_trainer(options, model, loss_scale=1.0)
        progress = {
            "episodes": 0.0,
            "solved": [0, 0],  # N and R of the hardest level solved
            "history": [],  # [N, R, updates, episodes, seconds] of each level when it was solved
        }
        wrapped = way_of(options).wrap_stream(options, stream)
        return Session(directory, options, trainer, wrapped, progress, data=stream)

    def resumed(self, session: Session) -> None:
        """Do nothing: there is no data that could have changed, since episodes are drawn.

        Args:
            session: restored.
        """

    def run(self, session: Session) -> dict[str, Any]:
        """Train at a level until its error is small, then go on to the next.

        Args:
            session: new, or restored.

        Returns:
            What result.json holds.
        """
        options, progress = session.options, session.progress
        task = self.task_of(options)
        stream = session.data  # its difficulty is set here, also where another stream wraps it
        chunks = _counted(chunks_of(options, session.stream), progress)
        for row in session.train(chunks, work=lambda: progress["episodes"]):
            level = stream.difficulty
            row.update(length=level.length, repeats=level.repeats, episodes=progress["episodes"])
            log_horizon(session, lambda at=level: fresh_chunks(task, at, options.chunk_len), row)
            row["note"] = f"N={level.length}" + (f" R={level.repeats}" if level.repeats > 1 else "")
            stream.difficulty = next_difficulty(task, level, row["train_bits"], options.threshold)
            if stream.difficulty != level:
                progress["solved"] = list(level)
                seconds = round(session.seconds, 1)
                progress["history"].append([*level, row["update"], progress["episodes"], seconds])
                tqdm.write(f"{row['update']:>8} updates  solved {self._name(level)}")
        return session.result() | self._measured(session.trainer.model, options, progress)

    def evaluate(self, directory: RunDirectory, options: Any) -> dict[str, Any]:
        """Recompute the result of a run from its last checkpoint.

        Args:
            directory: of the run.
            options: its options.

        Returns:
            Solved levels and errors on fresh episodes.
        """
        model, progress, *_ = self.trained(directory, options)
        return self._measured(model, options, progress)

    @torch.no_grad()
    def sample(self, directory: RunDirectory, options: Any, asked: Sampling) -> None:
        """Print an episode with the model's answers, the likeliest symbols.

        Args:
            directory: of the run.
            options: its options.
            asked: length (symbols to remember; None takes the level that was in training) and seed
                of the episode.

        Raises:
            RunError: a prompt, a temperature or a top-k was given.
        """
        check_no_text(asked)
        model, progress, *_ = self.trained(directory, options)
        task = self.task_of(options)
        level = _level(task, progress, asked.length)
        episode = task.episode(level, 1, torch.Generator().manual_seed(asked.seed))
        device = next(model.parameters()).device
        logits, _ = model(episode.inputs_LB.to(device), model.initial_state(1))
        outputs_L = logits.argmax(-1)[:, 0].cpu()
        inputs_L, targets_L, mask_L = (field_LB[:, 0] for field_LB in episode)
        print(task.render(inputs_L, targets_L, mask_L, outputs_L))

    def trained(self, directory: RunDirectory, options: Any) -> Trained:
        """The last model of a run, or that of an export.

        Args:
            directory: of the run or export.
            options: its options.

        Returns:
            The last model.
        """
        task = self.task_of(options)
        model = build_model(options, task.input_size, task.output_size)
        return load_last(directory, options, model)

    def held_out(self, directory: RunDirectory, options: Any, length: int | None) -> HeldOut:
        """Newly drawn episodes in chunks, for ``seqdni horizon``.

        Args:
            directory: of the run.
            options: its options.
            length: symbols to remember; None takes the level that was in training.

        Returns:
            The chunks of one episode of all rows, a new model, and its loss.
        """
        task = self.task_of(options)
        level = _level(task, directory.load("last")["progress"], length)
        model = build_model(options, task.input_size, task.output_size)
        return HeldOut(fresh_chunks(task, level, options.chunk_len), model, cross_entropy)

    def _measured(self, model: Model, options: Any, progress: dict[str, Any]) -> dict[str, Any]:
        """The solved levels, and the error on new episodes of each level up to that in training.

        The last model may be worse at a level than when it solved it, because it has been trained
        on harder levels since.
        """
        task = self.task_of(options)
        length, repeats = progress["solved"]
        level, errors, holds = Difficulty(), {}, 0
        while True:
            bits = held_out_bits(model, task, level)
            errors[self._name(level)] = round(bits, 4)
            if bits < options.threshold:
                holds = len(errors)
            if len(errors) > len(progress["history"]):
                break
            level = task.advance(level)
        result: dict[str, Any] = {"solved_length": length}
        if self.repeats:
            result |= {"solved_repeats": repeats, "solved_steps": length * repeats}
        result["held_out_solved"] = list(errors)[holds - 1] if holds else "none"
        return result | {"held_out_bits": errors, "solved_at": progress["history"]}

    def _name(self, level: Difficulty) -> str:
        return f"{level.length}x{level.repeats}" if self.repeats else f"{level.length}"


def fresh_chunks(task: EpisodicTask, level: Difficulty, chunk_len: int) -> list[Batch]:
    """Draw new episodes of one level, the same ones in each call.

    Args:
        task: of the run.
        level: of the episodes.
        chunk_len: T.

    Returns:
        The chunks of one episode, which all rows begin and end together.
    """
    stream = LockstepEpisodes(task, level, FRESH_EPISODES, chunk_len, FRESH_SEED)
    steps = task.episode(level, 1, torch.Generator()).inputs_LB.shape[0]
    return list(islice(stream, -(-steps // chunk_len)))


def _level(task: EpisodicTask, progress: dict[str, Any], length: int | None) -> Difficulty:
    """The level that was in training, or one of the given length."""
    solved = Difficulty(*progress["solved"])
    level = task.advance(solved) if solved.length else Difficulty()
    return level if length is None else Difficulty(length, level.repeats)


@torch.no_grad()
def held_out_bits(model: Model, task: EpisodicTask, level: Difficulty) -> float:
    """The error on newly drawn episodes of one level.

    Args:
        model: the model to test.
        task: the task to test it on.
        level: of the episodes.

    Returns:
        Bits per scored symbol.
    """
    generator = torch.Generator().manual_seed(FRESH_SEED)
    device = next(model.parameters()).device
    episode = task.episode(level, FRESH_EPISODES, generator)
    inputs, targets, mask = (field_LB.to(device) for field_LB in episode)
    logits, _ = model(inputs, model.initial_state(FRESH_EPISODES))
    nats = masked_sum(cross_entropy(logits, targets), mask)
    return to_bits(nats.item() / int(mask.sum()))


def _counted(chunks: Iterable[Chunk], progress: dict[str, Any]) -> Iterator[Chunk]:
    """The chunks; the episodes that they end are counted, as a mean over the rows."""
    for chunk in chunks:
        should_reset = chunk[3]
        assert should_reset is not None
        progress["episodes"] += should_reset[1:].sum().item() / should_reset.shape[1]
        yield chunk
