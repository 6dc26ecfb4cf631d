"""Draw when the stages of a net work and when they wait, from two real runs.

The command is ``python docs/figures/unlocked_stages.py`` (a few seconds, on random data). The upper
part is back-propagation, in which each stage waits for all stages after it, and the lower part a
thread for each stage, with synthetic gradients and staleness 0. The picture should show what waits
for what, and not how busy this machine was. So each forward and each backward pass of a stage takes
a fixed time, in which its thread sleeps.
"""

import time
from pathlib import Path

import matplotlib
import torch
from torch import nn
from torch.nn import functional

from seqdni import Boundary, LayerTrainer, LeastSquares, Span, train_in_threads

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
STAGES, WIDTH, ROWS, CLASSES, STEPS = 4, 16, 32, 10, 10
FORWARD, BACKWARD = 0.02, 0.04  # seconds of a pass
COLOURS = {"forward": "#0063a0", "backward": "#b34700"}


class Slow(torch.autograd.Function):
    """The identity, which takes its time in both directions."""

    @staticmethod
    def forward(ctx, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        time.sleep(FORWARD)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        time.sleep(BACKWARD)
        return grad


class SlowLinear(nn.Linear):
    """A layer that takes its time."""

    def forward(self, x):
        return Slow.apply(super().forward(x)).tanh()


def net() -> nn.Sequential:
    """The same net for all runs."""
    torch.manual_seed(0)
    widths = [WIDTH] * STAGES + [CLASSES]
    return nn.Sequential(*(SlowLinear(widths[k], widths[k + 1]) for k in range(STAGES)))


def batches() -> list[tuple[torch.Tensor, torch.Tensor, None]]:
    """Random images and labels."""
    return [(torch.randn(ROWS, WIDTH), torch.randint(CLASSES, (ROWS,)), None) for _ in range(STEPS)]


def locked() -> list[Span]:
    """Back-propagation: all stages forward, then all of them backward."""
    stages = net()
    spans, began = [], time.perf_counter()

    def timed(kind, stage, step, work):
        begin = time.perf_counter() - began
        result = work()
        spans.append(Span(stage, step, kind, begin, time.perf_counter() - began))
        return result

    for step, (x, y, _) in enumerate(batches()):
        starts, ends = [], []
        for k, stage in enumerate(stages):
            starts.append(x.detach().requires_grad_())
            x = timed("forward", k, step, lambda: stage(starts[-1]))  # noqa: B023
            ends.append(x)
        loss = functional.cross_entropy(x, y)
        grad = torch.autograd.grad(loss, ends[-1])[0]
        for k in reversed(range(STAGES)):
            timed("backward", k, step, lambda: ends[k].backward(grad))  # noqa: B023
            grad = starts[k].grad
    return spans


def unlocked() -> list[Span]:
    """A thread for each stage."""
    stages = net()
    trainer = LayerTrainer(
        stages,
        [Boundary(LeastSquares(WIDTH)) for _ in range(STAGES - 1)],
        lambda parameters: torch.optim.Adam(parameters, 1e-3),
        functional.cross_entropy,
    )
    trainer.step(*batches()[0])  # the check of widths is not drawn
    return train_in_threads(trainer, batches())


def main() -> None:
    """Run, and draw."""
    plt.rcParams.update({"font.size": 12, "svg.fonttype": "path", "svg.hashsalt": "seqdni"})
    locked()  # torch needs longer for its first backward pass
    runs = {
        "back-propagation": locked(),
        "synthetic gradients": unlocked(),
    }
    longest = max(span.end for span in runs["back-propagation"])
    figure, below = plt.subplots(len(runs), figsize=(7.2, 4.6), sharex=True, layout="constrained")
    for axes, (name, spans) in zip(below, runs.items(), strict=True):
        worked = [span for span in spans if span.kind != "wait" and span.end - span.begin > 0.005]
        whole = max(span.end for span in worked)
        busy = sum(span.end - span.begin for span in worked) / (STAGES * whole)
        print(f"{name}: {whole:.2f} s for {STEPS} steps, stages busy {busy:.0%} of the time")
        for span in worked:
            left, width = span.begin, span.end - span.begin
            axes.barh(span.stage, width, left=left, height=0.8, color=COLOURS[span.kind])
        axes.set_title(f"{name}: stages are busy {busy:.0%} of the time", fontsize=12, loc="left")
        axes.set(yticks=range(STAGES), ylabel="stage", xlim=(0, longest))
        axes.invert_yaxis()
    below[-1].set_xlabel("seconds")
    for kind, colour in COLOURS.items():
        below[0].barh(0, 0, color=colour, label=kind)
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    figure.savefig(HERE / "unlocked-stages.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
