"""Compiled layers: ``layers.cpp`` beside this file, built on a machine when it is first used there.

They are an extra for speed on a CPU, and need a C++ compiler and ``ninja``. Nothing depends on
them: without ``compiled=True`` nothing is built.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import torch

from seqdni.cores.kernels import Layers

SOURCE = Path(__file__).with_name("layers.cpp")
# By what torch finds that the processor can do. The loops over units then take many at a time.
INSTRUCTIONS = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx512f", "-mavx512dq", "-mfma"]}


@functools.cache
def compiled_layers() -> Layers:
    """The compiled layers. If they are not there yet, they are built: 20 seconds, once.

    The library is kept where torch keeps its extensions: in the folder that the environment
    variable ``TORCH_EXTENSIONS_DIR`` names, else in ``~/.cache/torch_extensions``.

    Returns:
        The functions that run one layer of an LSTM and of a GRU.

    Raises:
        RuntimeError: they cannot be built.
    """
    flags = ["-O3", *INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), [])]
    made_of = SOURCE.read_text() + " ".join([*flags, torch.__version__, sys.platform])
    name = f"seqdni_layers_{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    folder = Path(named) if named else Path.home() / ".cache" / "torch_extensions"
    library = folder / f"{name}.so"
    if library.exists():
        torch.ops.load_library(library)
    else:
        _build_and_load(library, flags)
    return Layers(torch.ops.seqdni.lstm_layer, torch.ops.seqdni.gru_layer)


def _build_and_load(library: Path, flags: list[str]) -> None:
    """Build in a folder of its own, and put the library into its place when it is whole."""
    print("seqdni: compiling layers for this machine, once (20 seconds) ...", file=sys.stderr)
    path = os.environ.get("PATH", "")
    try:
        from torch.utils.cpp_extension import load  # it takes a while to import

        library.parent.mkdir(parents=True, exist_ok=True)
        # ninja lies beside the Python that runs, whose folder is perhaps not in PATH.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            load(
                library.stem,
                [str(SOURCE)],
                extra_cflags=flags,
                build_directory=folder,
                is_python_module=False,
            )
            os.replace(Path(folder) / library.name, library)
    except (RuntimeError, ImportError, OSError) as error:
        raise RuntimeError(
            f"the compiled layers cannot be built: {_reason(error)}. They need a C++ compiler and "
            "ninja (pip install ninja); without compiled=True nothing is built"
        ) from error
    finally:
        os.environ["PATH"] = path


def _reason(error: Exception) -> str:
    """The line of a compiler's output that says what is wrong; else the first line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "error:" in line), lines[0]).strip()
