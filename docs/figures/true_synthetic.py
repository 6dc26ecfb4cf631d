"""Draw true and synthetic gradients while a model learns to copy.

The command is ``python docs/figures/true_synthetic.py`` (about a minute on one thread). The model
has the size of ``seqdni run copy`` and learns one length from the beginning. After every ten
updates the two gradients are compared on the same held-out episodes.
"""

from pathlib import Path

import matplotlib
import torch
from torch import nn

from seqdni import (
    Boundary,
    Learner,
    LeastSquares,
    OneHot,
    SequenceModel,
    SyntheticGradients,
    TorchCore,
    Trainer,
    cross_entropy,
    cut,
    pack,
)
from seqdni.corpora import CopyTask, Difficulty, LockstepEpisodes

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LENGTH, T, UNITS, ROWS, UPDATES = 4, 4, 64, 32, 1500


def held_out(task: CopyTask) -> list:
    """The chunks of one episode that training never sees."""
    stream = LockstepEpisodes(task, Difficulty(LENGTH), batch_size=ROWS, chunk_len=T, seed=1000)
    chunks = [next(stream)]
    while not chunks[-1][3][-1].all():  # until every row's episode has ended
        chunks.append(next(stream))
    return chunks


def compare(model: SequenceModel, boundary: Boundary, chunks: list) -> tuple:
    """The true and the applied gradient at the first boundary, both ``[B, S]``."""
    first, *rest = chunks
    _, state = model(first[0], model.initial_state(ROWS))
    start = state = cut(state)
    loss = torch.zeros(())
    for inputs, targets, mask, _ in rest:
        outputs, state = model(inputs, state)
        loss = loss + cross_entropy(outputs, targets)[mask].sum()
    gradients = torch.autograd.grad(loss, list(start))
    return pack(type(start)(*gradients)), boundary.synthetic_grad(start).detach()


def run() -> tuple:
    """Train, and record both gradients every ten updates."""
    torch.manual_seed(21)
    task = CopyTask()
    core = TorchCore(nn.LSTM(task.input_size, UNITS))
    model = SequenceModel(OneHot(task.input_size), core, nn.Linear(UNITS, task.output_size))
    boundary = Boundary(LeastSquares(state_size=2 * UNITS), bound=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    learner = Learner(optimizer, update_every="episode", clip=1.0)
    trainer = Trainer(model, learner, SyntheticGradients(boundary))
    stream = LockstepEpisodes(task, Difficulty(LENGTH), batch_size=ROWS, chunk_len=T, seed=21)
    chunks, at, true, synthetic = held_out(task), [], [], []
    while trainer.updates < UPDATES:
        trainer.step(next(stream))
        if trainer.updates % 10 == 0 and (not at or at[-1] != trainer.updates):
            both = compare(model, boundary, chunks)
            at.append(trainer.updates)
            true.append(both[0])
            synthetic.append(both[1])
    return at, torch.stack(true), torch.stack(synthetic)


def main() -> None:
    """Run and draw."""
    torch.set_num_threads(1)
    at, true, synthetic = run()
    cosine = torch.cosine_similarity(true.flatten(1), synthetic.flatten(1), dim=1)
    unit = int(true[:, 0].square().sum(0).argmax())  # of the first row, the one with most of it
    plt.rcParams.update({"font.size": 13, "svg.fonttype": "path", "svg.hashsalt": "seqdni"})
    figure, (above, below) = plt.subplots(2, 1, figsize=(5.2, 5.4), sharex=True)
    above.plot(at, cosine, color="#b34700")
    above.axhline(0, color="#999", linewidth=0.8)
    above.set(ylabel="cosine", ylim=(-1, 1), title="All units and rows")
    below.plot(at, true[:, 0, unit], color="#222", label="true")
    below.plot(at, synthetic[:, 0, unit], color="#b34700", label="synthetic", linewidth=1)
    below.set(xlabel="updates", ylabel="gradient", title="One unit of one row")
    below.legend(frameon=False)
    figure.tight_layout()
    place = Path(__file__).parent / "true-synthetic.svg"
    figure.savefig(place, metadata={"Date": None})
    last = cosine[-50:].mean().item()
    early = cosine[:10].mean().item()
    print(f"mean cosine: first 100 updates {early:.2f}, last 500 updates {last:.2f}; unit {unit}")


if __name__ == "__main__":
    main()
