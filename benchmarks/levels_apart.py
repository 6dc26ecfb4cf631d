"""What a process for each level of a hierarchy costs or gains, by the staleness.

The task and the networks are those of ``seqdni run count-digits`` (two LSTMs of 64 units, 64 rows,
windows of 4 digits). The script trains in one process and in two, which it starts by torchrun. It
prints for each seed the milliseconds of a window of 4 digits (the median of all sections), the
share of the time in which each of the two processes works, in which both do, and the errors of A
and B on test digits.

    python benchmarks/levels_apart.py --mnist-dir DIR
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from itertools import islice

import torch
import torch.distributed as dist

from seqdni import DataParallel, Waited, train_levels_in_processes
from seqdni.corpora import CountDigits
from seqdni.recipes.count_digits.options import Options, prepare
from seqdni.recipes.count_digits.recipe import (
    FINAL,
    Chunks,
    Problem,
    build_model,
    build_trainer,
    errors,
    problem_of,
)

SECTION = 250  # windows, as with --log-every 1000


def union(waits: list[Waited]) -> float:
    """The seconds in which at least one of the processes waits."""
    total, until = 0.0, 0.0
    for begin, end in sorted(waits):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def measure(given: argparse.Namespace, problem: Problem, seed: int, staleness: int | None) -> None:
    """Train once, and print a row; without staleness in one process."""
    options = Options(seed=seed, data_dir=given.mnist_dir, device="cpu")
    prepare(options)
    model = build_model(options, problem.train.pixels_nP.shape[1])
    trainer = build_trainer(options, model)
    stream = iter(Chunks(CountDigits(problem.train, options.chunk_len, options.batch, seed)))
    milliseconds, idle = [], []  # of each section: idle shares of A, of B, and of either
    for first in range(0, given.windows, SECTION):
        chunks = list(islice(stream, min(SECTION, given.windows - first)))
        began, own = time.perf_counter(), []
        if staleness is None:
            for chunk in chunks:
                trainer.step(chunk)
        else:
            own = train_levels_in_processes(trainer, chunks, staleness=staleness)
        seconds = time.perf_counter() - began
        milliseconds.append(1e3 * seconds / len(chunks))
        if staleness is not None:
            waits = [[Waited(*w) for w in each] for each in DataParallel().of_all(list(own))]
            idle.append([union(each) / seconds for each in (*waits, [*waits[0], *waits[1]])])
    if staleness is not None and dist.get_rank():
        return
    found = errors(model, problem.test, options.chunk_len, FINAL)
    name = "one process" if staleness is None else f"staleness {staleness}"
    row = f"{name:12} seed {seed}  {statistics.median(milliseconds):6.2f} ms a window"
    if idle:
        a, b, both = (1 - statistics.median(shares) for shares in zip(*idle, strict=True))
        row += f"  A works {a:.2f}, B {b:.2f}, both {both:.2f} of the time"
    print(f"{row}  errors A {found['error_a']:.3f} B {found['error_b']:.3f}", flush=True)


def main() -> None:
    """Train in one process, and in two with each staleness."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist-dir", required=True, metavar="DIR", help="folder of MNIST")
    parser.add_argument("--windows", type=int, default=8000, help="of 4 digits, in 64 rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    given = parser.parse_args()
    torch.set_num_threads(1)
    problem = problem_of(Options(data_dir=given.mnist_dir))
    if "RANK" in os.environ:  # one of the processes that were started below
        dist.init_process_group("gloo")
        for staleness in given.staleness:
            for seed in given.seeds:
                measure(given, problem, seed, staleness)
        os._exit(0)  # threads of Gloo can abort a process that ends in the usual way
    for seed in given.seeds:
        measure(given, problem, seed, None)
    started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run([*started, *sys.argv], check=True)


if __name__ == "__main__":
    main()
