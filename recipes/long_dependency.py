"""Recipes with one answer, long after what it depends on.

A new task of this kind is a file such as adding.py, and a line in registry.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from tqdm import tqdm

from seqdni import Model, SequenceModel, cross_entropy, to_bits
from seqdni.corpora import (
    Batch,
    Difficulty,
    Episode,
    EpisodicTask,
    LockstepEpisodes,
    ShuffledImages,
)
from seqdni.recipes.build import build_model, build_trainer, loss_for
from seqdni.recipes.common_options import Sampling, check
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError
from seqdni.recipes.held_out import HeldOut, log_horizon
from seqdni.recipes.known_answers import KnownAnswers
from seqdni.recipes.session import Session
from seqdni.recipes.trained import Trained, check_no_text, check_same_images, load_last, resumed
from seqdni.recipes.trainers import chunks_of, way_of

FRESH_EPISODES, FRESH_SEED = 1000, 2**31 - 1
EVALUATION_ROWS, HORIZON_ROWS = 250, 256


class LongTask(Protocol):
    """What the recipe needs of a task, however its episodes come about."""

    @property
    def input_size(self) -> int:
        """Number of input symbols, or of features."""
        ...

    @property
    def output_size(self) -> int:
        """Number of output symbols; 1 for a real value."""
        ...

    def render(self, inputs_L: Any, targets_L: Any, mask_L: Any, outputs_L: Any, /) -> str:
        """An episode, with what the model makes of it, as lines of text."""
        ...


class DrawnTask(EpisodicTask, LongTask, Protocol):
    """A task whose episodes are drawn at random."""


class Problem(NamedTuple):
    """What a run learns, and what it is measured on.

    Args:
        task: its sizes, its chance level, and how it draws an episode.
        stream: to train on, at its beginning.
        held_out: episodes that are not trained on, all of the same length.
        test: others for the result alone, or None.
        digest: of the data, or None where all is drawn.
    """

    task: LongTask
    stream: LockstepEpisodes | ShuffledImages
    held_out: Episode
    test: Episode | None = None
    digest: str | None = None


def drawn(task: DrawnTask, options: Any, length: int | None) -> Problem:
    """A task whose episodes are drawn, all of one length.

    Args:
        task: what is drawn from.
        options: of the run.
        length: of the episodes; None takes the run's.

    Returns:
        The problem, with episodes that are not trained on.

    Raises:
        RunError: the task has no such length.
    """
    level = Difficulty(options.length if length is None else length)
    try:
        task.check(level)
    except ValueError as error:
        raise RunError(f"--length {length}: {error}") from None
    generator = torch.Generator().manual_seed(FRESH_SEED)
    held_out = task.episode(level, FRESH_EPISODES, generator)
    stream = LockstepEpisodes(task, level, options.batch, options.chunk_len, options.seed)
    return Problem(task, stream, held_out)


@dataclass(frozen=True)
class LongDependency:
    """What a recipe of this kind does; see :class:`seqdni.recipes.recipe.RecipeFile`.

    Args:
        task_of: from the options to the task.
        problem_of: from the task, the options and a length of the episodes (None: the run's) to
            the problem.
        tokens: whether the inputs are symbols.
        check_data: refuses options whose data cannot be there, and makes paths absolute.
    """

    task_of: Callable[[Any], LongTask]
    problem_of: Callable[[Any, Any, int | None], Problem] = drawn
    tokens: bool = False
    check_data: Callable[[Any], None] = lambda _options: None

    def prepare(self, options: Any) -> None:
        """Refuse what cannot work, before any data is read; make paths absolute.

        Args:
            options: of the run, changed in place.

        Raises:
            RunError: naming the option.
        """
        check(options, "rls" if options.look_ahead else "critic", has_critic=True)
        self.check_data(options)

    def start(self, options: Any, directory: RunDirectory) -> Session:
        """Data, model and trainer of a run that has not begun.

        Args:
            options: of the run.
            directory: where it writes.

        Returns:
            The session.

        Raises:
            CorpusError: the data is missing or damaged.
        """
        problem = self._problem(options, None)
        model = self._model(options)
        loss = loss_for(problem.held_out.targets_LB)
        known = _known_answers(options, problem)
        trainer = build_trainer(options, model, 1.0, loss, known)
        progress = {
            "data": problem.digest,
            "evaluated_at": 0,
            "curve": [],  # [updates, tokens, held-out metric] of each look
        }
        stream = way_of(options).wrap_stream(options, problem.stream)
        unit = "mse" if problem.held_out.targets_LB.is_floating_point() else "bits"
        return Session(
            directory,
            options,
            trainer,
            stream,
            progress,
            data=problem,
            unit=unit,
            known_answers=known,
        )

    def resumed(self, session: Session) -> None:
        """Refuse to go on with other data.

        Args:
            session: restored.

        Raises:
            RunError: the data is not that of the run.
        """
        resumed(session)

    def run(self, session: Session) -> dict[str, Any]:
        """Train, looking at held-out episodes now and then.

        Args:
            session: new, or restored.

        Returns:
            What result.json holds.
        """
        options, progress, trainer = session.options, session.progress, session.trainer
        problem: Problem = session.data
        chunks = chunks_of(options, session.stream)
        held_out_chunks = partial(_chunks, problem.held_out, options.chunk_len)
        for row in session.train(chunks, work=lambda: trainer.updates):
            log_horizon(session, held_out_chunks, row)
            if trainer.updates - progress["evaluated_at"] >= options.evaluate_every:
                progress["evaluated_at"] = trainer.updates
                found = scores(trainer.model, problem.held_out)
                row.update({f"held_out_{name}": round(value, 5) for name, value in found.items()})
                name, value = next(iter(found.items()))
                progress["curve"].append([trainer.updates, trainer.tokens, round(value, 5)])
                row["note"] = f"held-out {name} {value:.4f}"
                tqdm.write(f"{trainer.updates:>8} updates  {row['note']}")
        result = session.result()
        if hasattr(options, "length"):  # images have the length that they have
            result["length"] = options.length
        result |= _measured(trainer.model, problem)
        return result | {"curve": progress["curve"]}

    def evaluate(self, directory: RunDirectory, options: Any) -> dict[str, Any]:
        """Recompute the result of a run from its last checkpoint.

        Args:
            directory: of the run.
            options: its options.

        Returns:
            Chance level and errors on held-out episodes.
        """
        problem = self._problem(options, None)
        model, progress, *_ = self.trained(directory, options)
        check_same_images(options, problem.digest, progress)
        return _measured(model, problem)

    @torch.no_grad()
    def sample(self, directory: RunDirectory, options: Any, asked: Sampling) -> None:
        """Print an episode with what the model makes of it.

        Args:
            directory: of the run.
            options: its options.
            asked: length of the episode (None takes the run's) and seed of the choice among the
                held-out episodes, or the test images; the model answers with the likeliest symbol.

        Raises:
            RunError: a prompt, a temperature or a top-k was given, or the task has no such length.
        """
        check_no_text(asked)
        problem = self._problem(options, asked.length)
        model, progress, *_ = self.trained(directory, options)
        check_same_images(options, problem.digest, progress)
        unseen = problem.held_out if problem.test is None else problem.test
        chosen = torch.randint(
            unseen.mask_LB.shape[1], (1,), generator=torch.Generator().manual_seed(asked.seed)
        )
        episode = Episode(*(field_LB[:, chosen] for field_LB in unseen))
        device = next(model.parameters()).device
        outputs_LBV, _ = model(episode.inputs_LB.to(device), model.initial_state(1))
        real = episode.targets_LB.is_floating_point()
        outputs_LB = (outputs_LBV[..., 0] if real else outputs_LBV.argmax(-1)).cpu()
        print(problem.task.render(*(field_LB[:, 0] for field_LB in (*episode, outputs_LB))))

    def trained(self, directory: RunDirectory, options: Any) -> Trained:
        """The model of a run or of an export; needs no data.

        Args:
            directory: of either.
            options: its options.

        Returns:
            The last model.
        """
        return load_last(directory, options, self._model(options))

    def held_out(self, directory: RunDirectory, options: Any, length: int | None) -> HeldOut:
        """Held-out episodes in chunks, for the horizon.

        Args:
            directory: of the run.
            options: its options.
            length: of the episodes; None takes the run's.

        Returns:
            The chunks of one lock-step episode, and what the model is built and judged by.
        """
        problem = self._problem(options, length)
        loss = loss_for(problem.held_out.targets_LB)
        chunks = _chunks(problem.held_out, options.chunk_len)
        known = _known_answers(options, self._problem(options, None))
        return HeldOut(chunks, self._model(options), loss, known)

    def _problem(self, options: Any, length: int | None) -> Problem:
        return self.problem_of(self.task_of(options), options, length)

    def _model(self, options: Any) -> SequenceModel:
        task = self.task_of(options)
        return build_model(options, task.input_size, task.output_size, self.tokens)


def _known_answers(options: Any, problem: Problem) -> KnownAnswers | None:
    """What a critic predicts; None for a run without a critic."""
    if not (way_of(options).synthetic and options.synthesizer == "critic"):
        return None
    return KnownAnswers.of(problem.held_out, problem.task.output_size, options.chunk_len)


@torch.no_grad()
def scores(model: Model, episodes: Episode) -> dict[str, float]:
    """How good the answers are.

    Args:
        model: what is tested.
        episodes: on what, any number of rows.

    Returns:
        The mean squared error of real answers; else accuracy, and bits an answer.
    """
    device, found, due = next(model.parameters()).device, [], []
    for rows in zip(*(field_LB.split(EVALUATION_ROWS, 1) for field_LB in episodes), strict=True):
        inputs, targets, mask = (field.to(device) for field in rows)
        outputs, _ = model(inputs, model.initial_state(inputs.shape[1]))
        found.append(outputs[mask])
        due.append(targets[mask])
    outputs_1nV, targets_1n = torch.cat(found)[None], torch.cat(due)[None]
    if targets_1n.is_floating_point():
        return {"mse": (outputs_1nV[..., 0] - targets_1n).square().mean().item()}
    right = outputs_1nV.argmax(-1) == targets_1n
    nats = cross_entropy(outputs_1nV, targets_1n)
    return {"accuracy": right.double().mean().item(), "bits": to_bits(nats.mean().item())}


def _measured(model: Model, problem: Problem) -> dict[str, float]:
    """Errors on held-out and test episodes, and what chance would have."""
    result = {}
    for split, episodes in (("held_out", problem.held_out), ("test", problem.test)):
        if episodes is not None:
            result |= {f"{split}_{name}": value for name, value in scores(model, episodes).items()}
    chances = ("chance_mse", "chance_accuracy", "chance_bits")
    return result | {
        name: getattr(problem.task, name) for name in chances if hasattr(problem.task, name)
    }


def _chunks(episodes: Episode, chunk_len: int) -> list[Batch]:
    """The first rows of some episodes, cut into chunks."""
    first = [field_LB[:, :HORIZON_ROWS] for field_LB in episodes]
    steps, rows = first[-1].shape
    should_reset = torch.zeros(steps + 1, rows, dtype=torch.bool)
    should_reset[[0, steps]] = True
    return [
        Batch(
            *(field_LB[t : t + chunk_len] for field_LB in first),
            should_reset=should_reset[t : t + chunk_len + 1],
        )
        for t in range(0, steps, chunk_len)
    ]
