"""Small hierarchies, random streams for them, and a hierarchy unrolled by hand, tick by tick."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from trainers import flat_training

from seqdni import (
    Boundary,
    Critic,
    Hierarchy,
    HierarchyChunk,
    LeastSquares,
    Level,
    LevelTraining,
    MLPSynthesizer,
    SyntheticGradients,
    TorchCore,
    cross_entropy,
    map_state,
    pack,
    state_size,
)

INPUTS, WIDTH, MESSAGE, CONTEXT, CONDITION, CLASSES = 2, 4, 3, 2, 2, 3


def make_hierarchy(periods, contexts, kind=nn.LSTM, seed: int = 0) -> Hierarchy:
    """Levels of equal widths; with contexts, every level above the lowest gives one.

    With contexts "lowest", only the level above the lowest does.
    """
    torch.manual_seed(seed)
    levels = []
    for k, period in enumerate(periods):
        top = k + 1 == len(periods)
        everywhere = contexts != "lowest"
        taken = CONTEXT if contexts and not top and (everywhere or k == 0) else 0
        given = CONTEXT if contexts and k and (everywhere or k == 1) else 0
        level = Level(
            TorchCore(kind(3 + taken, WIDTH)),
            encoder=nn.Linear(INPUTS if k == 0 else MESSAGE, 3),
            readout=nn.Linear(WIDTH, CLASSES),
            message=None if top else nn.Linear(WIDTH, MESSAGE),
            context=nn.Linear(WIDTH, CONTEXT) if given else None,
            context_size=given,
            period=period,
        )
        levels.append(level.double())
    return Hierarchy(levels, torch.zeros(1, 1, INPUTS, dtype=torch.float64))


@dataclass
class Stream:
    """Random inputs, answers and masks for each level, and rows that restart."""

    inputs: Tensor
    answers: list[tuple[Tensor, Tensor]]
    should_reset: Tensor
    periods: list[int]
    conditions: list[Tensor]  # for the messages of each level but the top

    def chunks(self, sizes: list[int]) -> list[HierarchyChunk]:
        assert sum(sizes) == len(self.inputs)
        found, t = [], 0
        for size in sizes:
            pairs = []
            for (targets, mask), period in zip(self.answers, self.periods, strict=True):
                now = slice(t // period, (t + size) // period)
                pairs.append((targets[now], mask[now]))
            reset = self.should_reset[t : t + size + 1]
            conditions = [
                condition[t // period : (t + size) // period]
                for condition, period in zip(self.conditions, self.periods[1:], strict=True)
            ]
            found.append(HierarchyChunk(self.inputs[t : t + size], pairs, reset, conditions))
            t += size
        return found


def make_stream(model: Hierarchy, steps: int, rows: int, resets: bool, seed: int = 0) -> Stream:
    g = torch.Generator().manual_seed(seed)
    answers = []
    for period in model.periods:
        ticks = steps // period
        targets = torch.randint(CLASSES, (ticks, rows), generator=g)
        answers.append((targets, torch.rand(ticks, rows, generator=g) < 0.7))
    should_reset = torch.zeros(steps + 1, rows, dtype=torch.bool)
    if resets:
        should_reset = torch.rand(steps + 1, rows, generator=g) < 0.15
    should_reset[-1] = True  # the stream is over: nothing to bridge to
    inputs = torch.randn(steps, rows, INPUTS, generator=g, dtype=torch.float64)
    conditions = [
        torch.randn(steps // period, rows, CONDITION, generator=g) for period in model.periods[1:]
    ]
    return Stream(inputs, answers, should_reset, model.periods, [x.double() for x in conditions])


@dataclass
class Taps:
    """Values on the way and, after a backward pass, the gradients that arrived there."""

    found: dict[tuple, list[Tensor]] = field(default_factory=dict)

    def __call__(self, name: tuple, value: Tensor) -> Tensor:
        value = value.clone()
        if value.requires_grad:
            value.retain_grad()
        self.found.setdefault(name, []).append(value)
        return value


def unrolled(model: Hierarchy, stream: Stream, taps: Taps, scales=None) -> Tensor:
    """The objective of a whole stream: written from scratch, a tick and a level at a time."""
    rows = stream.inputs.shape[1]
    states = [level.initial_state(rows) for level in model.levels]
    contexts = [None] * len(model.levels)
    restarts = [torch.zeros(rows, dtype=torch.bool) for _ in model.levels]  # since its last tick
    ticks = [0] * len(model.levels)
    objective = torch.zeros((), dtype=torch.float64)

    def tick(k: int, x: Tensor) -> None:
        nonlocal objective
        level, restarting = model.levels[k], restarts[k].clone()
        restarts[k] = torch.zeros(rows, dtype=torch.bool)
        keep = (~restarting)[:, None].double()
        state = map_state(lambda leaf: leaf * keep, states[k])
        parts = [level.encoder(x)]
        if k + 1 < len(model.levels) and (width := model.levels[k + 1].context_size):
            above = contexts[k + 1]
            above = torch.zeros(rows, width, dtype=torch.float64) if above is None else above
            parts.append(above * (~restarts[k + 1])[:, None].double())
        y, state = level.core(torch.cat(parts, -1)[None], state)
        states[k] = map_state(lambda leaf: taps(("state", k, ticks[k] + 1), leaf), state)
        ticks[k] += 1
        if level.readout is not None:
            targets, mask = (part[ticks[k] - 1] for part in stream.answers[k])
            nats = cross_entropy(level.readout(y), targets[None])[0]
            objective = objective + (nats * mask).sum() * (scales[k] if scales else 1.0) / rows
        if level.context_size:
            contexts[k] = level.context(y[0])
        if k + 1 < len(model.levels) and ticks[k] % model.levels[k + 1].period == 0:
            tick(k + 1, taps(("message", k, ticks[k]), level.message(y[0])))

    for t, x in enumerate(stream.inputs):
        for k in range(len(model.levels)):
            restarts[k] = restarts[k] | stream.should_reset[t]
        tick(0, x)
    return objective


class Oracle(nn.Module):
    """A synthesizer that looks the true gradient up, by the row it is asked about."""

    condition_size, aux_head = 0, None

    def __init__(self, values_NS: Tensor, grads_NS: Tensor):
        super().__init__()
        self.values, self.grads = values_NS, grads_NS

    def forward(self, state_BS, condition_BK=None):
        if not state_BS.any():  # the trainer asks whether the sizes fit
            return torch.zeros_like(state_BS)
        near = torch.cdist(state_BS, self.values).min(dim=1)
        assert near.values.max() < 1e-6
        return self.grads[near.indices]

    def loss(self, state_BS, target_BS, **_):
        return torch.zeros(())


class Frozen(torch.optim.SGD):
    """An optimiser that leaves everything as it is, gradients too."""

    def step(self, closure=None): ...

    def zero_grad(self, set_to_none=True): ...


def oracles(
    model: Hierarchy, stream: Stream, scales=None
) -> tuple[list[Tensor], list[LevelTraining]]:
    """The whole stream's gradient, and learners whose boundaries know it."""
    taps = Taps()
    unrolled(model, stream, taps, scales).backward()
    gradient = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    learners = []
    rows = stream.inputs.shape[1]
    for k in range(len(model.levels)):
        scale = scales[k] if scales else 1.0
        frozen = Frozen(model.levels[k].parameters())
        learner = flat_training(frozen, loss_scale=scale, chunk_len=None if k == 0 else 2)
        learner.credit = SyntheticGradients(lookup(taps, "state", k, rows / scale))
        if k + 1 < len(model.levels):
            learner.message_credit = SyntheticGradients(lookup(taps, "message", k, rows / scale))
        learners.append(learner)
    return gradient, learners


