"""The influence of the parameters on the state: exact where units are apart, else SnAp-1."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from oracles import (
    HIDDEN,
    SYMBOLS,
    assert_close,
    full_bptt,
    gradients,
    make_model,
    make_stream,
    make_trainer,
    never_update,
    reference_loss,
    split,
)
from torch import nn
from torch.func import functional_call, jacrev

from seqdni import (
    LRU,
    AdaptiveReadout,
    Checkpointed,
    Influence,
    Learner,
    OneHot,
    SequenceModel,
    Stack,
    TorchCore,
    Trainer,
    leaves,
    map_state,
    pack,
    state_size,
    unpack,
    unroll,
    unroll_traced,
)

STEPS, ROWS = 12, 4
kinds = pytest.mark.parametrize("kind", ["lstm", "gru", "lru"])
gated = pytest.mark.parametrize("kind", ["lstm", "gru"])
restarts = pytest.mark.parametrize("resets", [False, True], ids=["endless", "resets"])
chunkings = pytest.mark.parametrize("sizes", [[1] * STEPS, [3, 1, 4, 2, 2], [5, 7]], ids=str)


def summed(model, stream, sizes, **options) -> Trainer:
    """A trainer with the summed gradients of a stream's chunks, at frozen parameters."""
    trainer = never_update(copy.deepcopy(model), influence=True, **options)
    for chunk in split(stream, sizes):
        trainer.step(chunk)
    return trainer


def kept_by(trainer) -> dict[str, torch.Tensor]:
    return trainer.influence.of_parameters(trainer.model)


# --- exact where no unit acts on another


@restarts
@chunkings
def test_lru_chunks_add_up_to_full_bptt(resets, sizes):
    model, stream = make_model("lru", 1), make_stream(STEPS, ROWS, resets)
    assert_close(gradients(summed(model, stream, sizes).model), full_bptt(model, stream))


@gated
@restarts
@chunkings
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_units_that_only_act_on_themselves_are_exact(kind, resets, sizes, bias):
    model, stream = make_model(kind, 1), make_stream(STEPS, ROWS, resets)
    if not bias:
        rnn = type(model.core.rnn)(SYMBOLS, HIDDEN, bias=False).double()
        model.core = TorchCore(rnn)
    with torch.no_grad():
        for gate in model.core.rnn.weight_hh_l0.split(HIDDEN):
            gate.copy_(3 * gate.diagonal().diag())
    expected = full_bptt(model, stream)
    truncated = never_update(copy.deepcopy(model))
    for chunk in split(stream, sizes):
        truncated.step(chunk)
    cut_off = [(a - b).norm() for a, b in zip(gradients(truncated.model), expected, strict=True)]
    assert max(cut_off) > 1e-3  # what crosses the boundaries is not small here
    assert_close(gradients(summed(model, stream, sizes).model), expected)


# --- SnAp-1 against a slow reference


def slow_snap1(model, stream, sizes) -> list[torch.Tensor]:
    """SnAp-1 from its definition: full Jacobians of every step by autograd, row by row.

    Parts of a Jacobian that join two units are set to zero.
    """
    model = copy.deepcopy(model)
    core, size = model.core, state_size(model.initial_state(1))
    weights = {name: p.detach() for name, p in core.named_parameters()}
    unit = torch.arange(size) % HIDDEN
    block = unit[:, None] == unit[None, :]
    own = {
        name: (unit[:, None] == (torch.arange(len(p)) % HIDDEN)[None, :]).view(
            size, len(p), *[1] * (p.dim() - 1)
        )
        for name, p in weights.items()
    }

    def step(theta, packed_S, x_D):
        state = unpack(packed_S[None], model.initial_state(1))
        _, after = functional_call(core, theta, (x_D[None, None], state))
        return pack(after)[0]

    for b in range(ROWS):
        state, influence = model.initial_state(1), dict.fromkeys(weights, 0.0)
        for inputs, targets, mask, reset in split(stream, sizes):
            start = map_state(lambda leaf: leaf.detach().requires_grad_(), state)
            part = [None if x is None else x[:, b : b + 1] for x in (inputs, targets, mask, reset)]
            loss = reference_loss(model, part, start) / ROWS
            if loss.requires_grad:
                loss.backward()
            arrived = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves(start)]
            grad_S = pack(tuple(arrived))[0]
            for name, parameter in core.named_parameters():
                if isinstance(influence[name], torch.Tensor):
                    parameter.grad += torch.tensordot(grad_S, influence[name], 1)
            for t in range(len(inputs)):
                if reset is not None and reset[t, b]:
                    state, influence = model.initial_state(1), dict.fromkeys(weights, 0.0)
                x_D = nn.functional.one_hot(inputs[t, b], SYMBOLS).double()
                packed_S = pack(state)[0].detach()
                by_weights, by_state = jacrev(step, (0, 1))(weights, packed_S, x_D)
                for name in weights:
                    kept = influence[name]
                    if isinstance(kept, torch.Tensor):
                        kept = torch.tensordot(by_state * block, kept, 1)
                    influence[name] = kept + by_weights[name] * own[name]
                state = unpack(step(weights, packed_S, x_D)[None], model.initial_state(1))
    return gradients(model)


