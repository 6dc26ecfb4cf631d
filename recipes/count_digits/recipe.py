"""Recipe ``count-digits``: two networks that tick at different rates count the digits of a stream.

Network A reads one digit at each step, and after each window of T digits it answers how many of
them were odd. Network B ticks once after each window, on A's message, and after each T windows it
answers how many 3s there were. A's message must therefore contain the number of 3s, and only the
gradient from B can teach A this.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from seqdni import (
    Boundary,
    Hierarchy,
    HierarchyChunk,
    HierarchyTrainer,
    Learner,
    Level,
    LevelTraining,
    SyntheticGradients,
    state_size,
)
from seqdni.corpora import (
    COUNTED,
    CountDigits,
    Digits,
    Images,
    read_mnist,
    read_small_digits,
    render_digits,
)
from seqdni.recipes.apart import check_launched
from seqdni.recipes.build import build_core, load_weights
from seqdni.recipes.common_options import Sampling
from seqdni.recipes.count_digits.options import Options
from seqdni.recipes.count_digits.options import prepare as prepare  # what a recipe has
from seqdni.recipes.device import device_of
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError
from seqdni.recipes.levels_apart import sections, step_of
from seqdni.recipes.processes import together
from seqdni.recipes.session import Session
from seqdni.recipes.synthesizers import DESCENDED, build_boundary
from seqdni.recipes.trained import Trained, check_no_text, check_same_images
from seqdni.recipes.trained import resumed as resumed
from seqdni.recipes.trainers import way_of

HELD_OUT_ROWS, HELD_OUT_SEED = 250, 2**31 - 1
CURVE, FINAL = 8, 40  # T * T digits each that a row is tested on: in the curve, and in the result


class Problem(NamedTuple):
    """The images of a run, in three splits.

    Args:
        train: to draw from in training.
        valid: for the curves.
        test: for the result only.
        digest: a checksum of all of them.
    """

    train: Images
    valid: Images
    test: Images
    digest: str


class Chunks:
    """The stream in the form that a hierarchy's trainer takes.

    Args:
        digits: the stream.
    """

    def __init__(self, digits: CountDigits):
        self.digits = digits

    def __iter__(self) -> Iterator[HierarchyChunk]:
        return map(as_chunk, self.digits)

    def state_dict(self) -> dict[str, Any]:
        """The state of the stream."""
        return self.digits.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the stream."""
        self.digits.load_state_dict(state)


def as_chunk(digits: Digits) -> HierarchyChunk:
    """Convert a window to a chunk of the hierarchy, with its number of 3s as condition.

    Args:
        digits: one window, with its answers.

    Returns:
        The chunk.
    """
    answers = ((digits.odd_TB, digits.odd_due_TB), (digits.threes_wB, digits.threes_due_wB))
    threes_B = (digits.digits_TB == COUNTED).sum(0)
    condition_1BK = functional.one_hot(threes_B, len(digits.digits_TB) + 1).float()[None]
    return HierarchyChunk(digits.inputs_TBP, answers, conditions=[condition_1BK])


def problem_of(options: Options) -> Problem:
    """The images that the options name.

    Args:
        options: of the run.

    Returns:
        The splits.

    Raises:
        CorpusError: they are missing or damaged.
    """
    if options.data_dir is not None:
        return Problem(*read_mnist(options.data_dir))
    return Problem(*read_small_digits())


def build_model(options: Options, pixels: int) -> Hierarchy:
    """Build A and B, with random weights drawn from the seed.

    Args:
        options: cores and sizes.
        pixels: of an image.

    Returns:
        The hierarchy on its device.
    """
    torch.manual_seed(options.seed)
    window, hidden = options.chunk_len, options.hidden
    a = Level(
        build_core(options, options.encoder),  # pyright: ignore[reportArgumentType]
        encoder=nn.Sequential(nn.Linear(pixels, options.encoder), nn.ReLU()),
        readout=nn.Linear(hidden, window + 1),
    )
    b = Level(
        build_core(options, hidden),  # pyright: ignore[reportArgumentType]
        readout=nn.Linear(hidden, window * window + 1),
        period=window,
    )
    model = Hierarchy([a, b], example=torch.zeros(1, 1, pixels))
    return model.to(device_of(options))  # pyright: ignore[reportArgumentType]


