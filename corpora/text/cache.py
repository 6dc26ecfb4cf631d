"""A cache of encoded texts, which are mapped from disk; each is either whole or absent."""

import errno
import hashlib
import json
import os
import shutil
import uuid
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.characters import Characters
from seqdni.corpora.text.size import Size, scored_size, size_of
from seqdni.corpora.text.source import BLOCK, Source, Stretch, blocks, raw
from seqdni.corpora.text.text import Text
from seqdni.corpora.text.vocabulary import Tokens, Vocabulary, vocabulary_from

FORMAT_VERSION = 4
DIGESTED = ("tokens", "crc32", "dtype", "characters", "words")  # they determine all of a split
ATTEMPTS = 3  # more than one is needed only while other processes replace the same damaged cache


class Encoded(NamedTuple):
    """A corpus as token ids, read-only and mapped from disk.

    Args:
        name: of the text.
        digest: of the vocabulary and the ids; equal only if they are equal.
        vocabulary: converts text to ids and back.
        train: [n] ids.
        valid: ids, or None where the text has no such split.
        test: ids, or None where the text has no such split.
        sizes: of each split by its name.
    """

    name: str
    digest: str
    vocabulary: Vocabulary
    train: np.ndarray
    valid: np.ndarray | None
    test: np.ndarray | None
    sizes: dict[str, Size]

    def scored(self, split: str) -> Size:
        """The size of a split without its first token, which is not scored; :func:`scored_size`."""
        return scored_size(self.vocabulary, getattr(self, split), self.sizes[split])


def encode_splits(
    text: Text, tokens: Tokens | None = None, cache_dir: str | Path | None = None
) -> Encoded:
    """Encode a text, or read it from the cache if it was encoded before.

    The text is read in passes, block by block, and may be larger than memory. The folder in the
    cache is named by the SHA-256 of the splits, the kind of tokens and the version of the format,
    so that a change of one of them makes another folder. It is written under another name and then
    renamed, so that a killed or concurrent run leaves no half of it. A damaged one is made again.

    Args:
        text: the corpus; no split may be empty.
        tokens: kind of tokens; None: characters.
        cache_dir: the cache; None: $SEQDNI_CACHE, else $XDG_CACHE_HOME/seqdni, else
            ~/.cache/seqdni.

    Returns:
        The ids, in the smallest unsigned type that holds the vocabulary.

    Raises:
        CorpusError: a split is empty or only white space, cannot be read, or is not complete; the
            text cannot have this kind of tokens; or the cache cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     encoded = encode_splits(Text("greeting", "hello", "hole", None), cache_dir=folder)
        >>> encoded.vocabulary.symbols, encoded.valid, encoded.test
        ('ehlo', memmap([1, 3, 2, 0], dtype=uint8), None)
        >>> encoded.sizes["valid"]
        Size(tokens=4, characters=4, words=None, unknown=None)
    """
    tokens = tokens or Characters()
    for split, part in text.splits().items():
        if isinstance(part, Stretch) and part.encoding == "latin-1" and tokens != Characters():
            raise CorpusError(
                f"{text.name} is read as bytes and has no words in that form; "
                "read it by character (a character is a byte)"
            )
        if not any(block.strip() for block in blocks(part)):
            empty = next(raw(part), None) is None
            raise CorpusError(
                f"{text.name}: the {split} split is {'empty' if empty else 'only white space'}; "
                "give text, or None"
            )
    parent = cache_folder() if cache_dir is None else Path(cache_dir)
    folder = parent / _folder_name(text, tokens)
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
    """The folder for all files that can be made or downloaded again.

    Returns:
        $SEQDNI_CACHE, else $XDG_CACHE_HOME/seqdni, else ~/.cache/seqdni.
    """
    own = os.environ.get("SEQDNI_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqdni"


def _folder_name(text: Text, tokens: Tokens) -> str:
    sha = hashlib.sha256(f"version {FORMAT_VERSION} {tokens!r}".encode())
    for split, part in text.splits().items():
        own = hashlib.sha256()
        for block in raw(part):
            own.update(block)
        encoding = part.encoding if isinstance(part, Stretch) else "utf-8"
        sha.update(f" {split} {encoding} {own.hexdigest()}".encode())
    return f"tokens-{sha.hexdigest()}"


def _load(text: Text, folder: Path) -> Encoded | None:
    """The cache in `folder`, or None where it is missing or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta.pop("crc32") != _crc32_of(meta):
            return None
        arrays, sizes = {}, {}
        for split in text.splits():
            about = meta["splits"][split]
            path = folder / f"{split}.bin"
            sizes[split] = Size(*(about[name] for name in Size._fields))
            if _checksum(path) != about["crc32"]:
                return None
            arrays[split] = np.memmap(path, about["dtype"], "r", shape=(sizes[split].tokens,))
        vocabulary = vocabulary_from(meta["vocabulary"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    splits = (arrays["train"], arrays.get("valid"), arrays.get("test"))
    return Encoded(text.name, _digest_of(meta), vocabulary, *splits, sizes)


def _digest_of(meta: dict[str, Any]) -> str:
    splits = {
        split: {name: about[name] for name in DIGESTED} for split, about in meta["splits"].items()
    }
    content = {"vocabulary": meta["vocabulary"], "splits": splits}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _crc32_of(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta).encode())


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
            about = meta["splits"][split] = _write(vocabulary, part, building / f"{split}.bin")
            expected = None if text.words is None else text.words[split]
            if expected and about["words"] not in (None, expected):
                raise CorpusError(
                    f"{text.name}: {about['words']} words in the {split} split, expected "
                    f"{expected}: its file is damaged or of another version; get it again"
                )
        if folder.name != _folder_name(text, tokens):
            raise CorpusError(f"{text.name}: changed while it was read; leave it alone, try again")
        meta["crc32"] = _crc32_of(meta)
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
        The entry of the split in meta.json.
    """
    tokens, crc, dtype = 0, 0, "uint8"
    with open(path, "wb") as file:
        for ids in vocabulary.encode_source(source):
            crc = zlib.crc32(ids.data, crc)
            file.write(ids.data)
            tokens += len(ids)
            dtype = ids.dtype.name
    size = size_of(vocabulary, source, np.memmap(path, dtype, "r", shape=(tokens,)))
    return {**size._asdict(), "crc32": crc, "dtype": dtype}


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
                pass  # another process is repairing it too; the caller tries again
            finally:
                shutil.rmtree(damaged, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until `path` is on the disk; only POSIX can do that for a folder."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
