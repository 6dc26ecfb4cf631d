"""Other programs' way to train a chunk, for ``chunk_step.py``.

``2017 scheme`` is a new implementation of the published design of that time, from its description.
A synthesizer of one hidden layer predicts the gradient at the chunk's end and learns from the one
at its start, without a bound, a scale or a look at what is not finite. One optimiser holds all
parameters. ``ignite`` is ``create_supervised_tbptt_trainer`` of pytorch-ignite
(``pip install pytorch-ignite``), with a hook that clips.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SPLITS = 8  # chunks of a sequence that ignite gets


def scheme_of_2017(
    symbols: int, steps: int, hidden: int, rows: int, device: str
) -> Callable[[], None]:
    """A step of DNI by hand, with a synthesizer of half the width."""
    lstm, readout = nn.LSTM(symbols, hidden), nn.Linear(hidden, symbols)
    head = nn.Linear(hidden // 2, 2 * hidden)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    synthesizer = nn.Sequential(nn.Linear(2 * hidden, hidden // 2), nn.ReLU(), head)
    everything = nn.ModuleList([lstm, readout, synthesizer]).to(device)
    parameters = list(everything.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    tokens = torch.randint(symbols, (steps + 1, rows), device=device)
    one_hot = torch.eye(symbols, device=device)
    state = (torch.zeros(1, rows, hidden, device=device),) * 2

    def chunk() -> None:
        nonlocal state
        start = tuple(x.detach().requires_grad_() for x in state)
        y, end = lstm(functional.embedding(tokens[:-1], one_hot), start)
        logits = readout(y).flatten(0, 1)
        loss = functional.cross_entropy(logits, tokens[1:].flatten(), reduction="sum") / rows
        packed = torch.cat(end, dim=2)
        with torch.no_grad():
            predicted = synthesizer(packed)
        optimizer.zero_grad()
        torch.autograd.backward([loss, packed], [None, predicted])
        arrived = torch.cat([x.grad for x in start if x.grad is not None], dim=2)
        regression = functional.mse_loss(synthesizer(torch.cat(start, dim=2).detach()), arrived)
        regression.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state = tuple(x.detach() for x in end)

    return chunk


class _Model(nn.Module):
    """One-hot symbols, an LSTM and a readout, as ignite's trainer calls a model."""

    def __init__(self, symbols: int, hidden: int):
        super().__init__()
        self.lstm, self.readout = nn.LSTM(symbols, hidden), nn.Linear(hidden, symbols)
        self.one_hot: Tensor
        self.register_buffer("one_hot", torch.eye(symbols))

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, end = self.lstm(functional.embedding(tokens, self.one_hot), state)
        return self.readout(y), end


def with_ignite(
    symbols: int, steps: int, hidden: int, rows: int, device: str
) -> Callable[[], None]:
    """``SPLITS`` chunks of TBPTT by ignite, which forgets the state after each sequence.

    Raises:
        ModuleNotFoundError: pytorch-ignite is not installed.
    """
    from ignite.contrib.engines.tbptt import (  # pyright: ignore[reportMissingImports]
        create_supervised_tbptt_trainer,
    )

    model = _Model(symbols, hidden).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    parameters = list(model.parameters())

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(parameters, 1.0)

    optimizer.register_step_pre_hook(clip)

    class Loss(nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            flat = logits.flatten(0, 1), targets.flatten()
            return functional.cross_entropy(*flat, reduction="sum") / rows

    engine = create_supervised_tbptt_trainer(model, optimizer, Loss(), steps, device=device)
    tokens = torch.randint(symbols, (SPLITS * steps + 1, rows))
    batch = tokens[:-1].to(device), tokens[1:].to(device)
    return lambda: engine.run([batch], max_epochs=1) and None
