"""Measures how far credit reaches in a run, on data that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqdni import Boundary, Chunk, Critic, Horizon, SequenceModel, measure_horizon, without_dropout
from seqdni.corpora import Batch
from seqdni.recipes.build import build_trainer
from seqdni.recipes.common_options import RunOptions
from seqdni.recipes.device import device_of
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
    trainer = build_trainer(options, model, 1.0, loss, known_answers)
    try:
        trainer.load_state_dict(saved["trainer"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        where = directory.path / "last.pt"
        raise RunError(f"{where} does not fit its config.yaml: {one_line(error)}") from None
    assert trainer.boundary is not None
    device = device_of(options)
    here = _on(device, chunks)
    known = options.look_ahead
    with without_dropout(model):
        return measure_horizon(
            model,
            trainer.boundary,
            here,
            loss,
            steps_known=known,
            conditions=_conditions(trainer.boundary, known_answers, chunks),
            worth=_worth(trainer),
        )


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
    known = session.options.look_ahead
    model: Any = trainer.model
    with torch.random.fork_rng(), without_dropout(model):  # a control draws random numbers
        found = measure_horizon(
            model,
            trainer.boundary,
            _on(trainer.device, data),
            trainer.learner.loss,
            steps_known=known,
            conditions=_conditions(trainer.boundary, session.known_answers, data),
            worth=_worth(trainer),
        )
    row["horizon_cosine"] = round(found.dni_cosine, 4)
    row["horizon_steps"] = found.effective


def _worth(trainer: Any) -> Tensor | None:
    """How much of the synthetic gradients training applies, where it audits them."""
    audit = trainer.synthetic.audit
    return None if audit is None else audit.worth()


def _conditions(
    boundary: Boundary, known: KnownAnswers | None, chunks: Sequence[Batch]
) -> list[Tensor] | None:
    """What a critic sees at each boundary between two chunks."""
    critic = boundary.synthesizer
    if known is None or not isinstance(critic, Critic):
        return None
    rows, device = chunks[0].targets.shape[1], critic.readout.weight.device
    rests = [chunks[k:] for k in range(1, len(chunks))]
    return [known.condition(critic, rest, rows).to(device) for rest in rests]


def _on(device: torch.device, chunks: Sequence[Batch]) -> list[Chunk]:
    return [Chunk(x.to(device), y.to(device), mask, reset) for x, y, mask, reset in chunks]
