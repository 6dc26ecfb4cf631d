"""Draw how far TBPTT, DNI and full BPTT get on copy.

The command is ``python docs/figures/copy_curves.py`` (nine runs of 10 to 60 seconds on one thread).
It calls ``seqdni run copy`` for three trainers and three seeds, each trainer with the best learning
rate of its search. A run that is already in ``runs/copy-curves`` is not run again.
"""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "copy-curves"
SEEDS, UPDATES = (21, 22, 23), 4000
ARMS = (
    ("full BPTT", "#222", "bptt", ("--lr", "0.006")),
    ("DNI, least squares, T = 4", "#b34700", "dni", ("--lr", "0.006", "--chunk-len", "4")),
    ("TBPTT, T = 4", "#0063a0", "tbptt", ("--lr", "0.001", "--chunk-len", "4")),
)


def run(trainer: str, options: tuple[str, ...], seed: int) -> list[tuple[int, int]]:
    """The updates and the length that is trained at then, of one run.

    Args:
        trainer: as in ``--trainer``.
        options: the rest of the command.
        seed: of weights and data.

    Returns:
        One pair for each row of the run's metrics.
    """
    out = RUNS / f"{trainer}-{seed}"
    if not (out / "result.json").exists():
        limits = ["--updates", str(UPDATES), "--seed", str(seed), "--out", str(out)]
        command = [sys.executable, "-m", "seqdni", "run", "copy", "--trainer", trainer]
        subprocess.run([*command, *options, *limits], check=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["update"], row["length"]) for row in rows]


def main() -> None:
    """Run what is missing, and draw."""
    plt.rcParams.update({"font.size": 13, "svg.fonttype": "path", "svg.hashsalt": "seqdni"})
    figure, axes = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
    for name, colour, trainer, options in ARMS:
        for seed in SEEDS:
            updates, lengths = zip(*run(trainer, options, seed), strict=True)
            # A length that is trained at is one more than the last length that was solved.
            solved = [length - 1 for length in lengths]
            axes.step(updates, solved, where="post", color=colour, alpha=0.8, linewidth=1.5)
            print(f"{name}, seed {seed}: {solved[-1]}")
        axes.plot([], [], color=colour, label=name)
    axes.set(xlabel="updates", ylabel="longest length solved", xlim=(0, UPDATES), ylim=(0, None))
    figure.legend(frameon=False, fontsize=12, loc="outside upper left")
    figure.savefig(HERE / "copy-curves.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
