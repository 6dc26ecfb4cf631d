"""What the oracles do not cover: options of the trainer, what it refuses, what it leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch
from oracles import SYMBOLS, gradients, make_model, make_stream, make_trainer, split
from torch import nn
from torch.profiler import ProfilerActivity, profile
from trainers import flat_trainer

from seqdni import (
    Boundary,
    MLPSynthesizer,
    OneHot,
    SequenceModel,
    cross_entropy,
    leaves,
    to_bits,
    whole_episodes,
)
from seqdni.metrics import RunningSums

ROWS = 4


def steady(steps=16, rows=ROWS):
    """A stream without resets or masks, in chunks of 4."""
    inputs, targets, _, _ = make_stream(steps, rows, resets=False)
    return split((inputs, targets, None, None), [4] * (steps // 4))


def weights(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_warmup_trains_the_synthesizer_and_leaves_the_model_alone():
    plain = make_trainer(make_model("lstm", 1), "tbptt")
    warming = make_trainer(make_model("lstm", 1), "dni", warmup_chunks=3)
    chunks = steady(steps=20)
    for chunk in chunks[:3]:
        plain.step(chunk)
        warming.step(chunk)
    assert same(weights(plain), weights(warming))
    assert warming.boundary.synthesizer.head.weight.abs().sum() > 0
    for chunk in chunks[3:]:
        plain.step(chunk)
        warming.step(chunk)
    assert not same(weights(plain), weights(warming))


@pytest.mark.parametrize("name", ["dni", "dni-aux"])
def test_grad_scale_zero_is_tbptt(name):
    plain = make_trainer(make_model("gru", 1), "tbptt")
    silent = make_trainer(make_model("gru", 1), name)
    silent.boundary.grad_scale = 0
    for chunk in steady():
        plain.step(chunk)
        silent.step(chunk)
    assert same(weights(plain), weights(silent))


def test_grad_scale_multiplies_what_is_consumed():
    boundary = Boundary(MLPSynthesizer(3, ()), grad_scale=0.1)
    nn.init.ones_(boundary.synthesizer.head.bias)
    boundary.synthesizer.mean_square.fill_(4.0)
    torch.testing.assert_close(boundary.synthetic_grad(torch.zeros(1, 3)), torch.full((1, 3), 0.2))


def test_the_gradients_of_a_window_add_up():
    model = make_model("lstm", 1)
    chunks = steady()
    total = [torch.zeros_like(p) for p in model.parameters()]
    trainer = make_trainer(copy.deepcopy(model), "tbptt", optimizer="sgd", update_every=4)
    before = weights(trainer)
    carry = None
    for chunk in chunks:
        alone = make_trainer(copy.deepcopy(model), "tbptt", update_every=10**9)
        alone.carry = carry
        alone.step(chunk)
        carry = alone.carry
        total = [a + b for a, b in zip(total, gradients(alone.model), strict=True)]
        trainer.step(chunk)
    assert trainer.updates == 1
    for old, new, grad in zip(before, weights(trainer), total, strict=True):
        torch.testing.assert_close(new, old - 0.01 * grad)


def test_update_every_episode_updates_where_episodes_end():
    trainer = make_trainer(make_model("lstm", 1), "dni", update_every="episode")
    updates = []
    for chunk in lockstep_episode() + lockstep_episode():
        trainer.step(chunk)
        updates.append(trainer.updates)
    assert updates == [0, 0, 1, 1, 1, 2]


def lockstep_episode():
    reset = torch.zeros(13, ROWS, dtype=torch.bool)
    reset[0], reset[-1] = True, True
    inputs, targets, mask, _ = make_stream(12, ROWS, resets=False)
    return split((inputs, targets, mask, reset), [4, 4, 4])


@pytest.mark.parametrize("name", ["tbptt", "dni"])
def test_a_window_without_any_gradient_is_no_update(name):
    """Reading a sequence scores nothing: TBPTT has nothing to learn from it, DNI has."""
    trainer = make_trainer(make_model("lstm", 1), name)
    inputs, targets, _, _ = make_stream(8, ROWS, resets=False)
    mask = torch.zeros(8, ROWS, dtype=torch.bool)
    mask[4:] = True
    first, second = split((inputs, targets, mask, None), [4, 4])
    before = weights(trainer)
    trainer.step(first)
    assert trainer.updates == (1 if name == "dni" else 0)
    assert same(before, weights(trainer))
    trainer.step(second)
    assert not same(before, weights(trainer))
    assert trainer.meter.read()["scored"] == 4 * ROWS


def test_metrics_are_the_mean_nats():
    trainer = make_trainer(make_model("lstm", 1), "tbptt", optimizer="sgd")
    trainer.learner.optimizer.param_groups[0]["lr"] = 0.0
    stream = make_stream(8, ROWS, resets=False)
    logits, _ = trainer.model(stream[0], trainer.model.initial_state(ROWS))
    expected = cross_entropy(logits, stream[1])[stream[2]]
    for chunk in split(stream, [4, 4]):
        trainer.step(chunk)
    read = trainer.meter.read()
    assert read["scored"] == stream[2].sum()
    assert read["loss_sum"] == pytest.approx(expected.sum().item())
    assert to_bits(read["loss_sum"]) == pytest.approx(expected.sum().item() / 0.6931471805599453)


def test_a_long_sum_of_losses_keeps_the_small_ones():
    """In float32 2^24 + 1 is 2^24."""
    meter = RunningSums("cpu")
    for nats in (2.0**24, 1.0, 1.0):
        meter.add(loss_sum=torch.tensor(nats))
    assert meter.read() == {"loss_sum": 2.0**24 + 2}
    restored = RunningSums("cpu")
    restored.load_state_dict({"loss_sum": 2.0**24})
    for _ in range(2):
        restored.add(loss_sum=torch.tensor(1.0))
    assert restored.read() == meter.read()


def test_clips_are_apart():
    """Each side moves by its own bound, however large its gradient."""
    trainer = make_trainer(
        make_model("lstm", 1), "dni", optimizer="sgd", clip=1e-3, synth_clip=1e-5
    )
    trainer.synthetic.optimizer = torch.optim.SGD(trainer.boundary.parameters(), lr=1.0)
    first, second = steady()[:2]
    trainer.step(first)
    model, synthesizer = weights(trainer), parameters_of(trainer.boundary)
    trainer.step(second)
    assert moved(model, weights(trainer)) == pytest.approx(0.01 * 1e-3, rel=1e-2)
    assert moved(synthesizer, parameters_of(trainer.boundary)) == pytest.approx(1e-5, rel=1e-2)


def parameters_of(module):
    return [p.detach().clone() for p in module.parameters()]


def moved(before, after):
    parts = [(a - b).norm() for a, b in zip(before, after, strict=True)]
    return torch.stack(parts).norm().item()


class Recorder(MLPSynthesizer):
    """A synthesizer that writes down what it is asked and what it is taught."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.asked, self.taught = [], []

    def forward(self, state_BS, condition_BK=None):
        said = super().forward(state_BS, condition_BK)
        self.asked.append((state_BS.clone(), condition_BK, said.clone()))
        return said

    def loss(self, state_BS, target_BS, **others):
        self.taught.append((state_BS.clone(), target_BS.clone(), others))
        return super().loss(state_BS, target_BS, **others)


