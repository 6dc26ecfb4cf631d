"""Runs each level of a hierarchy in a process of its own; the processes talk by channels.

What two neighbouring levels say to each other is in :mod:`seqdni.hierarchy.remote_level`. All
processes run the same program: each of them has the whole trainer and the same chunks, and works
one level of it. At the end each process gets what the others have trained.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import torch.distributed as dist

from seqdni.channel import Channel
from seqdni.hierarchy.chunk import HierarchyChunk, as_hierarchy_chunk
from seqdni.hierarchy.remote_level import RemoteLevel
from seqdni.hierarchy.trainer import HierarchyTrainer
from seqdni.hierarchy.work import EveryLevel, OneLevel
from seqdni.learner import check_count
from seqdni.parallel import DataParallel
from seqdni.shared_training import (
    GivenData,
    Part,
    check_no_draws,
    check_one_process_each,
    share,
)


class Waited(NamedTuple):
    """A time in which a process waited for another one.

    Args:
        begin: seconds since the run began.
        end: likewise.
    """

    begin: float
    end: float


def train_levels_in_processes(
    trainer: HierarchyTrainer,
    chunks: Iterable[HierarchyChunk],
    *,
    staleness: int = 0,
    group: dist.ProcessGroup | None = None,
) -> list[Waited]:
    """Train on some chunks, with a process for each level.

    Start as many processes as there are levels with ``torchrun``, call
    ``torch.distributed.init_process_group("gloo")``, build the same trainer in each, and call this
    function in all of them with the same chunks. Process k works level k. Afterwards the trainer
    is the same in all processes, and it can go on in any way, or be saved. While the chunks are
    drawn, ``trainer.finish()`` may be called, in all processes at the same place.

    Args:
        trainer: on the CPU, in the mode ``"dni"`` or ``"no-feedback"``, without dropout and random
            controls.
        chunks: as for ``trainer.step``.
        staleness: ticks of a level by which the level below lags behind it: it uses the context of
            so many ticks before, and its message synthesizer has not learned yet from what was
            answered since. With 0 the result is bit for bit that of ``trainer.step``.
        group: of processes; None: all.

    Returns:
        When this process waited for others.

    Raises:
        ValueError: the trainer cannot be run in this way, the number of processes is not that of
            the levels, or the processes have different trainers or chunks. Different chunks are
            noticed at the end, and the trainer must be restored from a checkpoint then.
        RuntimeError: ``torch.distributed`` is not initialised.
        seqdni.channel.ProcessEnded: another process has ended. The trainer must be restored from a
            checkpoint then, in all processes.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from seqdni import Hierarchy, Learner, Level, LevelTraining, TorchCore
        >>> level = Level(TorchCore(nn.GRU(2, 8)), readout=nn.Linear(8, 3))
        >>> training = LevelTraining(Learner(torch.optim.Adam(level.parameters())))
        >>> trainer = HierarchyTrainer(Hierarchy([level], torch.zeros(1, 1, 2)), [training])
        >>> chunk = HierarchyChunk(torch.randn(4, 6, 2), [(torch.zeros(4, 6).long(), None)])
        >>> with tempfile.TemporaryDirectory() as folder:  # torchrun needs no such file
        ...     dist.init_process_group("gloo", f"file://{folder}/store", rank=0, world_size=1)
        ...     waited = train_levels_in_processes(trainer, [chunk] * 3)
        ...     dist.destroy_process_group()
        >>> trainer.updates_of_levels
        [3]
    """
    check_count("staleness", staleness, least=0)
    processes = DataParallel(group)
    levels, own = trainer.levels, processes.rank
    if trainer.parallel is not None:
        raise ValueError(
            "the trainer has parallel, by which each process trains all levels on rows of its own; "
            "here each process trains one level on all rows: leave parallel out"
        )
    if trainer.mode == "joint":
        raise ValueError("the mode 'joint' is one graph over all levels; use 'dni'")
    for k, each in enumerate(levels):
        check_no_draws(each.level, each.synthetic, f"level {k}")
    check_one_process_each(processes, len(levels), "level", trainer.device, trainer.state_dict())
    before, began = trainer.meter.state_dict(), time.perf_counter()
    # Questions beyond this number wait. Answers never wait: both processes would wait then, if the
    # level below asks on before it takes them.
    questions = 4 * (staleness + 2)
    channels = {
        k: Channel(k, f"works level {k}", in_flight=in_flight, group=group)
        for k, in_flight in ((own - 1, None), (own + 1, questions))
        if 0 <= k < len(levels)
    }
    above, remote = levels[own].above, None
    if own + 1 in channels:
        remote = RemoteLevel(channels[own + 1], levels[own + 1], staleness)
    work = OneLevel(levels[own], channels.get(own - 1), remote)
    trainer.work, given = work, GivenData()
    try:
        for chunk in given.noted(map(as_hierarchy_chunk, chunks)):
            trainer.step(chunk)
        work.settle()
    finally:
        trainer.work, levels[own].above = EveryLevel(levels), above
    for channel in channels.values():
        channel.flush()
    parts = [_part(trainer, k) for k in range(len(levels))]
    states = share(processes, parts, trainer.meter, before, given, levels[own].state_dict())
    for k, (level, state) in enumerate(zip(levels, states, strict=True)):
        if k != own:
            level.load_state_dict(state)
    waits = sorted(wait for channel in channels.values() for wait in channel.waits)
    return [Waited(begin - began, end - began) for begin, end in waits]


def _part(trainer: HierarchyTrainer, k: int) -> Part:
    """What the process of level k trains: the level, and its boundaries."""
    level = trainer.levels[k]
    boundaries: Part = [(each.boundary, each.optimizer) for each in level.synthetic]
    return [(level.level, level.training.learner.optimizer), *boundaries]
