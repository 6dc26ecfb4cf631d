"""The same training in one process and in several, each with a part of the rows.

Run as a program it is one of the processes: RANK SIZE STORE OUT.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hierarchies
import torch
import torch.distributed as dist
from oracles import make_model, make_stream, make_trainer, split
from torch import nn
from trainers import flat_trainer

from seqdni import (
    Audit,
    Boundary,
    Critic,
    DataParallel,
    HierarchyTrainer,
    Trainer,
    controls,
    cross_entropy,
    state_size,
)
from seqdni.shared_training import joined_sums

ROWS, STEPS, CHUNKS = 8, 3, 52
STOP, END = 31, 50  # chunks before the trainer is restored from a checkpoint, and all of them
SEED = 5


class Case(NamedTuple):
    """A trainer, and what it is trained on.

    Args:
        trainer: makes it, for these processes.
        steps: takes whether rows restart, and the rows of this process; returns the arguments of
            each call of ``trainer.step``, a list and the named ones.
    """

    trainer: Callable[[DataParallel | None], Any]
    steps: Callable[[bool, slice], list[tuple[list, dict]]]


# What a network is trained on


def chunks(resets: bool, rows: slice) -> list[tuple]:
    """The stream's chunks, only these rows of them."""
    stream = split(make_stream(STEPS * CHUNKS, ROWS, resets), [STEPS] * CHUNKS)
    return [own(chunk, rows) for chunk in stream]


def own(part: Any, rows: slice) -> Any:
    """These rows of all tensors, in any structure; the rows are the second axis."""
    if isinstance(part, torch.Tensor):
        return part[:, rows]
    return part and type(part)(own(each, rows) for each in part)


def plain(resets: bool, rows: slice):
    """One chunk after another."""
    return [([chunk], {}) for chunk in chunks(resets, rows)]


def with_ahead(resets: bool, rows: slice):
    """Each chunk with the next one."""
    ready = chunks(resets, rows)
    return [([ready[k]], {"ahead": ready[k + 1]}) for k in range(END + 1)]


def in_step(resets: bool, rows: slice):
    """Episodes of three chunks that all rows play in step. One row alone has a step not scored."""
    found = []
    for k, (inputs, targets, _, _) in enumerate(chunks(resets, slice(None))):
        restarts = torch.zeros(STEPS + 1, ROWS, dtype=torch.bool)
        restarts[0], restarts[-1] = k % 3 == 0, k % 3 == 2
        targets = targets.clone()
        targets[1, -1] = -100
        found.append(([own((inputs, targets, None, restarts), rows)], {}))
    return found


def with_symbols(resets: bool, rows: slice):
    """Each chunk with the symbols that are read at its start and after its end."""
    ready, critic = chunks(resets, rows), Critic(1, 5).double()
    seen = [critic.condition(inputs[:1]) for inputs, *_ in ready]
    return [([ready[k]], {"condition": (seen[k], seen[k + 1])}) for k in range(END + 1)]


# Networks


