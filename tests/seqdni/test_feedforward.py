"""A trainer of layers against back-propagation, in float64, and what it refuses."""

from __future__ import annotations

import copy
import threading
import time

import pytest
import torch
from runs import assert_same
from torch import nn
from torch.nn import functional

from seqdni import (
    Boundary,
    Critic,
    LayerTrainer,
    LeastSquares,
    MLPSynthesizer,
    SyntheticGradients,
    SyntheticInput,
    controls,
    train_in_threads,
)
from seqdni.feedforward.checks import check_credit, check_inputs, check_order

PIXELS, WIDTH, CLASSES, ROWS, STAGES = 6, 5, 3, 8, 4
ORDERS = ("forward", "reverse", "random")


def make_net(seed=0):
    torch.manual_seed(seed)
    widths = [PIXELS, *[WIDTH] * (STAGES - 1)]
    hidden = [
        nn.Sequential(nn.Linear(width, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())
        for width in widths[:-1]
    ]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES)).double()


def batches(count=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(ROWS, PIXELS, generator=generator, dtype=torch.float64)
        yield x, x[:, :CLASSES].argmax(1)


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-2)


def label(y):
    return functional.one_hot(y, CLASSES).double()


class TrueGradient(nn.Module):
    """A synthesizer that knows the true gradient of the present batch."""

    condition_size = 0

    def __init__(self):
        super().__init__()
        self.gradient = None
        self.targets = []

    def forward(self, state_BS, condition_BK=None):
        assert self.gradient is not None
        return self.gradient

    def loss(self, state_BS, target_BS, **_):
        self.targets.append((self.gradient, target_BS))
        return torch.zeros(())


def tell_true_gradients(net, oracles, x, y):
    """Give each synthesizer what back-propagation through the whole net finds at its cut."""
    twin, ends, end = copy.deepcopy(net), [], x
    for stage in twin[:-1]:
        end = stage(end)
        ends.append(end)
    loss = functional.cross_entropy(twin[-1](end), y, reduction="sum")
    for oracle, gradient in zip(oracles, torch.autograd.grad(loss, ends), strict=True):
        oracle.gradient = gradient


def same_weights(net, other):
    pairs = zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in pairs)


def trained(trainer, steps=12, condition=None):
    for x, y in batches(steps):
        trainer.step(x, y, condition=None if condition is None else condition(y))
    return trainer


# Against back-propagation


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_true_gradients_make_it_back_propagation(order, probability):
    net, reference = make_net(), make_net()
    oracles = [TrueGradient() for _ in net[:-1]]
    trainer = LayerTrainer(
        net,
        [Boundary(oracle) for oracle in oracles],
        adam,
        functional.cross_entropy,
        order=order,
        update_probability=probability,
        seed=3,
    )
    optimizers = [adam(stage.parameters()) for stage in reference]
    updates = [0] * STAGES
    for x, y in batches():
        tell_true_gradients(net, oracles, x, y)
        trainer.step(x, y)
        functional.cross_entropy(reference(x), y).backward()
        for stage, optimizer in enumerate(optimizers):
            if trainer.updates_of_stages[stage] > updates[stage]:  # the same draws
                optimizer.step()
        reference.zero_grad()
        updates = list(trainer.updates_of_stages)
    assert same_weights(net, reference)
    assert updates == [12] * STAGES if probability == 1 else 0 < sum(updates) < 12 * STAGES
    for oracle in oracles:
        assert oracle.targets
        for predicted, target in oracle.targets:
            assert torch.allclose(predicted, target, atol=1e-12)


def test_the_draws_do_not_depend_on_what_is_trained():
    def draws(credit):
        trainer = LayerTrainer(
            make_net(), credit, adam, functional.cross_entropy, update_probability=0.5, seed=3
        )
        return trained(trainer).updates_of_stages[-1]

    zero = [Boundary(LeastSquares(WIDTH).double()) for _ in range(STAGES - 1)]
    assert draws([Boundary(None) for _ in range(STAGES - 1)]) == draws(zero)


