"""Trainers and streams in which captured chunks are compared with eager ones.

Shapes: T steps of a chunk, B rows.
"""

from __future__ import annotations

import pytest
import torch
from oracles import HIDDEN, SYMBOLS, make_model
from torch import nn

from seqdni import (
    Boundary,
    Critic,
    Learner,
    LeastSquares,
    MLPSynthesizer,
    SyntheticGradients,
    Trainer,
    Whitening,
)

ROWS, STEPS = 4, 4
SIZE = 2 * HIDDEN
SYNTHESIZERS = {
    "mlp": lambda: MLPSynthesizer(SIZE, (5,), scale_decay=0.9),
    "aux": lambda: MLPSynthesizer(SIZE, (5,), aux=True, scale_decay=0.9),
    "whitened": lambda: MLPSynthesizer(
        SIZE, (5,), activation=nn.Tanh, whitening=Whitening(SIZE, refresh_every=20)
    ),
    "rls": lambda: LeastSquares(SIZE, solve_every=3),
    "critic": lambda: Critic(SIZE, classes=SYMBOLS),
    "none": lambda: None,
}
CASES = {
    # name: (synthesizer, stream, update_every, steps known ahead)
    "tbptt": (None, "rows", 1, 0),
    "tbptt-window": (None, "rows", 3, 0),
    "tbptt-endless": (None, "endless", 1, 0),
    "mlp": ("mlp", "rows", 1, 0),
    "mlp-endless": ("mlp", "endless", 2, 0),
    "mlp-episodes": ("mlp", "episodes", "episode", 0),
    "aux": ("aux", "rows", 1, 0),
    "whitened": ("whitened", "rows", 1, 0),
    "rls": ("rls", "rows", 1, 0),
    "rls-episodes": ("rls", "episodes", "episode", 0),
    "look-ahead": ("none", "rows", 1, 3),
    "look-ahead-endless": ("none", "endless", 1, 3),
    "look-ahead-mlp": ("mlp", "episodes", 1, 3),
    "critic": ("critic", "episodes", 1, 0),
}


def in_float32(rate):
    """The nearest rate that a graph can read."""
    return torch.tensor(rate).item()


RATE = in_float32(0.01)


def build(case, capture=True, device="cpu"):
    """A trainer in float64, so that only mistakes make a difference."""
    synthesizer, _, update_every, _ = CASES[case]
    model = make_model("lstm", 1).to(device)
    adam = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    credit = None
    if synthesizer is not None:
        torch.manual_seed(1)
        made = SYNTHESIZERS[synthesizer]()
        bound = None if made is None or synthesizer == "critic" else 1.0
        boundary = Boundary(made, bound=bound).to(device, torch.float64)
        own = list(boundary.parameters())
        descent = torch.optim.Adam(own, lr=RATE, fused=True) if own else None
        credit = SyntheticGradients(boundary, descent, clip=1.0 if own else None)
    learner = Learner(adam, clip=0.5, update_every=update_every)
    return Trainer(model, learner, credit, capture=capture)


def chunks(kind, count, seed=0):
    """Random chunks. In ``episodes`` all rows play in step, and the last chunk is shorter."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for k in range(count):
        steps = STEPS - 1 if kind == "episodes" and k % 3 == 2 else STEPS
        tokens = torch.randint(SYMBOLS, (steps + 1, ROWS), generator=g)
        if kind == "endless":
            made.append((tokens[:-1], tokens[1:], None, None))
            continue
        mask = torch.rand(steps, ROWS, generator=g) < 0.6
        reset = torch.zeros(steps + 1, ROWS, dtype=torch.bool)
        if kind == "rows":
            reset = torch.rand(steps + 1, ROWS, generator=g) < 0.1 * (k % 3)
            if made and made[-1][3] is not None:
                reset[0] = made[-1][3][-1]
        else:
            reset[0], reset[-1] = k % 3 == 0, k % 3 == 2
            mask &= k % 3 != 0
        made.append((tokens[:-1], tokens[1:], mask, reset))
    return made


def train(trainer, case, first, last):
    """Train on some chunks of the case's stream, with a learning rate that falls."""
    synthesizer, kind, _, ahead = CASES[case]
    stream = chunks(kind, last + 1)
    for k in range(first, last):
        for optimizer in trainer.optimizers()[:1]:
            optimizer.param_groups[0]["lr"] = in_float32(0.01 / (1 + k / 50))
        arguments = {}
        if ahead:
            x, y, mask, reset = stream[k + 1]
            parts = (x[:ahead], y[:ahead], mask, reset)
            if mask is not None:
                parts = (x[:ahead], y[:ahead], mask[:ahead], reset[: ahead + 1])
            arguments["ahead"] = parts
        if synthesizer == "critic":
            critic = trainer.boundary.synthesizer
            answers = [critic.condition(each[1][:1]).double() for each in stream[k : k + 2]]
            arguments["condition"] = tuple(answers)
        trainer.step(stream[k], **arguments)


def assert_same(got, expected):
    torch.testing.assert_close(
        list(got.model.parameters()), list(expected.model.parameters()), rtol=1e-7, atol=1e-10
    )
    for a, b in zip(got.optimizers(), expected.optimizers(), strict=True):
        for x, y in zip(a.state.values(), b.state.values(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-10)
    if got.boundary is not None:
        ours, theirs = got.boundary.state_dict(), expected.boundary.state_dict()
        for name in ours.keys() - {"guard._extra_state"}:  # which only a CPU has a use for
            value = ours[name]
            torch.testing.assert_close(value, theirs[name], rtol=1e-6, atol=1e-10)
    assert got.meter.read() == pytest.approx(expected.meter.read(), rel=1e-6)
    counts = lambda t: (t.chunks, t.updates, t.tokens, t._updater.window)  # noqa: E731
    assert counts(got) == counts(expected)
