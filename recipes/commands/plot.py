"""``seqdni plot DIR...``: draws learning curves of several runs."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

from seqdni.recipes.commands.curves import Curve, Run, choose_metric, curves
from seqdni.recipes.errors import RunError
from seqdni.recipes.files import write_whole

AXES = {
    "updates": ("update", "weight updates"),
    "tokens": ("tokens", "training tokens"),
    "epochs": ("epoch", "passes through the training data"),
    "seconds": ("seconds", "training time, seconds"),
}
NAMES = {
    "valid_bpc": "validation, bits per character",
    "valid_ppl": "validation, perplexity per word",
    "held_out_mse": "held-out squared error",
    "held_out_accuracy": "held-out accuracy",
    "held_out_error": "held-out error, a share",
    "train_bits": "training, bits per symbol",
    "length": "curriculum level, N",
    "repeats": "curriculum level, R",
    "synth_loss": "synthesizer's error (1: no better than zero)",
    "audit_worth": "factor on the synthetic gradients, mean over the boundaries",
    "audit_cosine": "audit, cosine of the weight gradients, mean over the boundaries",
    "horizon_steps": "effective horizon, steps",
    "horizon_cosine": "weight gradient, cosine with full BPTT's",
}
# Okabe & Ito's colours, which the colour-blind tell apart, without the yellow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FEW = 40  # points of a line up to which each is marked


def plot(runs: Sequence[Run], metric: str | None, against: str, out: str | None) -> str:
    """Draw a metric of several runs, with one line for runs that differ only in their seed.

    Args:
        runs: at least one.
        metric: a name in their metrics; None takes a common one that all have.
        against: one of :data:`AXES`.
        out: path of the picture, a PNG or an SVG; None: METRIC-by-AGAINST.png in this folder.

    Returns:
        Lines of text: the last value of each curve, and the path of the picture.

    Raises:
        RunError: the runs do not have the metric, the picture cannot be written, or matplotlib is
            not installed.
    """
    path = None if out is None else _checked(Path(out))
    figures = _matplotlib("figure")
    metric = choose_metric(runs, metric)
    path = path or Path(f"{metric}-by-{against}.png")
    drawn = curves(runs, metric, AXES[against][0])
    figure = figures.Figure(figsize=(7.5, 4.5), layout="constrained")
    _draw(figure, drawn, metric, against)
    with _matplotlib().rc_context({"svg.hashsalt": "seqdni", "svg.fonttype": "none"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:], dpi=150, metadata=metadata)
    write_whole(path.parent, path.name, picture.getbuffer())
    lines = [f"{metric} where a line ends: mean (least to greatest)"]
    lines += [
        f"  {curve.label}: {curve.mean[-1]:.4g} ({curve.low[-1]:.4g} to {curve.high[-1]:.4g}) "
        f"at {curve.x[-1]:,.10g} {against}"
        for curve in drawn
    ]
    return "\n".join([*lines, f"picture in {path}"])


def _draw(figure: Any, drawn: Sequence[Curve], metric: str, against: str) -> None:
    ticker = _matplotlib("ticker")
    axes = figure.subplots()
    styles = cycle((color, dashes) for dashes, color in product(("-", "--", ":"), COLORS))
    for curve, (color, dashes) in zip(drawn, styles, strict=False):
        marker = "o" if len(curve.x) <= FEW else None
        label = curve.label.replace("$", r"\$")  # it would begin a formula
        style = {"color": color, "marker": marker, "markersize": 4, "label": label}
        axes.plot(curve.x, curve.mean, dashes, **style)
        axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    thousands = ticker.FuncFormatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_major_formatter(thousands)
    axes.yaxis.set_major_formatter(thousands)
    if all(float(value).is_integer() for curve in drawn for value in curve.high):
        axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel(AXES[against][1])
    axes.set_ylabel(NAMES.get(metric, metric))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", fontsize="small", frameon=False)


def _checked(path: Path) -> Path:
    if path.suffix not in (".png", ".svg"):
        raise RunError(f"--out {path}: expected a name that ends in .png or .svg")
    if not path.parent.is_dir():
        raise RunError(f"--out {path}: there is no folder {path.parent}; make it first")
    return path


def _matplotlib(part: str = "") -> Any:
    try:
        return importlib.import_module(f"matplotlib.{part}" if part else "matplotlib")
    except ImportError:
        raise RunError(
            "drawing needs matplotlib; install it with: pip install 'seqdni[plots]'"
        ) from None
