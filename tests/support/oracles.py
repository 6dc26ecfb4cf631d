"""What the oracle tests share: small models, random streams, and references written from scratch.

Shapes: N steps of a whole stream, T of a chunk, B rows, V symbols, S state features.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from compiled import needs_compiler
from torch import Tensor, nn
from trainers import flat_trainer

from seqdni import (
    LRU,
    Boundary,
    Checkpointed,
    Chunk,
    LeastSquares,
    MLPSynthesizer,
    OneHot,
    Reweighted,
    SequenceModel,
    Stack,
    TorchCore,
    Trainer,
    Whitening,
    leaves,
    map_state,
    pack,
    state_size,
    unpack,
)

SYMBOLS = 5
HIDDEN = 6
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
COMPILED = [pytest.param(name, marks=needs_compiler) for name in ("lstm compiled", "gru compiled")]


SPREAD = torch.logspace(1, -3, 16)  # the covariance spans eight orders of magnitude
TURN = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]


def ill_conditioned(seed):
    """States as a recurrent network has them, and a target that lives in a small direction."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(32, 16, generator=generator)
    return (factors * SPREAD) @ TURN.T, factors[:, 12:13].expand(32, 16)


def make_model(kind: str, layers: int, dtype=torch.float64, seed: int = 0) -> SequenceModel:
    torch.manual_seed(seed)
    if kind == "stack":
        sizes = [(SYMBOLS, HIDDEN), (HIDDEN, HIDDEN)][:layers]
        rnns = [nn.LSTM, nn.GRU][:layers]
        core = Stack([TorchCore(rnn(*size)) for rnn, size in zip(rnns, sizes, strict=True)])
    elif kind == "lru":
        core = LRU(SYMBOLS, HIDDEN)
    else:
        name, _, compiled = kind.partition(" ")
        rnn = KINDS[name](SYMBOLS, HIDDEN, num_layers=layers)
        core = TorchCore(rnn, compiled=bool(compiled))
    return SequenceModel(OneHot(SYMBOLS), core, nn.Linear(HIDDEN, SYMBOLS)).to(dtype)


def make_stream(steps: int, rows: int, resets: bool, seed: int = 0) -> Chunk:
    """One long chunk: random tokens, a random mask, and rows that restart at random."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(SYMBOLS, (steps + 1, rows), generator=g)
    mask = torch.rand(steps, rows, generator=g) < 0.7
    should_reset = None
    if resets:
        should_reset = torch.rand(steps + 1, rows, generator=g) < 0.2
        should_reset[0], should_reset[-1] = True, True
    return tokens[:-1], tokens[1:], mask, should_reset


def split(stream: Chunk, sizes: list[int]) -> list[Chunk]:
    inputs, targets, mask, should_reset = stream
    assert sum(sizes) == len(inputs)
    chunks, t = [], 0
    for size in sizes:
        now = slice(t, t + size)
        reset = None if should_reset is None else should_reset[t : t + size + 1]
        chunks.append((inputs[now], targets[now], None if mask is None else mask[now], reset))
        t += size
    return chunks


def reference_loss(model: SequenceModel, stream: Chunk, state: tuple | None = None) -> Tensor:
    """Summed loss of a stream, row by row and episode by episode: no batching, no resets to trust.

    ``state`` is the state every row's first episode starts from (zeros if None).
    """
    inputs, targets, mask, should_reset = stream
    steps, rows = inputs.shape
    total = torch.zeros((), dtype=next(model.parameters()).dtype)
    for b in range(rows):
        starts = (
            {0}
            if should_reset is None
            else {0, *should_reset[:steps, b].nonzero().flatten().tolist()}
        )
        edges = [*sorted(starts), steps]
        for first, last in pairwise(edges):
            fresh = (
                first > 0
                or state is None
                or (should_reset is not None and bool(should_reset[0, b]))
            )
            row_state = (
                model.initial_state(1)
                if fresh
                else map_state(lambda leaf, b=b: leaf[:, b : b + 1], state)
            )
            for t in range(first, last):
                logits, row_state = model(inputs[t : t + 1, b : b + 1], row_state)
                if mask is None or mask[t, b]:
                    total = total - logits[0, 0].log_softmax(0)[targets[t, b]]
    return total


def never_update(model, **options) -> Trainer:
    """A trainer that only sums gradients."""
    steps = torch.optim.SGD(model.parameters(), lr=0.0)
    return flat_trainer(model, steps, update_every=10**9, **options)


def full_bptt(model: SequenceModel, stream: Chunk) -> list[Tensor]:
    """The gradient of the reference, for the batch's mean."""
    model = copy.deepcopy(model)
    (reference_loss(model, stream) / stream[0].shape[1]).backward()
    return gradients(model)


