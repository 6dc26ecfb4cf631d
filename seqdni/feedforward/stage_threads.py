"""Runs each stage of a net in a thread of its own, with bounded queues between the threads.

What a thread does is in :mod:`seqdni.feedforward.stage_worker`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any

from torch import Tensor

from seqdni.feedforward.layer_trainer import LayerTrainer
from seqdni.feedforward.stage_worker import (
    Batch,
    GivenBatch,
    Span,
    StageWorker,
    activations_ahead,
    check_apart,
    drawn_batches,
)
from seqdni.learner import check_count

LOOK = 0.05  # seconds between two looks at whether another thread has failed


def train_in_threads(
    trainer: LayerTrainer,
    batches: Iterable[GivenBatch],
    *,
    staleness: int = 0,
    queue_size: int = 2,
) -> list[Span]:
    """Train on some batches, with a thread for each stage.

    Afterwards every thread has ended, and the trainer can go on in any way, or be saved.

    Args:
        trainer: its order must be ``"forward"``, without dropout, bounds and random controls.
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
    check_apart(trainer)
    run = _Run(trainer, staleness, queue_size)
    for thread in run.threads:
        thread.start()
    try:
        for batch in drawn_batches(trainer, batches):
            run.feed(batch)
        run.feed(None)
    except _Stopped:
        pass  # a stage has failed; its error is raised below
    except BaseException:
        run.stop.set()
        raise
    finally:
        for thread in run.threads:
            thread.join()
    if run.failure is not None:
        stage, step, error = run.failure
        raise RuntimeError(
            f"stage {stage} failed at step {step}: {error}; all stages have stopped, restore the "
            "trainer from its last checkpoint"
        ) from error
    return [span for worker in run.workers for span in worker.spans]


class _Stopped(Exception):
    """Another thread has failed."""


class _Run:
    """The threads of a run, and what they share."""

    def __init__(self, trainer: LayerTrainer, staleness: int, queue_size: int):
        self.stop = threading.Event()
        self.failure: tuple[int, int, Exception] | None = None
        ahead = activations_ahead(trainer, staleness, queue_size)
        links = [_link(self.stop, ahead) for _ in trainer.credit]
        self.workers = [
            StageWorker(trainer, stage.index, staleness, below, above)
            for stage, below, above in zip(
                trainer.stages,
                [None, *(upper for _, upper in links)],
                [*(lower for lower, _ in links), None],
                strict=True,
            )
        ]
        # Only the first one is bounded: the others hold batches that earlier stages have taken.
        self.feeds = [
            _Feed(self.stop, queue_size if worker.below is None else 0) for worker in self.workers
        ]
        self.threads = [
            threading.Thread(
                target=self._work, args=pair, name=f"stage {pair[0].index}", daemon=True
            )
            for pair in zip(self.workers, self.feeds, strict=True)
        ]

    def feed(self, batch: Batch | None) -> None:
        """Give a batch to all stages; None: there are no more."""
        for each in self.feeds:
            each.put(batch)

    def _work(self, worker: StageWorker, feed: _Feed) -> None:
        """The thread of a stage."""
        try:
            worker.run(feed.batches())
        except _Stopped:
            pass
        except Exception as error:
            self.failure = self.failure or (worker.index, worker.step, error)
            self.stop.set()


class _Feed:
    """A queue whose two ends give up where another thread has failed.

    Args:
        stop: is set where a thread has failed.
        size: how much it holds at most; 0: no limit.
    """

    def __init__(self, stop: threading.Event, size: int = 0):
        self.stop = stop
        self.queue: queue.Queue[Any] = queue.Queue(size)

    def put(self, item: Any) -> None:
        """Put something in; wait where it is full."""
        while not self.stop.is_set():
            try:
                return self.queue.put(item, timeout=LOOK)
            except queue.Full:
                continue
        raise _Stopped

    def take(self) -> Any:
        """Take the next thing out; wait until there is one."""
        while not self.stop.is_set():
            try:
                return self.queue.get(timeout=LOOK)
            except queue.Empty:
                continue
        raise _Stopped

    def batches(self) -> Iterator[Batch]:
        """Batches, up to the sign that there are no more."""
        return iter(self.take, None)


class _End:
    """One end of the link between two stages: it puts into one queue and takes from another."""

    def __init__(self, out: _Feed, into: _Feed):
        self.out, self.into = out, into

    def send(self, kind: IntEnum, step: int, tensors: Sequence[Tensor | None]) -> None:
        """Send a message of a step."""
        self.out.put((kind, step, list(tensors)))

    def receive(self, kind: IntEnum, step: int) -> list[Tensor | None]:
        """Wait for the next message."""
        found_kind, found_step, tensors = self.into.take()
        assert (found_kind, found_step) == (kind, step)
        return tensors


def _link(stop: threading.Event, ahead: int) -> tuple[_End, _End]:
    """The two ends of a link: that of the stage below, and that of the stage above."""
    up, down = _Feed(stop, ahead), _Feed(stop)  # a stage waits before many gradients lie there
    return _End(up, down), _End(down, up)
