"""Draw the held-out error of feed-forward nets on MNIST against passes through the data.

The command is ``python docs/figures/feedforward_curves.py``. It runs nothing: the curves are those
of the rows that ``benchmarks/feedforward.py`` wrote. Left are all ways of training, right the
updates by chance.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
ROWS = HERE.parents[1] / "benchmarks" / "results" / "feedforward.jsonl"
PANELS = {
    "curves": "all ways of training",
    "curves-by-chance": "cDNI, updates with probability p",
}
COLOURS = ("#222", "#777", "#0063a0", "#b34700", "#1a7f37")


def draw(axes: Axes, rows: list[dict], title: str) -> None:
    """Draw a curve for each row.

    Args:
        axes: a panel.
        rows: of one experiment.
        title: of the panel.
    """
    for row, colour in zip(rows, COLOURS, strict=False):
        a_pass = row["tokens"] / row["hyperparameters"]["epochs"]
        epochs = [tokens / a_pass for _, tokens, _ in row["curve"]]
        errors = [100 * error for _, _, error in row["curve"]]
        axes.plot(epochs, errors, color=colour, label=f"{row['arm']}: {errors[-1]:.1f}")
        print(f"{row['arm']}: {errors[-1]:.2f}")
    ticks = [1, 2, 3, 5, 10, 20, 40]
    axes.set(title=title, xlabel="passes through the training images", yscale="log", xlim=(0, None))
    axes.set_yticks(ticks, [f"{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")


def main() -> None:
    """Draw both panels."""
    plt.rcParams.update({"font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "seqdni"})
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True, layout="constrained")
    for axes, (experiment, title) in zip(panels, PANELS.items(), strict=True):
        draw(axes, [row for row in rows if row["experiment"] == experiment], title)
    panels[0].set_ylabel("held-out error in %")
    figure.savefig(HERE / "feedforward-curves.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
