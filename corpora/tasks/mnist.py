"""Sequential MNIST: read the image of a digit pixel by pixel or row by row, and name the digit.

Shapes: n images, P = 784 pixels, L = P / D steps of an episode, B rows, D pixels of a step.
"""

import hashlib
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.tasks.idx import read_idx
from seqdni.corpora.tasks.task import Episode

SIDE, CLASSES = 28, 10
PIXELS = SIDE * SIDE
NAMED_STEPS: dict[str | int, int] = {"pixel": 1, "row": SIDE}  # pixels of a step
IMAGES = {"train": 60_000, "t10k": 10_000}
VALIDATION = 5_000
SHADES = " .:-=+*#%@"
MNIST_HELP = (
    "expected the folder with MNIST's train-images-idx3-ubyte, train-labels-idx1-ubyte, "
    "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each as it is or with .gz"
)


class Images(NamedTuple):
    """Images of digits, and the digits that they show.

    Args:
        pixels_nP: brightness from 0 to 255, row after row.
        labels_n: the digits.
    """

    pixels_nP: UInt8[Tensor, "n P"]
    labels_n: Int64[Tensor, " n"]


class Mnist(NamedTuple):
    """MNIST in three splits.

    Args:
        train: the first 55,000 images of the training file.
        valid: its last 5,000.
        test: the 10,000 images of the test file.
        digest: SHA-256 of all of them, equal only for the same data.
    """

    train: Images
    valid: Images
    test: Images
    digest: str


def read_mnist(data_dir: str | Path) -> Mnist:
    """Read the four files of MNIST.

    Args:
        data_dir: their folder. Other data of the same form and size (Fashion-MNIST) can be read
            too.

    Returns:
        55,000 / 5,000 / 10,000 images.

    Raises:
        CorpusError: a file is missing, damaged, or of another form.

    Example:
        >>> read_mnist("nowhere")
        Traceback (most recent call last):
            ...
        seqdni.corpora.errors.CorpusError: nowhere: no such folder; expected the folder \
with MNIST's train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and \
t10k-labels-idx1-ubyte, each as it is or with .gz

    Source: LeCun et al., Gradient-based learning applied to document recognition (1998).
    """
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        problem = "not a folder" if folder.exists() else "no such folder"
        raise CorpusError(f"{folder}: {problem}; {MNIST_HELP}")
    learned, test = (_read(folder, name) for name in IMAGES)
    train, valid = (
        Images(*(part[here] for part in learned))
        for here in (slice(None, -VALIDATION), slice(-VALIDATION, None))
    )
    digest = hashlib.sha256()
    for part in (*learned, *test):
        digest.update(part.numpy().tobytes())
    return Mnist(train, valid, test, digest.hexdigest())


def pixel_order(seed: int) -> np.ndarray:
    """The order of the 784 pixels that belongs to a seed: step t reads pixel `order[t]`.

    NumPy's PCG64 generator makes it. A test checks that the order of seed 0 never changes.

    Args:
        seed: >= 0.

    Returns:
        [784] indices.

    Example:
        >>> pixel_order(0)[:5].tolist()
        [318, 2, 606, 446, 758]
    """
    return np.random.Generator(np.random.PCG64(seed)).permutation(PIXELS)


