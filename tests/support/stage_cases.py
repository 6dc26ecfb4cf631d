"""The same nets with their stages one after another, in threads, and in processes of their own.

Run as a program it is one of the processes: RANK SIZE STORE OUT.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from seqdni import (
    Boundary,
    LayerTrainer,
    LeastSquares,
    MLPSynthesizer,
    SyntheticInput,
    train_in_processes,
)
from seqdni.channel import Channel

PIXELS, WIDTH, CLASSES, ROWS, STAGES = 6, 5, 3, 8, 3
LOST = 2  # the process that ends in the midst of a run


class Sent(IntEnum):
    """Kinds of messages of the cases."""

    LETTER = 1
    PARCEL = 2


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-2)


def solved():
    return Boundary(LeastSquares(WIDTH, condition_size=CLASSES).double())


def learned():
    return Boundary(MLPSynthesizer(WIDTH, (4,), condition_size=CLASSES, batch_norm=True).double())


def predicted_input():
    return SyntheticInput(MLPSynthesizer(PIXELS, (4,), output_size=WIDTH).double())


def trainer_of(boundary=solved, unlock=False, stages=STAGES, **settings) -> LayerTrainer:
    """A trainer of some stages with batch norm, drawn from one seed."""
    torch.manual_seed(0)
    widths = [PIXELS, *[WIDTH] * (stages - 1)]
    hidden = [
        nn.Sequential(nn.Linear(width, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())
        for width in widths[:-1]
    ]
    net = nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES)).double()
    inputs = [predicted_input() for _ in hidden] if unlock else None
    credit = [boundary() for _ in hidden]
    return LayerTrainer(
        net, credit, adam, functional.cross_entropy, inputs=inputs, clip=0.5, **settings
    )


CASES: dict[str, tuple[Callable[[], LayerTrainer], int]] = {
    "least squares": (trainer_of, 0),
    "least squares, stale": (trainer_of, 3),
    "by chance": (lambda: trainer_of(update_probability=0.5), 0),
    "mlp": (lambda: trainer_of(learned), 0),
    "mlp, stale": (lambda: trainer_of(learned), 2),
    "unlock": (lambda: trainer_of(learned, unlock=True), 0),
    "unlock, stale": (lambda: trainer_of(learned, unlock=True), 5),
}
"""How to build the trainer, and the staleness."""


def batches(count):
    """Inputs, targets and condition, the same in every process."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(ROWS, PIXELS, generator=generator, dtype=torch.float64)
        y = x[:, :CLASSES].argmax(1)
        yield x, y, functional.one_hot(y, CLASSES).double()


def parts():
    """Twelve batches in two parts."""
    every = list(batches(12))
    return every[:5], every[5:]


def error_of(work: Callable[[], object]) -> str:
    """The type and the text of the error that is raised."""
    try:
        work()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def letters(rank: int) -> dict[str, object]:
    """What process 1 receives of process 0: a letter, a parcel, and one that it did not expect."""
    if rank > 1:
        return {}
    channel = Channel(1 - rank, f"is number {1 - rank}", in_flight=2)
    sent = [torch.arange(6.0).view(2, 3).T, None, torch.tensor(True), torch.empty(0, 4)]
    if rank == 0:
        for step in range(20):  # more than are on their way at once
            channel.send(Sent.LETTER, step, [torch.full((3,), step)])
        channel.send(Sent.PARCEL, 20, sent)
        channel.send(Sent.PARCEL, 21, [])
        channel.flush()
        return {"sent": sent}
    time.sleep(0.2)
    steps = [channel.receive(Sent.LETTER, step)[0] for step in range(20)]
    received = channel.receive(Sent.PARCEL, 20)
    return {
        "steps": steps,
        "received": [None if x is None else x.clone() for x in received],
        "unexpected": error_of(lambda: channel.receive(Sent.LETTER, 22)),
    }


def refused(rank: int, size: int) -> dict[str, str]:
    """What is refused in all processes."""
    other = trainer_of()
    if rank == 1:
        with torch.no_grad():
            next(other.model.parameters()).add_(1)
    few = trainer_of(stages=size + 1)
    return {
        "trainers": error_of(lambda: train_in_processes(other, [])),
        "number": error_of(lambda: train_in_processes(few, [])),
        **{
            f"different {name}": error_of(
                lambda k=k: train_in_processes(trainer_of(), odd(rank, k))
            )
            for k, name in enumerate(("inputs", "targets", "condition"))
        },
        "lost": error_of(lambda: train_with_a_loss(rank)),
        "ended before": error_of(lambda: train_in_processes(trainer_of(), [])),
    }


def odd(rank: int, changed: int):
    """Three batches; in process 1 the inputs, targets or condition of the second are changed."""
    for n, batch in enumerate(batches(3)):
        yield [x.flip(0) if (rank, n, k) == (1, 1, changed) else x for k, x in enumerate(batch)]


def train_with_a_loss(rank: int) -> None:
    """One of the processes ends at its fourth step; what follows is without it."""
    trainer = trainer_of()

    def end(*_):
        if rank == LOST and trainer.updates_of_stages[LOST] == 3:
            os._exit(7)

    trainer.model[LOST].register_forward_hook(end)
    train_in_processes(trainer, batches(50))


def main() -> None:
    """Train all cases as one of several processes, and write what came out."""
    rank, size, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=size)
    found: dict[str, object] = {"letters": letters(rank)}
    for name, (build, staleness) in CASES.items():
        trainer, spans = build(), []
        for part in parts():
            spans += train_in_processes(trainer, part, staleness=staleness)
        found[name] = {"state": trainer.state_dict(), "stages": sorted({s.stage for s in spans})}
    torch.save(found, out / f"{rank}.pt")
    (out / f"{rank}.txt").write_text(repr(refused(rank, size)))
    os._exit(0)  # threads of Gloo can abort a process that ends in the usual way


if __name__ == "__main__":
    main()
