"""Recipe ``mnist``: read the image of a digit pixel by pixel or row by row, and name the digit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import seqdni.corpora as corpora
from seqdni.recipes.common_options import absolute
from seqdni.recipes.episode_options import LongOptions
from seqdni.recipes.errors import RunError
from seqdni.recipes.option_field import option
from seqdni.recipes.recipe import Recipe, RecipeFile

if TYPE_CHECKING:
    from seqdni.corpora import MnistTask
    from seqdni.recipes.long_dependency import Problem


@dataclass
class MnistOptions(LongOptions):
    """Options of ``seqdni run mnist``."""

    recipe: Literal["mnist"] = "mnist"
    data_dir: str | None = option(None, "folder with the four files of MNIST, with or without .gz")
    by: Literal["pixel", "row"] | int = option(
        "row",
        "pixel: 784 steps of one pixel; row: 28 steps of 28 pixels; a number: as many pixels a "
        "step, of which 784 must be a multiple",
    )
    permute: bool = option(
        False, "whether to read the pixels in a random order, the same for all images"
    )
    permute_seed: int = option(
        0,
        "seed of the order in which --permute reads the pixels",
        at_least=0,
        only=lambda options: options.permute,
        when="--permute true",
    )


def check_data(options: MnistOptions) -> None:
    """Refuse a run without data, and make the folder's path absolute.

    Args:
        options: the options of the run, which this function changes.

    Raises:
        RunError: no folder is given, or the pixels cannot be read so.
    """
    try:
        corpora.MnistTask(options.by)
    except ValueError as error:
        raise RunError(f"--{error}") from None
    if options.data_dir is None:
        raise RunError("mnist needs --data-dir, the folder with the four files of MNIST")
    options.data_dir = absolute(options.data_dir)


def problem_of(task: MnistTask, options: MnistOptions, length: int | None) -> Problem:
    """The images in their splits.

    Args:
        task: the order in which an image is read.
        options: of the run.
        length: must be None, because all images have the same length.

    Returns:
        The problem.

    Raises:
        CorpusError: the data is missing or damaged.
        RunError: a length was given, or a batch is larger than the data.
    """
    from seqdni.recipes.long_dependency import Problem  # not for the help of the options

    if length is not None:
        raise RunError("--length has no effect here: an image has the length that it has")
    assert options.data_dir is not None
    data = corpora.read_mnist(options.data_dir)
    if options.batch > (images := len(data.train.labels_n)):
        raise RunError(f"--batch is {options.batch}, expected at most the {images} images")
    stream = corpora.ShuffledImages(
        task, data.train, options.batch, options.chunk_len, options.seed
    )
    return Problem(task, stream, task.episode(data.valid), task.episode(data.test), data.digest)


def _load() -> RecipeFile:
    from seqdni.recipes.long_dependency import LongDependency  # not for the help of the options

    return LongDependency(_task_of, problem_of, check_data=check_data)


def _task_of(options: MnistOptions) -> MnistTask:
    return corpora.MnistTask(options.by, options.permute_seed if options.permute else None)


RECIPE = Recipe(
    "read a digit pixel by pixel or row by row, and name it at the end", MnistOptions, _load
)
