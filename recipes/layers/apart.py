"""Layers of a net in threads or processes of their own (``--apart``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.nn import functional

from seqdni import LayerTrainer, train_in_processes, train_in_threads
from seqdni.corpora import Batch
from seqdni.recipes.apart import section_length
from seqdni.recipes.layers.options import CLASSES, Options, reads_label
from seqdni.recipes.session import Session


def step_of(options: Options, trainer: LayerTrainer) -> Callable[[Iterator[Batch]], None]:
    """What trains on a section; labels are the condition where synthesizers see them.

    Args:
        options: of the run.
        trainer: built from them.
    """

    def given(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        labels_B = batch.targets[0]
        told = functional.one_hot(labels_B, CLASSES).float() if reads_label(options) else None
        return batch.inputs[0], labels_B, told

    def step(section: Iterator[Batch]) -> None:
        batches = map(given, section)
        if options.apart == "processes":
            train_in_processes(trainer, batches, staleness=options.staleness)
        elif options.apart == "threads":
            _in_threads(trainer, batches, options.staleness)
        else:
            for inputs, labels_B, told in batches:
                trainer.step(inputs, labels_B, condition=told)

    return step


def sections(session: Session, rates: list[float], factor: Callable[[float], float]) -> Iterator:
    """The batches of a run in sections; before each one the learning rates are set.

    Args:
        session: of the run.
        rates: one for each of the trainer's optimizers.
        factor: on the rates, by the part of the run that is done.

    Yields:
        An iterator over the batches of a section: one batch, or with ``--apart`` as many as there
        are until the next row of metrics, the next change of the rates, or the end of the run.
    """
    stream, trainer = iter(session.stream), session.trainer
    while True:
        now = factor(session.fraction())
        for optimizer, rate in zip(trainer.optimizers(), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * now
        due = 1
        if session.options.apart is not None:
            due = session.options.log_every - (trainer.steps - session.reported)
        same = partial(lambda now, done: factor(done) == now, now)
        yield islice(stream, section_length(session, int(due), session.options.batch, same))


def _in_threads(trainer: LayerTrainer, batches: Iterator[Any], staleness: int) -> None:
    try:
        train_in_threads(trainer, batches, staleness=staleness)
    except RuntimeError as error:
        if isinstance(error.__cause__, FloatingPointError):
            raise error.__cause__ from None
        raise