@gated
@restarts
@pytest.mark.parametrize("sizes", [[1] * STEPS, [3, 1, 4, 2, 2]], ids=str)
def test_snap1_is_a_slow_reference_from_scratch(kind, resets, sizes):
    model, stream = make_model(kind, 1), make_stream(STEPS, ROWS, resets)
    with torch.no_grad():
        model.core.rnn.weight_hh_l0 *= 2
    got, expected = summed(model, stream, sizes), slow_snap1(model, stream, sizes)
    assert_close(gradients(got.model), expected)
    far = [(a - b).norm() for a, b in zip(expected, full_bptt(model, stream), strict=True)]
    assert max(far) > 1e-4  # and it is an approximation


@gated
def test_snap1_is_nearer_to_full_bptt_than_truncation(kind):
    model, stream = make_model(kind, 1), make_stream(STEPS, ROWS, resets=False)
    full = torch.cat([g.flatten() for g in full_bptt(model, stream)])
    errors = []
    for options in ({"influence": True}, {}):
        trainer = never_update(copy.deepcopy(model), **options)
        for chunk in split(stream, [2] * 6):
            trainer.step(chunk)
        errors.append((torch.cat([g.flatten() for g in gradients(trainer.model)]) - full).norm())
    assert errors[0] < 0.5 * errors[1]


# --- restarts, rows, streams


@kinds
def test_a_row_that_restarts_has_no_influence_from_before(kind):
    first, second = split(make_stream(STEPS, ROWS, resets=False), [6, 6])
    reset = torch.zeros(7, ROWS, dtype=torch.bool)
    reset[0, 0], reset[2, 1] = True, True
    model = make_model(kind, 1)
    used, fresh = (never_update(copy.deepcopy(model), influence=True) for _ in range(2))
    used.step(first)
    used.step((*second[:3], reset))
    fresh.step(second)
    late = never_update(copy.deepcopy(model), influence=True)
    late.step((*(x[2:] for x in second[:3]), None))
    for name, kept in kept_by(used).items():
        torch.testing.assert_close(kept[0], kept_by(fresh)[name][0])
        torch.testing.assert_close(kept[1], kept_by(late)[name][1])
        assert not torch.allclose(kept[2], kept_by(fresh)[name][2])


@kinds
def test_a_restart_at_the_start_passes_nothing_to_the_gradient(kind):
    """All rows restart: the second chunk's gradient is that of a stream that begins there."""
    first, second = split(make_stream(STEPS, ROWS, resets=False), [6, 6])
    reset = torch.zeros(7, ROWS, dtype=torch.bool)
    reset[0] = True
    model = make_model(kind, 1)
    used, fresh = (never_update(copy.deepcopy(model), influence=True) for _ in range(2))
    used.step(first)
    used.model.zero_grad()
    used.step((*second[:3], reset))
    fresh.step(second)
    assert_close(gradients(used.model), gradients(fresh.model))


@kinds
def test_another_stream_starts_without_influence(kind):
    first, second = split(make_stream(STEPS, ROWS, resets=False), [6, 6])
    used, fresh = (never_update(make_model(kind, 1), influence=True) for _ in range(2))
    used.step(second)
    used.carry = None
    used.model.zero_grad()
    used.step(first)
    fresh.step(first)
    assert_close(gradients(used.model), gradients(fresh.model))
    for name, kept in kept_by(used).items():
        torch.testing.assert_close(kept, kept_by(fresh)[name])


@kinds
def test_rows_are_independent(kind):
    stream = make_stream(STEPS, ROWS, resets=True)
    order = torch.tensor([2, 0])
    fewer = tuple(x[:, order] for x in stream)
    model = make_model(kind, 1)
    alone, all_rows = (summed(model, s, [3, 4, 5]) for s in (fewer, stream))
    for name, kept in kept_by(alone).items():
        torch.testing.assert_close(kept, kept_by(all_rows)[name][order])


