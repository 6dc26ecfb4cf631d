r"""Works one stage of a net at its own pace: what a thread or a process of its own does.

A worker takes the next activation from the stage below, computes the stage's output, and sends it
to the stage above. It then runs its own backward pass, while the stages above already compute. The
gradient that arrives at its input goes back to the stage below, which teaches its boundary with it.

How old a boundary may be is fixed and not left to chance: with *staleness* s, the prediction at
step t is made by a boundary that has learned from the steps up to t - 1 - s, and from no later one.
A worker waits where these are not there yet. So the result does not depend on how fast the workers
are, and with staleness 0 it is bit for bit that of :meth:`seqdni.LayerTrainer.step`. The same holds
for a synthetic input: it is predicted by what has learned from the steps up to t - 1 - s.

Shapes: B rows, K features of a condition.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from seqdni.channel import Link
from seqdni.feedforward.layer_trainer import LayerTrainer
from seqdni.shared_training import check_no_draws

GivenBatch: TypeAlias = tuple[Tensor, Tensor, Tensor | None]
"""Inputs, targets and condition of a step, as for ``LayerTrainer.step``."""


class Span(NamedTuple):
    """What a stage did from one time to another.

    Args:
        stage: its number.
        step: of the training.
        kind: of the work; ``wait`` is the time without work.
        begin: seconds since the run began.
        end: likewise.
    """

    stage: int
    step: int
    kind: Literal["forward", "backward", "wait"]
    begin: float
    end: float


class Sent(IntEnum):
    """What one stage sends to the next one or to the one before."""

    ACTIVATION = 1  # the output of a stage, to the stage above
    GRADIENT = 2  # the input of a stage if it was predicted, and its gradient, to the stage below
    END = 3  # there are no more batches, to the stage above


class Batch(NamedTuple):
    """What a stage needs of a step."""

    step: int
    inputs: Tensor  # of the net
    targets: Tensor
    condition_BK: Tensor | None
    learns: list[bool]  # which stages are updated


class StageWorker:
    """Works one stage.

    Args:
        trainer: has the stage.
        index: of the stage.
        staleness: s, see above.
        below: the link to the stage before; None: it is the first.
        above: the link to the stage after; None: it is the last.
    """

    def __init__(
        self,
        trainer: LayerTrainer,
        index: int,
        staleness: int,
        below: Link | None,
        above: Link | None,
    ):
        self.trainer = trainer
        self.index = index
        self.stage = trainer.stages[index]
        self.staleness = staleness
        self.below = below
        self.above = above
        self.step = trainer.steps - 1  # the one that it works at
        self.spans: list[Span] = []
        # Batches whose gradient is still to come, with the output of the stage:
        self._awaited: deque[tuple[Batch, Tensor]] = deque()
        self._predicted: deque[Batch] = deque()  # batches whose true input is still to come
        self._began = time.perf_counter()

    def run(self, batches: Iterator[Batch]) -> None:
        """Train on some batches.

        Args:
            batches: the same for all stages.
        """
        while (batch := self._next(batches)) is not None:
            self.step = batch.step
            self._train(batch)
        if self.above is not None:
            self.above.send(Sent.END, self.step, [])
        self._teach_input(self.step)
        if self.below is not None:
            self.below.receive(Sent.END, self.step)
        self._teach_boundary(self.step)

    def _train(self, batch: Batch) -> None:
        """One step of the stage."""
        start = self._start(batch)
        began, learns = self._now(), batch.learns[self.index]
        end = self.stage.forward(start, learns)
        self._note("forward", began)
        if self.above is not None:
            self.above.send(Sent.ACTIVATION, batch.step, [end.detach()])
            self._teach_boundary(batch.step - 1 - self.staleness)
            if batch.learns[self.index + 1]:
                self._awaited.append((batch, end.detach()))
        if not learns:
            return
        began = self._now()
        has_gradient = self.stage.backward(batch.step, end, batch.targets, batch.condition_BK)
        if self.below is not None:
            predicted = None if self.trainer.inputs is None else start.detach()
            self.below.send(Sent.GRADIENT, batch.step, [predicted, start.grad])
        if has_gradient:
            self.stage.update(batch.step)
        self._note("backward", began)

    def _start(self, batch: Batch) -> Tensor:
        """The input of the stage: that of the net, what arrives from below, or a prediction."""
        if self.below is None:
            return batch.inputs
        if self.trainer.inputs is None:
            arriving = self._received(self.below, Sent.ACTIVATION, batch.step)[0]
            assert arriving is not None
        else:
            self._teach_input(batch.step - 1 - self.staleness)
            self._predicted.append(batch)
            arriving = self.trainer.inputs[self.index - 1].predict(batch.inputs)
        return arriving.detach().requires_grad_()  # a cut

    def _teach_boundary(self, last: int) -> None:
        """Teach the boundary after the stage what arrived there, up to a step; wait for it."""
        while self._awaited and self._awaited[0][0].step <= last:
            batch, end = self._awaited.popleft()
            assert self.above is not None
            predicted, grad = self._received(self.above, Sent.GRADIENT, batch.step)
            began = self._now()
            start = end if predicted is None else predicted
            self.stage.teach(batch.step, start, grad, batch.condition_BK)
            self._note("backward", began)

    def _teach_input(self, last: int) -> None:
        """Teach the synthetic input what arrived in its place, up to a step; wait for it."""
        while self._predicted and self._predicted[0].step <= last:
            batch = self._predicted.popleft()
            assert self.below is not None
            (arrived,) = self._received(self.below, Sent.ACTIVATION, batch.step)
            assert arrived is not None
            began = self._now()
            self.trainer.teach_input(self.index - 1, batch.inputs, arrived)
            self._note("backward", began)

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch; None: there are no more. The time until it is there is waiting."""
        began = self._now()
        batch = next(batches, None)
        self._note("wait", began)
        return batch

    def _received(self, link: Link, kind: Sent, step: int) -> list[Tensor | None]:
        """What arrives; the time until it is there is waiting."""
        began = self._now()
        tensors = link.receive(kind, step)
        self._note("wait", began)
        return tensors

    def _now(self) -> float:
        return time.perf_counter() - self._began

    def _note(self, kind: Literal["forward", "backward", "wait"], began: float) -> None:
        self.spans.append(Span(self.index, self.step, kind, began, self._now()))