@pytest.mark.parametrize("order", ORDERS)
def test_a_frozen_zero_synthesizer_trains_the_last_stage_only(order):
    net, reference = make_net(), make_net()
    zero = [MLPSynthesizer(WIDTH, (4,)).double().requires_grad_(False) for _ in net[:-1]]
    trained(
        LayerTrainer(net, [Boundary(m) for m in zero], adam, functional.cross_entropy, order=order)
    )
    optimizer = adam(reference[-1].parameters())
    for x, y in batches():
        functional.cross_entropy(reference(x), y).backward()
        optimizer.step()
        reference.zero_grad()
    assert same_weights(net, reference)


def test_one_stage_is_back_propagation():
    net, reference = make_net(), make_net()
    trained(LayerTrainer([net], [], adam, functional.cross_entropy, clip=0.5))
    optimizer = adam(reference.parameters())
    for x, y in batches():
        functional.cross_entropy(reference(x), y).backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
        reference.zero_grad()
    assert same_weights(net, reference)


def test_feature_maps_are_cut_like_any_activation():
    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh())
    net = nn.Sequential(maps, nn.Sequential(nn.Flatten(), nn.Linear(2 * 9, CLASSES))).double()
    reference, oracle = copy.deepcopy(net), TrueGradient()
    trainer = LayerTrainer(net, [Boundary(oracle)], adam, functional.cross_entropy)
    optimizer = adam(reference.parameters())
    for _, y in batches():
        x = torch.randn(ROWS, 1, 3, 3, dtype=torch.float64)
        tell_true_gradients(net, [oracle], x, y)
        oracle.gradient = oracle.gradient.flatten(1)
        trainer.step(x, y)
        functional.cross_entropy(reference(x), y).backward()
        optimizer.step()
        reference.zero_grad()
    assert same_weights(net, reference)


# Learning


def least_squares():
    return [
        Boundary(
            LeastSquares(WIDTH, condition_size=CLASSES, solve_every=1, forgetting=0.9).double()
        )
        for _ in range(STAGES - 1)
    ]


def cosines(control):
    """How well each synthesizer's gradient agrees with the true one after training."""
    net = make_net()
    boundaries = least_squares()
    for boundary in boundaries:
        boundary.control = control
    trainer = LayerTrainer(net, boundaries, adam, functional.cross_entropy)
    trained(trainer, 200, label)
    found, oracles = [], [TrueGradient() for _ in net[:-1]]
    x, y = next(batches(1, seed=9))
    tell_true_gradients(net, oracles, x, y)
    end = x
    for stage, boundary, oracle in zip(net[:-1], boundaries, oracles, strict=True):
        end = stage(end).detach()
        predicted = boundary.synthetic_grad(end, condition_BK=label(y))
        truth = oracle.gradient.flatten()
        found.append(functional.cosine_similarity(predicted.flatten(), truth, 0).item())
    return found


def test_with_the_label_the_gradients_are_near_the_true_ones_and_shuffled_ones_are_not():
    assert min(cosines(None)) > 0.5
    assert max(cosines(controls.shuffled)) < 0.5


@pytest.mark.parametrize(
    "synthesizer",
    [
        lambda: MLPSynthesizer(WIDTH, (7,), condition_size=CLASSES, batch_norm=True),
        lambda: MLPSynthesizer(WIDTH, (), condition_size=CLASSES),
        lambda: Critic(WIDTH, CLASSES),
    ],
)
def test_a_synthesizer_with_parameters_is_trained_by_the_same_optimizer(synthesizer):
    boundaries = [Boundary(synthesizer().double()) for _ in range(STAGES - 1)]
    net, before = make_net(), make_net()
    trainer = LayerTrainer(net, boundaries, adam, functional.cross_entropy)
    trained(trainer, 20, label)
    assert len(trainer.optimizers()) == 2 * STAGES - 1
    for stage, old in zip(net, before, strict=True):
        assert not same_weights(stage, old)
    sums = trainer.meter.read()
    assert sums["scored"] == 20 * ROWS
    assert all(sums[f"synth_steps_{k}"] == 20 == sums[f"updates_{k}"] for k in range(STAGES - 1))


