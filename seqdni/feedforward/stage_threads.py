r"""Runs each stage of a net in a thread of its own, with bounded queues between the threads.

A thread takes the next activation from its queue, computes the stage's output, passes it on, and
then runs its own backward pass, while the next stages already compute. The gradient that arrives at
a cut is sent back to the thread before the cut, which teaches its boundary with it.

How old a boundary may be is fixed and not left to chance: with *staleness* s, the prediction at
step t is made by a boundary that has learned from the steps up to t - 1 - s, and from no later one.
A thread waits where these are not there yet. So the result does not depend on how fast the threads
run, and with staleness 0 it is bit for bit that of :meth:`seqdni.LayerTrainer.step`.

Shapes: B rows, K features of a condition.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from seqdni.feedforward.layer_trainer import LayerTrainer
from seqdni.feedforward.stage import Stage
from seqdni.learner import check_count

LOOK = 0.05  # seconds between two looks at whether another thread has failed


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


class _Batch(NamedTuple):
    """What a stage needs of a step."""

    step: int
    start: Tensor
    targets: Tensor
    condition_BK: Tensor | None
    learns: list[bool]


class _Arrived(NamedTuple):
    """What arrived at a cut: the start of the stage after it, with its gradient."""

    step: int
    start: Tensor
    condition_BK: Tensor | None


def train_in_threads(
    trainer: LayerTrainer,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    *,
    staleness: int = 0,
    queue_size: int = 2,
) -> list[Span]:
    """Train on some batches, with a thread for each stage.

    Afterwards every thread has ended, and the trainer can go on in any way, or be saved.

    Args:
        trainer: its order must be ``"forward"``, without synthetic inputs, bounds and controls.
        batches: inputs, targets and condition of each step, as for ``trainer.step``.
        staleness: how many of the last steps a boundary has not learned from yet when it predicts,
            besides the present one.
        queue_size: how many batches wait before a stage at most.

    Returns:
        What each stage did and when, for a picture.

    Raises:
        ValueError: a number is out of range, or the trainer cannot be run in this way.
        RuntimeError: a stage failed; the message names stage and step, and the error in it is the
            cause. All threads have ended then, and the trainer must be restored from a checkpoint.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from seqdni import Boundary, LeastSquares
        >>> adam = lambda parameters: torch.optim.Adam(parameters, 1e-3)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        >>> cut = Boundary(LeastSquares(8))
        >>> trainer = LayerTrainer(net, [cut], adam, nn.functional.cross_entropy)
        >>> batch = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), None
        >>> spans = train_in_threads(trainer, [batch] * 3)
        >>> trainer.steps, trainer.updates_of_stages
        (3, [3, 3])
    """
    check_count("staleness", staleness, least=0)
    check_count("queue_size", queue_size, least=1)
    _check_trainer(trainer)
    run = _Run(trainer, staleness, queue_size)
    threads = [
        threading.Thread(target=run.work, args=(stage,), name=f"stage {stage.index}", daemon=True)
        for stage in trainer.stages
    ]
    for thread in threads:
        thread.start()
    try:
        run.feed(batches)
    except _Stopped:
        pass  # a stage has failed; its error is raised below
    except BaseException:
        run.stop.set()
        raise
    finally:
        for thread in threads:
            thread.join()
    if run.failure is not None:
        stage, step, error = run.failure
        raise RuntimeError(
            f"stage {stage} failed at step {step}: {error}; all stages have stopped, restore the "
            "trainer from its last checkpoint"
        ) from error
    return run.spans


class _Stopped(Exception):
    """Another thread has failed."""


class _Run:
    """What the threads share."""

    def __init__(self, trainer: LayerTrainer, staleness: int, queue_size: int):
        count = len(trainer.stages)
        self.trainer = trainer
        self.staleness = staleness
        self.inboxes: list[queue.Queue[_Batch | None]] = [
            queue.Queue(queue_size) for _ in range(count)
        ]
        # Not bounded: a stage sends at most queue_size + staleness + 2 before it has to wait.
        self.arrivals: list[queue.Queue[_Arrived]] = [queue.Queue() for _ in range(count)]
        self.stop = threading.Event()
        self.failure: tuple[int, int, Exception] | None = None
        self.began = time.perf_counter()
        self.spans: list[Span] = []

    def feed(self, batches: Iterable[tuple[Tensor, Tensor, Tensor | None]]) -> None:
        """Give the first stage the batches, and then the sign that there are no more."""
        trainer = self.trainer
        for inputs, targets, condition in batches:
            x, y, told = trainer.checked(inputs, targets, condition)
            drawn, _ = trainer.draw()
            self._put(self.inboxes[0], _Batch(trainer.steps, x, y, told, drawn))
            trainer.steps += 1
            trainer.tokens += len(x)
        self._put(self.inboxes[0], None)

    def work(self, stage: Stage) -> None:
        """The thread of a stage."""
        step = -1
        try:
            awaited: list[int] = []  # steps whose gradient is still to come
            while (batch := self._timed(stage, step + 1, self.inboxes[stage.index])) is not None:
                step = batch.step
                self._train(stage, batch, awaited)
            if stage.synthetic is not None:
                self._put(self.inboxes[stage.index + 1], None)
                self._learn(stage, awaited, last=step)
        except _Stopped:
            pass
        except Exception as error:
            self.failure = self.failure or (stage.index, step, error)
            self.stop.set()

    def _train(self, stage: Stage, batch: _Batch, awaited: list[int]) -> None:
        """One step of a stage."""
        index, step = stage.index, batch.step
        begin = self._now()
        end = stage.forward(batch.start, batch.learns[index])
        self._note(stage, step, "forward", begin)
        if stage.synthetic is not None:
            start = end.detach().requires_grad_()
            self._put(self.inboxes[index + 1], batch._replace(start=start))
            self._learn(stage, awaited, last=step - 1 - self.staleness)
            if batch.learns[index + 1]:
                awaited.append(step)
        begin = self._now()
        if batch.learns[index]:
            has_gradient = stage.backward(step, end, batch.targets, batch.condition_BK)
            if index:
                arrived = _Arrived(step, batch.start, batch.condition_BK)
                self.arrivals[index - 1].put(arrived)
            if has_gradient:
                stage.update(step)
        self._note(stage, step, "backward", begin)

    def _learn(self, stage: Stage, awaited: list[int], last: int) -> None:
        """Teach the boundary after a stage what arrived there, up to a step; wait for it."""
        while awaited and awaited[0] <= last:
            step = awaited.pop(0)
            arrived = self._timed(stage, step, self.arrivals[stage.index])
            begin = self._now()
            stage.teach(arrived.step, arrived.start, arrived.condition_BK)
            self._note(stage, step, "backward", begin)

    def _timed(self, stage: Stage, step: int, source: queue.Queue[Any]) -> Any:
        """Take from a queue; the time until something is there is waiting."""
        begin = self._now()
        while True:
            if self.stop.is_set():
                raise _Stopped
            try:
                taken = source.get(timeout=LOOK)
            except queue.Empty:
                continue
            self._note(stage, step, "wait", begin)
            return taken

    def _put(self, target: queue.Queue[Any], item: object) -> None:
        while True:
            if self.stop.is_set():
                raise _Stopped
            try:
                return target.put(item, timeout=LOOK)
            except queue.Full:
                continue

    def _now(self) -> float:
        return time.perf_counter() - self.began

    def _note(
        self, stage: Stage, step: int, kind: Literal["forward", "backward", "wait"], begin: float
    ) -> None:
        self.spans.append(Span(stage.index, step, kind, begin, self._now()))


def _check_trainer(trainer: LayerTrainer) -> None:
    """Refuse what would make the result depend on how fast the threads run."""
    if trainer.order != "forward":
        raise ValueError(
            f"the trainer has order={trainer.order!r}, expected 'forward': in threads each stage "
            "is updated as soon as its output exists"
        )
    if trainer.inputs is not None:
        raise ValueError(
            "the trainer has synthetic inputs, which train_in_threads does not run yet; use step"
        )
    dropout = nn.modules.dropout._DropoutNd
    for stage in trainer.stages:
        if any(isinstance(m, dropout) and m.p and m.training for m in stage.module.modules()):
            raise ValueError(
                f"stage {stage.index} has dropout, and all threads would draw from one generator, "
                "in an order that depends on their speed; leave dropout out, or use step"
            )
    for index, synthetic in enumerate(trainer.credit):
        boundary = synthetic.boundary
        if boundary.bound is not None or boundary.control is not None:
            raise ValueError(
                f"the boundary at cut {index} has a bound or a control, which all stages would "
                "share; in threads leave them out"
            )
