"""Memory and time of one update on an episode of 784 steps: full BPTT, TBPTT, and a critic.

An episode has one answer, at its end, as an image of MNIST that is read pixel by pixel. LSTM of 64
units, 64 rows, chunks of 28 steps, one update an episode. Memory is the peak that is allocated
during an update, above what was allocated before.

    python benchmarks/episode_memory.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from chunk_step import peak_bytes
from torch import nn

from seqdni import Boundary, Critic, Learner, SequenceModel, SyntheticGradients, TorchCore, Trainer

STEPS, CHUNK_LEN, ROWS, HIDDEN, CLASSES = 784, 28, 64, 64, 10
CHUNKS = STEPS // CHUNK_LEN


def updates() -> dict[str, Callable[[], None]]:
    """One update of each way.

    Returns:
        Functions by the way's name.
    """
    x = torch.rand(STEPS, ROWS, 1)
    y = torch.randint(CLASSES, (STEPS, ROWS))
    mask = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    mask[-1] = True
    reset = torch.zeros(STEPS + 1, ROWS, dtype=torch.bool)
    reset[0] = reset[-1] = True

    def trainer(critic: Critic | None) -> Trainer:
        core = TorchCore(nn.LSTM(1, HIDDEN))
        model = SequenceModel(nn.Identity(), core, nn.Linear(HIDDEN, CLASSES))
        adam = torch.optim.Adam(model.parameters(), fused=True)
        credit = None
        if critic is not None:
            boundary = Boundary(critic, grad_scale=0.1)
            descent = torch.optim.Adam(boundary.parameters(), fused=True)
            credit = SyntheticGradients(boundary, descent)
        return Trainer(model, Learner(adam, clip=1.0, update_every="episode"), credit)

    def in_chunks(critic: Critic | None) -> Callable[[], None]:
        own = trainer(critic)

        def update() -> None:
            for k in range(CHUNKS):
                now = slice(k * CHUNK_LEN, (k + 1) * CHUNK_LEN)
                chunk = (x[now], y[now], mask[now], reset[now.start : now.stop + 1])
                condition = None
                if critic is not None:
                    at = (max(0, k - 1), min(k, CHUNKS - 2))
                    condition = tuple(critic.condition(y[-1:], position=p) for p in at)
                own.step(chunk, condition=condition)  # type: ignore[arg-type]

        return update

    whole = trainer(None)
    return {
        "full BPTT": lambda: whole.step((x, y, mask, reset)),
        "TBPTT": in_chunks(None),
        "critic": in_chunks(Critic(2 * HIDDEN, CLASSES, positions=CHUNKS - 1)),
    }


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{'':<10} {'peak MB':>8} {'seconds':>8}")
    for name, update in updates().items():
        update()
        peak = peak_bytes(update, "cpu")
        start = time.process_time()
        update()
        print(f"{name:<10} {peak / 1e6:>8.1f} {time.process_time() - start:>8.3f}")


if __name__ == "__main__":
    main()