def assert_close(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def one_episode(steps: int, rows: int) -> Chunk:
    """A stream in which all rows begin at its start and end at its end."""
    reset = torch.zeros(steps + 1, rows, dtype=torch.bool)
    reset[0], reset[-1] = True, True
    return (*make_stream(steps, rows, resets=False)[:3], reset)


def gradients(model: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


class ExactSynthesizer(MLPSynthesizer):
    """Knows the future: the true gradient of the stream's remaining loss at each boundary."""

    def __init__(self, model: SequenceModel, chunks: list[Chunk]):
        super().__init__(state_size(model.initial_state(1)), ())
        self._model = [copy.deepcopy(model)]  # hidden from parameters()
        self._futures = [join_after(chunks, k) for k in range(len(chunks))]
        self._calls = 0

    def forward(self, state_BS: Tensor, condition_BK: Tensor | None = None) -> Tensor:
        model, future = self._model[0], self._futures[self._calls]
        self._calls += 1
        like = model.initial_state(len(state_BS))
        state = map_state(lambda leaf: leaf.clone().requires_grad_(), unpack(state_BS, like))
        with torch.enable_grad():
            loss = reference_loss(model, future, state)
        grads = torch.autograd.grad(loss, leaves(state), allow_unused=True)
        parts = iter(zip(leaves(state), grads, strict=True))
        return pack(map_state(lambda _: fill(*next(parts)), state))


def fill(leaf: Tensor, grad: Tensor | None) -> Tensor:
    return torch.zeros_like(leaf) if grad is None else grad


def join_after(chunks: list[Chunk], k: int) -> Chunk | None:
    rest = chunks[k + 1 :]
    if not rest:
        return None
    inputs, targets, masks, resets = zip(*rest, strict=True)
    should_reset = None
    if resets[0] is not None:
        should_reset = torch.cat([part[:-1] for part in resets[:-1]] + [resets[-1]])
    return torch.cat(inputs), torch.cat(targets), torch.cat(masks), should_reset


def make_trainer(model: SequenceModel, name: str, optimizer="adam", **options) -> Trainer:
    """``tbptt``, ``dni``, ``dni-...``: ``aux``, ``rls``, ``dense``, ``bounded``, ``zero`` (frozen).

    Rivals of DNI: ``checkpointed``, ``random`` (reweighted), ``overlap``,
    ``influence`` (for one layer).
    """
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    steps = make(model.parameters(), lr=0.01)
    if name == "tbptt":
        return flat_trainer(model, steps, **options)
    if name == "overlap":
        return flat_trainer(model, steps, history=2, **options)
    if name == "influence":
        return flat_trainer(model, steps, influence=True, **options)
    if name in ("checkpointed", "random"):
        wrapped = Checkpointed(model, 2) if name == "checkpointed" else Reweighted(model, 2, 0.5)
        return flat_trainer(wrapped, steps, **options)
    torch.manual_seed(1)
    size = state_size(model.initial_state(1))
    dtype = next(model.parameters()).dtype
    if name == "dni-whitened":
        whitening = Whitening(size, refresh_every=3)
        synthesizer = MLPSynthesizer(size, (7,), activation=nn.Tanh, whitening=whitening).to(dtype)
        learn = torch.optim.Adam(synthesizer.parameters(), lr=0.01)
        return flat_trainer(
            model, steps, boundary=Boundary(synthesizer), synth_optimizer=learn, **options
        )
    if name == "dni-rls":
        boundary = Boundary(LeastSquares(size, solve_every=2).to(dtype), bound=10.0)
        return flat_trainer(model, steps, boundary=boundary, **options)
    synthesizer = MLPSynthesizer(size, (7,), aux=name == "dni-aux").to(dtype)
    boundary = Boundary(synthesizer, bound=2.0 if name == "dni-bounded" else None)
    learn = torch.optim.Adam(boundary.parameters(), lr=0.01)
    if name == "dni-zero":
        boundary.requires_grad_(False)
        learn = None
    if name == "dni-dense":
        options["targets"] = "dense"
    return flat_trainer(model, steps, boundary=boundary, synth_optimizer=learn, **options)
