"""The gradients that a synthesizer computes without autograd are those of autograd."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from seqdni import Boundary, MLPSynthesizer, SyntheticGradients, Whitening
from seqdni.learner import clipped
from seqdni.synthesizers.by_hand import is_plain
from seqdni.targets import Pairs

SIZE, ROWS, CONDITION = 5, 7, 3
SHAPES = {
    "linear": {"hidden_sizes": ()},
    "relu": {"hidden_sizes": (6,)},
    "two layers": {"hidden_sizes": (6, 4)},
    "tanh": {"hidden_sizes": (6, 4), "activation": nn.Tanh},
    "condition": {"hidden_sizes": (6,), "condition_size": CONDITION},
    "aux": {"hidden_sizes": (6,), "aux": True},
    "not scaled": {"hidden_sizes": (6,), "scaled": False, "aux": True},
    "whitened": {"hidden_sizes": (6,), "whitening": Whitening(SIZE)},
    "by autograd": {"hidden_sizes": (6,), "activation": nn.GELU},
    "batch norm": {"hidden_sizes": (6,), "batch_norm": True},
}


def build(shape):
    torch.manual_seed(1)
    synthesizer = MLPSynthesizer(SIZE, **copy.deepcopy(SHAPES[shape])).double()
    with torch.no_grad():
        for parameter in synthesizer.parameters():
            parameter.normal_()
    return synthesizer


def draw(shape, masked, step):
    generator = torch.Generator().manual_seed(step)
    wide = lambda size: torch.randn(ROWS, size, generator=generator, dtype=torch.float64)  # noqa: E731
    valid_B = torch.rand(ROWS, generator=generator) < 0.5 if masked else None
    options = {"valid_B": valid_B}
    if shape == "condition":
        options["condition_BK"] = wide(CONDITION)
    if shape in ("aux", "not scaled"):
        options["next_predicted_BS"] = wide(SIZE)
        options["next_valid_B"] = None if valid_B is None else valid_B.flip(0)
    return wide(SIZE), wide(SIZE), options


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_autograd(shape, masked):
    ours, theirs = build(shape), build(shape)
    for step in range(4):  # the gradients pile up, and the averages go on
        state, target, options = draw(shape, masked, step)
        got = ours.loss_after_backward(state, target, **options)
        expected = theirs.loss(state, target, **options)
        expected.backward()
        torch.testing.assert_close(got, expected.detach())
        assert not got.requires_grad
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)
            torch.testing.assert_close(a.grad, b.grad)


def test_no_valid_row_gives_no_gradient():
    synthesizer = build("relu")
    state, target, _ = draw("relu", False, 0)
    synthesizer.loss_after_backward(state, target, valid_B=torch.zeros(ROWS, dtype=torch.bool))
    assert all(p.grad is not None and not p.grad.any() for p in synthesizer.parameters())


def test_what_is_frozen_gets_no_gradient():
    synthesizer = build("two layers")
    synthesizer.trunk[0].requires_grad_(False)
    synthesizer.loss_after_backward(*draw("two layers", False, 0)[:2])
    has = [parameter.grad is not None for parameter in synthesizer.parameters()]
    assert has == [False, False, True, True, True, True]


def test_predictions_with_and_without_a_graph_are_the_same():
    synthesizer = build("tanh")
    synthesizer.loss(*draw("tanh", False, 0)[:2])
    state = draw("tanh", False, 1)[0]
    with torch.no_grad():
        without = synthesizer(state)
    torch.testing.assert_close(without, synthesizer(state).detach())


def test_a_loss_of_a_subclass_is_used():
    class Doubled(MLPSynthesizer):
        def loss(self, *pair, **options):
            return 2 * super().loss(*pair, **options)

    taught = []
    for kind in (MLPSynthesizer, Doubled):
        torch.manual_seed(2)
        boundary = Boundary(kind(SIZE, (6,)))
        synthetic = SyntheticGradients(boundary, torch.optim.SGD(boundary.parameters(), 0.1))
        pairs = Pairs(torch.ones(ROWS, SIZE), torch.ones(ROWS, SIZE), None, None)
        taught.append([loss.item() for loss in synthetic.teach(pairs, 1.0)])
    assert taught[1][0] == pytest.approx(2 * taught[0][0])


UNUSUAL = {
    "spectral norm": lambda s: nn.utils.spectral_norm(s.trunk[0]),
    "parametrized": lambda s: nn.utils.parametrizations.weight_norm(s.trunk[0]),
    "pruned": lambda s: prune.l1_unstructured(s.trunk[0], "weight", 3),
    "a hook": lambda s: s.trunk[0].register_forward_hook(lambda *_: s.seen.append(1)),
    "no bias": lambda s: s.trunk.__setitem__(0, nn.Linear(SIZE, 6, bias=False)),
    "linear at the end": lambda s: s.trunk.append(nn.Linear(6, 6)),
}


@pytest.mark.parametrize("change", UNUSUAL)
def test_unusual_layers_learn_by_autograd(change):
    synthesizer = MLPSynthesizer(SIZE, (6,))
    synthesizer.seen = []
    UNUSUAL[change](synthesizer)
    nn.init.normal_(synthesizer.head.weight)
    assert not is_plain(synthesizer.trunk, [synthesizer.head])
    synthesizer.loss_after_backward(torch.randn(ROWS, SIZE), torch.randn(ROWS, SIZE))
    assert all(parameter.grad is not None for parameter in synthesizer.parameters())
    assert bool(synthesizer.seen) == (change == "a hook")


def test_a_synthesizer_of_another_scaling_is_refused():
    saved = MLPSynthesizer(SIZE).state_dict()
    with pytest.raises(ValueError, match="build it with scaled=True"):
        MLPSynthesizer(SIZE, scaled=False).load_state_dict(saved)
    del saved["_extra_state"]["scaled"]  # as it was saved before there was a choice
    MLPSynthesizer(SIZE).load_state_dict(saved)


def test_what_is_applied_has_no_graph():
    boundary = Boundary(MLPSynthesizer(SIZE), bound=1.0)
    predicted = boundary.synthesizer(torch.randn(ROWS, SIZE))
    assert predicted.requires_grad
    for each in (boundary.applied, boundary.limited, boundary.masked):
        assert not each(predicted).requires_grad


@pytest.mark.parametrize("size", [0.1, 0.9995, 1.0, 1.0005, 30.0])
def test_a_clip_is_that_of_torch_to_the_last_bit(size):
    ours = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(5))]
    theirs = copy.deepcopy(ours)
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(p.shape, generator=generator) for p in ours]
    norm = torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in grads]))
    for mine, other, grad in zip(ours, theirs, grads, strict=True):
        mine.grad, other.grad = grad * (size / norm), grad * (size / norm)
    assert not clipped(ours, 1.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.grad, other.grad)
