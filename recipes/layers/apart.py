"""Layers that work apart, in threads or processes of their own (``--apart``).

A run is then cut into sections of several batches. Inside of a section the layers go ahead of each
other. After it all of them have learned from the same batches, so that the net can be evaluated and
saved; with processes, each has the whole net then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.nn import functional

from seqdni import LayerTrainer, train_in_processes, train_in_threads
from seqdni.corpora import Batch
from seqdni.recipes.errors import RunError
from seqdni.recipes.layers.options import CLASSES, Options, reads_label, stages_of
from seqdni.recipes.processes import launched
from seqdni.recipes.session import Session


def check_processes(options: Options) -> None:
    """Refuse a number of processes that does not fit the layers.

    Args:
        options: of the run.

    Raises:
        RunError: it does not fit; the message has the command that does.
    """
    processes, stages = launched(), stages_of(options)
    if options.apart == "processes" and processes != stages:
        raise RunError(
            f"--apart processes runs each layer in a process of its own, so it needs {stages} for "
            f"this net, got {processes}; start it with: torchrun --nproc-per-node {stages} "
            "$(which seqdni) run layers --apart processes ..."
        )
    if options.apart != "processes" and processes > 1:
        raise RunError(
            f"{processes} processes were started; give --apart processes, which needs {stages} of "
            "them for this net, or start the run without torchrun"
        )


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
        count = 1
        if session.options.apart is not None:
            due = session.options.log_every - (trainer.steps - session.reported)
            while count < due and (done := session.fraction(count)) < 1 and factor(done) == now:
                count += 1
        yield islice(stream, count)


def _in_threads(trainer: LayerTrainer, batches: Iterator[Any], staleness: int) -> None:
    try:
        train_in_threads(trainer, batches, staleness=staleness)
    except RuntimeError as error:
        if isinstance(error.__cause__, FloatingPointError):
            raise error.__cause__ from None
        raise
