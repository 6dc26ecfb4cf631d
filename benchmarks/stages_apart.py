"""What stages in threads or processes of their own cost or gain in time, and what staleness costs.

A net of four hidden layers of 256 units with batch norm learns MNIST with synthetic gradients
(least squares with the label), in batches of 256: by ``LayerTrainer.step``, with a thread for each
stage, and with a process for each stage, with staleness 0, 1 and 4. Each way makes the same updates
on the same batches, with one thread of torch in each process. The script prints the milliseconds
of a step (the median of several parts of all runs), the milliseconds that processors work for a
step (all processes together, the mean), the test error at the end of the run of each seed, and a
checksum of the weights of the first one.

    python benchmarks/stages_apart.py --mnist-dir DIR

It starts the processes itself, by torchrun.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import zlib
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from seqdni import Boundary, LayerTrainer, LeastSquares, train_in_processes, train_in_threads
from seqdni.corpora import Images, Mnist, read_mnist
from seqdni.state_bytes import to_bytes

HIDDEN, WIDTH, CLASSES, BATCH = 4, 256, 10, 256
STALENESS = (0, 1, 4)
WAYS = {"threads": train_in_threads, "processes": train_in_processes}


def make_trainer(seed: int) -> LayerTrainer:
    """The same trainer for every way."""
    torch.manual_seed(seed)
    hidden = [
        nn.Sequential(nn.Linear(784 if k == 0 else WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
        for k in range(HIDDEN)
    ]
    return LayerTrainer(
        nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES)),
        [
            Boundary(LeastSquares(WIDTH, condition_size=CLASSES, forgetting=0.9, solve_every=4))
            for _ in range(HIDDEN)
        ],
        lambda parameters: torch.optim.Adam(parameters, 1e-3),
        functional.cross_entropy,
    )


def batches(train: Images, steps: int, seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images, labels, and the labels as condition, drawn with replacement."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        chosen = torch.randint(len(train.labels_n), (BATCH,), generator=generator)
        y = train.labels_n[chosen]
        x = train.pixels_nP[chosen].float() / 255
        found.append((x, y, functional.one_hot(y, CLASSES).float()))
    return found


def trained(
    data: Mnist, seed: int, given: argparse.Namespace, way: str, staleness: int
) -> tuple[list[float], float, float, int]:
    """Milliseconds of a step in each part of a run, and of processors; error in %; a checksum."""
    trainer, times, worked = make_trainer(seed), [], time.process_time()
    rest, each = iter(batches(data.train, given.steps, seed)), given.steps // given.parts
    while part := list(islice(rest, each)):
        begin = time.perf_counter()
        if way == "step":
            for x, y, label in part:
                trainer.step(x, y, condition=label)
        else:
            WAYS[way](trainer, part, staleness=staleness)
        times.append(1e3 * (time.perf_counter() - begin) / len(part))
    processors = torch.tensor(1e3 * (time.process_time() - worked) / given.steps)
    if way == "processes":
        dist.all_reduce(processors)
    net = trainer.model.eval()
    wrong = net(data.test.pixels_nP.float() / 255).argmax(1) != data.test.labels_n
    checksum = zlib.crc32(to_bytes(net.state_dict()).numpy().tobytes())
    return times, processors.item(), 100 * wrong.double().mean().item(), checksum


def measure(data: Mnist, given: argparse.Namespace, way: str, staleness: int) -> None:
    """Train in one way from each seed, and print a row."""
    found = [trained(data, seed, given, way, staleness) for seed in given.seeds]
    middle = statistics.median(ms for times, *_ in found for ms in times)
    processors = statistics.mean(ms for _, ms, *_ in found)
    errors = " / ".join(f"{error:.2f}" for *_, error, _ in found)
    name = way if way == "step" else f"{way}, staleness {staleness}"
    if not dist.is_initialized() or dist.get_rank() == 0:
        row = f"{name:23} {middle:6.1f} ms a step, {processors:5.1f} ms of processors"
        print(f"{row}  test error {errors} %  weights {found[0][3]:08x}", flush=True)


def main() -> None:
    """Train in each way, and print a row each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist-dir", required=True, metavar="DIR", help="folder of MNIST")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--parts", type=int, default=8, help="how many times are taken")
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = read_mnist(given.mnist_dir)
    if "RANK" in os.environ:  # one of the processes that were started below
        dist.init_process_group("gloo")
        for staleness in STALENESS:
            measure(data, given, "processes", staleness)
        os._exit(0)  # threads of Gloo can abort a process that ends in the usual way
    measure(data, given, "step", 0)
    for staleness in STALENESS:
        measure(data, given, "threads", staleness)
    started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(HIDDEN + 1)]
    subprocess.run([*started, *sys.argv], check=True)


if __name__ == "__main__":
    main()