def test_the_bounds_of_all_cuts_share_the_level_of_the_last_gradient():
    net, boundaries = make_net(), least_squares()
    for boundary in boundaries:
        boundary.bound = 1.0
    trainer = LayerTrainer(net, boundaries, adam, functional.cross_entropy)
    x, y = next(batches(1))
    oracles = [TrueGradient() for _ in net[:-1]]
    tell_true_gradients(net, oracles, x, y)
    trainer.step(x, y, condition=label(y))
    level = boundaries[0].gradient_scale
    assert all(boundary.gradient_scale is level for boundary in boundaries)
    assert level.square.item() == pytest.approx(oracles[-1].gradient.square().mean().item())
    huge = torch.full((2, WIDTH), 1e6, dtype=torch.float64)
    assert boundaries[0].limited(huge).square().mean().item() == pytest.approx(level.square.item())


def test_bfloat16_and_a_schedule():
    net = make_net().float()
    boundaries = [Boundary(LeastSquares(WIDTH, condition_size=CLASSES)) for _ in net[:-1]]
    trainer = LayerTrainer(net, boundaries, adam, functional.cross_entropy, autocast=torch.bfloat16)
    schedules = [torch.optim.lr_scheduler.StepLR(each, 1, 0.5) for each in trainer.optimizers()]
    for x, y in batches(3):
        trainer.step(x.float(), y, condition=label(y).float())
        for schedule in schedules:
            schedule.step()
    assert {group["lr"] for o in trainer.optimizers() for group in o.param_groups} == {1e-2 / 8}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in net.parameters())


# Complete unlock


def unlocked(net):
    inputs = [
        SyntheticInput(
            MLPSynthesizer(PIXELS, (16,), output_size=WIDTH, batch_norm=True).double(),
            activation=torch.tanh,
        )
        for _ in net[:-1]
    ]
    return LayerTrainer(net, least_squares(), adam, functional.cross_entropy, inputs=inputs)


def test_a_stage_computes_with_its_synthetic_input_and_learns_what_arrives():
    net = make_net()
    trainer = unlocked(net)
    assert trainer.inputs is not None
    seen = {}
    net[2].register_forward_hook(lambda _, args, out: seen.update(start=args[0], end=out))
    x, y = next(batches(1))
    trainer.step(x, y, condition=label(y))  # a first prediction is tanh(0)
    assert seen["start"].abs().max() == 0
    for x, y in batches(300):
        trainer.step(x, y, condition=label(y))
    sums = trainer.meter.read()
    assert all(sums[f"input_steps_{k}"] == 301 for k in range(STAGES - 1))
    trainer.meter.clear()
    for x, y in batches(10):
        expected = trainer.inputs[1].predict(x)
        trainer.step(x, y, condition=label(y))
        assert torch.equal(seen["start"], expected)
    sums = trainer.meter.read()
    assert sums["input_loss_0"] / 10 < 0.6  # 1 is as good as a prediction of zero


def test_true_synthetic_inputs_make_it_the_locked_net():
    class Known(nn.Module):
        condition_size = 0

        def forward(self, x_BI, condition_BK=None):
            return self.known

        def loss(self, x_BI, h_BO, **_):
            assert torch.equal(self.known, h_BO)
            return torch.zeros(())

    net, reference = make_net(), make_net()
    known = [Known() for _ in net[:-1]]
    trainer = LayerTrainer(
        net,
        least_squares(),
        adam,
        functional.cross_entropy,
        inputs=[SyntheticInput(each) for each in known],
    )
    locked = LayerTrainer(reference, least_squares(), adam, functional.cross_entropy)
    for x, y in batches():
        twin, end = copy.deepcopy(net), x
        for stage, each in zip(twin[:-1], known, strict=True):
            each.known = end = stage(end).detach()
        trainer.step(x, y, condition=label(y))
        locked.step(x, y, condition=label(y))
    assert same_weights(net, reference)