def test_what_the_synthesizer_is_taught():
    """State, target, units, valid rows, contexts and Aux target, chunk by chunk, by hand."""
    torch.manual_seed(0)
    model = make_model("gru", 1)
    boundary = Boundary(Recorder(6, (5,), condition_size=1, aux=True).double(), grad_scale=0.5)
    synthesizer = boundary.synthesizer
    for head in (synthesizer.head, synthesizer.aux_head):
        nn.init.normal_(head.weight)
    synthesizer.mean_square.fill_(0.01)
    synthesizer.targets_seen = 100
    trainer = flat_trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        boundary=boundary,
        synth_optimizer=torch.optim.SGD(boundary.parameters(), lr=0.0),
        loss_scale=3.0,
    )
    inputs, targets, mask, _ = make_stream(12, ROWS, resets=False)
    reset = torch.zeros(13, ROWS, dtype=torch.bool)
    reset[4, 1] = True  # row 1 restarts with the second chunk
    reset[6, 2] = True  # row 2 restarts inside it
    chunks = split((inputs, targets, mask, reset), [4, 4, 4])
    contexts = [torch.full((ROWS, 1), float(k), dtype=torch.float64) for k in range(4)]
    for k, chunk in enumerate(chunks):
        trainer.step(chunk, condition=(contexts[k], contexts[k + 1]))
    assert len(synthesizer.taught) == 2  # nothing is taught at the start of the stream

    start = synthesizer.asked[0][0].unsqueeze(0).requires_grad_()  # what the first chunk ended in
    state, nats = start, 0.0
    for t in range(4, 8):
        state = torch.where(reset[t][:, None], torch.zeros_like(state), state)
        logits, state = model(inputs[t : t + 1], state)
        losses = cross_entropy(logits, targets[t : t + 1])[0]
        nats = nats + (losses * mask[t]).sum()
    consumed = 0.5 * synthesizer.asked[1][2]
    (nats + (state[0] * consumed.detach()).sum()).backward()

    state_BS, target_BS, others = synthesizer.taught[0]
    torch.testing.assert_close(state_BS, start[0].detach())
    torch.testing.assert_close(target_BS, start.grad[0])
    assert others["valid_B"].tolist() == [True, False, True, True]
    assert others["next_valid_B"].tolist() == [True, False, False, True]
    torch.testing.assert_close(others["next_predicted_BS"], synthesizer.asked[1][2])
    assert others["condition_BK"] is contexts[1]
    assert [context[0, 0].item() for _, context, _ in synthesizer.asked] == [1.0, 2.0, 3.0]
    assert synthesizer.taught[1][2]["valid_B"] is None


