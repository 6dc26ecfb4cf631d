"""The same training in one process and in several, each with a part of the rows.

Run as a program it is one of the processes: RANK SIZE STORE OUT.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from oracles import make_model, make_stream, make_trainer, split
from torch import nn
from trainers import flat_trainer

from seqdni import Boundary, Critic, DataParallel, Trainer, state_size

ROWS, STEPS, CHUNKS = 8, 3, 52


def of_kind(name: str, **options) -> Callable[..., Trainer]:
    """A trainer of the shared oracles by its name there."""
    return lambda parallel: make_trainer(
        make_model("lstm", 1), name, parallel=parallel, clip=0.5, **options
    )


def with_critic(parallel) -> Trainer:
    """A critic of the symbols that are read at a chunk's start."""
    model = make_model("gru", 1)
    size = state_size(model.initial_state(1))
    critic = Critic(size, 5).double()
    boundary = Boundary(critic, grad_scale=0.5)
    learn = torch.optim.Adam(boundary.parameters(), 0.01)
    adam = torch.optim.Adam(model.parameters(), 0.01)
    return flat_trainer(
        model, adam, boundary=boundary, synth_optimizer=learn, clip=0.5, parallel=parallel
    )


def looking_ahead(parallel) -> Trainer:
    """Known steps and, for what comes after them, least squares."""
    return make_trainer(make_model("lstm", 2), "dni-rls", parallel=parallel)


def wrapped(parallel) -> Trainer:
    """A model that is wrapped in DistributedDataParallel tells its processes itself."""
    model = make_model("lstm", 1)
    adam = torch.optim.Adam(model.parameters(), 0.01)
    if parallel is not None:
        return flat_trainer(nn.parallel.DistributedDataParallel(model), adam, clip=0.5)
    return flat_trainer(model, adam, clip=0.5)


def with_unused(parallel) -> Trainer:
    """A layer without a gradient is not moved by weight decay, as it would be by zeros."""
    model = make_model("lstm", 1)
    model.unused = nn.Linear(2, 2).double()
    return flat_trainer(model, torch.optim.AdamW(model.parameters(), 0.01), parallel=parallel)


CASES: dict[str, Callable[..., Trainer]] = {
    "tbptt": of_kind("tbptt"),
    "accumulation": of_kind("tbptt", update_every=3),
    "dni": of_kind("dni"),
    "dni, every second chunk": of_kind("dni", train_fraction=0.5),
    "dni-aux": of_kind("dni-aux"),
    "dni-bounded": of_kind("dni-bounded"),
    "dni-rls": of_kind("dni-rls"),
    "dni-whitened": of_kind("dni-whitened"),
    "dni-dense": of_kind("dni-dense"),
    "critic": with_critic,
    "look-ahead": looking_ahead,
    "wrapped": wrapped,
    "unused": with_unused,
}


QUICK = ("accumulation", "dni", "dni-rls")  # with four processes; 50 chunks of each


def cases(size: int) -> list[tuple[str, bool]]:
    """What so many processes train: a name, and whether rows restart."""
    if size > 2:
        return [(name, True) for name in QUICK]
    return [(name, resets) for name in CASES for resets in (False, True)]


def chunks(resets: bool, rows: slice):
    """The stream's chunks, only these rows of them."""
    stream = split(make_stream(STEPS * CHUNKS, ROWS, resets), [STEPS] * CHUNKS)
    return [tuple(None if x is None else x[:, rows] for x in chunk) for chunk in stream]


def train(name: str, resets: bool, parallel: DataParallel | None) -> dict:
    """Train one case for 50 chunks, with a checkpoint in the middle.

    Returns:
        Its weights, and sums.
    """
    own = slice(None) if parallel is None else parallel.rows(ROWS)
    trainer, ready = CASES[name](parallel), chunks(resets, own)
    for k in range(50):
        step(trainer, name, ready, k)
        if k == 30:
            saved = trainer.state_dict()
            trainer = CASES[name](parallel)
            trainer.load_state_dict(saved)
    sums = trainer.meter.read()
    return {
        "weights": [p.detach() for p in trainer.model.parameters()],
        "boundary": [] if trainer.boundary is None else [*trainer.boundary.parameters()],
        "sums": sums if parallel is None else parallel.sum(sums),
        "tokens": trainer.tokens,
        "updates": trainer.updates,
        "saved": trainer.state_dict(),
    }


def step(trainer: Trainer, name: str, ready: list, k: int) -> None:
    """One chunk, with what the case needs besides."""
    arguments = {}
    if name == "critic":
        critic = trainer.boundary.synthesizer
        arguments["condition"] = tuple(critic.condition(ready[k + i][0][:1]) for i in (0, 1))
    if name == "look-ahead":
        arguments["ahead"] = ready[k + 1]
    trainer.step(ready[k], **arguments)


def main() -> None:
    """Train all cases as one of several processes, and write what came out."""
    rank, size, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=size)
    parallel = DataParallel()
    found = {case: train(*case, parallel) for case in cases(size)}
    torch.save(found, out / f"{size}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