# Stopping and going on


def whole(kind, net):
    if kind == "unlock":
        return unlocked(net)
    credit = {
        "rls": least_squares,
        "mlp": lambda: [
            SyntheticGradients(boundary, torch.optim.Adam(boundary.parameters()), clip=1.0)
            for boundary in (
                Boundary(MLPSynthesizer(WIDTH, condition_size=CLASSES).double()) for _ in net[:-1]
            )
        ],
    }[kind]()
    return LayerTrainer(
        net, credit, adam, functional.cross_entropy, order="random", update_probability=0.5
    )


@pytest.mark.parametrize("kind", ["rls", "mlp", "unlock"])
def test_a_trainer_goes_on_bit_for_bit(kind, tmp_path):
    torch.manual_seed(4)
    first = whole(kind, make_net())
    trained(first, 7, label)
    torch.save(first.state_dict(), tmp_path / "saved.pt")
    trained(first, 5, label)

    second = whole(kind, make_net(seed=5))
    second.load_state_dict(torch.load(tmp_path / "saved.pt", weights_only=True))
    trained(second, 5, label)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert first.meter.read() == second.meter.read()
    assert first.updates_of_stages == second.updates_of_stages
    assert (first.steps, first.tokens) == (second.steps, second.tokens) == (12, 12 * ROWS)


def test_a_checkpoint_of_other_stages_is_refused():
    saved = whole("rls", make_net()).state_dict()
    short = nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.Linear(WIDTH, CLASSES)).double()
    other = LayerTrainer(short, least_squares()[:1], adam, functional.cross_entropy)
    with pytest.raises(ValueError, match="4 optimizers, expected 2"):
        other.load_state_dict(saved)


# What is refused


def make(net=None, credit=None, **settings):
    net = make_net() if net is None else net
    credit = least_squares() if credit is None else credit
    return LayerTrainer(net, credit, adam, functional.cross_entropy, **settings)


