"""Cuts a text in files into splits."""

import re
from dataclasses import replace

from seqdni.corpora.text.source import Piece, Stretch

LINE_WITHIN = 1 << 16  # bytes after a cut in which a line's end is looked for
LINE_END = {True: re.compile(rb"\r\n?|\n"), False: re.compile(rb"\n")}  # in text mode, or not


def cut(source: Stretch, at: list[int]) -> list[Stretch]:
    """Cut a stretch into several, at about the given bytes.

    A cut is moved to the beginning of the next line if that is near, else of the next character.

    Args:
        source: text in files.
        at: bytes from the beginning, ascending.

    Returns:
        The stretches, one more than there are cuts.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from seqdni.corpora.text.source import whole_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "verse.txt")
        ...     _ = path.write_text("tick\\ntock\\ntick\\ntock\\n")
        ...     [part.size for part in cut(whole_file(path, ""), [7])]
        [10, 10]
    """
    parts, rest = [], list(source.pieces)
    done = 0
    for goal, following in zip(at, [*at[1:], source.size], strict=False):
        taken: list[Piece] = []
        while rest and done + (rest[0].end - rest[0].begin) <= goal:
            done += rest[0].end - rest[0].begin
            taken.append(rest.pop(0))
        if rest and goal > done:
            piece = rest.pop(0)
            inside = piece.begin + goal - done
            within = min(LINE_WITHIN, (following - goal) // 2, piece.end - inside)
            middle = _cut_near(piece, inside, within, source)
            taken.append(piece._replace(end=middle))
            rest.insert(0, piece._replace(begin=middle))
            done += middle - piece.begin
        parts.append(replace(source, pieces=tuple(taken)))
    return [*parts, replace(source, pieces=tuple(rest))]


def _cut_near(piece: Piece, at: int, within: int, source: Stretch) -> int:
    with open(piece.path, "rb") as file:
        file.seek(at - 1)
        near = file.read(within + 4)
    line = LINE_END[source.text_mode].search(near)
    if line and line.start() <= within:
        return min(at - 1 + line.end(), piece.end)
    for moved in range(1, 5) if source.encoding == "utf-8" else ():
        if not near[moved : moved + 1] or near[moved] & 0xC0 != 0x80:  # not inside a character
            return min(at + moved - 1, piece.end)
    return at
