"""The oracles every trainer satisfies: over cores and layers, with and without resets."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    COMPILED,
    HIDDEN,
    KINDS,
    SYMBOLS,
    ExactSynthesizer,
    gradients,
    make_model,
    make_stream,
    make_trainer,
    never_update,
    reference_loss,
    split,
)
from torch import nn

from seqdni import (
    Boundary,
    LeastSquares,
    MLPSynthesizer,
    TorchCore,
    cut,
    leaves,
    map_state,
    pack,
    target_grad,
    unroll,
    whole_episodes,
)

cores = pytest.mark.parametrize("kind", [*KINDS, "stack", *COMPILED])
torch_cores = pytest.mark.parametrize("kind", KINDS)
depths = pytest.mark.parametrize("layers", [1, 2])
restarts = pytest.mark.parametrize("resets", [False, True], ids=["endless", "resets"])
STEPS, ROWS = 12, 4
SIZES = [3, 1, 4, 2, 2]
RIVALS = ["checkpointed", "random", "overlap"]
TRAINERS = [
    "tbptt",
    *RIVALS,
    "dni",
    "dni-aux",
    "dni-rls",
    "dni-dense",
    "dni-bounded",
    "dni-whitened",
]


# --- 1. One chunk is full BPTT; a frozen zero synthesizer is plain TBPTT


@cores
@depths
@restarts
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_chunk_is_full_bptt(kind, layers, resets, dtype):
    model = make_model(kind, layers, dtype)
    stream = make_stream(STEPS, ROWS, resets)
    never_update(trained := copy.deepcopy(model)).step(stream)
    (reference_loss(model, stream) / ROWS).backward()
    for got, expected in zip(gradients(trained), gradients(model), strict=True):
        torch.testing.assert_close(got, expected)


@cores
def test_whole_episodes_make_full_bptt(kind):
    model = make_model(kind, 1)
    stream = make_stream(STEPS, ROWS, resets=False)
    reset = torch.zeros(STEPS + 1, ROWS, dtype=torch.bool)
    reset[0], reset[-1] = True, True
    stream = (*stream[:3], reset)
    trainer = never_update(trained := copy.deepcopy(model))
    episodes = list(whole_episodes(split(stream, SIZES) * 2))
    assert len(episodes) == 2
    for episode in episodes:
        trainer.step(episode)
    (2 * reference_loss(model, stream) / ROWS).backward()
    for got, expected in zip(gradients(trained), gradients(model), strict=True):
        torch.testing.assert_close(got, expected)


@cores
@depths
@restarts
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("update_every", [1, 3])
def test_frozen_zero_synthesizer_is_tbptt_bit_for_bit(kind, layers, resets, dtype, update_every):
    chunks = split(make_stream(STEPS, ROWS, resets), SIZES) * 2
    assert all(mask.any() for _, _, mask, _ in chunks)
    ends = []
    for name in ("tbptt", "dni-zero"):
        model = make_model(kind, layers, dtype)
        trainer = make_trainer(model, name, update_every=update_every, clip=0.5)
        for chunk in chunks:
            trainer.step(chunk)
        assert trainer.updates == len(chunks) // update_every
        ends.append((list(model.parameters()), leaves(trainer.carry)))
    for tbptt, dni in zip(ends[0], ends[1], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tbptt, dni, strict=True))


@torch_cores
@depths
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tbptt_is_the_loop_written_by_hand_bit_for_bit(kind, layers, dtype):
    inputs, targets, _, _ = make_stream(STEPS, ROWS, resets=False)
    model, by_hand = make_model(kind, layers, dtype), make_model(kind, layers, dtype)
    trainer = make_trainer(model, "tbptt")
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    state = None
    for t in range(0, STEPS, 3):
        trainer.step((inputs[t : t + 3], targets[t : t + 3], None, None))
        if state is not None:
            state = tuple(x.detach() for x in state) if kind == "lstm" else state.detach()
        x = nn.functional.one_hot(inputs[t : t + 3], SYMBOLS).to(dtype)
        y, state = by_hand.core.rnn(x, state)
        logits = by_hand.readout(y).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, targets[t : t + 3].flatten(), reduction="none")
        optimizer.zero_grad()
        (loss.sum() * (1 / ROWS)).backward()
        optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True)
    )


# --- 2. An exact synthesizer makes the chunks add up to full BPTT


@cores
@depths
@restarts
@pytest.mark.parametrize("sizes", [SIZES, [1] * STEPS, [5, 7]], ids=str)
def test_exact_synthesizer_makes_full_bptt_of_chunks(kind, layers, resets, sizes):
    model = make_model(kind, layers)
    stream = make_stream(STEPS, ROWS, resets)
    stream = stream if resets else (*stream[:3], ends_at_the_end())
    chunks = split(stream, sizes)
    trained = copy.deepcopy(model)
    boundary = Boundary(ExactSynthesizer(model, chunks)).requires_grad_(False)
    trainer = never_update(trained, boundary=boundary)
    for chunk in chunks:
        trainer.step(chunk)
    (reference_loss(model, stream) / ROWS).backward()
    for got, expected in zip(gradients(trained), gradients(model), strict=True):
        torch.testing.assert_close(got, expected)
    if not resets:  # and truncation does matter here: without the synthesizer they do not add up
        truncated = never_update(copy.deepcopy(model))
        for chunk in chunks:
            truncated.step(chunk)
        recurrent = [p.grad for n, p in truncated.model.named_parameters() if "weight_hh" in n]
        exact = [p.grad for n, p in trained.named_parameters() if "weight_hh" in n]
        assert not any(torch.allclose(a, b) for a, b in zip(recurrent, exact, strict=True))


@cores
@depths
@restarts
def test_targets_with_an_exact_synthesizer_are_the_true_gradients(kind, layers, resets):
    """What arrives at the start of chunk k is what an exact synthesizer said at the end of k-1."""
    model = make_model(kind, layers)
    chunks = split(make_stream(STEPS, ROWS, resets), [4, 4, 4])
    boundary = Boundary(ExactSynthesizer(model, chunks)).requires_grad_(False)
    state = model.initial_state(ROWS)
    said = None
    for inputs, targets, mask, should_reset in chunks[:-1]:
        start = cut(state)
        outputs, state = unroll(model, inputs, start, should_reset)
        loss = (-outputs.log_softmax(-1).gather(2, targets[..., None])[..., 0] * mask).sum()
        ended = torch.zeros(ROWS, dtype=torch.bool) if should_reset is None else should_reset[-1]
        now = boundary.synthetic_grad(state, ~ended)
        (loss + sum((a * b).sum() for a, b in zip([pack(state)], [now], strict=True))).backward()
        if said is not None:
            torch.testing.assert_close(target_grad(start), said)
            assert said.abs().sum() > 0
        said = now


def ends_at_the_end():
    reset = torch.zeros(STEPS + 1, ROWS, dtype=torch.bool)
    reset[0], reset[-1] = True, True
    return reset


# --- 3. Chunking, rows and resets


@st.composite
def chunkings(draw):
    sizes = []
    while sum(sizes) < STEPS:
        sizes.append(draw(st.integers(1, STEPS - sum(sizes))))
    return sizes


@cores
@depths
@restarts
@given(sizes=chunkings())
@settings(max_examples=10, deadline=None)
def test_chunked_forward_is_unchunked_forward(kind, layers, resets, sizes):
    model = make_model(kind, layers)
    stream = make_stream(STEPS, ROWS, resets)
    whole, end = unroll(model, stream[0], model.initial_state(ROWS), stream[3])
    pieces, state = [], model.initial_state(ROWS)
    for inputs, _, _, should_reset in split(stream, sizes):
        outputs, state = unroll(model, inputs, state, should_reset)
        pieces.append(outputs)
    torch.testing.assert_close(torch.cat(pieces), whole)
    torch.testing.assert_close(pack(state), pack(end))


@cores
@depths
def test_a_reset_row_is_a_fresh_run(kind, layers):
    model = make_model(kind, layers)
    inputs, _, _, _ = make_stream(STEPS, ROWS, resets=False)
    reset = torch.zeros(STEPS + 1, ROWS, dtype=torch.bool)
    reset[5, 2] = True
    outputs, end = unroll(model, inputs, model.initial_state(ROWS), reset)
    fresh, fresh_end = unroll(model, inputs[5:, 2:3], model.initial_state(1))
    torch.testing.assert_close(outputs[5:, 2:3], fresh)
    torch.testing.assert_close(pack(end)[2:3], pack(fresh_end))
    assert not torch.allclose(outputs[5:], unroll(model, inputs, model.initial_state(ROWS))[0][5:])


@cores
@depths
@restarts
def test_rows_never_touch_each_other(kind, layers, resets):
    """Permuting the rows permutes state and synthetic gradient; dropping rows changes no other."""
    model = make_model(kind, layers)
    chunks = split(make_stream(STEPS, ROWS, resets), SIZES)
    order = [2, 0, 3]

    def run(rows):
        torch.manual_seed(3)
        trainer = make_trainer(copy.deepcopy(model), "dni", update_every=10**9)
        nn.init.normal_(trainer.boundary.synthesizer.head.weight)
        trainer.boundary.synthesizer.mean_square.fill_(1)
        trainer.synthetic.optimizer = None  # frozen: the regression averages over rows by design
        states, targets = [], []
        for inputs, goals, mask, reset in chunks:
            part = (inputs[:, rows], goals[:, rows], mask[:, rows])
            trainer.step((*part, None if reset is None else reset[:, rows]))
            states.append(pack(trainer.carry))
            targets.append(trainer.boundary.synthetic_grad(trainer.carry))
        return states, targets

    for all_rows, some_rows in zip(run(list(range(ROWS))), run(order), strict=True):
        for a, b in zip(all_rows, some_rows, strict=True):
            torch.testing.assert_close(a[order], b)


@cores
@depths
def test_no_gradient_crosses_a_reset_or_a_row(kind, layers):
    model = make_model(kind, layers)
    inputs, _, _, _ = make_stream(6, ROWS, resets=False)
    reset = torch.zeros(7, ROWS, dtype=torch.bool)
    reset[0, 0] = True  # restarts at once: nothing may arrive at its start
    reset[3, 1] = True  # restarts in the middle: only steps 0..2 may arrive
    start = cut(map_state(torch.randn_like, model.initial_state(ROWS)))
    outputs, end = unroll(model, inputs, start, reset)
    boundary = Boundary(MLPSynthesizer(pack(end).shape[1], ()).double())
    nn.init.ones_(boundary.synthesizer.head.bias)
    boundary.synthesizer.mean_square.fill_(1)
    weight = torch.rand_like(outputs)
    ((outputs * weight).sum() + boundary.bootstrap(end)).backward()
    arrived = target_grad(start)
    assert arrived[0].abs().max() == 0

    alone = cut(map_state(lambda x: x[:, 1:2].detach(), start))
    short, _ = unroll(model, inputs[:3, 1:2], alone)
    (short * weight[:3, 1:2]).sum().backward()
    torch.testing.assert_close(arrived[1:2], target_grad(alone))

    through = cut(map_state(lambda x: x[:, 2:3].detach(), start))
    full, last = unroll(model, inputs[:, 2:3], through)
    ((full * weight[:, 2:3]).sum() + pack(last).sum()).backward()
    torch.testing.assert_close(arrived[2:3], target_grad(through))


# --- 4. Steps recomputed in NumPy; what cannot work is refused


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_step(kind, x, hidden, cell, w_ih, w_hh, b_ih, b_hh):
    a, b = x @ w_ih.T + b_ih, hidden @ w_hh.T + b_hh
    if kind == "rnn":
        return np.tanh(a + b), cell
    if kind == "gru":
        (ra, za, na), (rb, zb, nb) = np.split(a, 3, -1), np.split(b, 3, -1)
        z = sigmoid(za + zb)
        return (1 - z) * np.tanh(na + sigmoid(ra + rb) * nb) + z * hidden, cell
    i, f, g, o = np.split(a + b, 4, -1)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


@torch_cores
@depths
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_step_is_its_equations(kind, layers, dtype):
    torch.manual_seed(0)
    core = TorchCore(KINDS[kind](SYMBOLS, HIDDEN, num_layers=layers)).to(dtype)
    x = torch.randn(3, 2, SYMBOLS, dtype=dtype)
    state = map_state(torch.randn_like, core.initial_state(2))
    y, end = core(x, state)
    hiddens = [h.numpy() for h in leaves(state)[0]]
    cells = [c.numpy() for c in leaves(state)[-1]]
    for t in range(3):
        below = x[t].numpy()
        for layer in range(layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = [getattr(core.rnn, f"{n}_l{layer}").detach().numpy() for n in names]
            below, cells[layer] = numpy_step(kind, below, hiddens[layer], cells[layer], *weights)
            hiddens[layer] = below
        np.testing.assert_allclose(y[t].detach().numpy(), below, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(leaves(end)[0].detach().numpy(), hiddens, rtol=1e-4, atol=1e-6)
    if kind == "lstm":
        np.testing.assert_allclose(end.cell.detach().numpy(), cells, rtol=1e-4, atol=1e-6)


@torch_cores
def test_bidirectional_is_refused_with_the_reason(kind):
    with pytest.raises(ValueError, match=r"starts at the end of the stream.*bidirectional=False"):
        TorchCore(KINDS[kind](2, 3, bidirectional=True))


@torch_cores
def test_batch_first_is_refused(kind):
    with pytest.raises(ValueError, match="batch_first=False"):
        TorchCore(KINDS[kind](2, 3, batch_first=True))


# --- 5. On a linear system with quadratic loss the synthesizer finds the analytic gradient


@pytest.mark.parametrize(
    "synthesizer", [MLPSynthesizer(4, ()), LeastSquares(4)], ids=["sgd", "rls"]
)
def test_synthesizer_converges_to_the_analytic_gradient(synthesizer):
    """s' = A s, loss |s'|^2 / 2 a step, for ever: the gradient is P s with P = A'(I + P)A."""
    torch.manual_seed(0)
    size, steps = 4, 2
    A = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0] * 0.8
    P = torch.zeros_like(A)
    for _ in range(500):
        P = A.T @ (torch.eye(size, dtype=A.dtype) + P) @ A
    boundary = Boundary(synthesizer.double())
    parameters = list(boundary.parameters()) or [torch.zeros((), requires_grad=True)]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.997)
    for _ in range(2000):
        start = cut(torch.randn(16, size, dtype=torch.float64))
        state, loss = start, torch.zeros(())
        for _ in range(steps):
            state = state @ A.T
            loss = loss + state.square().sum() / 2
        (loss + boundary.bootstrap(state)).backward()
        optimizer.zero_grad()
        regression = boundary.loss(start)
        if regression.requires_grad:
            regression.backward()
        optimizer.step()
        schedule.step()
    probe = torch.randn(100, size, dtype=torch.float64)
    torch.testing.assert_close(boundary.synthetic_grad(probe), probe @ P.T, rtol=0, atol=2e-2)
    chunk_only = sum(torch.linalg.matrix_power(A.T @ A, k) for k in range(1, steps + 1))
    assert not torch.allclose(P, chunk_only, atol=0.5)  # the bootstrap carries most of it


# --- 6. Stop anywhere and resume


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in [*KINDS, "stack"]
        for name in TRAINERS
        if name != "dni-dense" or kind in ("lstm", "gru")  # the others tell no gradient inside
    ],
)
@pytest.mark.parametrize("update_every", [1, 3, "episode"])
@pytest.mark.parametrize("stop", [1, 4, 5, 7])
def test_resume_is_never_having_stopped(kind, name, update_every, stop):
    stream = make_stream(STEPS, ROWS, resets=False)
    chunks = split((*stream[:3], ends_at_the_end()), SIZES) * 2
    options = {"update_every": update_every, "clip": 0.5}

    def run(trainer, part):
        for chunk in part:
            trainer.step(chunk)
        return trainer

    straight = run(make_trainer(make_model(kind, 1), name, **options), chunks)
    stopped = run(make_trainer(make_model(kind, 1), name, **options), chunks[:stop])
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = make_trainer(make_model(kind, 1, seed=99), name, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    run(resumed, chunks[stop:])
    assert_same(straight.state_dict(), resumed.state_dict())
    assert straight.updates > 0


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b