def test_nothing_is_taught_where_all_rows_restart():
    boundary = Boundary(Recorder(6, (5,)).double())
    model = make_model("gru", 1)
    trainer = flat_trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        boundary=boundary,
        synth_optimizer=torch.optim.SGD(boundary.parameters(), lr=0.0),
    )
    for chunk in lockstep_episode() + lockstep_episode():
        trainer.step(chunk)
    assert len(boundary.synthesizer.taught) == 4
    assert len(boundary.synthesizer.asked) == 4


def test_a_learned_initial_state_gets_its_gradient():
    class Learned(LeakyCell):
        def __init__(self):
            super().__init__()
            self.first = nn.Parameter(torch.zeros(3))

        def initial_state(self, batch_size):
            return self.first.expand(batch_size, 3)

    model = SequenceModel(OneHot(SYMBOLS), Learned(), nn.Linear(3, SYMBOLS))
    trainer = flat_trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), update_every=9)
    trainer.step(steady()[0])
    assert model.core.first.grad.abs().sum() > 0


def test_loading_forgets_the_gradients_of_an_open_window():
    chunks = steady()
    closed = make_trainer(make_model("lstm", 1), "tbptt", update_every=2).state_dict()
    fresh = make_trainer(make_model("lstm", 1), "tbptt", update_every=2)
    used = make_trainer(make_model("lstm", 1), "tbptt", update_every=2)
    used.step(chunks[0])
    for trainer in (fresh, used):
        trainer.load_state_dict(copy.deepcopy(closed))
        for chunk in chunks[:2]:
            trainer.step(chunk)
    assert same(weights(fresh), weights(used))


