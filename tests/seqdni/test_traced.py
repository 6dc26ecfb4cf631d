"""Dense targets: traced cores are torch's cores, and every state's gradient is a chunk's target."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import settings
from oracles import HIDDEN, make_model, make_stream, make_trainer, split
from sizes import of_any_size
from torch import nn
from trainers import flat_trainer

from seqdni import (
    Boundary,
    LeastSquares,
    MLPSynthesizer,
    OneHot,
    SequenceModel,
    TorchCore,
    cut,
    leaves,
    map_state,
    pack,
    state_size,
    target_grad,
    unpack,
    unroll,
    unroll_traced,
)
from seqdni.cores.kernels import GRULayer, LSTMLayer

NETWORKS = {"lstm": nn.LSTM, "gru": nn.GRU}
networks = pytest.mark.parametrize("kind", NETWORKS)
depths = pytest.mark.parametrize("layers", [1, 2])
restarts = pytest.mark.parametrize("resets", [False, True], ids=["endless", "resets"])
STEPS, ROWS = 7, 4


def backward_of(run, core, x, start):
    """Outputs, end and all gradients of a random objective of both."""
    torch.manual_seed(1)
    parts = [x, *leaves(start), *core.parameters()]
    for part in parts:
        part.grad = None
    y, end, *_ = run(x, start)
    ((y * torch.randn_like(y)).sum() + (pack(end) * torch.randn_like(pack(end))).sum()).backward()
    return [y, *leaves(end), *(part.grad for part in parts)]


# --- The traced core is the core


@networks
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@of_any_size
@settings(max_examples=15, deadline=None)
def test_a_traced_core_is_the_core(kind, bias, dtype, layers, steps, rows, features, size, seed):
    torch.manual_seed(seed)
    core = TorchCore(NETWORKS[kind](features, size, num_layers=layers, bias=bias)).to(dtype)
    start = cut(map_state(torch.randn_like, core.initial_state(rows)))
    x = torch.randn(steps, rows, features, dtype=dtype, requires_grad=True)
    got = backward_of(core.traced, core, x, start)
    expected = backward_of(core, core, x, start)
    close = {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {}
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **close)


@networks
def test_a_traced_core_is_the_core_at_the_sizes_of_a_run(kind):
    """In float32 torch runs an LSTM through oneDNN, not through the loop of float64."""
    torch.manual_seed(0)
    core = TorchCore(NETWORKS[kind](50, 128))
    start = cut(map_state(torch.randn_like, core.initial_state(32)))
    x = torch.randn(20, 32, 50, requires_grad=True)
    got = backward_of(core.traced, core, x, start)
    expected = backward_of(core, core, x, start)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().mean().item())


@pytest.mark.parametrize("layer", [LSTMLayer, GRULayer])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_finite_differences(layer, bias):
    torch.manual_seed(0)
    gates, leafs = (4, 2) if layer is LSTMLayer else (3, 1)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    x, starts = random(3, 2, 4), [random(2, 5) for _ in range(leafs)]
    weights = [random(gates * 5, 4), random(gates * 5, 5)]
    weights += [random(gates * 5), random(gates * 5)] if bias else []
    probes = [torch.zeros(3, 2, 5, dtype=torch.float64)] * leafs
    nothing = () if bias else (None, None)

    def run(x, *rest):
        return layer.apply(x, *rest[:leafs], *probes, *rest[leafs:], *nothing)[: leafs + 1]

    assert torch.autograd.gradcheck(run, (x, *starts, *weights))


@networks
def test_there_is_no_second_derivative_and_it_says_so(kind):
    core = TorchCore(NETWORKS[kind](2, 3))
    start = cut(core.initial_state(2))
    y, _, _ = core.traced(torch.ones(2, 2, 2), start)
    (grad, *_) = torch.autograd.grad(y.square().sum(), leaves(start), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@networks
def test_frozen_weights_get_no_gradient(kind):
    core = TorchCore(NETWORKS[kind](2, 3, num_layers=2))
    reference = copy.deepcopy(core)
    for each in (core, reference):
        each.rnn.weight_hh_l0.requires_grad_(False)
        each.rnn.bias_ih_l1.requires_grad_(False)
    x = torch.randn(4, 2, 2)
    core.traced(x, core.initial_state(2))[0].sum().backward()
    reference(x, core.initial_state(2))[0].sum().backward()
    for got, expected in zip(core.parameters(), reference.parameters(), strict=True):
        assert (got.grad is None) == (expected.grad is None)
        if got.grad is not None:
            torch.testing.assert_close(got.grad, expected.grad)


@networks
def test_under_autocast_it_computes_in_the_type_of_the_weights(kind):
    core = TorchCore(NETWORKS[kind](2, 3))
    x, start = torch.randn(4, 2, 2), core.initial_state(2)
    with torch.autocast("cpu", torch.bfloat16):
        low = map_state(torch.Tensor.bfloat16, start)
        y, end, trace = core.traced(x.bfloat16(), low)
    assert {t.dtype for t in (y, trace.states_TBS, *leaves(end))} == {torch.float32}
    torch.testing.assert_close(y, core(x.bfloat16().float(), start)[0])


@pytest.mark.parametrize(
    "rnn",
    [
        nn.RNN(2, 3),
        nn.LSTM(2, 3, num_layers=2, dropout=0.5),
        nn.LSTM(2, 3, proj_size=1),
        nn.GRU(2, 3, num_layers=2, dropout=0.5),
    ],
    ids=["rnn", "lstm dropout", "lstm projection", "gru dropout"],
)
def test_what_cannot_be_traced_is_refused_with_what_to_do(rnn):
    core = TorchCore(rnn)
    model = SequenceModel(OneHot(2), core, nn.Linear(3, 2))
    assert not core.can_trace
    assert not model.can_trace
    with pytest.raises(ValueError, match=r"got (RNN|LSTM|GRU)\(2, 3.*dropout=0, proj_size=0"):
        core.traced(torch.zeros(1, 1, 2), core.initial_state(1))


class Adder(nn.Module):
    """A core that keeps the contract and no more."""

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 2)

    def forward(self, x_TBD, state):
        y_TBD = state + x_TBD.cumsum(0)
        return y_TBD, y_TBD[-1]


def test_a_model_of_a_core_without_traces_says_so():
    model = SequenceModel(OneHot(2), Adder(), nn.Identity())
    assert not model.can_trace
    with pytest.raises(ValueError, match="Adder has no traced"):
        model.traced(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1))


# --- Every state's gradient is the target of a chunk that starts there


@networks
@depths
@restarts
def test_a_dense_gradient_is_the_target_of_the_chunk_that_starts_there(kind, layers, resets):
    model = make_model(kind, layers)
    inputs, targets, mask, should_reset = make_stream(STEPS, ROWS, resets)
    if resets:
        should_reset[0, 0] = False
        assert should_reset[1:-1].any(dim=1).sum() > 1
    start = cut(map_state(torch.randn_like, model.initial_state(ROWS)))
    boundary = Boundary(MLPSynthesizer(pack(start).shape[1], ()).double())
    nn.init.normal_(boundary.synthesizer.head.weight)
    boundary.synthesizer.mean_square.fill_(1)

    def objective(outputs, end, t):
        losses = -outputs.log_softmax(-1).gather(2, targets[t:, :, None])[..., 0]
        return (losses * mask[t:]).sum() + boundary.bootstrap(end)

    outputs, end, trace = unroll_traced(model, inputs, start, should_reset)
    objective(outputs, end, 0).backward()
    grads_TBS = trace.grads()
    assert grads_TBS.shape == trace.states_TBS.shape == (STEPS, ROWS, pack(start).shape[1])
    assert not trace.states_TBS.requires_grad
    for t in range(STEPS):
        later = cut(unpack(trace.states_TBS[t], like=start))
        rest = None if should_reset is None else should_reset[t:]
        outputs, end = unroll(model, inputs[t:], later, rest)
        objective(outputs, end, t).backward()
        going_on = slice(None) if rest is None else ~rest[0]
        assert target_grad(later)[going_on].abs().sum() > 0
        torch.testing.assert_close(grads_TBS[t][going_on], target_grad(later)[going_on])
    if not resets:
        torch.testing.assert_close(trace.states_TBS[0], pack(start))
        assert torch.equal(grads_TBS[0], target_grad(start))


@networks
def test_rows_of_a_trace_never_touch_each_other(kind):
    model = make_model(kind, 2)
    inputs, _, _, reset = make_stream(STEPS, ROWS, resets=True)
    order = [2, 0, 3]

    def run(rows):
        start = model.initial_state(len(rows))
        outputs, _, trace = unroll_traced(model, inputs[:, rows], start, reset[:, rows])
        outputs.square().sum().backward()
        return trace.states_TBS, trace.grads()

    for all_rows, some_rows in zip(run(list(range(ROWS))), run(order), strict=True):
        torch.testing.assert_close(all_rows[:, order], some_rows)


def test_without_a_backward_pass_nothing_arrived():
    model = make_model("lstm", 1)
    with torch.no_grad():
        inputs = make_stream(STEPS, ROWS, resets=False)[0]
        _, _, trace = unroll_traced(model, inputs, model.initial_state(ROWS))
    assert trace.grads().shape == trace.states_TBS.shape
    assert trace.grads().abs().max() == 0


# --- What the trainer makes of it


class Listener(MLPSynthesizer):
    """Keeps what it is taught."""

    def loss(self, state_BS, target_BS, **rest):
        self.heard.append((state_BS, target_BS, rest["valid_B"]))
        return super().loss(state_BS, target_BS, **rest)


@networks
@restarts
@pytest.mark.parametrize("warmup", [0, 9], ids=["bootstraps", "warms up"])
def test_the_boundary_is_taught_every_state_in_units_of_a_row(kind, resets, warmup):
    model = make_model(kind, 1)
    chunks = split(make_stream(8, ROWS, resets), [4, 4])
    listener = Listener(state_size(model.initial_state(1)), ()).double()
    listener.heard, levels = [], []
    boundary = Boundary(listener, bound=9.0)
    boundary.gradient_scale.update = lambda target, valid, final: levels.append(final)
    frozen = torch.optim.SGD(model.parameters(), lr=0.0)
    still = torch.optim.SGD(boundary.parameters(), lr=0.0)
    trainer = flat_trainer(
        model,
        frozen,
        boundary=boundary,
        synth_optimizer=still,
        targets="dense",
        loss_scale=0.5,
        warmup_chunks=warmup,
    )
    assert trainer.synthetic.targets == "dense"
    state = model.initial_state(ROWS)
    for k, chunk in enumerate(chunks):
        trainer.step(chunk)
        inputs, targets, mask, reset = chunk
        states_NS, targets_NS, valid_N = listener.heard[k]
        valid_TB = torch.ones(4, ROWS, dtype=torch.bool)
        if reset is not None:
            valid_TB &= ~reset[:-1]
        if k == 0:
            valid_TB[0] = False
        got_valid = torch.ones(4 * ROWS, dtype=torch.bool) if valid_N is None else valid_N
        assert torch.equal(got_valid.view(4, ROWS), valid_TB)
        expected_final = torch.full((4, ROWS), bool(warmup))
        if reset is not None:
            expected_final |= torch.stack([reset[t + 1 :].any(0) for t in range(4)])
        assert (levels[k] is None) == (not expected_final.any())
        if levels[k] is not None:
            assert torch.equal(levels[k].view(4, ROWS), expected_final)
        outputs, end, trace = unroll_traced(model, inputs, state, reset)
        losses = -outputs.log_softmax(-1).gather(2, targets[..., None])[..., 0]
        (losses * mask).sum().backward()
        torch.testing.assert_close(states_NS.view_as(trace.states_TBS), trace.states_TBS)
        torch.testing.assert_close(targets_NS.view_as(trace.grads()), trace.grads())
        state = map_state(torch.Tensor.detach, end)


@networks
@restarts
def test_over_chunks_of_one_step_dense_targets_are_boundary_targets(kind, resets):
    chunks = split(make_stream(12, ROWS, resets), [1] * 12)
    ends = []
    for name in ("dni", "dni-dense"):
        trainer = make_trainer(make_model(kind, 1), name)
        for chunk in chunks:
            trainer.step(chunk)
        ends.append([*trainer.model.parameters(), *trainer.boundary.parameters()])
    assert trainer.synthetic.targets == "dense"
    assert trainer.boundary.synthesizer.head.weight.abs().sum() > 0
    for boundary, dense in zip(*ends, strict=True):
        torch.testing.assert_close(dense, boundary, rtol=1e-6, atol=1e-8)


@networks
def test_dense_targets_that_are_not_consumed_leave_tbptt(kind):
    ends = []
    for name in ("tbptt", "dni-dense"):
        trainer = make_trainer(make_model(kind, 1), name)
        if trainer.boundary is not None:
            trainer.boundary.grad_scale = 0
        for chunk in split(make_stream(12, ROWS, resets=True), [4] * 3):
            trainer.step(chunk)
        ends.append(list(trainer.model.parameters()))
    for tbptt, dense in zip(*ends, strict=True):
        torch.testing.assert_close(dense, tbptt, rtol=1e-6, atol=1e-8)


@networks
def test_dense_targets_of_a_frozen_synthesizer_change_nothing(kind):
    ends = []
    for targets in ("boundary", "dense"):
        trainer = make_trainer(make_model(kind, 1), "dni-zero", targets=targets)
        for chunk in split(make_stream(12, ROWS, resets=True), [4] * 3):
            trainer.step(chunk)
        ends.append(list(trainer.model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_dense_targets_need_a_model_that_tells_its_gradients():
    with pytest.raises(ValueError, match=r"SequenceModel cannot .* use targets='boundary'"):
        make_trainer(make_model("rnn", 1), "dni-dense")


def test_options_that_do_not_go_with_dense_targets_are_refused():
    model = make_model("gru", 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the boundary has none"):
        flat_trainer(model, optimizer, boundary=Boundary(None), targets="dense")
    aux = Boundary(MLPSynthesizer(HIDDEN, aux=True))
    with pytest.raises(ValueError, match=r"Aux head.*aux=False"):
        flat_trainer(model, optimizer, boundary=aux, targets="dense")
    informed = Boundary(LeastSquares(HIDDEN, condition_size=2))
    with pytest.raises(ValueError, match="condition_size=2: build it with condition_size=0"):
        flat_trainer(model, optimizer, boundary=informed, targets="dense")