SHARED = nn.Linear(WIDTH, WIDTH)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make([]), "no stages, expected at least one"),
        (
            lambda: make(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
            "stage 1, a ReLU, has no parameters to train.*one stage with the module before",
        ),
        (
            lambda: make([SHARED, nn.Sequential(SHARED), nn.Linear(2, 2), nn.Linear(2, 2)]),
            "stages 0 and 1 share a parameter",
        ),
        (lambda: make(credit=least_squares()[:2]), "got 2 boundaries for 4 stages, expected 3"),
        (lambda: check_credit([LeastSquares(3)], 2), "got a LeastSquares at cut 0, expected a"),
        (lambda: make(credit=least_squares()[:1] * 3), "one boundary stands at two cuts"),
        (
            lambda: make(credit=[Boundary(MLPSynthesizer(WIDTH, aux=True)) for _ in range(3)]),
            "the synthesizer at cut 0 has an Aux head.*aux=False",
        ),
        (
            lambda: make(
                credit=[
                    SyntheticGradients(Boundary(LeastSquares(WIDTH)), targets="dense")
                    for _ in range(3)
                ]
            ),
            "targets='dense', which are for chunks",
        ),
        (lambda: check_order("backward", 1.0), "order is 'backward', expected one of 'forward'"),
        (
            lambda: LayerTrainer(
                make_net(), least_squares(), lambda _: adam(SHARED.parameters()), print
            ),
            r"optimizer holds parameters of something else .*expected those of the stage 0 alone",
        ),
        (lambda: make(update_probability=0.0), "update_probability is 0.0, expected a number 0 <"),
        (lambda: make(inputs=[]), "got 0 synthetic inputs for 4 stages, expected 3"),
        (
            lambda: check_inputs(least_squares(), 4),
            "got a Boundary as the synthetic input of stage 1",
        ),
        (
            lambda: SyntheticInput(LeastSquares(PIXELS, condition_size=2, output_size=WIDTH)),
            "condition_size=2, expected 0: at test time there is no condition",
        ),
    ],
)
def test_a_trainer_that_cannot_work_is_refused(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


class Whole(nn.Linear):
    """A layer whose output has whole numbers."""

    def forward(self, x):
        return super().forward(x).long()


class Two(nn.Linear):
    """A layer with two outputs."""

    def forward(self, x):
        return super().forward(x), x


def one_cut(first, boundary=None):
    boundary = Boundary(None) if boundary is None else boundary
    return LayerTrainer(
        [first, nn.Linear(WIDTH, CLASSES)], [boundary], adam, functional.cross_entropy
    )


def with_label(size):
    return Boundary(LeastSquares(WIDTH, condition_size=size))


@pytest.mark.parametrize(
    ("trainer", "rows", "condition", "message"),
    [
        (lambda: one_cut(Whole(PIXELS, WIDTH)), 4, None, "stage 0 returned numbers of type torch"),
        (lambda: one_cut(Two(PIXELS, WIDTH)), 4, None, "stage 0 returned a tuple, expected one"),
        (
            lambda: one_cut(nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.Flatten(0))),
            4,
            None,
            r"stage 0 returned the shape \[20\] for 4 rows",
        ),
        (
            lambda: one_cut(nn.Linear(PIXELS, WIDTH), Boundary(LeastSquares(WIDTH + 1))),
            4,
            None,
            "state_size=6, and the activation at cut 0 has 5 features a row",
        ),
        (
            lambda: one_cut(nn.Linear(PIXELS, WIDTH), Boundary(LeastSquares(WIDTH, output_size=2))),
            4,
            None,
            "output_size=2, and the gradient has 5 features a row",
        ),
        (
            lambda: one_cut(nn.Linear(PIXELS, WIDTH), with_label(3)),
            4,
            None,
            r"got no condition, expected one of 3 features.*step\(x, y, condition=...\)",
        ),
        (
            lambda: one_cut(nn.Linear(PIXELS, WIDTH), with_label(3)),
            4,
            torch.ones(4, 2),
            r"got a condition of shape \[4, 2\], expected \[B, 3\]",
        ),
        (
            lambda: one_cut(nn.Linear(PIXELS, WIDTH)),
            4,
            torch.ones(4, 2),
            "a condition that no synthesizer reads",
        ),
        (
            lambda: one_cut(nn.Linear(PIXELS, WIDTH), with_label(3)),
            4,
            torch.ones(3, 3),
            r"got inputs \[4, 6\], targets \[4\], condition \[3, 3\], expected the same number",
        ),
        (lambda: one_cut(nn.Linear(PIXELS, WIDTH)), 0, None, "the same number of rows, >= 1"),
        (
            lambda: one_cut(nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.BatchNorm1d(WIDTH))),
            1,
            None,
            "got one row, expected two or more: batch norm",
        ),
        (
            lambda: one_cut(
                nn.Linear(PIXELS, WIDTH), Boundary(MLPSynthesizer(WIDTH, batch_norm=True))
            ),
            1,
            None,
            "got one row, expected two or more: batch norm",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_before_anything_learns(
    trainer, rows, condition, message
):
    trainer = trainer()
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises((ValueError, TypeError), match=message):
        trainer.step(torch.randn(rows, PIXELS), torch.zeros(rows).long(), condition=condition)
    after = trainer.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert trainer.steps == 0


@pytest.mark.parametrize(
    ("synthetic", "message"),
    [
        (lambda: SyntheticInput(LeastSquares(3, output_size=WIDTH)), "state_size=3, and the net's"),
        (
            lambda: SyntheticInput(LeastSquares(PIXELS, output_size=2)),
            "output_size=2, and the activation at cut 0 has 5",
        ),
        (
            lambda: SyntheticInput(LeastSquares(PIXELS, output_size=WIDTH), shape=(5, 1)),
            r"the shape \[5, 1\] a row, and the true one \[5\]",
        ),
    ],
)
def test_a_synthetic_input_of_another_width_is_refused(synthetic, message):
    net = make_net().float()[-2:]
    net[0][0] = nn.Linear(PIXELS, WIDTH)
    trainer = LayerTrainer(
        net, [Boundary(None)], adam, functional.cross_entropy, inputs=[synthetic()]
    )
    with pytest.raises(ValueError, match=message):
        trainer.step(torch.randn(4, PIXELS), torch.zeros(4).long())


def test_a_loss_that_is_not_finite_updates_nothing():
    x, y = torch.full((ROWS, PIXELS), float("nan"), dtype=torch.float64), torch.zeros(ROWS).long()
    net = nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.Linear(WIDTH, CLASSES)).double()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan, which is not finite"):
        LayerTrainer(net, [Boundary(None)], adam, functional.cross_entropy).step(x, y)
    skipping = LayerTrainer(
        net, [Boundary(None)], adam, functional.cross_entropy, non_finite="skip"
    )
    skipping.step(x, y)
    assert skipping.meter.read()["skipped"] == 1
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


# A thread for each stage


def in_threads(trainer, steps, first=0, **settings):
    rows = [(x, y, label(y)) for x, y in batches(first + steps)][first:]
    return train_in_threads(trainer, rows, **settings)


def synthetic_inputs():
    torch.manual_seed(7)
    return [
        SyntheticInput(MLPSynthesizer(PIXELS, (4,), output_size=WIDTH).double()) for _ in range(3)
    ]


@pytest.mark.parametrize("probability", [1.0, 0.5])
@pytest.mark.parametrize("queue_size", [1, 3])
@pytest.mark.parametrize("unlock", [False, True])
def test_threads_without_staleness_are_one_process_bit_for_bit(probability, queue_size, unlock):
    def make():
        return LayerTrainer(
            make_net(),
            least_squares(),
            adam,
            functional.cross_entropy,
            update_probability=probability,
            inputs=synthetic_inputs() if unlock else None,
        )

    one, several = trained(make(), 12, label), make()
    in_threads(several, 5, queue_size=queue_size)
    in_threads(several, 7, first=5, queue_size=queue_size)
    assert_same(one.state_dict(), several.state_dict())
    assert (several.steps, several.tokens) == (12, 12 * ROWS)


@pytest.mark.parametrize("unlock", [False, True])
def test_staleness_is_fixed_and_does_not_depend_on_the_speed_of_the_threads(unlock):
    def weights(staleness, slow):
        inputs = synthetic_inputs() if unlock else None
        trainer = LayerTrainer(
            make_net(), least_squares(), adam, functional.cross_entropy, inputs=inputs
        )
        trainer.model[slow].register_forward_hook(lambda *_: time.sleep(0.003))
        in_threads(trainer, 12, staleness=staleness)
        return trainer.model

    assert same_weights(weights(2, slow=0), weights(2, slow=3))
    assert same_weights(weights(9, slow=0), weights(9, slow=1))  # more than a queue holds
    assert not same_weights(weights(2, slow=0), weights(0, slow=0))


def test_stages_work_at_the_same_time():
    trainer = LayerTrainer(make_net(), least_squares(), adam, functional.cross_entropy)
    for stage in trainer.model:
        stage.register_forward_hook(lambda *_: time.sleep(0.01))
    spans = in_threads(trainer, 12, staleness=3)
    assert {span.stage for span in spans} == set(range(STAGES))
    assert {span.kind for span in spans} == {"forward", "backward", "wait"}
    worked = sum(span.end - span.begin for span in spans if span.kind != "wait")
    assert worked > 1.5 * max(span.end for span in spans)  # 12 * 4 sleeps in a quarter of the time


def test_a_stage_that_fails_ends_the_run_with_its_error():
    trainer = LayerTrainer(make_net(), least_squares(), adam, functional.cross_entropy)

    def fail(*_):
        if trainer.stages[1].updates == 3:
            raise MemoryError("no room")

    trainer.model[1].register_forward_hook(fail)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="stage 1 failed at step 3: no room; all stages have"):
        in_threads(trainer, 50)
    assert threading.active_count() == before


