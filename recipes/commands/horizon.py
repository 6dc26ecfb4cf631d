"""``seqdni horizon DIR``: shows what was measured on held-out data, as numbers and a picture."""

from __future__ import annotations

import importlib
import io
import math
from typing import Any

from seqdni import Agreement, Horizon, Lag
from seqdni.recipes.directory import RunDirectory
from seqdni.recipes.files import write_whole

SHOWN = 12  # lags in the table
LEAST = 1e-6  # a lag with a smaller part of the energy has no credit to carry
ENDLESS = 1e100  # a larger ratio of norms comes from a true gradient of zero


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
    is_zero = row.norm_ratio > ENDLESS or (row.norm_ratio == 0 and row.r2 == 1)
    return row._asdict() | (dict.fromkeys(("cosine", "norm_ratio", "r2")) if is_zero else {})


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