def of_kind(name: str, **options) -> Case:
    """A trainer of the shared oracles by its name there."""
    return Case(
        lambda parallel: make_trainer(
            make_model("lstm", 1), name, parallel=parallel, clip=0.5, **options
        ),
        plain,
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


def with_unused(parallel, **rest) -> Trainer:
    """A layer without a gradient is not moved by weight decay, as it would be by zeros."""
    model = make_model("lstm", 1)
    model.unused = nn.Linear(2, 2).double()
    adam = torch.optim.AdamW(model.parameters(), 0.01)
    return flat_trainer(model, adam, parallel=parallel, **rest)


def column_major(parallel) -> Trainer:
    """Weights in the other order, with an optimiser that goes through memory as it lies."""
    model = make_model("lstm", 1)
    model.readout.weight.data = model.readout.weight.data.t().contiguous().t()
    adam = torch.optim.Adam(model.parameters(), 0.01, fused=True)
    return flat_trainer(model, adam, update_every=3, parallel=parallel)


def audited(update_every) -> Case:
    """Synthetic gradients that are scaled by what they are worth."""
    return Case(
        lambda parallel: make_trainer(
            *(make_model("lstm", 1), "dni-rls"),
            parallel=parallel,
            audit=Audit(every=2),
            update_every=update_every,
        ),
        in_step,
    )


def mixed(case: Case, control: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    """The same with a control at each boundary."""

    def trainer(parallel) -> Any:
        made = case.trainer(parallel)
        boundaries = made.boundary if isinstance(made, HierarchyTrainer) else [made.boundary]
        for boundary in boundaries:
            boundary.control = control
        return made

    return Case(trainer, case.steps)


class Tempered(nn.Module):
    """Cross-entropy of scores that are multiplied by a number which is learned."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, outputs, targets):
        return cross_entropy(outputs * self.factor, targets)


def with_loss(update_every: int) -> Case:
    """A loss with a parameter."""

    def trainer(parallel) -> Trainer:
        model, loss = make_model("lstm", 1), Tempered()
        adam = torch.optim.Adam([*model.parameters(), *loss.parameters()], 0.01)
        return flat_trainer(
            model, adam, loss=loss, update_every=update_every, clip=0.5, parallel=parallel
        )

    return Case(trainer, plain)


# Hierarchies


def of_levels(periods, contexts, kind="rls", mode="dni", cuts=(3,), every=1) -> Case:
    """Levels with these periods, on chunks of these lengths in turn."""

    def model() -> Any:
        return hierarchies.make_hierarchy(periods, contexts)

    def trainer(parallel) -> HierarchyTrainer:
        levels = model()
        trainings = hierarchies.learning(levels, kind)
        for training in trainings:
            training.learner.update_every = every
        return HierarchyTrainer(levels, trainings, mode, parallel)

    def steps(resets: bool, rows: slice):
        sizes = [cuts[k % len(cuts)] for k in range(CHUNKS)]
        stream = hierarchies.make_stream(model(), sum(sizes), ROWS, resets)
        ready = stream.chunks(sizes)
        return [
            ([chunk._replace(**dict(zip(chunk._fields, own(tuple(chunk), rows), strict=True)))], {})
            for chunk in ready
        ]

    return Case(trainer, steps)


CASES: dict[str, Case] = {
    "tbptt": of_kind("tbptt"),
    "accumulation": of_kind("tbptt", update_every=3),
    "dni": of_kind("dni"),
    "dni, every second chunk": of_kind("dni", train_fraction=0.5),
    "dni-aux": of_kind("dni-aux"),
    "dni-bounded": of_kind("dni-bounded"),
    "dni-rls": of_kind("dni-rls"),
    "dni-whitened": of_kind("dni-whitened"),
    "dni-dense": of_kind("dni-dense"),
    "dni-dense, several steps": of_kind("dni-dense", updates_per_chunk=3),
    "critic": Case(with_critic, with_symbols),
    "look-ahead": Case(looking_ahead, with_ahead),
    "wrapped": Case(wrapped, plain),
    "unused": Case(with_unused, plain),
    "unused, accumulation": Case(lambda p: with_unused(p, update_every=3), plain),
    "column-major weights": Case(column_major, plain),
    "loss with a parameter": with_loss(1),
    "loss with a parameter, accumulation": with_loss(3),
    "overlap": of_kind("overlap"),
    "influence": of_kind("influence"),
    "hierarchy": of_levels((1, 3), True),
    "hierarchy of 3 levels": of_levels((1, 2, 3), True, "mlp", cuts=(3, 1, 4, 2, 5)),
    "hierarchy, conditions": of_levels((1, 2), False, "condition", cuts=(4, 3), every=2),
    "hierarchy, joint": of_levels((1, 3), True, mode="joint", every=2),
    "hierarchy, no feedback": of_levels((1, 1), True, mode="no-feedback", cuts=(2,)),
}


CASES |= {
    "audit": audited(1),
    "audit, update by episode": audited("episode"),
    "shuffled": mixed(CASES["dni"], controls.shuffled),
    "batch mean": mixed(CASES["dni-rls"], controls.batch_mean),
    "look-ahead, shuffled": mixed(CASES["look-ahead"], controls.shuffled),
    "hierarchy, shuffled": mixed(CASES["hierarchy, conditions"], controls.shuffled),
}
QUICK = (  # with four processes; 50 chunks of each
    *("accumulation", "dni", "dni-rls", "overlap", "influence", "audit", "hierarchy, shuffled"),
    *("hierarchy of 3 levels", "hierarchy, joint"),
)


ENDLESS = ("tbptt", "dni", "dni-aux", "dni-rls", "look-ahead", "overlap", "hierarchy")


def cases(size: int) -> list[tuple[str, bool]]:
    """What so many processes train: a name, and whether rows restart."""
    if size > 2:
        return [(name, True) for name in QUICK]
    return [(name, True) for name in CASES] + [(name, False) for name in ENDLESS]


def train(name: str, resets: bool, parallel: DataParallel | None) -> dict:
    """Train one case for 50 chunks, with a checkpoint on the way.

    Four processes continue what one process has begun; two what they have begun themselves.

    Returns:
        Its weights, and sums; and the weights without the checkpoint on the way.
    """
    case = CASES[name]
    begins = None if parallel is not None and parallel.size > 2 else parallel
    torch.manual_seed(SEED)
    begun = run(case, case.trainer(begins), resets, 0, STOP)
    saved = begun.state_dict()
    drawn = torch.get_rng_state()
    trainer = case.trainer(parallel)
    trainer.load_state_dict(saved)
    torch.set_rng_state(drawn)
    run(case, trainer, resets, STOP, END)
    if begins is parallel and parallel is not None:
        torch.set_rng_state(drawn)
        run(case, begun, resets, STOP, END)
    sums = trainer.meter.read()
    return {
        "weights": weights(trainer),
        "never stopped": weights(begun),
        "boundary": [] if trainer.boundary is None else [*trainer.boundary.parameters()],
        "sums": sums if parallel is None else joined_sums({}, parallel.of_all(sums)),
        "tokens": trainer.tokens,
        "updates": trainer.updates,
        "saved": trainer.state_dict(),
    }


def weights(trainer: Any) -> list[torch.Tensor]:
    """All that the optimisers of the models hold."""
    optimizers = [learner.optimizer for learner in trainer.learners]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [parameter.detach() for group in groups for parameter in group["params"]]


def run(case: Case, trainer: Any, resets: bool, first: int, end: int) -> Any:
    """Train on some chunks, from one number to another; return the trainer."""
    parallel = trainer.parallel
    rows = slice(None) if parallel is None else parallel.rows(ROWS)
    for arguments, named in case.steps(resets, rows)[first:end]:
        trainer.step(*arguments, **named)
        if getattr(trainer, "overlap", None) is not None:
            trainer.state_dict()  # also where all rows of one process have just restarted
    return trainer


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
