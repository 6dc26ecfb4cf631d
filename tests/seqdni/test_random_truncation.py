"""Random truncation: its expected gradient is full BPTT's, and its cuts are what they say."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from oracles import (
    COMPILED,
    KINDS,
    assert_close,
    full_bptt,
    gradients,
    make_model,
    make_stream,
    make_trainer,
    never_update,
    one_episode,
    split,
)

from seqdni import Checkpointed, RandomTruncation, Reweighted, pack, unroll

cores = pytest.mark.parametrize("kind", [*KINDS, *COMPILED])
restarts = pytest.mark.parametrize("resets", [False, True], ids=["endless", "resets"])
STEPS, ROWS = 12, 4


def cut_patterns(chunks, cut_probability, seeds):
    """Every way the chunks are joined, by the cuts drawn, as the stream itself makes them."""
    found = {}
    for seed in range(seeds):
        graphs = list(RandomTruncation(chunks, cut_probability, seed))
        found[tuple(len(graph[0]) for graph in graphs)] = graphs
    return found


@cores
@restarts
@pytest.mark.parametrize("sizes", [[3] * 4, [4, 4, 4], [5, 5, 2]], ids=str)
@pytest.mark.parametrize("p", [0.5, 0.3])
def test_the_expected_gradient_is_full_bptt(kind, resets, sizes, p):
    model = make_model(kind, 2)
    stream = make_stream(STEPS, ROWS, True) if resets else one_episode(STEPS, ROWS)
    patterns = cut_patterns(split(stream, sizes), p, seeds=400)
    assert len(patterns) == 2 ** (len(sizes) - 1)
    expected, total = [torch.zeros_like(x) for x in model.parameters()], 0.0
    for graphs in patterns.values():
        cuts = len(graphs) - 1
        probability = p**cuts * (1 - p) ** (len(sizes) - 1 - cuts)
        trainer = never_update(Reweighted(copy.deepcopy(model), sizes[0], p))
        for graph in graphs:
            trainer.step(graph)
        for mean, grad in zip(expected, gradients(trainer.model), strict=True):
            mean += probability * grad
        total += probability
    assert total == pytest.approx(1)
    assert_close(expected, full_bptt(model, stream))


def test_no_pattern_alone_is_full_bptt():
    """The weights matter: even the uncut pattern has another gradient."""
    model = make_model("lstm", 1)
    stream = one_episode(STEPS, ROWS)
    exact = full_bptt(model, stream)
    for graphs in cut_patterns(split(stream, [3] * 4), 0.5, seeds=100).values():
        trainer = never_update(Reweighted(copy.deepcopy(model), 3, 0.5))
        for graph in graphs:
            trainer.step(graph)
        assert not all(
            torch.allclose(a, b) for a, b in zip(gradients(trainer.model), exact, strict=True)
        )


@cores
def test_a_certain_cut_is_tbptt_bit_for_bit(kind):
    chunks = split(make_stream(STEPS, ROWS, resets=True), [3] * 4)
    plain = make_trainer(make_model(kind, 1), "tbptt")
    random = make_trainer(Reweighted(make_model(kind, 1), 3, 1.0), "tbptt")
    for chunk in chunks:
        plain.step(chunk)
    for graph in RandomTruncation(chunks, 1.0, seed=0):
        random.step(graph)
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.model.parameters(), random.model.parameters(), strict=True)
    )


def test_reweighting_changes_no_value():
    model = make_model("lstm", 2)
    inputs, _, _, should_reset = make_stream(STEPS, ROWS, resets=True)
    expected, end = unroll(model, inputs, model.initial_state(ROWS), should_reset)
    got, again = unroll(Reweighted(model, 5, 0.5), inputs, model.initial_state(ROWS), should_reset)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(pack(again), pack(end))


def test_a_checkpointed_core_can_be_reweighted():
    stream, ends = one_episode(STEPS, ROWS), []
    for core in (make_model("lstm", 1), Checkpointed(make_model("lstm", 1), 2)):
        trainer = never_update(Reweighted(core, 3, 0.5))
        trainer.step(stream)
        ends.append(gradients(trainer.model))
    assert_close(*ends)


class Echo:
    """A core whose output is its state: what is weighted must not be the output's gradient."""

    def initial_state(self, batch_size):
        return torch.zeros(1, batch_size, 1)

    def __call__(self, x, state):
        state = state + x.sum(0)
        return state.expand(len(x), -1, -1), state