@dataclass(frozen=True)
class MnistTask:
    """Makes an episode of an image, in which the digit must be named at the last step.

    A guess has an accuracy of 1 / 10 (always the most frequent digit of the test file: 0.1135).

    Args:
        by: "pixel", 784 steps of 1 pixel; "row", 28 steps of 28; or the number of pixels of a step,
            of which 784 is a multiple.
        permute_seed: the pixels are read in the order :func:`pixel_order` of this seed; None: row
            after row.

    Raises:
        ValueError: there is no such `by`.

    Example:
        >>> images = Images(torch.zeros(3, 784, dtype=torch.uint8), torch.tensor([7, 2, 1]))
        >>> MnistTask(by="row").episode(images).inputs_LB.shape
        torch.Size([28, 3, 28])

    Source: Le et al. (arXiv 1504.00941), by pixel and permuted.
    """

    by: str | int = "pixel"
    permute_seed: int | None = None

    def __post_init__(self):
        if self.by not in NAMED_STEPS and not (
            isinstance(self.by, int) and self.by >= 1 and PIXELS % self.by == 0
        ):
            raise ValueError(
                f"by is {self.by!r}, expected 'pixel', 'row', or a number of pixels of which "
                f"{PIXELS} is a multiple"
            )

    @property
    def input_size(self) -> int:
        return NAMED_STEPS.get(self.by) or int(self.by)

    @property
    def output_size(self) -> int:
        return CLASSES

    @property
    def chance_accuracy(self) -> float:
        return 1 / CLASSES

    def episode(self, images: Images) -> Episode:
        """An episode with a row for each image; pixels are from 0 to 1."""
        pixels_BP, labels_B = images
        if self.permute_seed is not None:
            pixels_BP = pixels_BP[:, torch.from_numpy(pixel_order(self.permute_seed))]
        inputs_BLD = pixels_BP.unflatten(1, (-1, self.input_size))
        inputs_LBD = inputs_BLD.transpose(0, 1).float().div(255)
        targets_LB = torch.zeros(inputs_LBD.shape[:2], dtype=torch.int64)
        targets_LB[-1] = labels_B
        mask_LB = torch.zeros(targets_LB.shape, dtype=torch.bool)
        mask_LB[-1] = True
        return Episode(inputs_LBD, targets_LB, mask_LB)

    def render(
        self,
        inputs_LD: Float32[Tensor, "L D"],
        targets_L: Int64[Tensor, " L"],
        mask_L: Bool[Tensor, " L"],
        outputs_L: Int64[Tensor, " L"] | None = None,
    ) -> str:
        """The image in its original order, two characters for a pixel, the digit and the answer."""
        pixels_P = inputs_LD.flatten()
        if self.permute_seed is not None:
            order_P = torch.from_numpy(pixel_order(self.permute_seed))
            pixels_P = torch.empty_like(pixels_P).index_put_((order_P,), pixels_P)
        lines = draw(pixels_P)
        target = targets_L[mask_L].item()
        lines.append(f"target  {target}")
        if outputs_L is not None:
            output = outputs_L[mask_L].item()
            lines.append(f"output  {output}" + ("" if output == target else "  wrong"))
        return "\n".join(lines)


def draw(pixels_P: Float32[Tensor, " P"]) -> list[str]:
    """A square image as lines of text, two characters for a pixel.

    Args:
        pixels_P: brightness from 0 to 1, row after row.

    Returns:
        A line for each row of pixels.

    Example:
        >>> draw(torch.tensor([0.0, 1.0, 0.5, 0.0]))
        ['  @@', '==']
    """
    side = isqrt(len(pixels_P))
    shades_P = (pixels_P * (len(SHADES) - 1)).round().long().tolist()
    return [
        "".join(2 * SHADES[shade] for shade in shades_P[i : i + side]).rstrip()
        for i in range(0, side * side, side)
    ]


def _read(folder: Path, name: str) -> Images:
    """The images and labels of one of the two sets."""
    images_path = _find(folder, f"{name}-images-idx3-ubyte")
    labels_path = _find(folder, f"{name}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if (got := images.shape) != (expected := (IMAGES[name], SIDE, SIDE)):
        raise CorpusError(f"{images_path}: images of shape {list(got)}, expected {list(expected)}")
    if len(labels) != len(images):
        raise CorpusError(f"{labels_path}: {len(labels)} labels for {len(images)} images")
    if (most := labels.max()) >= CLASSES:
        raise CorpusError(f"{labels_path}: a label is {most}, expected 0..{CLASSES - 1}")
    pixels_nP = torch.from_numpy(images.reshape(len(images), PIXELS).copy())
    return Images(pixels_nP, torch.from_numpy(labels.astype(np.int64)))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise CorpusError(f"{folder}: neither {name} nor {name}.gz is there; {MNIST_HELP}")
