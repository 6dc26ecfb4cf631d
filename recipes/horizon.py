"""``seqdni horizon DIR``: how far the credit of a trained run reaches, as numbers and a picture."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from seqdni.corpora import Batch
from seqdni.recipes.build import build_trainer
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.errors import RunError, one_line
from seqdni.recipes.files import write_whole
from seqdni.recipes.options import DNI, RunOptions, device_of
from seqdni.recipes.session import Session
from torch import Tensor

from seqdni import Agreement, Chunk, Horizon, Lag, SequenceModel, measure_horizon, without_dropout

SHOWN = 12  # lags in the table
LEAST = 1e-6  # share of the energy below which a lag has no credit to carry
ENDLESS = 1e100  # a ratio to a gradient of zero


class HeldOut(NamedTuple):
    """Data that was not trained on, and what is measured there.

    Args:
        chunks: consecutive, from the beginning of a stream or an episode.
        model: built by the run's options, its weights not yet those of the run.
        loss: per step, of the model's outputs and the targets.
    """

    chunks: list[Batch]
    model: SequenceModel
    loss: Callable[[Tensor, Tensor], Tensor]


def measure(directory: RunDirectory, options: RunOptions, held_out: HeldOut) -> Horizon:
    """Measure a run's last checkpoint on held-out chunks.

    Args:
        directory: of the run.
        options: its options.
        held_out: data and model.

    Returns:
        Agreement of synthetic with true gradients.

    Raises:
        RunError: the run has no synthesizer, or there is no boundary in the data.
    """
    if options.trainer not in DNI:
        raise RunError(f"{directory.path} is a run of {options.trainer}: it has no synthesizer")
    chunks, model, loss = held_out
    if len(chunks) < 2:
        raise RunError(
            f"the data is one chunk of {options.chunk_len} steps: no boundary to look at; "
            "give a greater --length"
        )
    saved = directory.load("last")
    trainer = build_trainer(options, model, 1.0, loss)
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
        return measure_horizon(model, trainer.boundary, here, loss, steps_known=known)


def log(session: Session, chunks: Callable[[], list[Batch]], row: dict[str, Any]) -> None:
    """Measure a run in training, if that is due, and add the numbers to a row of its metrics.

    Args:
        session: of a run with synthetic gradients.
        chunks: gives held-out data, at least two consecutive chunks.
        row: where to add horizon_cosine and horizon_steps.
    """
    every, trainer = session.options.horizon_every, session.trainer
    last = session.progress.setdefault("horizon_at", 0)
    if every is None or trainer.updates - last < every:
        return
    session.progress["horizon_at"] = trainer.updates
    assert trainer.boundary is not None
    data = chunks()
    if len(data) < 2:
        return  # all within one chunk: no boundary yet
    known = session.options.look_ahead
    model: Any = trainer.model
    with torch.random.fork_rng(), without_dropout(model):  # a control draws
        found = measure_horizon(
            model,
            trainer.boundary,
            _on(trainer.device, data),
            trainer.learner.loss,
            steps_known=known,
        )
    row["horizon_cosine"] = round(found.dni_cosine, 4)
    row["horizon_steps"] = found.effective


def _on(device: torch.device, chunks: Sequence[Batch]) -> list[Chunk]:
    return [Chunk(x.to(device), y.to(device), mask, reset) for x, y, mask, reset in chunks]


def report(directory: RunDirectory, found: Horizon) -> str:
    """Write horizon.json and, where matplotlib is installed, horizon.png.

    Args:
        directory: of the run.
        found: what was measured.

    Returns:
        A table.
    """
    rows = [_agreement(row) for row in found.boundaries]
    lags = [_lag(lag) for lag in found.lags]
    directory.write_json("horizon.json", found._asdict() | {"boundaries": rows, "lags": lags})
    lines = ["step  cosine  norm ratio      R2"]
    lines += [
        f"{row['step']:>4}  {_shown(row['cosine']):>6}  {_shown(row['norm_ratio']):>10}  "
        f"{_shown(row['r2']):>6}"
        for row in rows
    ]
    lines += ["", "credit for losses up to  share carried  of the gradient's energy"]
    lines += [
        f"{lag['steps']:>10} steps later  {_shown(lag['share']):>13}  {lag['energy']:>24.3f}"
        for lag in lags[:SHOWN]
    ]
    if len(lags) > SHOWN:
        lines.append(f"{'...':>10} {len(lags) - SHOWN} more in horizon.json")
    if any(row["r2"] is None for row in rows) or any(lag["share"] is None for lag in lags):
        lines.append("-: there is no true gradient to compare with")
    large = found.spectrum[0]
    lines += [
        "",
        f"effective horizon: {found.effective} steps",
        f"state covariance: eigenvalues from {large:.2g} to {max(found.spectrum[-1], 0):.2g}, "
        f"{sum(value > 0.01 * large for value in found.spectrum)} of {len(found.spectrum)} above a "
        "hundredth of the largest",
        "",
        "weight gradient against full BPTT's:  cosine  norm ratio",
        f"  truncated                           {_shown(found.tbptt_cosine):>6}"
        f"  {_shown(found.tbptt_norm_ratio):>10}",
        f"  with synthetic gradients            {_shown(found.dni_cosine):>6}"
        f"  {_shown(found.dni_norm_ratio):>10}",
    ]
    if _plot(directory, rows, lags, found.spectrum):
        lines += ["", f"picture in {directory.path}/horizon.png"]
    return "\n".join(lines)


def _agreement(row: Agreement) -> dict[str, Any]:
    """As a dictionary, with None where the true gradient is zero and nothing can be compared."""
    silent = row.norm_ratio > ENDLESS or (row.norm_ratio == 0 and row.r2 == 1)
    return row._asdict() | (dict.fromkeys(("cosine", "norm_ratio", "r2")) if silent else {})


def _lag(lag: Lag) -> dict[str, Any]:
    """As a dictionary, with None for the share of a lag that has no credit to carry."""
    return lag._asdict() | ({"share": None} if lag.energy < LEAST else {})


def _shown(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _plot(
    directory: RunDirectory,
    rows: list[dict[str, Any]],
    lags: list[dict[str, Any]],
    eigenvalues: list[float],
) -> bool:
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError:
        return False
    figure = figures.Figure(figsize=(11, 3.2), layout="constrained")
    at_boundary, by_lag, spectrum = figure.subplots(1, 3)
    compared = [row for row in rows if row["r2"] is not None]
    steps = [row["step"] for row in compared]
    for name, label in (("cosine", "cosine"), ("norm_ratio", "norm ratio"), ("r2", "R²")):
        at_boundary.plot(steps, [max(row[name], -1.0) for row in compared], "o-", label=label)
    at_boundary.axhline(0, color="black", linewidth=0.5)
    at_boundary.set_xlabel("step of the boundary")
    at_boundary.set_title("synthetic against true state gradient", fontsize="medium")
    at_boundary.legend()
    carried = [lag for lag in lags if lag["share"] is not None]
    for name, marks, label in (
        ("share", "o-", "share carried"),
        ("energy", "s--", "of the energy"),
    ):
        drawn = carried if name == "share" else lags
        by_lag.plot(
            [lag["steps"] for lag in drawn], [lag[name] for lag in drawn], marks, label=label
        )
    by_lag.axhline(0, color="black", linewidth=0.5)
    by_lag.set_xlabel("steps after the boundary")
    by_lag.set_title("credit by lag", fontsize="medium")
    by_lag.legend()
    spectrum.semilogy([max(value, 1e-16) for value in eigenvalues])
    spectrum.set_xlabel("direction")
    spectrum.set_title("state covariance, eigenvalues", fontsize="medium")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_whole(directory.path, "horizon.png", picture.getbuffer())
    return True