def test_an_output_that_is_the_state_is_not_weighted():
    x = torch.ones(4, 1, 1, requires_grad=True)
    y, _ = unroll(Reweighted(Echo(), 2, 0.75), x, torch.zeros(1, 1, 1))
    y.sum().backward()
    assert x.grad.flatten().tolist() == [10, 10, 2, 2]  # 2 within the chunk, 4 * 2 from the next


def endless(count):
    x = torch.arange(count)[:, None].expand(count, 2)
    return [(x[t : t + 1], x[t : t + 1], None, None) for t in range(count)]


@pytest.mark.parametrize("p", [0.5, 0.25])
def test_graphs_are_as_long_as_chance_says(p):
    graphs = list(RandomTruncation(endless(4000), p, seed=0))
    lengths = torch.tensor([len(graph[0]) for graph in graphs], dtype=torch.float64)
    assert torch.cat([graph[0] for graph in graphs])[:, 0].tolist() == list(range(4000))
    assert lengths.mean().item() == pytest.approx(1 / p, rel=0.1)
    assert (lengths == 1).double().mean().item() == pytest.approx(p, rel=0.1)
    assert all(graph[3] is None for graph in graphs)


def test_longest_cuts_in_any_case():
    lengths = [len(x) for x, *_ in RandomTruncation(endless(200), 0.05, seed=0, longest=3)]
    assert max(lengths) == 3
    assert lengths.count(3) > 40


def test_no_graph_goes_beyond_a_lockstep_end():
    stream = one_episode(STEPS, ROWS)
    episodes = split(stream, [5, 5, 2]) * 50
    t = 0
    for graph in RandomTruncation(episodes, 0.2, seed=0):
        t += len(graph[0])
        assert not graph[3][1:-1].any()
        assert bool(graph[3][-1].all()) == (t % STEPS == 0)
    assert t == 50 * STEPS


def test_masks_and_restarts_are_joined():
    stream = make_stream(STEPS, ROWS, resets=True)
    chunks = split(stream, [3] * 4)
    chunks[1] = (*chunks[1][:2], None, chunks[1][3])
    chunks[2] = (*chunks[2][:3], None)
    graph = next(RandomTruncation(chunks, 1e-9, seed=0))
    assert torch.equal(graph[2], torch.cat([stream[2][:3], torch.ones(3, 4) > 0, stream[2][6:]]))
    assert not graph[3][6:9].any()
    assert torch.equal(graph[3][:6], stream[3][:6])
    assert torch.equal(graph[3][9:], stream[3][9:])


class Saved:
    """A stream that can be saved."""

    def __init__(self):
        self.at = 0

    def __next__(self):
        self.at += 1
        return endless(self.at)[-1]

    def __iter__(self):
        return self

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, saved):
        self.at = saved["at"]


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_a_random_stream_goes_on_as_if_never_stopped(stop):
    straight = RandomTruncation(Saved(), 0.3, seed=1)
    stopped = RandomTruncation(Saved(), 0.3, seed=1)
    for _ in range(stop):
        next(straight), next(stopped)
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = RandomTruncation(Saved(), 0.3, seed=99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(20):
        assert torch.equal(next(straight)[0], next(resumed)[0])


def test_unequal_chunks_are_refused():
    for sizes, shown in (([3, 2, 3, 4], "3, 2, 3"), ([3, 3, 6], "3, 3, 6"), ([5, 7], "5, 7")):
        chunks = split(make_stream(STEPS, ROWS, resets=False), sizes)
        with pytest.raises(ValueError, match=rf"chunks of \[{shown}\] steps follow each other"):
            list(RandomTruncation(chunks, 1e-9, seed=0))


MODEL = make_model("gru", 1)
MISTAKES = {
    "chunk of 0": (lambda: Reweighted(MODEL, 0, 0.5), "steps is 0"),
    "no cut": (lambda: Reweighted(MODEL, 3, 0.0), "cut_probability is 0.0, expected 0 < p <= 1"),
    "never a cut": (lambda: RandomTruncation([], 0.0, 0), "whole_episodes"),
    "more than certain": (lambda: RandomTruncation([], 1.5, 0), "cut_probability is 1.5"),
    "no graph": (lambda: RandomTruncation([], 0.5, 0, longest=0), "longest is 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_clear_error(mistake):
    make, expected = MISTAKES[mistake]
    with pytest.raises(ValueError, match=expected):
        make()