def test_chunks_without_a_scored_step_carry_the_influence():
    inputs, targets, _, _ = make_stream(STEPS, ROWS, resets=False)
    mask = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    mask[-1] = True
    model, stream = make_model("lru", 1), (inputs, targets, mask, None)
    trainer = summed(model, stream, [3] * 4)
    assert_close(gradients(trainer.model), full_bptt(model, stream))


@kinds
def test_the_influence_is_as_large_as_it_says(kind):
    trainer = summed(make_model(kind, 1), make_stream(STEPS, ROWS, resets=False), [6, 6])
    core = trainer.model.core
    acting = list(core.parameters())
    if kind == "lru":
        acting = [core.nu, core.theta, core.read.weight]
    numbers = ROWS * {"lstm": 2, "gru": 1, "lru": 2}[kind]
    kept = sum(x.numel() for x in kept_by(trainer).values())
    assert kept == numbers * sum(p.numel() for p in acting)


# --- as a way of training


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_first_chunk_is_truncated_bptt(kind, dtype):
    model, stream = make_model(kind, 1, dtype), make_stream(STEPS, ROWS, resets=True)
    truncated = never_update(copy.deepcopy(model))
    truncated.step(stream)
    assert_close(gradients(summed(model, stream, [STEPS]).model), gradients(truncated.model))


