"""A lock, so that only one process at a time writes to the folder of a run."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from seqdni.recipes.errors import RunError
from seqdni.recipes.files import open_plain

NAME = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network file systems


def lock(folder: Path) -> int:
    """Keep other processes from writing to a run's folder.

    The operating system holds the lock, and releases it when the process ends in any way. The file
    holds the number of the process that has the lock.

    Args:
        folder: of the run.

    Returns:
        A descriptor; closing it releases the lock.

    Raises:
        RunError: another process has the lock; the message names that process.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as here:
        ...     os.close(lock(Path(here)))
    """
    path = folder / NAME
    descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        if os.fstat(descriptor).st_nlink > 1:
            raise RunError(f"{path} has a second name elsewhere; remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{folder} is in use by process {_owner(descriptor)}; wait until it ends, or stop "
                "it with Ctrl-C there"
            ) from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise OSError(error.errno, error.strerror, str(path)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _owner(descriptor: int) -> str:
    """The process that the file names; it is written just after the lock is taken."""
    for _ in range(20):
        found = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        if found.isdigit():
            return found
        time.sleep(0.05)
    return "unknown"
