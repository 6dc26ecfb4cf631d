"""Compiled layers compute what torch's networks compute, and refuse what they cannot."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compiled import needs_compiler
from hypothesis import settings
from oracles import make_model, make_stream, split
from sizes import of_any_size
from torch import nn
from torch.nn.utils import prune

from seqdni import (
    Checkpointed,
    Influence,
    Learner,
    LSTMState,
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
@of_any_size
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
def test_two_threads_compute_what_one_does(kind):
    torch.manual_seed(0)
    core, compiled = pair(kind, 5, 150)
    start = map_state(torch.randn_like, core.initial_state(130))
    symbols = torch.randint(5, (3, 130))
    model = SequenceModel(OneHot(5), core, nn.Identity()).double()
    faster = SequenceModel(OneHot(5), compiled, nn.Identity()).double()
    expected, before = result(model, model, symbols, start), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_same(result(faster, faster, symbols, start), expected)
    finally:
        torch.set_num_threads(before)


@networks
def test_gates_that_are_closed_or_open_stay_finite(kind):
    core, compiled = pair(kind, 1, 3, dtype=torch.float32)
    start = map_state(torch.randn_like, core.initial_state(2))
    for size in (1e4, -1e4, 1e30):
        x = torch.full((3, 2, 1), size)
        assert_same(result(compiled, compiled, x, start), result(core, core, x, start))


@networks
@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_gives_its_symbols_as_they_are(kind, layers, monkeypatch):
    torch.manual_seed(0)
    core, compiled = pair(kind, 5, 4, num_layers=layers)
    model = SequenceModel(OneHot(5), core, nn.Linear(4, 2)).double()
    faster = SequenceModel(OneHot(5), compiled, copy.deepcopy(model.readout))
    given, run = [], compiled.forward
    monkeypatch.setattr(compiled, "forward", lambda x, s: given.append(x.dtype) or run(x, s))
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


def test_symbols_may_be_written_over_before_the_backward_pass():
    torch.manual_seed(0)
    core, compiled = pair("lstm", 5, 4)
    start = core.initial_state(2)
    grads = []
    for each in (core, compiled):
        model = SequenceModel(OneHot(5), each, nn.Identity()).double()
        symbols = np.arange(6).reshape(3, 2) % 5
        y, _ = model(torch.from_numpy(symbols), start)
        symbols[:] = 10**7
        y.square().sum().backward()
        grads.append(each.rnn.weight_ih_l0.grad)
    torch.testing.assert_close(grads[1], grads[0])


@networks
def test_a_gradient_that_is_negative_or_zero_in_name_only(kind):
    torch.manual_seed(0)
    core, compiled = pair(kind, 2, 3)
    x, start = torch.randn(4, 2, 2, dtype=torch.float64), core.initial_state(2)
    g = torch.randn(4, 2, 3, dtype=torch.float64)
    for sent in (torch._neg_view(g), torch._efficientzerotensor(g.shape, dtype=g.dtype)):
        grads = []
        for each in (core, compiled):
            each.zero_grad()
            each(x, start)[0].backward(sent)
            grads.append([p.grad for p in each.parameters()])
        assert_same(grads[1:], grads[:1])


@networks
def test_hooks_of_autograd_may_return_other_layouts(kind):
    torch.manual_seed(0)
    core, compiled = pair(kind, 2, 3)
    x, start = torch.randn(4, 2, 2, dtype=torch.float64), core.initial_state(2)
    expected = result(core, core, x, start)

    def turned(saved):
        return saved.transpose(0, 1).contiguous().transpose(0, 1) if saved.dim() > 1 else saved

    def run(*given):
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, turned):
            return compiled(*given)

    assert_same(result(run, compiled, x, start), expected)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: saved, lambda saved: saved[:1] if saved.dim() == 3 else saved
    ):
        y, _ = compiled(x, start)
    with pytest.raises(RuntimeError, match="got a saved tensor of shape"):
        y.sum().backward()


def test_the_gradients_of_a_layer_share_no_memory():
    layer = compiled_layers().gru
    _, compiled = pair("gru", 2, 3)
    h = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    probe = torch.zeros(2, 1, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 1, 2, dtype=torch.float64)
    for _ in range(2):
        layer(x, h, probe, *compiled.rnn.all_weights[0])[0].sum().backward()
    torch.testing.assert_close(h.grad, probe.grad[0])
    once = torch.autograd.grad(
        layer(x, h, probe, *compiled.rnn.all_weights[0])[0].sum(), [h, probe]
    )
    torch.testing.assert_close(h.grad, 2 * once[0])


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


@networks
def test_what_happens_when_a_network_is_called_still_happens(kind):
    torch.manual_seed(0)
    core, compiled = pair(kind, 5, 4)
    start, symbols = core.initial_state(2), torch.randint(5, (3, 2))
    for each in (core, compiled):
        prune.l1_unstructured(each.rnn, "weight_hh_l0", 5)
        with torch.no_grad():
            each.rnn.weight_hh_l0_orig.mul_(2)  # what the hook makes the weight of
    assert not compiled.can_trace
    models = [SequenceModel(OneHot(5), each, nn.Identity()).double() for each in (core, compiled)]
    ends = [result(model, model, symbols, start) for model in models]
    assert_same(ends[1], ends[0])
    assert_same(*(result(FixedWeights(m), m, symbols, start) for m in models))

    prune.remove(compiled.rnn, "weight_hh_l0")
    seen = []
    models[1].encoder.register_forward_hook(lambda *_: seen.append("encoder"))
    models[1](symbols, start)
    assert seen == ["encoder"]
    compiled.rnn.register_forward_hook(lambda *_: seen.append("network"))
    models[1](symbols, start)
    assert seen == ["encoder", "encoder", "network"]


def test_a_hook_of_the_core_gets_vectors():
    compiled, seen = TorchCore(nn.LSTM(5, 4), compiled=True), []
    compiled.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model = SequenceModel(OneHot(5), compiled, nn.Identity())
    model(torch.randint(5, (3, 2)), compiled.initial_state(2))
    assert seen == [(3, 2, 5)]


@networks
@pytest.mark.parametrize("symbols", [1, 5])
def test_no_weight_changes_in_the_forward_pass(kind, symbols):
    torch.manual_seed(0)
    core, compiled = pair(kind, symbols, 4)
    for each in (core, compiled):
        weight = each.rnn.weight_ih_l0  # in the other order, as a transposed one is
        weight.data = weight.data.t().contiguous().t()
    model = SequenceModel(OneHot(symbols), core, nn.Identity()).double()
    faster = SequenceModel(OneHot(symbols), compiled, nn.Identity()).double()
    x, start = torch.randint(symbols, (3, 2)), core.initial_state(2)
    before = copy.deepcopy(faster.state_dict())
    assert_same(result(faster, faster, x, start), result(model, model, x, start))
    for name, value in faster.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_network_that_gets_dropout_later_has_it():
    core = TorchCore(nn.LSTM(2, 3, num_layers=2), compiled=True)
    core.rnn.dropout = 0.5
    x, start = torch.randn(4, 2, 2), core.initial_state(2)
    assert not torch.equal(core(x, start)[0], core(x, start)[0])


@pytest.mark.parametrize("run", ["__call__", "with_fixed_weights", "traced"])
def test_a_state_of_other_layers_is_refused(run):
    core = TorchCore(nn.LSTM(2, 4), compiled=True)
    x, three = torch.zeros(3, 2, 2), torch.zeros(3, 2, 4)
    for wrong in (LSTMState(three, three), LSTMState(three[:1], three), three[:1]):
        with pytest.raises(ValueError, match=r"got a state of . tensors.*expected 2 with \[1, 1\]"):
            getattr(core, run)(x, wrong)


def test_an_encoder_of_other_symbols_is_refused_as_before():
    core = TorchCore(nn.LSTM(7, 4), compiled=True)
    model = SequenceModel(OneHot(5), core, nn.Identity())
    with pytest.raises(RuntimeError, match="got inputs of shape"):
        model(torch.zeros(3, 2, dtype=torch.long), core.initial_state(2))
    model = SequenceModel(OneHot(7), core, nn.Identity())
    for wrong in (torch.uint8, torch.bool):
        with pytest.raises(RuntimeError, match="indices"):
            model(torch.zeros(3, 2, dtype=wrong), core.initial_state(2))


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


def build(folder, program=BUILD, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TORCH_EXTENSIONS_DIR": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_without_a_compiler_it_says_so_and_leaves_nothing(tmp_path):
    failed = build(tmp_path, CXX="/no/compiler")
    assert failed.returncode == 1
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: the compiled layers cannot be built: /bin/sh")
    assert "/no/compiler: not found. They need a C++ compiler and ninja (pip install" in last
    assert list(tmp_path.iterdir()) == []


AGAIN = """
import os, threading
from seqdni.cores.compiled import compiled_layers
try:
    compiled_layers()