def test_an_error_of_the_data_ends_the_threads():
    trainer = LayerTrainer(make_net(), least_squares(), adam, functional.cross_entropy)

    def broken():
        x, y = next(batches(1))
        yield x, y, label(y)
        raise OSError("the disk is gone")

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        train_in_threads(trainer, broken())
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"order": "random"}, {}, "order='random', expected 'forward'"),
        ({}, {"staleness": -1}, "staleness is -1, expected a whole number >= 0"),
        ({}, {"queue_size": 0}, "queue_size is 0, expected a whole number >= 1"),
        ({"bound": 1.0}, {}, "the boundary at cut 0 has a bound, whose level comes from"),
        ({"control": controls.shuffled}, {}, "boundary of stage 0 has a control that may draw"),
    ],
)
def test_what_threads_cannot_run_is_refused(change, settings, message):
    credit = least_squares()
    credit[0].bound, credit[0].control = change.pop("bound", None), change.pop("control", None)
    trainer = LayerTrainer(make_net(), credit, adam, functional.cross_entropy, **change)
    with pytest.raises(ValueError, match=message):
        train_in_threads(trainer, [], **settings)


def test_a_control_that_draws_nothing_runs_in_threads_too():
    def make():
        credit = least_squares()
        credit[1].control = controls.batch_mean
        return LayerTrainer(make_net(), credit, adam, functional.cross_entropy)

    several = make()
    in_threads(several, 6)
    assert_same(trained(make(), 6, label).state_dict(), several.state_dict())


