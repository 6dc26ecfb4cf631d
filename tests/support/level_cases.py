"""The same hierarchies with all levels in one process, and with a process for each level.

Run as a program it is one of the processes: RANK SIZE STORE OUT.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from hierarchies import learning, make_hierarchy, make_stream

from seqdni import HierarchyChunk, HierarchyTrainer, train_levels_in_processes
from seqdni.hierarchy.remote_level import Answering, RemoteLevel, Said
from seqdni.hierarchy.work import EveryLevel

PROCESSES, ROWS = 3, 3
PERIODS = {"2": (1, 3), "2 at every step": (1, 1), "2, seldom": (1, 20), "3": (1, 2, 2)}
SIZES = {  # of the chunks, in two parts of the run
    "whole": ([3] * 7, [3] * 6 + [2]),
    "short": ([2] * 7, [2] * 9),
    "long": ([3] * 7, [3, 800, *[1] * 17]),  # 20 chunks of the slow level, then none for a while
    "ragged": ([3, 1, 4, 2, 5, 1, 4], [13, 7]),
}


class Case(NamedTuple):
    """A hierarchy, and how it is trained."""

    periods: str
    contexts: bool
    resets: bool
    mode: str
    kind: str
    staleness: int
    sizes: str


CASES = [
    Case("2", False, False, "dni", "rls", 0, "whole"),
    Case("2", True, True, "dni", "rls", 0, "ragged"),
    Case("2", False, True, "no-feedback", "mlp", 0, "whole"),
    Case("2 at every step", True, False, "dni", "mlp", 0, "ragged"),
    Case("3", True, True, "dni", "rls", 0, "ragged"),
    Case("3", False, False, "dni", "condition", 0, "whole"),
    Case("2", False, False, "dni", "condition", 1, "ragged"),
    Case("2", True, True, "dni", "rls", 2, "whole"),
    Case("2 at every step", True, False, "dni", "mlp", 3, "ragged"),
    Case("3", True, True, "dni", "rls", 1, "ragged"),
    Case("3", True, False, "dni", "mlp", 0, "short"),
    Case("2, seldom", False, False, "dni", "mlp", 1, "long"),
]


def trainer_of(case: Case) -> HierarchyTrainer:
    """The trainer of a case."""
    model = make_hierarchy(PERIODS[case.periods], case.contexts)
    return HierarchyTrainer(model, learning(model, case.kind), case.mode)


def sections(case: Case, trainer: HierarchyTrainer):
    """Two streams in three sections; the first stream ends in the midst of the second section."""
    first, second = (
        make_stream(trainer.model, sum(sizes), ROWS, case.resets, seed).chunks(sizes)
        for seed, sizes in enumerate(SIZES[case.sizes])
    )

    def middle():
        yield from first[3:]
        trainer.finish()
        yield from second[:1]

    yield first[:3]
    yield middle()
    yield second[1:]


# The answers of a level above that are delayed, in one process


class LocalLink:
    """The link of a level to the level above in the same process, which does at once what it is
    asked, and whose answers are taken later."""

    def __init__(self, level):
        self.answering = Answering(Answers(answers := deque()), level)
        self.answers = answers

    def send(self, kind, step, tensors):
        assert step == self.answering.level.received
        if kind is not Said.DONE:
            self.answering.carry_out(kind, list(tensors))

    def receive(self, kind, step):
        found_kind, found_step, tensors = self.answers.popleft()
        assert (found_kind, found_step) == (kind, step)
        return tensors


class Answers:
    """The other end of the link."""

    def __init__(self, answers):
        self.answers = answers

    def send(self, kind, step, tensors):
        self.answers.append((kind, step, list(tensors)))

    def receive(self, kind, step):
        raise AssertionError("only questions are answered here")


class Delayed(EveryLevel):
    """Works all levels, each of which gets late answers of the level above."""

    def __init__(self, levels, staleness):
        super().__init__(levels)
        self.remotes = []
        for level in levels[:-1]:
            remote = RemoteLevel(LocalLink(level.above), level.above, staleness)
            self.remotes.append(remote)
            level.above = remote

    def begin(self):
        for remote in self.remotes:
            remote.begin()

    def settle(self):
        for level, remote in zip(self.levels, self.remotes, strict=False):
            level.learn_message_gradients(remote.arrived(0))
            assert not remote.link.answers


def trained_alone(case: Case) -> HierarchyTrainer:
    """Train in one process: without staleness by ``step``, and else with delayed answers."""
    trainer = trainer_of(case)
    real = [level.above for level in trainer.levels]
    for section in sections(case, trainer):
        if case.staleness:
            trainer.work = delayed = Delayed(trainer.levels, case.staleness)
        for chunk in section:
            trainer.step(chunk)
        if case.staleness:
            delayed.settle()
            for level, above in zip(trainer.levels, real, strict=True):
                level.above = above
    return trainer


def error_of(trainer: HierarchyTrainer, chunks, group) -> str:
    """The type and the text of the error that is raised."""
    try:
        train_levels_in_processes(trainer, chunks, group=group)
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def odd(rank: int, trainer: HierarchyTrainer):
    """Chunks; in process 1 the targets of the second one are others, of the same shape."""
    for n, chunk in enumerate(make_stream(trainer.model, 9, ROWS, False).chunks([3] * 3)):
        if (rank, n) == (1, 1):
            targets, mask = chunk.answers[0]
            chunk = chunk._replace(answers=[(targets.flip(0), mask), *chunk.answers[1:]])
        yield chunk


def endless(rank: int, case: Case, trainer: HierarchyTrainer):
    """Chunks; process 1 ends at its tenth."""
    for n in range(200):
        if n == 10 and rank == 1:
            os._exit(7)
        stream = make_stream(trainer.model, 3, ROWS, False, n)
        stream.should_reset[-1] = False
        chunk: HierarchyChunk = stream.chunks([3])[0]
        yield chunk


def main() -> None:
    """Train all cases as one of several processes, and write what came out."""
    rank, size, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=size)
    groups = {2: dist.new_group([0, 1]), 3: None}
    found = []
    for case in CASES:
        levels = len(PERIODS[case.periods])
        if rank >= levels:
            found.append(None)
            continue
        trainer = trainer_of(case)
        for section in sections(case, trainer):
            waits = train_levels_in_processes(
                trainer, section, staleness=case.staleness, group=groups[levels]
            )
            assert all(0 <= wait.begin <= wait.end for wait in waits)
        found.append(trainer.state_dict())
    torch.save(found, out / f"{rank}.pt")
    case = CASES[0]
    if rank < 2:
        different = error_of(trainer := trainer_of(case), odd(rank, trainer), groups[2])
        trainer = trainer_of(case)
        lost = error_of(trainer, endless(rank, case, trainer), groups[2])
        (out / f"{rank}.txt").write_text(repr({"different": different, "lost": lost}))
    os._exit(0)  # threads of Gloo can abort a process that ends in the usual way


if __name__ == "__main__":
    main()
