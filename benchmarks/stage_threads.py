"""What a thread for each stage costs or gains in time, and what staleness costs in error.

A net of four hidden layers of 256 units with batch norm learns MNIST with synthetic gradients
(least squares with the label), in batches of 256: by ``LayerTrainer.step``, and in threads with
staleness 0, 1 and 4. Each way makes the same updates on the same batches. The script prints the
milliseconds of a step, the median of several parts of the run, and the test error at its end.

    python benchmarks/stage_threads.py --mnist-dir DIR
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqdni import Boundary, LayerTrainer, LeastSquares, train_in_threads
from seqdni.corpora import Images, read_mnist

HIDDEN, WIDTH, CLASSES, BATCH = 4, 256, 10, 256
WAYS: dict[str, int | None] = {"step": None, "staleness 0": 0, "staleness 1": 1, "staleness 4": 4}


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


def main() -> None:
    """Train in each way, and print a row each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist-dir", required=True, metavar="DIR", help="folder of MNIST")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--parts", type=int, default=8, help="how many times are taken")
    parser.add_argument("--seed", type=int, default=21)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, _, test, _ = read_mnist(given.mnist_dir)
    given_batches = batches(train, given.steps, given.seed)
    for name, staleness in WAYS.items():
        trainer, times = make_trainer(given.seed), []
        rest, each = iter(given_batches), given.steps // given.parts
        while part := list(islice(rest, each)):
            begin = time.perf_counter()
            if staleness is None:
                for x, y, label in part:
                    trainer.step(x, y, condition=label)
            else:
                train_in_threads(trainer, part, staleness=staleness)
            times.append(1e3 * (time.perf_counter() - begin) / len(part))
        net = trainer.model.eval()
        wrong = net(test.pixels_nP.float() / 255).argmax(1) != test.labels_n
        error = 100 * wrong.double().mean().item()
        print(f"{name:12}  {statistics.median(times):6.1f} ms a step  test error {error:.2f}%")


if __name__ == "__main__":
    main()