def test_dropout_in_threads_is_refused():
    net = [nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5)), nn.Linear(5, 3)]
    adam = lambda parameters: torch.optim.Adam(parameters)  # noqa: E731
    trainer = LayerTrainer(net, [Boundary(LeastSquares(5))], adam, nn.functional.cross_entropy)
    with pytest.raises(ValueError, match="stage 0 has dropout"):
        train_in_threads(trainer, [])


# Settings of the synthetic gradients at a cut


def test_a_stage_waits_until_its_synthesizer_is_past_its_warm_up():
    credit = [SyntheticGradients(each, warmup_chunks=3) for each in least_squares()]
    trainer = LayerTrainer(make_net(), credit, adam, functional.cross_entropy)
    trained(trainer, 5, label)
    assert trainer.updates_of_stages == [2, 2, 2, 5]


def test_a_synthesizer_may_learn_from_a_share_of_the_steps():
    credit = [SyntheticGradients(each, train_fraction=0.5) for each in least_squares()]
    trainer = LayerTrainer(make_net(), credit, adam, functional.cross_entropy)
    trained(trainer, 20, label)
    sums = trainer.meter.read()
    assert all(9 <= sums[f"synth_steps_{cut}"] <= 11 for cut in range(STAGES - 1))


def test_a_gradient_that_is_not_finite_names_the_step_and_the_stage():
    broken = TrueGradient()
    broken.gradient = torch.full((ROWS, WIDTH), float("inf"), dtype=torch.float64)
    net = nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.Linear(WIDTH, CLASSES)).double()
    trainer = LayerTrainer(net, [Boundary(broken)], adam, functional.cross_entropy)
    x, y = next(batches(1))
    with pytest.raises(FloatingPointError, match="the gradient of step 0 in stage 0 is not finite"):
        trainer.step(x, y)
