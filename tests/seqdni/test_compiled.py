"""Compiled layers compute what torch's networks compute, and refuse what they cannot."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from compiled import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import make_model, make_stream, split
from torch import nn

from seqdni import (
    Checkpointed,
    Influence,
    Learner,
    OneHot,
    SequenceModel,
    Stack,
    TorchCore,
    Trainer,
    cut,
    leaves,
    map_state,
    pack,
    target_grad,
)
from seqdni.cores.base import FixedWeights
from seqdni.cores.compiled import compiled_layers

pytestmark = needs_compiler
NETWORKS = {"lstm": nn.LSTM, "gru": nn.GRU}
networks = pytest.mark.parametrize("kind", NETWORKS)


def pair(kind, *sizes, dtype=torch.float64, **rest):
    """A core of torch, and a compiled one with the same weights."""
    core = TorchCore(NETWORKS[kind](*sizes, **rest)).to(dtype)
    return core, TorchCore(copy.deepcopy(core.rnn), compiled=True)


def result(run, module, x, state):
    """Outputs and end; the gradients of inputs and start; those of the weights."""
    torch.manual_seed(1)
    module.zero_grad()
    x = x.clone().requires_grad_() if x.is_floating_point() else x
    start = cut(state)
    y, end, *_ = run(x, start)
    ((y * torch.randn_like(y)).sum() + (pack(end) * torch.randn_like(pack(end))).sum()).backward()
    of_inputs = [x.grad] if x.is_floating_point() else []
    of_weights = [p.grad for p in module.parameters()]
    return [y, *leaves(end)], [*of_inputs, *(leaf.grad for leaf in leaves(start))], of_weights


def assert_same(got, expected, **close):
    for part, other in zip(got, expected, strict=True):
        for a, b in zip(part, other, strict=True):
            torch.testing.assert_close(a, b, **close)


# --- They are the core


@networks
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(
    layers=st.integers(1, 3),
    steps=st.integers(1, 9),
    rows=st.integers(1, 5),
    features=st.integers(1, 6),
    size=st.integers(1, 40),
    seed=st.integers(0, 999),
)
@settings(max_examples=15)
def test_a_compiled_core_is_the_core(kind, bias, dtype, layers, steps, rows, features, size, seed):
    torch.manual_seed(seed)
    core, compiled = pair(kind, features, size, dtype=dtype, num_layers=layers, bias=bias)
    start = map_state(torch.randn_like, core.initial_state(rows))
    x = torch.randn(steps, rows, features, dtype=dtype)
    expected = result(core, core, x, start)
    close = {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {}
    for run in (compiled, compiled.traced):
        assert_same(result(run, compiled, x, start), expected, **close)
    outputs, of_states, of_weights = result(FixedWeights(compiled), compiled, x, start)
    assert_same((outputs, of_states), expected[:2], **close)
    assert of_weights == [None] * len(of_weights)


@networks
def test_it_is_the_core_at_the_sizes_of_a_run(kind):
    torch.manual_seed(0)
    core, compiled = pair(kind, 50, 128, dtype=torch.float32)
    start = map_state(torch.randn_like, core.initial_state(32))
    x = torch.randn(20, 32, 50)
    got, expected = result(compiled, compiled, x, start), result(core, core, x, start)
    for part, other in zip(got, expected, strict=True):
        for a, b in zip(part, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().mean().item())


@networks
def test_gates_that_are_closed_or_open_stay_finite(kind):
    core, compiled = pair(kind, 1, 3, dtype=torch.float32)
    start = map_state(torch.randn_like, core.initial_state(2))
    for size in (1e4, -1e4, 1e30):
        x = torch.full((3, 2, 1), size)
        assert_same(result(compiled, compiled, x, start), result(core, core, x, start))


@networks
@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_gives_its_symbols_as_they_are(kind, layers):
    torch.manual_seed(0)
    core, compiled = pair(kind, 5, 4, num_layers=layers)
    model = SequenceModel(OneHot(5), core, nn.Linear(4, 2)).double()
    faster = SequenceModel(OneHot(5), compiled, copy.deepcopy(model.readout))
    given = []
    compiled.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].dtype))
    start = map_state(torch.randn_like, core.initial_state(3))
    for symbols_TB in (torch.randint(5, (7, 3)), torch.randint(5, (3, 7), dtype=torch.int32).t()):
        expected = result(model, model, symbols_TB, start)
        assert_same(result(faster, faster, symbols_TB, start), expected)
        assert_same(result(faster.traced, faster, symbols_TB, start), expected)
        fixed = result(FixedWeights(faster), faster, symbols_TB, start)
        assert_same(fixed[:2], expected[:2])
    assert set(given) == {torch.int64}
    for wrong in (5, -1):
        with pytest.raises(IndexError, match=f"got symbol {wrong}, expected 0 to 4"):
            faster(torch.full((1, 3), wrong), start)
    with pytest.raises(TypeError, match="expected integers"):
        faster(torch.zeros(1, 3), start)


@networks
def test_finite_differences(kind):
    torch.manual_seed(0)
    layer = getattr(compiled_layers(), kind)
    gates, leafs = (4, 2) if kind == "lstm" else (3, 1)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    x, starts = random(3, 2, 4), [random(2, 5) for _ in range(leafs)]
    weights = [random(gates * 5, 4), random(gates * 5, 5), random(gates * 5), random(gates * 5)]
    probes = [torch.zeros(3, 2, 5, dtype=torch.float64)] * leafs

    def run(x, *rest):
        return layer(x, *rest[:leafs], *probes, *rest[leafs:])[: leafs + 1]

    assert torch.autograd.gradcheck(run, (x, *starts, *weights))


@networks
def test_frozen_weights_get_no_gradient(kind):
    core, compiled = pair(kind, 2, 3, num_layers=2)
    for each in (core, compiled):
        each.rnn.weight_hh_l0.requires_grad_(False)
        each.rnn.weight_ih_l1.requires_grad_(False)
        each.rnn.bias_ih_l1.requires_grad_(False)
    x, start = torch.randn(4, 2, 2, dtype=torch.float64), core.initial_state(2)
    assert_same(result(compiled, compiled, x, start), result(core, core, x, start))


@networks
def test_what_wraps_a_core_wraps_a_compiled_one(kind):
    torch.manual_seed(0)
    pairs = [pair(kind, 3, 4), pair(kind, 4, 5)]
    plain, compiled = (Stack([each[k] for each in pairs]) for k in (0, 1))
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    start = map_state(torch.randn_like, plain.initial_state(2))
    expected = result(plain, plain, x, start)
    assert_same(result(compiled, compiled, x, start), expected)
    again = Checkpointed(compiled, steps=2)
    assert_same(result(lambda *args: again.unroll(*args, None), compiled, x, start), expected)
    copied = copy.deepcopy(compiled)
    assert_same(result(copied, copied, x, start), expected)


@networks
def test_a_graph_can_be_used_twice_and_without_gradients(kind):
    _, compiled = pair(kind, 2, 3)
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    start = cut(compiled.initial_state(2))
    y, _ = compiled(x, start)
    y.sum().backward(retain_graph=True)
    once = target_grad(start).clone()
    y.sum().backward()
    torch.testing.assert_close(target_grad(start), 2 * once)
    with torch.no_grad():
        assert torch.equal(compiled(x, start)[0], y)


@networks
def test_influence_reads_their_traces(kind):
    stream = make_stream(6, 3, resets=True)
    ends = []
    for name in (kind, f"{kind} compiled"):
        model = make_model(name, 1)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = Trainer(model, Learner(sgd), Influence())
        for chunk in split(stream, [2, 1, 3]):
            trainer.step(chunk)
        ends.append(list(model.parameters()))
    for got, expected in zip(*ends, strict=True):
        torch.testing.assert_close(got, expected)


# --- Where they do not run


def test_elsewhere_torch_runs():
    torch.manual_seed(0)
    core, compiled = pair("lstm", 5, 4, dtype=torch.float32)
    x, start = torch.randn(3, 2, 5), core.initial_state(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert not compiled.runs_compiled(x.device)
        assert torch.equal(compiled(x, start)[0], core(x, start)[0])
        model = SequenceModel(OneHot(5), compiled, nn.Linear(4, 2))
        assert model(torch.zeros(3, 2, dtype=torch.long), start)[0].dtype == torch.bfloat16
    assert compiled.runs_compiled(x.device)
    assert not compiled.runs_compiled(torch.device("cuda"))
    compiled.bfloat16(), core.bfloat16()
    low = map_state(torch.Tensor.bfloat16, start)
    assert torch.equal(compiled(x.bfloat16(), low)[0], core(x.bfloat16(), low)[0])


@pytest.mark.parametrize(
    "rnn",
    [nn.RNN(2, 3), nn.LSTM(2, 3, num_layers=2, dropout=0.5), nn.LSTM(2, 3, proj_size=1)],
    ids=["rnn", "dropout", "projection"],
)
def test_a_network_without_compiled_layers_is_refused(rnn):
    with pytest.raises(ValueError, match=r"compiled layers for nn.LSTM and nn.GRU.*got (RNN|LSTM)"):
        TorchCore(rnn, compiled=True)


class Own(nn.LSTM):
    def forward(self, x, state=None):
        return super().forward(2 * x, state)


def test_a_network_with_a_forward_of_its_own_is_refused():
    with pytest.raises(ValueError, match="got Own"):
        TorchCore(Own(2, 3), compiled=True)


@networks
def test_there_is_no_second_derivative_and_it_says_so(kind):
    _, compiled = pair(kind, 2, 3)
    start = cut(compiled.initial_state(2))
    y, _ = compiled(torch.ones(2, 2, 2, dtype=torch.float64), start)
    with pytest.raises(RuntimeError, match="no second derivative; leave out create_graph=True"):
        torch.autograd.grad(y.square().sum(), leaves(start), create_graph=True)


def test_weights_that_change_before_the_backward_pass_are_an_error():
    _, compiled = pair("lstm", 2, 3)
    y, _ = compiled(torch.ones(2, 2, 2, dtype=torch.float64), compiled.initial_state(2))
    with torch.no_grad():
        compiled.rnn.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


WRONG = {
    "rows of h": ({"h": (3, 5)}, r"hidden state of shape \[3, 5\], expected \[2, 5\]"),
    "width of c": ({"c": (2, 4)}, r"cell state of shape \[2, 4\], expected \[2, 5\]"),
    "features": ({"x": (3, 2, 6)}, r"inputs of shape \[3, 2, 6\], expected \[3, 2, 4\]"),
    "no rows": ({"x": (3, 4)}, r"inputs of shape \[3, 4\], expected \[T, B, D\]"),
    "no steps": ({"x": (0, 2, 4)}, "chunk of 0 steps"),
    "gates": ({"w_hh": (15, 5)}, r"recurrent weights of shape \[15, 5\], expected \[20, 5\]"),
    "gates of x": ({"w_ih": (15, 4)}, r"input weights of shape \[15, 4\], expected \[20, 4\]"),
    "bias": ({"b_hh": (5,)}, r"biases of shape \[5\], expected \[20\]"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_wrong_shapes_are_refused_before_memory_is_read(changed, message):
    shapes = {"x": (3, 2, 4), "h": (2, 5), "c": (2, 5), "probe_h": (), "probe_c": ()}
    shapes |= {"w_ih": (20, 4), "w_hh": (20, 5), "b_ih": (20,), "b_hh": (20,)}
    layer = compiled_layers().lstm
    layer(**{name: torch.zeros(shape) for name, shape in shapes.items()})
    with pytest.raises(RuntimeError, match=message):
        layer(**{name: torch.zeros(shape) for name, shape in (shapes | changed).items()})


def test_wrong_types_are_refused():
    _, compiled = pair("gru", 4, 5, dtype=torch.float32)
    layer, weights = compiled_layers().gru, compiled.rnn.all_weights[0]
    x, h, probe = torch.zeros(3, 2, 4), torch.zeros(2, 5), torch.zeros(())
    with pytest.raises(RuntimeError, match="hidden state of Double"):
        layer(x, h.double(), probe, *weights)
    with pytest.raises(RuntimeError, match="got inputs of Double"):
        layer(x.double(), h, probe, *weights)
    with pytest.raises(RuntimeError, match="got one bias"):
        layer(x, h, probe, *weights[:3], None)


# --- How they are built

BUILD = "from seqdni.cores.compiled import compiled_layers; compiled_layers(); print('built')"


def build(folder, **environment):
    return subprocess.run(
        [sys.executable, "-c", BUILD],
        env=os.environ | {"TORCH_EXTENSIONS_DIR": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_library_is_built_once_and_whole(tmp_path):
    first = build(tmp_path, PATH=os.defpath)  # without the folder of ninja
    assert first.stdout == "built\n"
    assert first.stderr == "seqdni: compiling layers for this machine, once (20 seconds) ...\n"
    (library,) = tmp_path.iterdir()
    assert library.suffix == ".so"
    again = build(tmp_path, CXX="/no/compiler")
    assert (again.stdout, again.stderr) == ("built\n", "")


def test_without_a_compiler_it_says_so_and_leaves_nothing(tmp_path):
    failed = build(tmp_path, CXX="/no/compiler")
    assert failed.returncode == 1
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: the compiled layers cannot be built: ")
    assert "need a C++ compiler and ninja (pip install ninja)" in last
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    failed = build(tmp_path / "file" / "cache")
    assert "cannot be built" in failed.stderr.strip().splitlines()[-1]
    assert str(tmp_path / "file") in failed.stderr.strip().splitlines()[-1]
