"""Reads text from a string, or from parts of files that may be larger than memory.

Everything is read block by block and can be read again, so that a corpus is encoded in passes.
"""

import codecs
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from seqdni.corpora.errors import CorpusError

BLOCK = 1 << 22  # bytes, or characters, at a time
LONGEST_WORD = 1 << 20  # characters


class Piece(NamedTuple):
    """Bytes ``begin`` to ``end`` of a file."""

    path: Path
    begin: int
    end: int


@dataclass(frozen=True)
class Stretch:
    """The text of several parts of files, one after another.

    Where a part does not end with a line, a newline is added before the next.

    Args:
        pieces: parts of files, in order.
        encoding: of all of them.
        text_mode: whether ``\\r\\n`` and ``\\r`` are read as one newline, as in Python's text mode;
            False keeps all characters.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "verse.txt")
        ...     _ = path.write_text("tick tock")
        ...     list(blocks(Stretch((Piece(path, 0, 4), Piece(path, 5, 9)))))
        ['tick', '\\n', 'tock']
    """

    pieces: tuple[Piece, ...]
    encoding: str = "utf-8"
    text_mode: bool = False

    @property
    def size(self) -> int:
        """The number of bytes, without added newlines."""
        return sum(piece.end - piece.begin for piece in self.pieces)


Source = str | Stretch
"""A text: in memory, or in files."""


def whole_file(
    path: str | Path, remedy: str, encoding: str = "utf-8", text_mode: bool = False
) -> Stretch:
    """A stretch of a whole file; in text mode, without a byte-order mark at its beginning.

    Args:
        path: of the file.
        remedy: the part of an error message that says what to do.
        encoding: of the text.
        text_mode: see :class:`Stretch`.

    Returns:
        The stretch, not yet read.

    Raises:
        CorpusError: the file does not exist, is a folder, or cannot be read.

    Example:
        >>> whole_file("nowhere.txt", "give a text file")
        Traceback (most recent call last):
            ...
        seqdni.corpora.errors.CorpusError: nowhere.txt: No such file or directory; give a text file
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            marked = text_mode and file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
            begin = len(codecs.BOM_UTF8) if marked else 0
            return Stretch((Piece(path, begin, file.seek(0, 2)),), encoding, text_mode)
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}; {remedy}") from None


def raw(source: Source) -> Iterator[bytes]:
    """The bytes of a text, block by block; a string is encoded as UTF-8.

    Args:
        source: the text.

    Returns:
        Blocks of at most 4 MiB.

    Raises:
        CorpusError: a file cannot be read, or became shorter.
    """
    if isinstance(source, str):
        for at in range(0, len(source), BLOCK):
            yield source[at : at + BLOCK].encode("utf-8", "surrogatepass")
        return
    for _, _, block in _located(source):
        yield block


def blocks(source: Source) -> Iterator[str]:
    """The characters of a text, block by block.

    Args:
        source: the text.

    Returns:
        Strings, none of them empty.

    Raises:
        CorpusError: a file cannot be read, or has a byte that is NUL or not of the encoding.

    Example:
        >>> list(blocks("hello"))
        ['hello']
    """
    if isinstance(source, str):
        for at in range(0, len(source), BLOCK):
            yield source[at : at + BLOCK]
        return
    decoder = codecs.getincrementaldecoder(source.encoding)()
    line_ends = io.IncrementalNewlineDecoder(None, translate=True)
    before: Piece | None = None
    for piece, offset, block in _located(source):
        if piece is not before:
            if before is not None:
                _decode(decoder, b"", before, before.end, final=True)
                decoder.reset()
            before = piece
        if (nul := block.find(b"\0")) >= 0:
            raise CorpusError(
                f"{piece.path}: byte {offset + nul} is NUL; this is no text in "
                f"{source.encoding.upper()} (UTF-16, or binary?); save it as UTF-8"
            )
        text = _decode(decoder, block, piece, offset)
        if source.text_mode:
            text = line_ends.decode(text)
        if text:
            yield text
    if before is not None:
        _decode(decoder, b"", before, before.end, final=True)
        if source.text_mode and (text := line_ends.decode("", final=True)):
            yield text


def whole_lines(source: Source) -> Iterator[str]:
    """The text in parts that end with a line, or, in a very long line, before a space.

    Args:
        source: the text.

    Returns:
        Parts of some megabytes; a part that continues a line begins with a space.

    Raises:
        CorpusError: as :func:`blocks`; or a line has a million characters without a space.

    Example:
        >>> list(whole_lines("tick tock\\ntick"))
        ['tick tock\\n', 'tick']
    """
    rest = ""
    for block in blocks(source):
        text = rest + block
        end = text.rfind("\n") + 1
        if not end and len(text) > LONGEST_WORD:
            end = text.rfind(" ")
            if end < 1:
                raise CorpusError(
                    f"{_place(source)}: more than {LONGEST_WORD} characters without a space or a "
                    f"line's end, beginning {text[:20]!r}; read this text by character"
                )
        if end:
            yield text[:end]
        rest = text[end:]
    if rest:
        yield rest


def newlines(text: str) -> str:
    """Replace all line ends of a text by ``\\n``.

    Args:
        text: any text.

    Returns:
        The same with ``\\n`` for ``\\r\\n`` and for ``\\r``.

    Example:
        >>> newlines("tick\\r\\ntock\\rtick\\n")
        'tick\\ntock\\ntick\\n'
    """
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _place(source: Source) -> str:
    if isinstance(source, str):
        return "the text"
    return os.path.commonpath([piece.path for piece in source.pieces])


def _located(source: Stretch) -> Iterator[tuple[Piece, int, bytes]]:
    """The blocks, each with its piece and the position of its first byte in the file."""
    ends_line = True
    for piece in source.pieces:
        if piece.end == piece.begin:
            continue
        if not ends_line:
            yield piece, piece.begin, b"\n"
        try:
            with open(piece.path, "rb") as file:
                at = file.seek(piece.begin)
                while at < piece.end:
                    block = file.read(min(BLOCK, piece.end - at))
                    if not block:
                        raise CorpusError(
                            f"{piece.path}: became shorter while it was read; "
                            "leave it alone and try again"
                        )
                    yield piece, at, block
                    at += len(block)
                    ends_line = block.endswith(b"\n")
        except OSError as error:
            raise CorpusError(f"{piece.path}: {error.strerror}; make it readable") from None


def _decode(
    decoder: codecs.IncrementalDecoder,
    block: bytes,
    piece: Piece,
    offset: int,
    final: bool = False,
) -> str:
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{piece.path}: byte {offset - pending + error.start} is not {error.encoding.upper()} "
            f"({error.reason}); save the file as UTF-8"
        ) from None