def test_no_valid_row_is_no_news_for_the_scale():
    synthesizer = MLPSynthesizer(3, ())
    synthesizer.loss(torch.ones(2, 3), torch.ones(2, 3))
    no_rows = torch.zeros(2, dtype=torch.bool)
    for _ in range(5):
        synthesizer.loss(torch.ones(2, 3), 7 * torch.ones(2, 3), valid_B=no_rows)
    assert synthesizer.scale.item() == pytest.approx(1.0)


def test_aux_head_learns_what_the_next_boundary_says():
    torch.manual_seed(0)
    synthesizer = MLPSynthesizer(4, (16,), aux=True)
    optimizer = torch.optim.Adam(synthesizer.parameters(), lr=1e-2)
    turn = torch.linalg.qr(torch.randn(4, 4))[0]
    for _ in range(400):
        state = torch.randn(64, 4)
        loss = synthesizer.loss(state, state @ turn, next_predicted_BS=state @ turn @ turn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    assert synthesizer.aux_head.weight.abs().sum() > 0


@pytest.mark.parametrize("scaled", [True, False])
def test_moving_the_scale_does_not_change_what_is_predicted(scaled):
    synthesizer = MLPSynthesizer(3, (5,), aux=True, scaled=scaled).double()
    for parameter in synthesizer.parameters():
        nn.init.normal_(parameter)
    synthesizer.mean_square.fill_(0.5)
    synthesizer.targets_seen = 7
    probe = torch.randn(8, 3, dtype=torch.float64)
    before = synthesizer(probe)
    synthesizer.loss(probe, 1e3 * torch.randn(8, 3, dtype=torch.float64))
    assert synthesizer.scale > 10
    torch.testing.assert_close(synthesizer(probe), before)


@pytest.mark.parametrize("units", [1e-6, 1.0, 1e6])
def test_the_regression_does_not_depend_on_the_units_of_the_loss(units):
    """Batch-mean gradients of 1e-6 train the synthesizer exactly as well as sums of 1e6."""
    torch.manual_seed(0)
    synthesizer = MLPSynthesizer(3, ()).double()
    optimizer = torch.optim.Adam(synthesizer.parameters(), lr=1e-2)
    for _ in range(600):
        state = torch.randn(64, 3, dtype=torch.float64)
        optimizer.zero_grad()
        loss = synthesizer.loss(state, units * state)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_context_is_seen_and_its_width_checked():
    synthesizer = MLPSynthesizer(2, (), condition_size=1)
    nn.init.ones_(synthesizer.head.weight)
    synthesizer.mean_square.fill_(1.0)
    state = torch.zeros(1, 2)
    assert synthesizer(state, torch.ones(1, 1)).tolist() == [[1.0, 1.0]]
    with pytest.raises(ValueError, match="condition_size=1, got no condition"):
        synthesizer(state)
    with pytest.raises(ValueError, match="condition_size=1, got 2 condition"):
        synthesizer(state, torch.ones(1, 2))


def test_bfloat16_autocast_trains():
    model = make_model("lstm", 1, torch.float32)
    trainer = make_trainer(model, "dni", autocast=torch.bfloat16)
    for _ in range(5):
        for chunk in steady():
            trainer.step(chunk)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    full = make_trainer(make_model("lstm", 1, torch.float32), "dni")
    for _ in range(5):
        for chunk in steady():
            full.step(chunk)
    low, high = trainer.meter.read()["loss_sum"], full.meter.read()["loss_sum"]
    assert low != high
    assert low == pytest.approx(high, rel=0.02)


@pytest.mark.parametrize("name", ["tbptt", "dni", "dni-aux", "dni-dense"])
def test_memory_does_not_grow_with_the_stream(name):
    """In steady state a step frees all that it allocates, and nothing carried has a graph."""
    trainer = make_trainer(make_model("lstm", 2, torch.float32), name, clip=1.0)
    chunk = steady()[0]
    for _ in range(5):
        trainer.step(chunk)

    def net_bytes(steps):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            for _ in range(steps):
                trainer.step(chunk)
        events = recorded.profiler.kineto_results.events()
        return sum(event.nbytes() for event in events if event.name() == "[memory]")

    assert abs(net_bytes(40)) < 4096  # the graph of one chunk alone is several times that
    assert all(leaf.grad_fn is None and not leaf.requires_grad for leaf in leaves(trainer.carry))


class LeakyCell(nn.Module):
    """A user's own core: state is one [B, H] tensor, no layers axis."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(SYMBOLS + 3, 3)

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 3)

    def forward(self, x_TBD, state):
        outputs = []
        for x_BD in x_TBD:
            state = torch.tanh(self.mix(torch.cat([x_BD, state], dim=1)))
            outputs.append(state)
        return torch.stack(outputs), state


def test_any_core_that_keeps_the_contract_trains():
    torch.manual_seed(0)
    model = SequenceModel(OneHot(SYMBOLS), LeakyCell(), nn.Linear(3, SYMBOLS))
    boundary = Boundary(MLPSynthesizer(3, (4,)))
    trainer = flat_trainer(
        model,
        torch.optim.Adam(model.parameters(), lr=0.02),
        boundary=boundary,
        synth_optimizer=torch.optim.Adam(boundary.parameters()),
    )
    stream = make_stream(40, ROWS, resets=True)
    losses = []
    for _ in range(100):
        for chunk in split(stream, [8] * 5):
            trainer.step(chunk)
        losses.append(trainer.meter.read()["loss_sum"])
        trainer.meter.clear()
    assert losses[-1] < 0.85 * losses[0]
    assert trainer.boundary.synthesizer.scale > 0


# --- What is refused


def test_contradictions_are_refused():
    model = make_model("lstm", 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="has parameters and no optimizer"):
        flat_trainer(model, optimizer, boundary=Boundary(MLPSynthesizer(12)), synth_clip=1.0)
    with pytest.raises(ValueError, match="update_every is 0, expected 'episode' or a whole"):
        flat_trainer(model, optimizer, update_every=0)
    with pytest.raises(ValueError, match=r"loss_scale is 0\.0"):
        flat_trainer(model, optimizer, loss_scale=0.0)
    with pytest.raises(ValueError, match="grad_scale is -1"):
        Boundary(MLPSynthesizer(2), grad_scale=-1.0)
    with pytest.raises(ValueError, match="aux=True shapes"):
        MLPSynthesizer(2, (), aux=True)
    with pytest.raises(ValueError, match="state_size >= 1"):
        MLPSynthesizer(0)
    with pytest.raises(ValueError, match="no Aux head"):
        MLPSynthesizer(2).loss(
            torch.ones(1, 2), torch.ones(1, 2), next_predicted_BS=torch.ones(1, 2)
        )


def test_shapes_that_do_not_fit_are_named():
    trainer = make_trainer(make_model("lstm", 1), "tbptt")
    x = torch.zeros(4, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"targets is \[3, 2\], expected \[4, 2"):
        trainer.step((x, x[:3], None, None))
    with pytest.raises(ValueError, match=r"should_reset is \[4, 2\], expected \[5, 2"):
        trainer.step((x, x, None, torch.zeros(4, 2, dtype=torch.bool)))
    with pytest.raises(ValueError, match="no steps"):
        trainer.step((x[:0], x[:0], None, None))
    trainer.step((x, x, None, None))
    with pytest.raises(ValueError, match="3 rows, the carried state 2"):
        trainer.step((x.repeat(1, 2)[:, :3], x.repeat(1, 2)[:, :3], None, None))


def test_streams_without_episodes_cannot_update_by_episode():
    trainer = make_trainer(make_model("lstm", 1), "tbptt", update_every="episode")
    x = torch.zeros(2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="the stream has no episodes"):
        trainer.step((x, x, None, None))
    apart = torch.tensor([[True, True], [False, False], [True, False]])
    with pytest.raises(ValueError, match="rows that end apart"):
        trainer.step((x, x, None, apart))
    with pytest.raises(ValueError, match="rows that end apart"):
        list(whole_episodes([(x, x, None, apart)]))


def test_a_checkpoint_of_another_trainer_is_refused():
    saved = make_trainer(make_model("lstm", 1), "tbptt").state_dict()
    with pytest.raises(ValueError, match="one has no synthetic"):
        make_trainer(make_model("lstm", 1), "dni").load_state_dict(saved)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_the_synthesizer_learns_from_a_share_of_the_chunks_in_step_with_no_period(share):
    trainer = make_trainer(make_model("gru", 1), "dni-rls", train_fraction=share)
    chunks = split(make_stream(12, 4, resets=False), [3, 3, 3, 3]) * 50
    taught = []
    for chunk in chunks:
        before = trainer.boundary.synthesizer.steps
        trainer.step(chunk)
        taught.append(trainer.boundary.synthesizer.steps - before)
    taught = taught[1:]  # the first chunk continues nothing
    assert sum(taught) / len(taught) == pytest.approx(share, abs=0.03)
    for period in (2, 3, 4, 5):
        for phase in range(period):
            part = taught[phase::period]
            assert sum(part) / len(part) == pytest.approx(share, abs=0.12)


def test_what_is_learned_from_is_dealt_into_steps():
    """Four steps on a quarter each move the synthesizer four times; one sees all of it at once."""
    chunks = split(make_stream(8, 4, resets=False), [4, 4])
    steps = {}
    for count in (1, 4):
        model = make_model("lstm", 1)
        trainer = make_trainer(model, "dni-dense", updates_per_chunk=count)
        for chunk in chunks:
            trainer.step(chunk)
        state = trainer.synthetic.optimizer.state_dict()["state"]
        steps[count] = next(iter(state.values()))["step"].item()
    # in the first chunk of a stream the first of each four pairs has no target
    assert steps == {1: 2, 4: 8}


def test_a_share_and_steps_out_of_range_are_refused():
    model = make_model("gru", 1)
    with pytest.raises(ValueError, match=r"train_fraction is 0\.0, expected a share"):
        make_trainer(model, "dni", train_fraction=0.0)
    with pytest.raises(
        ValueError, match="updates_per_chunk are for a synthesizer that learns by descent"
    ):
        make_trainer(model, "dni-rls", updates_per_chunk=2)
    with pytest.raises(ValueError, match="updates_per_chunk > 1 does not go with an Aux head"):
        make_trainer(model, "dni-aux", updates_per_chunk=2)


def test_more_steps_than_there_is_to_learn_from():
    """Parts with nothing in them teach nothing, and break nothing."""
    chunks = split(make_stream(8, 2, resets=False), [4, 4])
    trainer = make_trainer(make_model("gru", 1), "dni", updates_per_chunk=4)
    for chunk in chunks * 3:
        trainer.step(chunk)
    assert trainer.boundary.synthesizer.scale.isfinite()
    assert trainer.meter.read()["synth_steps"] == 2 * 5


def test_options_of_learning_need_something_that_learns():
    model = make_model("gru", 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for settings in ({"train_fraction": 0.5}, {"targets": "dense"}):
        with pytest.raises(ValueError, match=r"for a synthesizer, .* the boundary has none"):
            flat_trainer(model, optimizer, boundary=Boundary(None), **settings)


def test_a_checkpoint_of_another_format_is_refused():
    trainer = make_trainer(make_model("lstm", 1), "tbptt")
    saved = trainer.state_dict()
    del saved["format"]
    with pytest.raises(ValueError, match="format 1, and this version of seqdni reads format 3"):
        trainer.load_state_dict(saved)
