"""Text encoded once, then mapped from disk: a cache that is either whole or absent."""

import errno
import hashlib
import json
import os
import shutil
import uuid
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpora.characters import CharVocabulary
from corpora.errors import CorpusError
from corpora.text import Text

FORMAT_VERSION = 1
ATTEMPTS = 3  # a further one is needed only where other processes replace the same damaged cache


class Encoded(NamedTuple):
    """A corpus as token ids, read-only and mapped from disk.

    Args:
        name: of the text.
        digest: of the splits and the encoding; equal only for the same text.
        vocabulary: of all splits together.
        train: [n] ids.
        valid: ids, or None where the text has no such split.
        test: ids, or None where the text has no such split.
    """

    name: str
    digest: str
    vocabulary: CharVocabulary
    train: np.memmap
    valid: np.memmap | None
    test: np.memmap | None


def encode_splits(text: Text, cache_dir: str | Path | None = None) -> Encoded:
    """The characters of `text` as ids, from the cache where it has them.

    The cache's folder is named by the SHA-256 of the splits and of the format's version. It is
    written beside its place and then renamed, so a killed or concurrent run leaves no half cache;
    a damaged one is built again.

    Args:
        text: the corpus; no split may be empty.
        cache_dir: parent of the cache's folder; None takes $SEQDNI_CACHE, else
            $XDG_CACHE_HOME/seqdni, else ~/.cache/seqdni.

    Returns:
        The ids, in uint8 for up to 256 symbols.

    Raises:
        CorpusError: a split is empty, or the cache cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     encoded = encode_splits(Text("greeting", "hello", "hole", None), folder)
        >>> encoded.vocabulary.symbols, encoded.valid, encoded.test
        ('ehlo', memmap([1, 3, 2, 0], dtype=uint8), None)
    """
    for split, part in _splits(text).items():
        if not part:
            raise CorpusError(f"{text.name}: the {split} split is empty; give text, or None")
    parent = _default_cache_dir() if cache_dir is None else Path(cache_dir)
    folder = parent / f"characters-{_digest(text)}"
    for _ in range(ATTEMPTS):
        encoded = _load(text, folder)
        if encoded is not None:
            return encoded
        try:
            _build(text, folder)
        except OSError as error:
            raise CorpusError(
                f"{folder}: cannot write the cache ({error.strerror}); "
                "point the environment variable SEQDNI_CACHE to a folder that you can write to"
            ) from error
    raise CorpusError(f"{folder}: cannot repair the cache; delete this folder and try again")


def _splits(text: Text) -> dict[str, str]:
    parts = {"train": text.train, "valid": text.valid, "test": text.test}
    return {split: part for split, part in parts.items() if part is not None}


def _default_cache_dir() -> Path:
    own = os.environ.get("SEQDNI_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqdni"


def _digest(text: Text) -> str:
    sha = hashlib.sha256(f"version {FORMAT_VERSION}".encode())
    for split, part in _splits(text).items():
        data = part.encode("utf-8", "surrogatepass")
        sha.update(f" {split} {len(data)} ".encode())
        sha.update(data)
    return sha.hexdigest()


def _load(text: Text, folder: Path) -> Encoded | None:
    """The cache in `folder`, or None where it is missing or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {}
        for split, part in _splits(text).items():
            arrays[split] = np.load(folder / f"{split}.npy", mmap_mode="r")
            if arrays[split].shape != (len(part),) or zlib.crc32(arrays[split].data) != meta[split]:
                return None
        vocabulary = CharVocabulary(meta["symbols"])
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    splits = (arrays["train"], arrays.get("valid"), arrays.get("test"))
    return Encoded(text.name, folder.name, vocabulary, *splits)


def _build(text: Text, folder: Path) -> None:
    vocabulary = CharVocabulary.from_text(*_splits(text).values())
    building = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    building.mkdir(parents=True)
    try:
        meta: dict[str, str | int] = {"symbols": vocabulary.symbols}
        for split, part in _splits(text).items():
            ids = vocabulary.encode(part)
            np.save(building / f"{split}.npy", ids)
            meta[split] = zlib.crc32(ids.data)
        (building / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        for path in (*building.iterdir(), building):
            _sync(path)
        _put(text, building, folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _put(text: Text, building: Path, folder: Path) -> None:
    """Rename `building` to `folder`, unless another process has put a whole cache there."""
    try:
        building.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        if _load(text, folder) is None:
            damaged = building.with_name(f"{building.name}-damaged")
            try:
                folder.rename(damaged)
                building.rename(folder)
            except OSError:
                pass  # another process is repairing it too; the caller looks again
            finally:
                shutil.rmtree(damaged, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until `path` is on the disk; only POSIX can do that for a folder."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
