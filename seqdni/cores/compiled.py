"""Compiled layers: ``layers.cpp`` beside this file, built on a machine when it is first used there.

They are an extra for speed on a CPU, and need a C++ compiler and ``ninja``. Nothing depends on
them: without ``compiled=True`` nothing is built.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from seqdni.cores.kernels import Layers

SOURCE = Path(__file__).with_name("layers.cpp")
# By what torch finds that the processor can do. The loops over units then take many at a time.
INSTRUCTIONS = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx512f", "-mavx512dq", "-mfma"]}
# In a process of its own, because what it builds is also loaded there, and can be loaded only once.
BUILDER = """
import sys
from torch.utils.cpp_extension import load
name, source, folder, *flags = sys.argv[1:]
own = [flag for flag in flags if flag == "-fopenmp"]
load(
    name, [source], extra_cflags=flags, extra_ldflags=own, build_directory=folder,
    is_python_module=False,
)
"""
_loading = threading.Lock()


def compiled_layers() -> Layers:
    """The compiled layers. If they are not there yet, they are built: 20 seconds, once.

    The library is kept where torch keeps its extensions: in the folder that the environment
    variable ``TORCH_EXTENSIONS_DIR`` names, else in ``~/.cache/torch_extensions``.

    Returns:
        The functions that run one layer of an LSTM and of a GRU.

    Raises:
        RuntimeError: they cannot be built.
    """
    operations = torch.ops.seqdni
    if not hasattr(operations, "lstm_layer"):
        with _loading:
            if not hasattr(operations, "lstm_layer"):
                _load()
    return Layers(operations.lstm_layer, operations.gru_layer)


def _load() -> None:
    """Load the library, and build it first where it is missing or damaged."""
    flags = ["-O3", *INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), [])]
    flags += ["-fopenmp"] if sys.platform == "linux" else []  # torch's threads
    machine = [torch.__version__, sys.platform, platform.machine()]
    made_of = SOURCE.read_text() + " ".join([*flags, *machine])
    name = f"seqdni_layers_{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
    try:
        named = os.environ.get("TORCH_EXTENSIONS_DIR")
        folder = Path(named or "~/.cache/torch_extensions").expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / f"{name}.so"
        with _one_process_at_a_time(folder):
            if not (library.exists() and _loads(library)):
                _build(library, flags)
                torch.ops.load_library(library)
    except (RuntimeError, OSError) as error:
        raise RuntimeError(
            f"the compiled layers cannot be built: {_reason(str(error))}. They need a C++ compiler "
            "and ninja (pip install ninja); without compiled=True nothing is built"
        ) from None


@contextmanager
def _one_process_at_a_time(folder: Path) -> Iterator[None]:
    """Wait for other processes of this machine that build. The lock ends with the process."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _loads(library: Path) -> bool:
    """Load a library; False if it is damaged, or of another machine."""
    try:
        torch.ops.load_library(library)
    except OSError:
        return False
    return True


def _build(library: Path, flags: list[str]) -> None:
    """Build beside the library, and put it into its place when it is whole."""
    print("seqdni: compiling layers for this machine, once (20 seconds) ...", file=sys.stderr)
    # ninja lies beside the Python that runs, whose folder is perhaps not in PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with tempfile.TemporaryDirectory(prefix="building-", dir=library.parent) as folder:
        words = [sys.executable, "-c", BUILDER, library.stem, str(SOURCE), folder, *flags]
        done = subprocess.run(
            words, env=os.environ | {"PATH": path}, capture_output=True, text=True, errors="replace"
        )
        if done.returncode:
            raise RuntimeError(done.stderr + done.stdout)
        with open(Path(folder, library.name), "rb") as built:
            os.fsync(built.fileno())  # so that it is whole even after the power fails
        os.replace(Path(folder, library.name), library)


def _reason(text: str) -> str:
    """The line of an error that says what is wrong, as far as it can be told; else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason was given"]
    telling = ("error: ", "not found", "No such file", "is required", "denied")
    return next((line for line in lines if any(word in line for word in telling)), lines[-1])
