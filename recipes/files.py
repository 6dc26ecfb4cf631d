"""Reads and writes files in a folder that may come from somebody else.

No file is read or written through a link, and none is ever half written.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from seqdni.recipes.errors import RunError

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
UNFINISHED = ".*.part"  # names of files that a killed process may have left


def write_whole(folder: Path, name: str, data: bytes | bytearray | memoryview) -> None:
    """Write a file, whole or not at all.

    The data is written to a new file in the same folder, which is then renamed. A link of that name
    is replaced and not followed.

    Args:
        folder: of the file.
        name: of the file, without a folder.
        data: the new content.

    Raises:
        OSError: the file cannot be written; the error names it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as here:
        ...     write_whole(Path(here), "note", b"tick")
        ...     read_whole(Path(here), "note")
        b'tick'
    """
    path, temporary = folder / name, folder / f".{name}.{secrets.token_hex(8)}.part"
    try:
        with open(os.open(temporary, NEW, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def append(folder: Path, name: str, text: str) -> None:
    """Add text to the end of a file, which is made if it does not exist.

    Args:
        folder: of the file.
        name: of the file, without a folder.
        text: what to add.

    Raises:
        OSError: the file cannot be written; the error names it.
        RunError: it is a link, or not an ordinary file.
    """
    path = folder / name
    try:
        with open(open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
            if os.fstat(file.fileno()).st_nlink > 1:
                raise RunError(f"{path} has a second name elsewhere; replace it by a copy of it")
            file.write(text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_whole(folder: Path, name: str, most: int | None = None) -> bytes:
    """Read a whole file.

    Args:
        folder: of the file.
        name: of the file, without a folder.
        most: largest allowed size in bytes; None: no limit.

    Returns:
        The content.

    Raises:
        OSError: the file is missing or cannot be read; the error names it.
        RunError: it is a link, not an ordinary file, or too large.
    """
    path = folder / name
    with open(open_plain(path, os.O_RDONLY), "rb") as file:
        if most is not None and (size := os.fstat(file.fileno()).st_size) > most:
            raise RunError(f"{path} has {size} bytes, expected at most {most}; it is another file")
        return file.read()


def open_plain(path: Path, flags: int) -> int:
    """Open an ordinary file, and refuse a pipe or a device without waiting for it.

    Args:
        path: of the file.
        flags: as for :func:`os.open`.

    Returns:
        Its descriptor.

    Raises:
        OSError: it cannot be opened.
        RunError: it is a link, or not an ordinary file.
    """
    if path.is_symlink():
        raise RunError(
            f"{path} is a link, and a run's files lie in its own folder; put the file itself there"
        )
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RunError(f"{path} is no ordinary file; expected one that seqdni run has written")
    return descriptor


def remove_unfinished(folder: Path) -> None:
    """Remove files that a process left which was killed while it wrote. Links are not followed.

    Args:
        folder: of a run that no other process writes to.
    """
    for path in folder.glob(UNFINISHED):
        if path.is_symlink() or path.is_file():
            path.unlink()