except RuntimeError:
    print("failed")
os.environ["CXX"] = "c++"
threads = [threading.Thread(target=compiled_layers) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
compiled_layers()
print("built")
"""


def test_a_library_is_built_once_and_one_that_is_damaged_again(tmp_path):
    compiled_layers()
    (made,) = (Path(each) for each in torch.ops.loaded_libraries if "seqdni_layers" in str(each))
    library = tmp_path / made.name
    shutil.copy(made, library)
    found = build(tmp_path, CXX="/no/compiler")
    assert (found.stdout, found.stderr) == ("built\n", "")

    library.write_bytes(b"")  # damaged
    (tmp_path / "building-x").mkdir()  # left by a build that was killed
    # In one process a failure and many threads that try again; ninja's folder is not in PATH.
    tried = build(tmp_path, AGAIN, CXX="/no/compiler", PATH=os.defpath)
    assert tried.stdout == "failed\nbuilt\n"
    told = "seqdni: compiling layers for this machine, once (20 seconds) ...\n"
    assert tried.stderr == 2 * told
    assert sorted(each.name for each in tmp_path.iterdir()) == ["building-x", library.name]
    assert library.stat().st_size == made.stat().st_size


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    failed = build(tmp_path / "file" / "cache")
    assert "cannot be built" in failed.stderr.strip().splitlines()[-1]
    assert str(tmp_path / "file") in failed.stderr.strip().splitlines()[-1]
