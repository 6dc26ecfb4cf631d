"""Recipe ``layers``: a feed-forward net names digits, and its layers do not wait for each other."""

from __future__ import annotations

from typing import Any

import torch
from tqdm import tqdm

from seqdni import to_bits
from seqdni.corpora import (
    Images,
    Mnist,
    ShuffledImages,
    WholeImage,
    read_mnist,
    read_small_digits,
)
from seqdni.recipes.apart import check_launched, check_not_dealt
from seqdni.recipes.build import load_weights
from seqdni.recipes.common_options import Sampling
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError
from seqdni.recipes.layers.apart import sections, step_of
from seqdni.recipes.layers.net import build_net, build_trainer, errors, rates_of
from seqdni.recipes.layers.options import Options, stages_of
from seqdni.recipes.layers.options import prepare as prepare  # what a recipe has
from seqdni.recipes.session import Session
from seqdni.recipes.trained import Trained, check_no_text, check_same_images
from seqdni.recipes.trained import resumed as resumed

STEPS = (0.6, 0.8)  # parts of the run after which --schedule steps divides the rates by 10


def start(options: Options, directory: RunDirectory) -> Session:
    """Data, net and trainer of a run that has not begun.

    Args:
        options: of the run.
        directory: where it writes.

    Returns:
        The session.

    Raises:
        CorpusError: the images are missing or damaged.
        RunError: a batch is larger than the data.
    """
    check_not_dealt(options, stages_of(options))
    check_launched(options, stages_of(options), "layer")
    data = _read(options)
    count, pixels = data.train.pixels_nP.shape
    if options.batch > count:
        raise RunError(f"--batch is {options.batch}, expected at most the {count} images")
    trainer = build_trainer(options, build_net(options, pixels), pixels)
    stream = ShuffledImages(WholeImage(), data.train, options.batch, 1, options.seed)
    progress = {"data": data.digest, "pixels": pixels, "evaluated_at": 0, "curve": []}
    session = Session(
        *(directory, options, trainer, stream, progress, data),
        step=step_of(options, trainer),
        apart=options.apart == "processes",
    )
    if options.epochs is not None:
        session.most_tokens = (
            max(1, round(options.epochs * (count // options.batch))) * options.batch
        )
    return session


def run(session: Session) -> dict[str, Any]:
    """Train, and evaluate on held-out images every ``--evaluate-every`` updates.

    Args:
        session: new, or restored.

    Returns:
        What result.json holds.
    """
    options, progress, trainer = session.options, session.progress, session.trainer
    data: Mnist = session.data

    def steps() -> int:
        return trainer.steps

    def factor(done: float) -> float:
        return 0.1 ** sum(done >= part for part in STEPS) if options.schedule == "steps" else 1.0

    in_a_pass = len(data.train.labels_n) // options.batch * options.batch
    batches = sections(session, rates_of(options, trainer), factor)
    for row in session.train(batches, work=steps):
        row["epoch"] = round(trainer.tokens / in_a_pass, 4)
        if trainer.steps - progress["evaluated_at"] >= options.evaluate_every:
            progress["evaluated_at"] = trainer.steps
            found = _measured(trainer.model, data, ("held_out",))
            row.update({name: round(value, 5) for name, value in found.items()})
            progress["curve"].append([trainer.steps, trainer.tokens, row["held_out_error"]])
            row["note"] = f"held-out error {100 * found['held_out_error']:.2f}%"
            tqdm.write(f"{trainer.steps:>8} steps  {row['note']}")
    result = session.result() | {"updates_of_layers": trainer.updates_of_stages}
    return result | _measured(trainer.model, data) | {"curve": progress["curve"]}


def evaluate(directory: RunDirectory, options: Options) -> dict[str, Any]:
    """Recompute the result of a run from its last checkpoint.

    Args:
        directory: of the run.
        options: its options.

    Returns:
        Errors on held-out and test images.
    """
    data = _read(options)
    net, progress, *_ = trained(directory, options)
    check_same_images(options, data.digest, progress)
    return _measured(net, data)


@torch.no_grad()
def sample(directory: RunDirectory, options: Options, asked: Sampling) -> None:
    """Print a test image with the net's answer.

    Args:
        directory: of the run.
        options: its options.
        asked: the seed of the choice.

    Raises:
        RunError: an option was given that is for language models, or a length.
    """
    check_no_text(asked)
    if asked.length is not None:
        raise RunError("--length has no effect here: an image has the length that it has")
    data = _read(options)
    net, progress, *_ = trained(directory, options)
    check_same_images(options, data.digest, progress)
    generator = torch.Generator().manual_seed(asked.seed)
    chosen = int(torch.randint(len(data.test.labels_n), (1,), generator=generator))
    image_1P, label_1 = (part[chosen : chosen + 1] for part in data.test)
    pixels_1P = image_1P.float() / 255
    answer = int(net.eval()(pixels_1P.to(next(net.parameters()).device)).argmax())
    print(WholeImage().render(pixels_1P[0], int(label_1), answer))


def trained(directory: RunDirectory, options: Options) -> Trained:
    """The last net of a run, or that of an export. It can be read without the data.

    Args:
        directory: of the run or export.
        options: its options.

    Returns:
        The net.
    """
    saved, where = directory.load("last"), directory.path / "last.pt"
    pixels = saved["progress"].get("pixels")
    if not isinstance(pixels, int) or not 1 <= pixels <= 784:
        raise RunError(f"{where} does not fit its config.yaml: it has no number of pixels")
    net = build_net(options, pixels)
    load_weights(saved, where, options, net)
    return Trained(net, saved["progress"])


def held_out(_directory: RunDirectory, options: Options, _length: int | None) -> Any:
    """Refuse ``seqdni horizon``, which this recipe does not have.

    Raises:
        RunError: always.
    """
    raise RunError(f"seqdni horizon looks at the chunks of a sequence; {options.recipe} has none")


def _read(options: Options) -> Mnist:
    if options.data_dir is not None:
        return read_mnist(options.data_dir)
    return read_small_digits()


def _measured(
    net: Any, data: Mnist, splits: tuple[str, ...] = ("held_out", "test")
) -> dict[str, float]:
    """Share of wrong answers and bits an image, on splits that were not trained on."""
    found = {}
    for split in splits:
        images: Images = data.valid if split == "held_out" else data.test
        of_split = errors(net, images.pixels_nP.float() / 255, images.labels_n)
        found[f"{split}_error"] = of_split["error"]
        found[f"{split}_bits"] = to_bits(of_split["nats"])
    return found