def activations_ahead(trainer: LayerTrainer, staleness: int, queue_size: int) -> int:
    """How many activations may wait between two stages, so that no stage waits for ever.

    A stage with a synthetic input takes the activation of a step only s + 1 steps later.

    Args:
        trainer: with or without synthetic inputs.
        staleness: s.
        queue_size: how many batches wait before a stage at most.
    """
    return queue_size if trainer.inputs is None else queue_size + staleness + 1


def drawn_batches(trainer: LayerTrainer, batches: Iterable[GivenBatch]) -> Iterator[Batch]:
    """Check some batches, draw which stages are updated at each, and count them.

    Args:
        trainer: counts its steps.
        batches: as given.

    Yields:
        What the stages need.
    """
    for inputs, targets, condition in batches:
        x, y, told = trainer.checked(inputs, targets, condition)
        drawn, _ = trainer.draw()
        yield Batch(trainer.steps, x, y, told, drawn)
        trainer.steps += 1
        trainer.tokens += len(x)


def check_apart(trainer: LayerTrainer) -> None:
    """Refuse what would make the result depend on how fast the stages are.

    Args:
        trainer: whose stages are to work apart.

    Raises:
        ValueError: it cannot be run so; the message says what to leave out.
    """
    if trainer.order != "forward":
        raise ValueError(
            f"the trainer has order={trainer.order!r}, expected 'forward': stages that work apart "
            "are updated as soon as their output exists"
        )
    for stage in trainer.stages:
        credit = [] if stage.synthetic is None else [stage.synthetic]
        check_no_draws(stage.module, credit, f"stage {stage.index}")
    for index, synthetic in enumerate(trainer.credit):
        if synthetic.boundary.bound is not None:
            raise ValueError(
                f"the boundary at cut {index} has a bound, whose level comes from the last stage "
                "at each step, so that no stage could go ahead of it; leave the bound out, or use "
                "step"
            )
