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

from corpora.characters import Characters, CharVocabulary
from corpora.errors import CorpusError
from corpora.source import BLOCK, Source, blocks, raw
from corpora.text import Text
from corpora.vocabulary import Tokens, Vocabulary, vocabulary_from

FORMAT_VERSION = 2
ATTEMPTS = 3  # a further one is needed only where other processes replace the same damaged cache


class Size(NamedTuple):
    """How long a split is.

    Args:
        tokens: in the vocabulary's units.
        characters: of the original text.
        words: of the original text, a line's end counted as one, as for perplexities; None for
            tokens that are characters.
    """

    tokens: int
    characters: int
    words: int | None


class Encoded(NamedTuple):
    """A corpus as token ids, read-only and mapped from disk.

    Args:
        name: of the text.
        digest: of the splits and the kind of tokens; equal only for the same ids.
        vocabulary: ids to text and back.
        train: [n] ids.
        valid: ids, or None where the text has no such split.
        test: ids, or None where the text has no such split.
        sizes: of each split by its name.
    """

    name: str
    digest: str
    vocabulary: Vocabulary
    train: np.memmap
    valid: np.memmap | None
    test: np.memmap | None
    sizes: dict[str, Size]


def encode_splits(
    text: Text, tokens: Tokens | None = None, cache_dir: str | Path | None = None
) -> Encoded:
    """The tokens of `text` as ids, from the cache where it has them.

    The text is read in passes, block by block, and may be larger than memory. The cache's folder is
    named by the SHA-256 of the splits, the kind of tokens and the format's version, so it is made
    anew when one of them changes. It is written beside its place and then renamed: a killed or
    concurrent run leaves no half cache; a damaged one is built again.

    Args:
        text: the corpus; no split may be empty.
        tokens: kind of tokens; None takes characters.
        cache_dir: parent of the cache's folder; None takes $SEQDNI_CACHE, else
            $XDG_CACHE_HOME/seqdni, else ~/.cache/seqdni.

    Returns:
        The ids, in the smallest unsigned type that holds the vocabulary.

    Raises:
        CorpusError: a split is empty or only white space, or cannot be read, or the cache cannot
            be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     encoded = encode_splits(Text("greeting", "hello", "hole", None), cache_dir=folder)
        >>> encoded.vocabulary.symbols, encoded.valid, encoded.test
        ('ehlo', memmap([1, 3, 2, 0], dtype=uint8), None)
        >>> encoded.sizes["valid"]
        Size(tokens=4, characters=4, words=None)
    """
    tokens = tokens or Characters()
    for split, part in text.splits().items():
        if not any(block.strip() for block in blocks(part)):
            empty = next(raw(part), None) is None
            raise CorpusError(
                f"{text.name}: the {split} split is {'empty' if empty else 'only white space'}; "
                "give text, or None"
            )
    parent = cache_folder() if cache_dir is None else Path(cache_dir)
    folder = parent / f"tokens-{_digest(text, tokens)}"
    for _ in range(ATTEMPTS):
        encoded = _load(text, folder)
        if encoded is not None:
            return encoded
        try:
            _build(text, tokens, folder)
        except OSError as error:
            raise CorpusError(
                f"{folder}: cannot write the cache ({error.strerror}); "
                "point the environment variable SEQDNI_CACHE to a folder that you can write to"
            ) from error
    raise CorpusError(f"{folder}: cannot repair the cache; delete this folder and try again")


def cache_folder() -> Path:
    """Where everything is kept that can be made or downloaded again.

    Returns:
        $SEQDNI_CACHE, else $XDG_CACHE_HOME/seqdni, else ~/.cache/seqdni.
    """
    own = os.environ.get("SEQDNI_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqdni"


def _digest(text: Text, tokens: Tokens) -> str:
    sha = hashlib.sha256(f"version {FORMAT_VERSION} {tokens!r}".encode())
    for split, part in text.splits().items():
        own = hashlib.sha256()
        for block in raw(part):
            own.update(block)
        sha.update(f" {split} {own.hexdigest()}".encode())
    return sha.hexdigest()


def _load(text: Text, folder: Path) -> Encoded | None:
    """The cache in `folder`, or None where it is missing or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays, sizes = {}, {}
        for split in text.splits():
            about = meta["splits"][split]
            path = folder / f"{split}.bin"
            sizes[split] = Size(about["tokens"], about["characters"], about["words"])
            if _checksum(path) != about["crc32"]:
                return None
            arrays[split] = np.memmap(path, about["dtype"], "r", shape=(sizes[split].tokens,))
        vocabulary = vocabulary_from(meta["vocabulary"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    splits = (arrays["train"], arrays.get("valid"), arrays.get("test"))
    return Encoded(text.name, folder.name, vocabulary, *splits, sizes)


def _checksum(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def _build(text: Text, tokens: Tokens, folder: Path) -> None:
    vocabulary = tokens.learn(text)
    building = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    building.mkdir(parents=True)
    try:
        meta = {"vocabulary": vocabulary.to_json(), "splits": {}}
        for split, part in text.splits().items():
            meta["splits"][split] = _write(vocabulary, part, building / f"{split}.bin")
        (building / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        for path in (*building.iterdir(), building):
            _sync(path)
        _put(text, building, folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(vocabulary: Vocabulary, source: Source, path: Path) -> dict[str, str | int | None]:
    """Encode a split into a file.

    Args:
        vocabulary: of the corpus.
        source: the split.
        path: of the file.

    Returns:
        What the cache's meta.json says about it.
    """
    about: dict[str, str | int | None] = {"tokens": 0, "crc32": 0}
    tokens = crc = 0
    with open(path, "wb") as file:
        for ids in vocabulary.encode_source(source):
            crc = zlib.crc32(ids.data, crc)
            file.write(ids.data)
            tokens += len(ids)
            about["dtype"] = ids.dtype.name
    by_character = isinstance(vocabulary, CharVocabulary)
    characters, words = (tokens, None) if by_character else _count(source)
    return {**about, "tokens": tokens, "crc32": crc, "characters": characters, "words": words}


def _count(source: Source) -> tuple[int, int]:
    """Characters and words of a text; a line's end is a word too."""
    characters = words = 0
    inside = False  # a word
    for block in blocks(source):
        characters += len(block)
        words += len(block.split()) + block.count("\n") - (inside and not block[0].isspace())
        inside = not block[-1].isspace()
    return characters, words


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
