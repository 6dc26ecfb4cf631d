"""Chunks a second with one process and with several, of one thread each, at the same total batch.

python benchmarks/parallel_step.py
python benchmarks/parallel_step.py --processes 2 --hidden 512 1024 --batch 64 --chunk-len 8
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist
from chunk_step import SYMBOLS
from torch import nn

from seqdni import (
    Boundary,
    DataParallel,
    Learner,
    LeastSquares,
    MLPSynthesizer,
    OneHot,
    SequenceModel,
    SyntheticGradients,
    TorchCore,
    Trainer,
)

WAYS = ("tbptt", "dni", "dni rls")


def chunks_a_second(
    way: str, hidden: int, rows: int, steps: int, seconds: float, compiled: bool
) -> float:
    """How many chunks a trainer learns from in a second.

    Args:
        way: one of :data:`WAYS`.
        hidden: units of the LSTM.
        rows: of all processes together.
        steps: T.
        seconds: to measure for, about.
        compiled: whether compiled layers run the LSTM.

    Returns:
        Chunks a second.
    """
    torch.manual_seed(0)
    parallel = DataParallel() if dist.is_initialized() else None
    core = TorchCore(nn.LSTM(SYMBOLS, hidden), compiled)
    model = SequenceModel(OneHot(SYMBOLS), core, nn.Linear(hidden, SYMBOLS))
    learner = Learner(torch.optim.Adam(model.parameters(), fused=True), clip=1.0)
    credit = None
    if way == "dni":
        boundary = Boundary(MLPSynthesizer(2 * hidden, (hidden // 2,)), bound=1.0)
        descent = torch.optim.Adam(boundary.parameters(), fused=True)
        credit = SyntheticGradients(boundary, descent, clip=1.0)
    elif way == "dni rls":
        credit = SyntheticGradients(Boundary(LeastSquares(2 * hidden), bound=1.0))
    trainer = Trainer(model, learner, credit, parallel)
    tokens = torch.randint(SYMBOLS, (steps + 1, rows))
    own = tokens if parallel is None else tokens[:, parallel.rows(rows)]
    chunk = (own[:-1], own[1:])
    for _ in range(3):
        trainer.step(chunk)
    count, begun = 0, time.perf_counter()
    while True:
        for _ in range(10):
            trainer.step(chunk)
        count += 10
        spent = time.perf_counter() - begun
        if parallel is not None:
            spent = parallel.from_first([spent])[0]
        if spent > seconds:
            return count / spent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--processes", type=int, default=2)
    add("--hidden", type=int, nargs="+", default=[256, 512, 1024])
    add("--batch", type=int, default=64, help="rows of all processes together")
    add("--chunk-len", type=int, default=8, help="T")
    add("--seconds", type=float, default=6.0)
    add("--compiled", action="store_true", help="run the LSTM by compiled layers")
    add("--rank", nargs=2, metavar=("RANK", "STORE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.rank is not None:
        rank, store = given.rank
        where = f"file://{store}"
        dist.init_process_group("gloo", where, rank=int(rank), world_size=given.processes)
    for hidden in given.hidden:
        for way in WAYS:
            args = (way, hidden, given.batch, given.chunk_len, given.seconds, given.compiled)
            print(f"{hidden} {way}: {chunks_a_second(*args):.2f}", flush=True)
    if given.rank is not None:
        dist.destroy_process_group()
        return
    print(f"with {given.processes} processes:")
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, *sys.argv[1:], "--rank"]
        others = [
            subprocess.Popen([*words, str(rank), f"{folder}/store"], stdout=subprocess.DEVNULL)
            for rank in range(1, given.processes)
        ]
        subprocess.run([*words, "0", f"{folder}/store"], check=True)
        for other in others:
            other.wait()


if __name__ == "__main__":
    main()
