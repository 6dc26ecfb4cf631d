"""IDX files, the format that MNIST comes in: a header of big-endian sizes, then unsigned bytes."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from corpora.errors import CorpusError

UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Read a file of unsigned bytes.

    Args:
        path: of the file; one that ends in .gz is unpacked.
        dimensions: how many it must have: 1 for labels, 3 for images.

    Returns:
        The array, of the sizes that the header says.

    Raises:
        CorpusError: it cannot be read, is of another kind, too short or too long.

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
    data = _bytes(path)
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if data[:4] != expected:
        raise CorpusError(
            f"{path}: magic number {data[:4].hex() or 'missing'}, expected {expected.hex()}: "
            f"an IDX file of unsigned bytes with {dimensions} dimensions; fetch it again"
        )
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise CorpusError(
            f"{path}: {len(data)} bytes, expected a header of {header}; fetch it again"
        )
    sizes = struct.unpack(f">{dimensions}I", data[4:header])
    needed = header + int(np.prod(sizes, dtype=object))
    if len(data) != needed:
        raise CorpusError(
            f"{path}: {len(data)} bytes, expected {needed} for the sizes {list(sizes)} of its "
            "header; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}; give a file in the IDX format") from None
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except EOFError:
        raise CorpusError(f"{path}: the compressed data ends too early; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"{path}: damaged gzip data ({error}); fetch it again") from None
