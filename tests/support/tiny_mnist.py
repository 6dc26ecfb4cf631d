"""A folder like MNIST's with a few images of bars: digit d has row 2 d + 4 all white."""

import gzip
import struct
from pathlib import Path

import numpy as np

SIZES = {"train": 60, "t10k": 20}


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_tiny_mnist(folder: Path, compress: bool = True) -> Path:
    """The four files."""
    folder.mkdir(exist_ok=True)
    for name, count in SIZES.items():
        labels = np.arange(count) % 10
        images = np.zeros((count, 28, 28))
        images[np.arange(count), 2 * labels + 4] = 255
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{name}-{kind}-ubyte"
            if compress:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return folder


def accept_tiny_mnist(monkeypatch) -> None:
    """Let the reader take a folder of these sizes: 40 / 20 / 20 images."""
    monkeypatch.setattr("seqdni.corpora.tasks.mnist.IMAGES", SIZES)
    monkeypatch.setattr("seqdni.corpora.tasks.mnist.VALIDATION", 20)
