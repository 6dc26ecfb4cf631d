"""Starts the processes of a run, as torchrun does: real processes, on the loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def launch(*words, processes=2, each=None, program=("-m", "seqdni")):
    """Start the processes of a run; ``each`` has more words for each of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_PORT": port}
    common |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(processes):
        own = [] if each is None else each[rank]
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, program), *map(str, words), *own],
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def outcome(started, limit=150):
    """Exit status, output and errors of each process."""
    found = [process.communicate(timeout=limit) for process in started]
    return [(p.returncode, *texts) for p, texts in zip(started, found, strict=True)]


def wait_for(path: Path, limit=100):
    """Wait until a file is there, or the time is up."""
    deadline = time.monotonic() + limit
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def run_program(path, processes, out, limit=120):
    """Run a program of several processes, and return their exit statuses and their errors.

    Args:
        path: of the program, which takes RANK SIZE STORE OUT.
        processes: how many.
        out: the folder for what they write.
        limit: seconds.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    words = [sys.executable, "-W", "error", str(path)]
    started = [
        subprocess.Popen(
            [*words, str(rank), str(processes), str(out / "store"), str(out)],
            env=environment,
            stderr=subprocess.PIPE,
        )
        for rank in range(processes)
    ]
    try:
        errors = [process.communicate(timeout=limit)[1].decode() for process in started]
    finally:
        for process in started:
            process.kill()  # where one of them waits for ever
    return [process.returncode for process in started], errors
