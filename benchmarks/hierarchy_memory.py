"""Memory of a two-level hierarchy for longer periods: what autograd keeps for the backward pass.

Shapes: T digits of a window, period and chunk length of both levels; B rows.

    python benchmarks/hierarchy_memory.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from seqdni import (
    Boundary,
    Hierarchy,
    HierarchyChunk,
    HierarchyTrainer,
    Learner,
    LeastSquares,
    Level,
    LevelTraining,
    SyntheticGradients,
    TorchCore,
)
from seqdni.hierarchy.trainer import Mode

MODES: tuple[Mode, ...] = ("joint", "dni", "no-feedback")


def trainer_of(mode: Mode, period: int, width: int) -> HierarchyTrainer:
    """Two LSTMs of the same width.

    Args:
        mode: how they are trained.
        period: of the slow one, and chunk length of both.
        width: units and inputs.

    Returns:
        The trainer.
    """
    torch.manual_seed(0)
    fast = Level(TorchCore(nn.LSTM(width, width)), readout=nn.Linear(width, 2))
    slow = Level(TorchCore(nn.LSTM(width, width)), readout=nn.Linear(width, 2), period=period)
    trainings = [
        LevelTraining(
            Learner(torch.optim.SGD(level.parameters(), lr=0.01)),
            None if k == 0 else period,
            SyntheticGradients(Boundary(LeastSquares(2 * width))),
            SyntheticGradients(Boundary(LeastSquares(width))) if k == 0 else None,
        )
        for k, level in enumerate((fast, slow))
    ]
    return HierarchyTrainer(Hierarchy([fast, slow], torch.zeros(1, 1, width)), trainings, mode)


def peak_bytes(mode: Mode, period: int, rows: int, width: int) -> int:
    """The most that is kept at a time over two long windows; parameters are not counted.

    Args:
        mode: how the levels are trained.
        period: of the slow level.
        rows: B.
        width: of both levels.

    Returns:
        Bytes of distinct storages that graphs hold.
    """
    trainer = trainer_of(mode, period, width)
    own = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    held: dict[int, list[int]] = {}  # storage: its bytes, how many times it is kept
    now, most = 0, 0

    class Kept:
        """A tensor that a graph keeps; gone with the graph."""

        def __init__(self, tensor: Tensor):
            nonlocal now, most
            self.tensor = tensor.detach()
            self.key = tensor.untyped_storage().data_ptr()
            entry = held.setdefault(self.key, [tensor.untyped_storage().nbytes(), 0])
            if self.key not in own and entry[1] == 0:
                now += entry[0]
                most = max(most, now)
            entry[1] += 1

        def __del__(self):
            nonlocal now
            entry = held[self.key]
            entry[1] -= 1
            if entry[1] == 0:
                del held[self.key]
                now -= 0 if self.key in own else entry[0]

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        for _ in range(2 * period):
            fast = torch.zeros(period, rows, dtype=torch.long), None
            slow = torch.zeros(1, rows, dtype=torch.long), None
            trainer.step(HierarchyChunk(torch.randn(period, rows, width), [fast, slow]))
    return most


def main(words: list[str] | None = None) -> None:
    """Print the table.

    Args:
        words: the command line; None takes the process's.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--periods", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    given = parser.parse_args(words)
    print("kept for backward passes, MB   " + "".join(f"T={t:<8}" for t in given.periods))
    for mode in MODES:
        found = [peak_bytes(mode, t, given.rows, given.width) / 1e6 for t in given.periods]
        print(f"{mode:<31}" + "".join(f"{mb:<10.2f}" for mb in found))


if __name__ == "__main__":
    main()