def lookup(taps: Taps, name: str, k: int, factor: float) -> Boundary:
    values, grads = [], []
    for (kind, level, _), found in taps.found.items():
        if (kind, level) == (name, k):
            parts = tuple(found)
            arrived = tuple(torch.zeros_like(x) if x.grad is None else x.grad for x in parts)
            values.append(pack(parts).detach())
            grads.append(pack(arrived) * factor)
    return Boundary(Oracle(torch.cat(values), torch.cat(grads)))


def gradients(model: Hierarchy) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


class Fixed(nn.Module):
    """A synthesizer that never changes and keeps the states and the targets that it gets."""

    def __init__(self, size: int, seed: int, condition_size: int = 0):
        super().__init__()
        self.condition_size = condition_size
        self.conditions: list[Tensor] = []
        g = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(size, size, generator=g, dtype=torch.float64)
        self.asked: list[Tensor] = []
        self.taught: list[tuple] = []

    def answer(self, state_BS: Tensor) -> Tensor:
        return state_BS @ self.weight

    def forward(self, state_BS, condition_BK=None):
        self.asked.append(state_BS.detach().clone())
        self.conditions += [] if condition_BK is None else [condition_BK]
        return self.answer(state_BS)

    def loss(self, state_BS, target_BS, *, condition_BK=None, **_):
        self.taught.append((state_BS, target_BS, condition_BK))
        return torch.zeros(())


def recorded(size: int, seed: int, condition_size: int = 0) -> Boundary:
    """A boundary with such a synthesizer."""
    return Boundary(Fixed(size, seed, condition_size))


def learning(model: Hierarchy, kind: str = "rls") -> list[LevelTraining]:
    """Learners that move, with synthesizers that learn."""
    learners = []
    torch.manual_seed(1)
    for k, level in enumerate(model.levels):
        sizes = [state_size(level.initial_state(1))]
        sizes += [MESSAGE] if k + 1 < len(model.levels) else []
        if kind in ("rls", "condition"):
            made = [Boundary(LeastSquares(size, solve_every=1), bound=2.0) for size in sizes]
        else:
            made = [Boundary(MLPSynthesizer(size, (5,))) for size in sizes]
        if kind == "critic" and len(sizes) > 1:
            made[1] = Boundary(Critic(MESSAGE, classes=CONDITION), grad_scale=0.1)
        if kind == "condition" and len(sizes) > 1:
            made[1] = Boundary(LeastSquares(MESSAGE, condition_size=CONDITION, solve_every=1))
        made = [boundary.double() for boundary in made]
        learners.append(
            flat_training(
                torch.optim.Adam(level.parameters(), lr=0.01),
                2 if k else None,
                clip=1.0,
                boundary=made[0],
                message_boundary=made[1] if len(made) > 1 else None,
                synth_lr=0.01,
            )
        )
    return learners