def build_trainer(options: Options, model: Hierarchy) -> HierarchyTrainer:
    """Build the trainer that the options describe.

    Args:
        options: of the run.
        model: what is trained.

    Returns:
        The trainer.
    """
    trainings, mode = [], way_of(options).mode
    assert mode is not None
    rates = (options.lr, options.lr if options.lr_b is None else options.lr_b)
    for k, (level, rate) in enumerate(zip(model.levels, rates, strict=True)):
        adam = torch.optim.Adam(level.parameters(), lr=rate, fused=True)
        learner = Learner(adam, clip=options.clip)
        training = LevelTraining(learner, options.chunk_len if k else None)
        if mode != "joint":
            if options.grad_scale:
                boundary = build_boundary(options, state_size(level.initial_state(1)))
                training.credit = _synthetic_gradients(options, boundary)
            if k == 0 and mode == "dni":
                condition_size = options.chunk_len + 1 if options.condition else 0
                settings = (options.hidden, condition_size, options.message_scale)
                boundary = build_boundary(options, *settings)
                training.message_credit = _synthetic_gradients(options, boundary)
        trainings.append(training)
    parallel = None if options.apart else together()
    return HierarchyTrainer(model, trainings, mode, parallel)


def _synthetic_gradients(options: Options, boundary: Boundary) -> SyntheticGradients:
    if options.synthesizer not in DESCENDED:
        return SyntheticGradients(boundary)
    adam = torch.optim.Adam(boundary.parameters(), lr=options.synth_lr)
    return SyntheticGradients(boundary, adam, options.synth_clip)


def start(options: Options, directory: RunDirectory) -> Session:
    """Data, model and trainer of a run that has not begun.

    Args:
        options: of the run.
        directory: where it writes.

    Returns:
        The session.

    Raises:
        CorpusError: the images are missing or damaged.
    """
    check_launched(options, 2, "network")
    problem = problem_of(options)
    model = build_model(options, problem.train.pixels_nP.shape[1])
    trainer = build_trainer(options, model)
    stream = Chunks(CountDigits(problem.train, options.chunk_len, options.batch, options.seed))
    progress = {"data": problem.digest, "evaluated_at": 0, "curve": []}
    return Session(
        *(directory, options, trainer, stream, progress, problem),
        step=step_of(options, trainer),
        apart=options.apart is not None,
    )


def run(session: Session) -> dict[str, Any]:
    """Train, and evaluate on held-out digits every ``--evaluate-every`` steps.

    Args:
        session: new, or restored.

    Returns:
        What result.json holds.
    """
    options, progress, trainer = session.options, session.progress, session.trainer
    problem: Problem = session.data

    def steps() -> int:
        return trainer.tokens // options.batch

    def due() -> int:
        return ceil((options.log_every - (steps() - session.reported)) / options.chunk_len)

    for row in session.train(sections(session, session.stream, due), work=steps):
        if steps() - progress["evaluated_at"] >= options.evaluate_every:
            progress["evaluated_at"] = steps()
            found = errors(trainer.model, problem.valid, options.chunk_len, CURVE)
            row.update({name: round(value, 5) for name, value in found.items()})
            progress["curve"].append([steps(), row["error_a"], row["error_b"]])
            row["note"] = f"errors: A {found['error_a']:.4f}, B {found['error_b']:.4f}"
            tqdm.write(f"{steps():>8} steps  {row['note']}")
    result = session.result() | {"steps": steps(), "updates_b": trainer.updates_of_levels[1]}
    return result | _measured(trainer.model, problem, options) | {"curve": progress["curve"]}


def evaluate(directory: RunDirectory, options: Options) -> dict[str, Any]:
    """Recompute the result of a run from its last checkpoint.

    Args:
        directory: of the run.
        options: its options.

    Returns:
        Errors of A and B, and of answers that do not depend on the digits.
    """
    problem = problem_of(options)
    model, progress, *_ = trained(directory, options)
    check_same_images(options, problem.digest, progress)
    return _measured(model, problem, options)