@kinds
@pytest.mark.parametrize("update_every", [1, 3])
@pytest.mark.parametrize("stop", [1, 4, 5])
def test_resumed_is_never_stopped(kind, update_every, stop):
    chunks = split(make_stream(STEPS, ROWS, resets=True), [3, 1, 4, 2, 2]) * 2
    options = {"update_every": update_every, "clip": 0.5}
    straight, stopped = (
        make_trainer(make_model(kind, 1, torch.float32), "influence", **options) for _ in range(2)
    )
    for chunk in chunks:
        straight.step(chunk)
    for chunk in chunks[:stop]:
        stopped.step(chunk)
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = make_trainer(make_model(kind, 1, torch.float32, seed=99), "influence", **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for chunk in chunks[stop:]:
        resumed.step(chunk)
    ends = [
        [*t.model.parameters(), *leaves(t.carry), *kept_by(t).values()] for t in (straight, resumed)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert straight.updates == resumed.updates > 0


def test_only_one_of_the_two_trainers_has_an_influence():
    with_it, without = (make_trainer(make_model("gru", 1), n) for n in ("influence", "tbptt"))
    for one, other in ((with_it, without), (without, with_it)):
        with pytest.raises(ValueError, match="differ: one has no influence"):
            one.load_state_dict(other.state_dict())


def test_a_row_that_is_not_finite_starts_again():
    """A huge input makes row 0 overflow; with non_finite='skip' it is restarted, the others not."""
    core = LRU(2, 3).double()
    model = SequenceModel(nn.Identity(), core, nn.Linear(3, SYMBOLS).double())
    trainer = never_update(model, influence=True, non_finite="skip")
    x, targets = torch.ones(4, 2, 2).double(), torch.ones(4, 2, dtype=torch.long)
    broken = x.clone()
    broken[1, 0] = torch.inf
    trainer.step((x, targets))
    trainer.step((broken, targets))
    for kept in kept_by(trainer).values():
        assert kept[0].abs().sum() == 0
        assert kept[1].abs().sum() > 0
    trainer.step((x, targets))
    assert all(p.grad.isfinite().all() for p in model.parameters())


@kinds
def test_bfloat16_has_the_influence_of_float32(kind):
    stream = make_stream(STEPS, ROWS, resets=True)
    model = make_model(kind, 1, torch.float32)
    half, full = (
        summed(model, stream, [3] * 4, autocast=autocast) for autocast in (torch.bfloat16, None)
    )
    for name, kept in kept_by(half).items():
        torch.testing.assert_close(kept, kept_by(full)[name])


def test_frozen_weights_get_no_gradient():
    model = make_model("gru", 1)
    model.core.rnn.weight_ih_l0.requires_grad_(False)
    trainer = summed(model, make_stream(STEPS, ROWS, resets=False), [3] * 4)
    assert trainer.model.core.rnn.weight_ih_l0.grad is None
    assert trainer.model.core.rnn.weight_hh_l0.grad is not None


def test_an_adaptive_readout_is_no_obstacle():
    torch.manual_seed(0)
    readout = AdaptiveReadout(HIDDEN, SYMBOLS, [2])
    model = SequenceModel(OneHot(SYMBOLS), LRU(SYMBOLS, HIDDEN), readout)
    stream = make_stream(STEPS, ROWS, resets=True)
    chunked, whole = (
        summed(model, stream, sizes, loss=readout.loss).model.core for sizes in ([3] * 4, [STEPS])
    )
    assert_close(gradients(chunked), gradients(whole))


# --- the LRU itself


def test_lru_is_its_equation_in_numpy():
    model = make_model("lru", 1)
    core = model.core
    x_TBD = torch.randn(7, 3, SYMBOLS, dtype=torch.float64)
    state = torch.randn(2, 3, HIDDEN, dtype=torch.float64)
    y_TBH, end = core(x_TBD, state)
    p = {name: each.detach().numpy() for name, each in core.named_parameters()}
    lam = np.exp(-np.exp(p["nu"]) + 1j * p["theta"])
    w_re, w_im = np.split(p["read.weight"], 2)
    h = state[0].numpy() + 1j * state[1].numpy()
    for x, y in zip(x_TBD.numpy(), y_TBH.detach().numpy(), strict=True):
        h = lam * h + np.sqrt(1 - np.abs(lam) ** 2) * (x @ (w_re + 1j * w_im).T)
        mixed = np.concatenate([h.real, h.imag], 1) @ p["mix.weight"].T + p["mix.bias"]
        mixed = torch.as_tensor(mixed + x @ p["skip.weight"].T)
        np.testing.assert_allclose(y, nn.functional.gelu(mixed).numpy(), rtol=1e-10)
    np.testing.assert_allclose(end.detach().numpy(), [h.real, h.imag], rtol=1e-10)


def test_lru_begins_with_the_memories_that_were_asked_for():
    torch.manual_seed(0)
    core = LRU(2, 1000, longest=100.0, largest_angle=0.5)
    memories = 1 / (1 - (-core.nu.exp()).exp())
    assert 9.9 < memories.min() < 10.5
    assert 95 < memories.max() < 100.1
    assert 28 < memories.median() < 36  # the middle of their logarithms is 31.6
    assert 0 <= core.theta.min() < core.theta.max() < 0.5


@restarts
def test_lru_traces_the_gradient_of_every_state(resets):
    model, (inputs, _, _, reset) = make_model("lru", 1), make_stream(STEPS, ROWS, resets)
    start = torch.randn(2, ROWS, HIDDEN, dtype=torch.float64)
    y, end, trace = unroll_traced(model, inputs, start, reset)
    y.square().sum().backward()
    plain, plain_end = unroll(model, inputs, start, reset)
    torch.testing.assert_close((y, end), (plain, plain_end))
    for t in (0, 1, 5, 11):
        state = unpack(trace.states_TBS[t], start).requires_grad_()
        later = None if reset is None else reset[t:].clone()
        if later is not None:
            later[0] = False
        unroll(model, inputs[t:], state, later)[0].square().sum().backward()
        torch.testing.assert_close(trace.grads()[t], pack(state.grad))


@pytest.mark.parametrize("longest", [1.0, float("nan")])
def test_lru_of_too_short_memories_is_refused(longest):
    with pytest.raises(ValueError, match=r"expected a number of steps >= 10"):
        LRU(2, 3, longest=longest)


# --- what is refused


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 1)

    def forward(self, x, state):
        return x * self.weight, state


REFUSED = {
    "two layers": (lambda: TorchCore(nn.LSTM(SYMBOLS, 4, num_layers=2)), r"LSTM.*num_layers=2"),
    "nn.RNN": (lambda: TorchCore(nn.RNN(SYMBOLS, 4)), "RNN"),
    "a projection": (lambda: TorchCore(nn.LSTM(SYMBOLS, 4, proj_size=2)), r"LSTM.*proj_size=2"),
    "a stack": (lambda: Stack([TorchCore(nn.GRU(SYMBOLS, 4))]), "Stack"),
    "a core of one's own": (Plain, "Plain"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_core_that_cannot_tell_is_refused(name):
    make, got = REFUSED[name]
    core = make()
    model = SequenceModel(OneHot(SYMBOLS), core, nn.Linear(4, SYMBOLS))
    with pytest.raises(ValueError, match=f"got a core that is {got}.*expected LRU"):
        Trainer(model, Learner(torch.optim.SGD(model.parameters(), 0.1)), Influence())


def test_a_wrapped_model_is_refused():
    model = Checkpointed(make_model("gru", 1), 2)
    with pytest.raises(ValueError, match="got a core that is Checkpointed"):
        Trainer(model, Learner(torch.optim.SGD(model.parameters(), 0.1)), Influence())
