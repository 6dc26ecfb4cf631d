"""Where text lies: a string, or stretches of files that may be larger than memory.

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
    """Text in files, one after another, with a newline between them where one ends inside a line.

    Args:
        pieces: of files, in order.
        encoding: of all of them.
        text_mode: whether a line's end is read as one newline where the files have ``\\r\\n`` or
            ``\\r``, as Python's text mode does; else all characters are kept.

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
        """Bytes, added newlines not counted."""
        return sum(piece.end - piece.begin for piece in self.pieces)


Source = str | Stretch
"""A text: in memory, or in files."""


def whole_file(
    path: str | Path, remedy: str, encoding: str = "utf-8", text_mode: bool = False
) -> Stretch:
    """All of a file; in text mode without the byte-order mark that it may begin with.

    Args:
        path: of the file.
        remedy: what the message tells the user to do if it cannot be read.
        encoding: of the text.
        text_mode: of the stretch.

    Returns:
        The stretch, not yet read.

    Raises:
        CorpusError: no such file, a folder, or not readable.

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
    """The bytes of a text, block by block; those of a string are its UTF-8.

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
        CorpusError: a file cannot be read; a byte is not of the encoding, or is NUL.

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
    """The text in parts that end with a line, or inside a very long line before a space.

    Args:
        source: the text.

    Returns:
        Parts of some megabytes; what goes on with a line begins with a space.

    Raises:
        CorpusError: as :func:`blocks`; or a line has a million characters and no space among them.

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
    """A text with ``\\n`` at each line's end, whatever its line ends are.

    Args:
        text: any.

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
    """Blocks with their piece and the place of their first byte in its file."""
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