@torch.no_grad()
def sample(directory: RunDirectory, options: Options, asked: Sampling) -> None:
    """Print T * T digits with the answers of A and B.

    Args:
        directory: of the run.
        options: its options.
        asked: the seed of the digits.

    Raises:
        RunError: an option was given that is for language models, or a length.
    """
    check_no_text(asked)
    if asked.length is not None:
        raise RunError("--length has no effect here: a long window has T * T digits")
    problem = problem_of(options)
    model, progress, *_ = trained(directory, options)
    check_same_images(options, problem.digest, progress)
    window = options.chunk_len
    stream = CountDigits(problem.test, window, 1, asked.seed)
    parts = [next(stream) for _ in range(window)]
    inputs = torch.cat([part.inputs_TBP for part in parts])
    (a, b), _ = model(inputs.to(next(model.parameters()).device))
    digits = torch.cat([part.digits_TB[:, 0] for part in parts]).tolist()
    odd = [int(part.odd_TB[-1, 0]) for part in parts]
    counted = a[window - 1 :: window, 0].argmax(-1).tolist()
    print(f"digits  {render_digits(digits, window)}")
    print(f"A, odd  expected {odd}, answer {counted}")
    print(f"B, 3s   expected {int(parts[-1].threes_wB[-1, 0])}, answer {int(b[-1, 0].argmax())}")


def trained(directory: RunDirectory, options: Options) -> Trained:
    """The last model of a run, or that of an export. It can be read without the data.

    Args:
        directory: of the run or export.
        options: its options.

    Returns:
        The last model.
    """
    saved = directory.load("last")
    try:
        pixels = saved["trainer"]["model"]["levels.0.encoder.0.weight"].shape[1]
    except (KeyError, TypeError, IndexError, AttributeError):
        where = directory.path / "last.pt"
        raise RunError(f"{where} does not fit its config.yaml: it has no encoder") from None
    model = build_model(options, pixels)
    load_weights(saved, directory.path / "last.pt", options, model)
    return Trained(model, saved["progress"])


def held_out(_directory: RunDirectory, options: Options, _length: int | None) -> Any:
    """Refuse ``seqdni horizon``, which this recipe does not have.

    Raises:
        RunError: always.
    """
    raise RunError(f"seqdni horizon looks at one network's chunks; {options.recipe} has two")


@torch.no_grad()
def errors(model: nn.Module, images: Images, window: int, long_windows: int) -> dict[str, float]:
    """The share of wrong answers on digits that were not trained on, the same ones in each call.

    Args:
        model: a hierarchy.
        images: to draw from.
        window: T.
        long_windows: how many times T * T digits are counted in each row; T * T digits before them
            are read and not counted.

    Returns:
        ``error_a`` and ``error_b``.
    """
    device = next(model.parameters()).device
    stream = CountDigits(images, window, HELD_OUT_ROWS, HELD_OUT_SEED)
    wrong, due, carry = torch.zeros(2), torch.zeros(2), None
    for n in range((1 + long_windows) * window):
        digits = next(stream)
        outputs, carry = model(digits.inputs_TBP.to(device), carry)
        if n < window:
            continue
        both = ((digits.odd_TB, digits.odd_due_TB), (digits.threes_wB, digits.threes_due_wB))
        for k, (targets, mask) in enumerate(both):
            missed = outputs[k].argmax(-1).cpu() != targets
            wrong[k] += missed[mask].sum()
            due[k] += mask.sum()
    return dict(zip(("error_a", "error_b"), (wrong / due).tolist(), strict=True))


def blind_errors(images: Images, window: int) -> dict[str, float]:
    r"""Errors of the likeliest count as the only answer: :math:`1 - \max_n \mathrm{Binomial}(n)`.

    Args:
        images: that the digits are drawn from.
        window: T.

    Returns:
        ``majority_error_a`` and ``majority_error_b``.
    """
    found = {}
    odd, threes = images.labels_n % 2 == 1, images.labels_n == 3
    for name, hits, draws in (("a", odd, window), ("b", threes, window * window)):
        counts = torch.distributions.Binomial(draws, hits.double().mean())
        likeliest = counts.log_prob(torch.arange(draws + 1).double()).exp().max()
        found[f"majority_error_{name}"] = 1 - likeliest.item()
    return found


def _measured(model: nn.Module, problem: Problem, options: Options) -> dict[str, float]:
    found = errors(model, problem.valid, options.chunk_len, FINAL)
    test = errors(model, problem.test, options.chunk_len, FINAL)
    found |= {f"test_{name}": value for name, value in test.items()}
    return found | blind_errors(problem.test, options.chunk_len)
