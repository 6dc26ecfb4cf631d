"""Measures how far credit reaches in a run, on data that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqdni import Chunk, Horizon, SequenceModel, measure_horizon, without_dropout
from seqdni.corpora import Batch
from seqdni.recipes.build import build_trainer
from seqdni.recipes.common_options import RunOptions
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError, one_line
from seqdni.recipes.known_answers import KnownAnswers
from seqdni.recipes.session import Session
from seqdni.recipes.trainers import way_of


class HeldOut(NamedTuple):
    """Data that was not trained on, with a model and a loss to measure on it.

    Args:
        chunks: consecutive, from the beginning of a stream or an episode.
        model: built from the run's options; :func:`measure` puts the run's weights into it.
        loss: ``(outputs, targets) -> [T, B]``.
        known_answers: what a critic predicts; None: the run has no critic.
    """

    chunks: list[Batch]
    model: SequenceModel
    loss: Callable[[Tensor, Tensor], Tensor]
    known_answers: KnownAnswers | None = None


def measure(directory: RunDirectory, options: RunOptions, held_out: HeldOut) -> Horizon:
    """Measure a run's last checkpoint on held-out chunks.

    Args:
        directory: of the run.
        options: its options.
        held_out: data and model.

    Returns:
        How well synthetic and true gradients agree.

    Raises:
        RunError: the run has no synthesizer, or there is no boundary in the data.
    """
    if not way_of(options).synthetic:
        raise RunError(f"{directory.path} is a run of {options.trainer}: it has no synthesizer")
    chunks, model, loss, known_answers = held_out
    if len(chunks) < 2:
        raise RunError(
            f"the data is one chunk of {options.chunk_len} steps: no boundary to look at; "
            "give a greater --length"
        )
    saved = directory.load("last")
    options = replace(options, capture=False)  # nothing is trained
    trainer = build_trainer(options, model, 1.0, loss, known_answers)
    try:
        trainer.load_state_dict(saved["trainer"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        where = directory.path / "last.pt"
        raise RunError(f"{where} does not fit its config.yaml: {one_line(error)}") from None
    assert trainer.boundary is not None
    return _measured(trainer, model, held_out, options.look_ahead)


def log_horizon(session: Session, chunks: Callable[[], list[Batch]], row: dict[str, Any]) -> None:
    """Measure a run in training every ``--horizon-every`` updates, and add the result to a row.

    Args:
        session: of a run with synthetic gradients.
        chunks: returns consecutive chunks of held-out data; a single one is not measured.
        row: a row of metrics, which gets horizon_cosine and horizon_steps.
    """
    every, trainer = session.options.horizon_every, session.trainer
    last = session.progress.setdefault("horizon_at", 0)
    if every is None or trainer.updates - last < every:
        return
    session.progress["horizon_at"] = trainer.updates
    assert trainer.boundary is not None
    data = chunks()
    if len(data) < 2:
        return  # one chunk has no boundary
    model: Any = trainer.model
    held_out = HeldOut(data, model, trainer.learner.loss, session.known_answers)
    with torch.random.fork_rng():  # a control draws random numbers
        found = _measured(trainer, model, held_out, session.options.look_ahead)
    row["horizon_cosine"] = round(found.dni_cosine, 4)
    row["horizon_steps"] = found.effective


def _measured(trainer: Any, model: Any, held_out: HeldOut, steps_known: int) -> Horizon:
    """Compare what a trainer applies with the true gradients."""
    chunks, _, loss, known_answers = held_out
    device, audit = trainer.device, trainer.synthetic.audit
    conditions = None
    if known_answers is not None:
        critic, rows = trainer.boundary.synthesizer, chunks[0].targets.shape[1]
        rests = [chunks[k:] for k in range(1, len(chunks))]
        conditions = [known_answers.condition(critic, rest, rows).to(device) for rest in rests]
    with without_dropout(model):
        return measure_horizon(
            model,
            trainer.boundary,
            _on(device, chunks),
            loss,
            steps_known=steps_known,
            conditions=conditions,
            worth=None if audit is None else audit.worth(),
        )


def _on(device: torch.device, chunks: Sequence[Batch]) -> list[Chunk]:
    return [Chunk(x.to(device), y.to(device), mask, reset) for x, y, mask, reset in chunks]
