"""What only a CUDA device can show: that nothing waits for it, and that it computes the same."""

from __future__ import annotations

import pytest
import torch
from captured_cases import CASES, assert_same, build, train
from oracles import make_model, make_stream, make_trainer, split
from torch import nn
from trainers import flat_trainer

from seqdni import (
    Boundary,
    Learner,
    OneHot,
    SequenceModel,
    Stack,
    TorchCore,
    Trainer,
    cross_entropy,
    map_state,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # torch calls it a prototype
]

ROWS = 4
NAMES = [
    *("tbptt", "overlap", "influence", "dni", "dni-aux", "dni-dense", "dni-bounded"),
    "dni-rls",
]


def on_gpu(name, **options):
    """A trainer on the device; its optimisers hold the parameters that were moved."""
    trainer = make_trainer(make_model("lstm", 1, torch.float32), name, **options)
    trainer.model.cuda()
    if trainer.boundary is not None:
        trainer.boundary.cuda()
    model, boundary = trainer.model, trainer.boundary
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    learn = None
    if boundary is not None and list(boundary.parameters()):
        learn = torch.optim.Adam(boundary.parameters(), lr=0.01)
    kind = {"overlap": {"history": 2}, "influence": {"influence": True}}.get(name, {})
    dense = {"targets": "dense"} if name == "dni-dense" else {}
    return flat_trainer(
        model, adam, boundary=boundary, synth_optimizer=learn, **kind, **dense, **options
    )


def chunks(device, pinned=False):
    stream = split(make_stream(16, ROWS, resets=True), [4] * 4)
    masks = (lambda x: x.pin_memory()) if pinned else (lambda x: x)
    return [(x.to(device), y.to(device), masks(mask), masks(reset)) for x, y, mask, reset in stream]


@pytest.mark.parametrize("name", NAMES)
def test_the_chunk_loop_never_waits_for_the_gpu(name):
    trainer = on_gpu(name, clip=1.0)
    ready = chunks("cuda", pinned=True)
    for chunk in ready:
        trainer.step(chunk)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for chunk in ready:
            trainer.step(chunk)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.meter.read()["scored"] > 0


def test_looking_ahead_never_waits_for_the_gpu():
    model = make_model("lstm", 1, torch.float32).cuda()
    adam = torch.optim.Adam(model.parameters())
    trainer = flat_trainer(model, adam, boundary=Boundary(None), clip=1.0)
    first, second, third, _ = chunks("cuda", pinned=True)
    trainer.step(first, ahead=second)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(second, ahead=third)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.updates == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_gpu_computes_what_the_cpu_computes(name):
    here = make_trainer(make_model("lstm", 1, torch.float32), name, clip=1.0)
    there = on_gpu(name, clip=1.0)
    for chunk in chunks("cpu"):
        here.step(chunk)
        there.step(chunk)
    for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-2, atol=1e-4)
    assert here.meter.read()["loss_sum"] == pytest.approx(there.meter.read()["loss_sum"], rel=1e-3)


def test_targets_of_minus_100_on_the_gpu_are_not_counted():
    trainer = on_gpu("tbptt")
    x, y, _, _ = chunks("cuda")[0]
    y = y.clone()
    y[2:] = -100
    trainer.step((x, y))
    logits, _ = trainer.model(x, trainer.model.initial_state(ROWS))
    assert trainer.meter.read()["scored"] == 2 * ROWS
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_not_finite_never_reaches_the_model(name):
    def broken(outputs, targets):
        factor = torch.where(targets == 4, float("nan"), 1.0)
        return cross_entropy(outputs, targets) * factor

    trainer = on_gpu(name, loss=broken)
    x, y, _, _ = chunks("cuda")[0]
    trainer.step((x, y.clamp(max=3)))
    trainer.step((x, torch.full_like(y, 4)))
    boundary = trainer.boundary
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert trainer.meter.read()["loss_sum"] != trainer.meter.read()["loss_sum"]  # not a number
    trainer.meter.clear()
    trainer.step((x, y.clamp(max=3)))
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    if boundary is not None:
        assert all(x.isfinite().all() for x in boundary.state_dict().values() if hasattr(x, "dim"))


def test_a_checkpoint_of_the_gpu_goes_on_there():
    never, stopped, resumed = on_gpu("dni-rls"), on_gpu("dni-rls"), on_gpu("dni-rls")
    ready = chunks("cuda")
    for chunk in ready:
        never.step(chunk)
    for chunk in ready[:2]:
        stopped.step(chunk)
    resumed.load_state_dict(stopped.state_dict())
    for chunk in ready[2:]:
        resumed.step(chunk)
    for a, b in zip(never.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("case", CASES)
def test_graphs_train_as_eager_chunks_do(case):
    captured, eager = build(case, device="cuda"), build(case, capture=False, device="cuda")
    train(captured, case, 0, 200)
    train(eager, case, 0, 200)
    report = dict(captured.captured.eager)
    assert not [reason for reason in report if "cannot be recorded" in reason], report
    assert captured.captured.replayed >= 40, report
    assert_same(captured, eager)


@pytest.mark.parametrize("case", ["tbptt", "mlp", "rls", "look-ahead-endless", "critic"])
def test_graphs_never_wait_for_the_gpu(case):
    trainer = build(case, device="cuda")
    train(trainer, case, 0, 180)
    replayed = trainer.captured.replayed
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(trainer, case, 180, 190)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.captured.replayed > replayed


def test_a_checkpoint_of_graphs_goes_on_with_them_and_without():
    case = "mlp-episodes"
    never, stopped = build(case, device="cuda"), build(case, device="cuda")
    train(never, case, 0, 180)
    train(stopped, case, 0, 151)
    saved = stopped.state_dict()
    for capture in (True, False):
        resumed = build(case, capture, device="cuda")
        resumed.load_state_dict(saved)
        train(resumed, case, 151, 180)
        assert_same(resumed, never)


def test_a_model_with_dropout_draws_new_masks_in_each_repetition():
    stack = Stack([TorchCore(nn.LSTM(5, 6)), TorchCore(nn.LSTM(6, 6))], dropout=0.5)
    model = SequenceModel(OneHot(5), stack, nn.Linear(6, 5)).cuda()
    adam = torch.optim.Adam(model.parameters(), lr=0.0)
    trainer = Trainer(model, Learner(adam), capture=True)
    chunk = chunks("cuda")[0][:2]
    losses = []
    for _ in range(12):
        trainer.carry = (
            None if trainer.carry is None else map_state(torch.zeros_like, trainer.carry)
        )
        trainer.meter.clear()
        trainer.step(chunk)
        losses.append(trainer.meter.read()["loss_sum"])
    assert trainer.captured.replayed > 5
    assert len(set(losses)) == len(losses)
