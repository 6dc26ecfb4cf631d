import gzip
import tracemalloc

import numpy as np
import pytest
from tiny_mnist import idx

from seqdni.corpora import CorpusError
from seqdni.corpora.tasks.idx import read_idx

IMAGES = np.arange(2 * 3 * 4).reshape(2, 3, 4)
WHOLE = idx(IMAGES)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_reads_what_was_written(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(gzip.compress(WHOLE) if name.endswith(".gz") else WHOLE)
    found = read_idx(path, dimensions=3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, IMAGES)


def test_the_header_is_big_endian():
    assert WHOLE[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])


packed = gzip.compress(WHOLE)
BROKEN = {
    "empty": (b"", "magic number missing, expected 00000803"),
    "html": (b"<!DOCTYPE html>", "magic number 3c21444f"),
    "labels": (idx(np.arange(3)), "magic number 00000801, expected 00000803"),
    "floats": (bytes([0, 0, 13, 3]) + WHOLE[4:], "magic number 00000d03"),
    "half a header": (WHOLE[:9], "9 bytes, expected a header of 16"),
    "too short": (WHOLE[:-1], r"39 bytes, expected 40 for the sizes \[2, 3, 4\]"),
    "too long": (WHOLE + b"x", "more than 40 bytes, expected 40"),
    "huge sizes": (
        WHOLE[:4] + b"\xff" * 12,
        "make 79228162458924105385300197375 bytes, expected at",
    ),
    "truncated.gz": (packed[:-9], "the compressed data ends too early"),
    "empty.gz": (b"", "magic number missing"),
    "plain.gz": (WHOLE, "damaged gzip data"),
    "flipped.gz": (packed[:15] + bytes([packed[15] ^ 255]) + packed[16:], "damaged gzip data"),
    "shorter.gz": (gzip.compress(WHOLE[:-1]), "39 bytes, expected 40"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(name, tmp_path):
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as error:
        read_idx(tmp_path / name, dimensions=3)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorpusError, match="nothing: No such file"):
        read_idx(tmp_path / "nothing", dimensions=1)


def test_a_small_file_that_unpacks_to_much_is_read_no_further_than_its_header_says(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(idx(np.arange(3)) + bytes(200 << 20)))  # 200 KB for 200 MB
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(CorpusError, match="more than 11 bytes, expected 11"):
        read_idx(path, dimensions=1)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
