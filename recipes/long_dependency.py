"""Recipes ``adding``, ``recall`` and ``mnist``: one answer, long after what it depends on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from seqdni.corpora import (
    AddingTask,
    Batch,
    Difficulty,
    Episode,
    LockstepEpisodes,
    MnistTask,
    RecallTask,
    ShuffledImages,
    read_mnist,
)
from seqdni.recipes.build import build_model, build_trainer, load_weights, loss_for
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.episodic import EpisodicOptions
from seqdni.recipes.errors import RunError
from seqdni.recipes.held_out import HeldOut, log_horizon
from seqdni.recipes.option import option, same_option
from seqdni.recipes.options import Sampling, check, check_no_text
from seqdni.recipes.session import Session, check_same_images
from seqdni.recipes.trainers import chunks_of, way_of
from tqdm import tqdm

from seqdni import Model, SequenceModel, cross_entropy, to_bits

ADDING_SUMMARY = "add the two marked values among many; answer at the end"
RECALL_SUMMARY = "hold one symbol through a delay full of noise"
MNIST_SUMMARY = "read a digit pixel by pixel or row by row, and name it at the end"
FRESH_EPISODES, FRESH_SEED = 1000, 2**31 - 1
EVALUATION_ROWS, HORIZON_ROWS = 250, 256


@dataclass
class LongOptions(EpisodicOptions):
    """Options that the three have in common."""

    chunk_len: int = same_option(EpisodicOptions, "chunk_len", 8)
    # At 0 a new LSTM forgets within a few steps; at 2 it needs little credit to remember 20.
    forget_bias: float = same_option(EpisodicOptions, "forget_bias", 1.0)
    updates: int | None = option(3000, "stop after this many weight updates", at_least=1)
    evaluate_every: int = option(
        500, "updates between two looks at held-out data, in steps of --log-every", at_least=1
    )


@dataclass
class AddingOptions(LongOptions):
    """Options of ``seqdni run adding``."""

    recipe: Literal["adding"] = "adding"
    length: int = option(40, "steps of an episode; one marker in each half", at_least=2)


@dataclass
class RecallOptions(LongOptions):
    """Options of ``seqdni run recall``."""

    recipe: Literal["recall"] = "recall"
    lr: float = same_option(EpisodicOptions, "lr", 1e-3)
    length: int = option(16, "steps of noise between writing and reading", at_least=1)
    symbols: int = option(4, "kinds of symbols", at_least=2)
    distractors: int = option(4, "kinds of noise; 1 is a blank", at_least=1)


@dataclass
class MnistOptions(LongOptions):
    """Options of ``seqdni run mnist``."""

    recipe: Literal["mnist"] = "mnist"
    data_dir: str | None = option(None, "folder with the four files of MNIST, with or without .gz")
    by: Literal["pixel", "row"] = option("row", "784 steps of a pixel, or 28 steps of 28")
    permute: bool = option(False, "read the pixels in a random order, the same for all images")
    permute_seed: int = option(
        0,
        "seed of the order in which --permute reads the pixels",
        at_least=0,
        only=lambda options: options.permute,
        when="--permute true",
    )


Options = AddingOptions | RecallOptions | MnistOptions


class Problem(NamedTuple):
    """What a run learns, and what it is measured on.

    Args:
        task: its sizes, its chance level, and how it draws an episode.
        stream: to train on, at its beginning.
        held_out: episodes that are not trained on, all of the same length.
        test: others for the result alone, or None.
        digest: of the data, or None where all is drawn.
    """

    task: AddingTask | RecallTask | MnistTask
    stream: LockstepEpisodes | ShuffledImages
    held_out: Episode
    test: Episode | None = None
    digest: str | None = None


def prepare(options: Options) -> None:
    """Refuse what cannot work, before any data is read; make paths absolute.

    Args:
        options: of the run, changed in place.

    Raises:
        RunError: naming the option.
    """
    check(options, synthesizer="rls")
    if isinstance(options, MnistOptions):
        if options.data_dir is None:
            raise RunError("mnist needs --data-dir, the folder with the four files of MNIST")
        options.data_dir = str(Path(options.data_dir).expanduser().resolve())


def problem_of(options: Options, length: int | None = None) -> Problem:
    """The task that the options describe, with its data.

    Args:
        options: of the run.
        length: of the episodes; None takes the run's.

    Returns:
        The problem.

    Raises:
        CorpusError: the data is missing or damaged.
        RunError: a length, or a batch, that the data does not have.
    """
    sizes = {"batch_size": options.batch, "chunk_len": options.chunk_len, "seed": options.seed}
    if isinstance(options, MnistOptions):
        if length is not None:
            raise RunError("--length has no effect here: an image has the length that it has")
        assert options.data_dir is not None
        data = read_mnist(options.data_dir)
        if options.batch > (images := len(data.train.labels_n)):
            raise RunError(f"--batch is {options.batch}, expected at most the {images} images")
        task = _task(options)
        assert isinstance(task, MnistTask)
        stream = ShuffledImages(task, data.train, **sizes)
        return Problem(task, stream, task.episode(data.valid), task.episode(data.test), data.digest)
    task = _task(options)
    assert not isinstance(task, MnistTask)
    level = Difficulty(options.length if length is None else length)
    try:
        task.check(level)
    except ValueError as error:
        raise RunError(f"--length {length}: {error}") from None
    generator = torch.Generator().manual_seed(FRESH_SEED)
    held_out = task.episode(level, FRESH_EPISODES, generator)
    return Problem(task, LockstepEpisodes(task, level, **sizes), held_out)


def start(options: Options, directory: RunDirectory) -> Session:
    """Data, model and trainer of a run that has not begun.

    Args:
        options: of the run.
        directory: where it writes.

    Returns:
        The session.

    Raises:
        CorpusError: the data is missing or damaged.
    """
    problem = problem_of(options)
    model = build_model(options, *_sizes(problem))
    loss = loss_for(problem.held_out.targets_LB)
    trainer = build_trainer(options, model, loss_scale=1.0, loss=loss)
    progress = {
        "data": problem.digest,
        "evaluated_at": 0,
        "curve": [],  # [updates, tokens, held-out metric] of each look
    }
    stream = way_of(options).wrap_stream(options, problem.stream)
    unit = "mse" if isinstance(problem.task, AddingTask) else "bits"
    return Session(directory, options, trainer, stream, progress, data=problem, unit=unit)


def resumed(session: Session) -> None:
    """Refuse to go on with other data.

    Args:
        session: restored.

    Raises:
        RunError: the data is not that of the run.
    """
    check_same_images(session.options, session.data.digest, session.progress)


def run(session: Session) -> dict[str, Any]:
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
    if not isinstance(options, MnistOptions):
        result["length"] = options.length
    result |= _measured(trainer.model, problem)
    return result | {"curve": progress["curve"]}


def evaluate(directory: RunDirectory, options: Options) -> dict[str, Any]:
    """Recompute the result of a run from its last checkpoint.

    Args:
        directory: of the run.
        options: its options.

    Returns:
        Chance level and errors on held-out episodes.
    """
    problem = problem_of(options)
    return _measured(_trained(directory, options, problem), problem)


@torch.no_grad()
def sample(directory: RunDirectory, options: Options, asked: Sampling) -> None:
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
    problem = problem_of(options, asked.length)
    model = _trained(directory, options, problem)
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


def exported(
    directory: RunDirectory, options: Options
) -> tuple[SequenceModel, dict[str, dict[str, Any]]]:
    """What others need to use the model.

    Args:
        directory: of the run.
        options: its options.

    Returns:
        The last model; it needs nothing else.
    """
    return trained(directory, options)[0], {}


def trained(directory: RunDirectory, options: Options) -> tuple[SequenceModel, None]:
    """The model of a run or of an export; needs no data.

    Args:
        directory: of either.
        options: its options.

    Returns:
        The last model, and no vocabulary.
    """
    task = _task(options)
    tokens = isinstance(task, RecallTask)
    model = build_model(options, task.input_size, task.output_size, tokens)
    load_weights(directory.load("last"), directory.path / "last.pt", options, model)
    return model, None


def held_out(directory: RunDirectory, options: Options, length: int | None) -> HeldOut:
    """Held-out episodes in chunks, for the horizon.

    Args:
        directory: of the run.
        options: its options.
        length: of the episodes; None takes the run's.

    Returns:
        The chunks of one lock-step episode, and what the model is built and judged by.
    """
    problem = problem_of(options, length)
    loss = loss_for(problem.held_out.targets_LB)
    chunks = _chunks(problem.held_out, options.chunk_len)
    return HeldOut(chunks, build_model(options, *_sizes(problem)), loss)


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


def _task(options: Options) -> AddingTask | RecallTask | MnistTask:
    if isinstance(options, MnistOptions):
        return MnistTask(options.by, options.permute_seed if options.permute else None)
    if isinstance(options, AddingOptions):
        return AddingTask()
    return RecallTask(options.symbols, options.distractors)


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


def _sizes(problem: Problem) -> tuple[int, int, bool]:
    """Numbers of inputs and outputs, and whether the inputs are tokens."""
    tokens = not problem.held_out.inputs_LB.is_floating_point()
    return problem.task.input_size, problem.task.output_size, tokens


def _trained(directory: RunDirectory, options: Options, problem: Problem) -> SequenceModel:
    """The last model of a run."""
    saved = directory.load("last")
    check_same_images(options, problem.digest, saved["progress"])
    model = build_model(options, *_sizes(problem))
    load_weights(saved, directory.path / "last.pt", options, model)
    return model


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
