"""Several processes that train one model, as ``torchrun`` starts them.

    torchrun --nproc-per-node 2 $(which seqdni) run lm --out runs/two

Every process prepares the data, trains on rows of its own and evaluates; the first alone writes to
the folder of the run and prints. All of them read that folder.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import torch
import torch.distributed as dist

from seqdni import DataParallel
from seqdni.channel import ProcessEnded
from seqdni.recipes.errors import RunError
from seqdni.recipes.launched import launched, rank


def together() -> DataParallel | None:
    """The processes of this run; None where there is only one."""
    return DataParallel() if launched() > 1 and dist.is_initialized() else None


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the other processes inside the ``with`` block; all but the first print nothing.

    Args:
        device: as in ``--device``.

    Raises:
        RunError: the processes cannot be joined, or another one ended.
    """
    if launched() == 1:
        yield
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise RunError(
                f"process {rank()} has no GPU of its own, there are {torch.cuda.device_count()}; "
                "start fewer processes on this machine, or give --device cpu"
            )
        torch.cuda.set_device(local)
    _stay_on_loopback()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the processes cannot be joined: {str(error).splitlines()[0]}") from None
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
            yield
    except ProcessEnded as error:
        raise RunError(f"process {rank()} stops: {error}, with --resume") from None
    except RuntimeError as error:
        if is_lost(error):
            raise RunError(
                f"process {rank()} lost another process of this run, which has ended; its message "
                "says why. Continue from the last checkpoint with --resume"
            ) from None
        raise
    finally:
        dist.destroy_process_group()


def _stay_on_loopback() -> None:
    """Keep what the processes say to each other on this machine, where all of them are here."""
    if os.environ.get("MASTER_ADDR") in ("localhost", "127.0.0.1"):
        own = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        os.environ.setdefault("GLOO_SOCKET_IFNAME", ",".join(own[:1]))


def own_rows(batch: int) -> slice | None:
    """The rows of a batch that this process trains on; None: all, there is one process.

    Args:
        batch: rows of all processes together.

    Raises:
        RunError: the rows cannot be dealt equally.
    """
    parallel = together()
    if parallel is None:
        return None
    if batch % parallel.size:
        raise RunError(
            f"--batch {batch} cannot be dealt equally to {parallel.size} processes; "
            f"use a --batch that {parallel.size} divides"
        )
    return parallel.rows(batch)


def is_lost(error: Exception) -> bool:
    """Whether an error says that another process has ended.

    Args:
        error: that was raised.
    """
    return isinstance(error, (dist.DistError, ProcessEnded)) or "gloo/transport" in str(error)


def told_by_first(text: str) -> str:
    """A text of the first process, in all of them.

    Args:
        text: of this process; only that of the first counts.
    """
    parallel = together()
    if parallel is None:
        return text
    letters = list(text.encode())
    count = int(parallel.from_first([len(letters)])[0])
    letters = (letters + [0] * count)[:count]
    return bytes(int(x) for x in parallel.from_first(letters)).decode()


def as_first_sees(flag: bool) -> bool:
    """What the first process says of a file: others may see a shared disk a little later.

    Args:
        flag: of this process.
    """
    return told_by_first("yes" if flag else "") == "yes"
