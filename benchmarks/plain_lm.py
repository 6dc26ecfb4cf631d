"""What plain PyTorch gives at the setting of the config ptb-word-small: a loop written by hand.

Nothing of this project is used: it is the yardstick for the recipe. Prints validation perplexity
after each epoch, state carried across sentences, ``<eos>`` counted.

    python benchmarks/plain_lm.py --data-dir DIR --seed 1
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

HIDDEN, LAYERS, STEPS, ROWS = 200, 2, 20, 20
RATE, DROPOUT, CLIP, WARMUP = 2e-3, 0.1, 1.0, 50


def read(folder: Path) -> dict[str, Tensor]:
    """Ids of the words of each split."""
    words = {
        split: (folder / f"ptb.{split}.txt").read_text().replace("\n", " <eos> ").split()
        for split in ("train", "valid", "test")
    }
    ids = {word: i for i, word in enumerate(dict.fromkeys(words["train"]))}
    return {split: torch.tensor([ids[word] for word in text]) for split, text in words.items()}


class Net(nn.Module):
    """Embedding, two LSTM layers, the same weights read out; a dropout mask a row and chunk."""

    def __init__(self, symbols: int):
        super().__init__()
        self.embedding = nn.Embedding(symbols, HIDDEN)
        self.layers = nn.ModuleList(nn.LSTM(HIDDEN, HIDDEN) for _ in range(LAYERS))
        self.readout = nn.Linear(HIDDEN, symbols)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.readout.bias)
        self.readout.weight = self.embedding.weight

    def drop(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * torch.empty_like(x[:1]).bernoulli_(1 - DROPOUT) / (1 - DROPOUT)

    def forward(self, x: Tensor, states: list) -> tuple[Tensor, list]:
        h, after = self.drop(self.embedding(x)), []
        for layer, state in zip(self.layers, states, strict=True):
            h, state = layer(h, state)
            h = self.drop(h)
            after.append(state)
        return self.readout(h), after


@torch.no_grad()
def perplexity(net: Net, tokens: Tensor) -> float:
    """Of every next word, in 64 rows."""
    net.eval()
    steps = (len(tokens) - 1) // 64
    rows = tokens[: 64 * steps].view(64, steps).t()
    due = tokens[1 : 64 * steps + 1].view(64, steps).t()
    nats, states = 0.0, [None] * LAYERS
    for t in range(0, steps, 20):
        scores, states = net(rows[t : t + 20], states)
        target = due[t : t + 20]
        nats += cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="sum").item()
    net.train()
    return math.exp(nats / (64 * steps))


def main() -> None:
    """Train and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    splits = read(given.data_dir)
    train = splits["train"]
    length = (len(train) - 1) // ROWS
    rows, due = (train[k : k + ROWS * length].view(ROWS, length).t() for k in (0, 1))
    net = Net(int(train.max()) + 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
    updates = given.epochs * -(-length // STEPS)
    done, best, clock = 0, (math.inf, math.inf), time.perf_counter()
    for epoch in range(given.epochs):
        states: list = [None] * LAYERS
        for t in range(0, length, STEPS):
            rise = min(1.0, (done + 1) / WARMUP)
            wave = 0.5 + 0.5 * math.cos(math.pi * done / updates)
            optimizer.param_groups[0]["lr"] = RATE * rise * wave
            scores, states = net(rows[t : t + STEPS], states)
            loss = cross_entropy(scores.flatten(0, 1), due[t : t + STEPS].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step()
            states = [tuple(part.detach() for part in state) for state in states]
            done += 1
        valid = perplexity(net, splits["valid"])
        best = min(best, (valid, perplexity(net, splits["test"])))
        seconds = time.perf_counter() - clock
        print(f"epoch {epoch + 1}, {done} updates, {seconds:.0f} s: valid {valid:.2f}", flush=True)
    print(f"seed {given.seed}: valid_ppl {best[0]:.3f}, test_ppl {best[1]:.3f}")


if __name__ == "__main__":
    main()
