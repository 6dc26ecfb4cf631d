"""A stand-in for CUDA graphs on the CPU, which keeps apart what Python and the device do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seqdni import leaves
from seqdni.captured.chunks import _counters


class FakeGraphs:
    """While recording, Python runs and no tensor changes; a repetition changes tensors alone."""

    def __init__(self, device: torch.device):
        self.trainer = None
        self.refuse: Callable[[], bool] = lambda: False  # whether a recording fails

    def run(self, compute):
        return compute()

    def record(self, compute):
        tensors, trainer = self._tensors(), self.trainer
        values = [x.clone() for x in tensors]
        grads = [p.grad for p in trainer.model.parameters()]
        recorded = self._counters()
        result = compute()
        for x, value in zip(tensors, values, strict=True):
            x.copy_(value)
        for parameter, grad in zip(trainer.model.parameters(), grads, strict=True):
            assert parameter.grad is grad, "a gradient was made or dropped in a graph"
        if self.refuse():
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

        def replay() -> None:
            counted = self._counters()
            _restore(recorded)  # a graph knows the values of Python from when it was recorded
            again = compute()
            _restore(counted)
            for kept, now in zip(_flat(result), _flat(again), strict=True):
                kept.copy_(now)

        return replay, result

    def _counters(self):
        return [] if self.trainer.boundary is None else _counters(self.trainer.boundary)

    @torch.no_grad()
    def _tensors(self) -> list[Tensor]:
        trainer = self.trainer
        tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
        tensors += [p.grad for p in trainer.model.parameters() if p.grad is not None]
        if trainer.boundary is not None:
            tensors += [*trainer.boundary.parameters(), *trainer.boundary.buffers()]
        for optimizer in trainer.optimizers():
            tensors += [x for state in optimizer.state.values() for x in state.values()]
        for carry in trainer.captured._carries.values():
            tensors += leaves(carry)
        return [x.detach() for x in tensors]


def _restore(counters) -> None:
    for module, state in counters:
        module.set_extra_state(state)


def _flat(results) -> list[Tensor]:
    return [results.loss, *results.synth_losses]
