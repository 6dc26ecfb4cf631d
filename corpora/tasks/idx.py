"""IDX files, the format that MNIST comes in: a header of big-endian sizes, then unsigned bytes."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from seqdni.corpora.errors import CorpusError

UNSIGNED_BYTE = 0x08
MOST = 60_000 * 28 * 28  # largest number of bytes in a file: that of MNIST's largest file


def read_idx(path: str | Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Read a file of unsigned bytes, and no more bytes than its header says.

    Args:
        path: of the file; one that ends in .gz is unpacked.
        dimensions: how many dimensions it must have: 1 for labels, 3 for images.

    Returns:
        The array, with the shape that the header gives.

    Raises:
        CorpusError: the file cannot be read, is of another kind, too short or too long.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        ...     read_idx(path, dimensions=1)
        array([7, 2, 1], dtype=uint8)

    Source: LeCun, Cortes & Burges, the description of the files of the MNIST database.
    """
    path = Path(path)
    header = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            sizes = _sizes(path, file.read(header), dimensions)
            needed = int(np.prod(sizes, dtype=object))
            if needed > MOST:
                raise CorpusError(
                    f"{path}: the sizes {list(sizes)} of its header make {needed} bytes, expected "
                    f"at most {MOST}; fetch it again"
                )
            data = file.read(needed)
            more = file.read(1)
    except EOFError:
        raise CorpusError(f"{path}: the compressed data ends too early; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"{path}: damaged gzip data ({error}); fetch it again") from None
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}; give a file in the IDX format") from None
    if len(data) != needed or more:
        got = f"more than {header + needed}" if more else f"{header + len(data)}"
        raise CorpusError(
            f"{path}: {got} bytes, expected {header + needed} for the sizes {list(sizes)} of its "
            "header; fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(sizes)


def _sizes(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if header[:4] != expected:
        raise CorpusError(
            f"{path}: magic number {header[:4].hex() or 'missing'}, expected {expected.hex()}: "
            f"an IDX file of unsigned bytes with {dimensions} dimensions; fetch it again"
        )
    if len(header) < 4 + 4 * dimensions:
        raise CorpusError(
            f"{path}: {len(header)} bytes, expected a header of {4 + 4 * dimensions}; "
            "fetch it again"
        )
    return struct.unpack(f">{dimensions}I", header[4:])
