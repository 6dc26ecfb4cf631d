"""Counting digits at two rates: the odd ones of each T digits, and the 3s of each T * T digits.

Shapes: n images, P pixels of one, B rows, T digits of a window, N = T * T digits of a long window.

    digit  5 3 1 8 | 3 3 0 7 | 2 9 4 4 | 6 3 1 0 |     T = 4
    odd    . . . 3 | . . . 3 | . . . 1 | . . . 2 |     due after each window
    3s     . . . . . . . . . . . . . . . . . . 4 |     due after each T windows
"""

import hashlib
import importlib
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.tasks.mnist import Images, Mnist
from seqdni.corpora.tasks.task import check_at_least_one

COUNTED = 3
"""The digit that is counted in long windows."""
SMALL_SPLITS = (1197, 1497)  # of the 1797 small digits: where validation and test begin
SHADES = 16  # largest brightness of the small digits


def read_small_digits() -> Mnist:
    """Read the 1,797 digits of 8 x 8 pixels that come with scikit-learn; nothing is downloaded.

    Returns:
        1,197 / 300 / 300 images, with brightness from 0 to 255. No writer is in two splits.

    Raises:
        CorpusError: scikit-learn is not installed.

    Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).
    """
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise CorpusError(
            "the small digits come with scikit-learn, which is not installed; install it with "
            "pip install 'seqdni[digits]', or give the folder of MNIST"
        ) from None
    pixels, labels = datasets.load_digits(return_X_y=True)
    pixels = np.round(np.asarray(pixels) * (255 / SHADES)).astype(np.uint8)
    labels = np.asarray(labels, dtype=np.int64)
    first, second = SMALL_SPLITS
    train, valid, test = (
        Images(torch.from_numpy(pixels[part].copy()), torch.from_numpy(labels[part].copy()))
        for part in (slice(first), slice(first, second), slice(second, None))
    )
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return Mnist(train, valid, test, digest)


class Digits(NamedTuple):
    """Some whole windows of B streams of digits, with the answers.

    Args:
        inputs_TBP: images, with brightness from 0 to 1.
        digits_TB: the digits that they show.
        odd_TB: number of odd digits since the window began.
        odd_due_TB: True where that answer is scored: at the last digit of each window.
        threes_wB: number of 3s since the long window began, after each of the w windows.
        threes_due_wB: True where that answer is scored: after the last window of a long window.
    """

    inputs_TBP: Float32[Tensor, "T B P"]
    digits_TB: Int64[Tensor, "T B"]
    odd_TB: Int64[Tensor, "T B"]
    odd_due_TB: Bool[Tensor, "T B"]
    threes_wB: Int64[Tensor, "w B"]
    threes_due_wB: Bool[Tensor, "w B"]


class CountDigits:
    """An endless stream of random digits, one window at a time for all rows.

    Args:
        images: the images to draw from, with replacement.
        window: T, digits between two answers, >= 1; T windows make a long window.
        batch_size: B, number of rows, >= 1.
        seed: of the stream's own generator.

    Raises:
        ValueError: a size is below 1, or there are no images.

    Example:
        >>> images = Images(torch.zeros(10, 64, dtype=torch.uint8), torch.arange(10))
        >>> stream = CountDigits(images, window=2, batch_size=3, seed=0)
        >>> first, second = next(stream), next(stream)
        >>> bool(first.threes_due_wB.any()), bool(second.threes_due_wB.all())
        (False, True)
        >>> digits_NB = torch.cat([first.digits_TB, second.digits_TB])
        >>> torch.equal(second.threes_wB[0], (digits_NB == 3).sum(0))
        True

    Source: Jaderberg et al. (arXiv 1608.05343), section 3.2.
    """

    def __init__(self, images: Images, window: int, batch_size: int, seed: int):
        check_at_least_one("window", window)
        check_at_least_one("batch_size", batch_size)
        if not len(images.labels_n):
            raise ValueError("there are no images to draw from")
        self.window = window
        self.batch_size = batch_size
        self._images = images
        self._generator = torch.Generator().manual_seed(seed)
        self._windows = 0
        self._threes_B = torch.zeros(batch_size, dtype=torch.int64)  # in the long window so far

    def __iter__(self) -> "CountDigits":
        return self

    def __next__(self) -> Digits:
        shape = (self.window, self.batch_size)
        chosen_TB = torch.randint(len(self._images.labels_n), shape, generator=self._generator)
        digits_TB = self._images.labels_n[chosen_TB]
        inputs_TBP = self._images.pixels_nP[chosen_TB].float().div_(255)
        odd_due_TB = torch.zeros(shape, dtype=torch.bool)
        odd_due_TB[-1] = True
        threes_B = self._threes_B + (digits_TB == COUNTED).sum(0)
        self._windows += 1
        due = self._windows % self.window == 0
        self._threes_B = torch.zeros_like(threes_B) if due else threes_B
        return Digits(
            inputs_TBP,
            digits_TB,
            (digits_TB % 2).cumsum(0),
            odd_due_TB,
            threes_B[None],
            torch.full((1, self.batch_size), due),
        )

    def state_dict(self) -> dict[str, Any]:
        """Primitives and tensors that continue the stream exactly."""
        return {
            "generator": self._generator.get_state(),
            "windows": self._windows,
            "threes": self._threes_B,
            "images": len(self._images.labels_n),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError where it is of other numbers of images or rows."""
        got = state["images"], len(state["threes"])
        if got != (expected := (len(self._images.labels_n), self.batch_size)):
            raise ValueError(
                f"the state is of a stream of {got[0]} images and {got[1]} rows, this one has "
                f"{expected[0]} and {expected[1]}: resume with the data and batch size of the run"
            )
        self._generator.set_state(state["generator"])
        self._windows = state["windows"]
        self._threes_B = state["threes"]


def render_digits(digits_N: list[int], window: int) -> str:
    """The digits as a line of text, with a bar after each window.

    Args:
        digits_N: of one row, whole windows.
        window: T.

    Returns:
        One line.

    Example:
        >>> render_digits([5, 3, 1, 8], 2)
        '5 3 | 1 8 |'
    """
    windows = (digits_N[i : i + window] for i in range(0, len(digits_N), window))
    return " ".join(f"{' '.join(map(str, digits))} |" for digits in windows)
