"""Trains on chunks by CUDA graphs: one for each kind of chunk.

A chunk's *kind* is all that decides which operations the device computes: the plan, shapes, which
masks there are, whether an update is due, and what the synthesizer counts on the host. The first
chunks of a kind run from Python, but on the same buffers as the graph. Then the kind is recorded,
and each further chunk of it is one launch.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from seqdni.captured.graphs import CudaGraphs
from seqdni.captured.inputs import (
    ChunkData,
    KnownRestarts,
    StaticInputs,
    general_data,
    general_plan,
    restart_steps,
    shapes,
)
from seqdni.captured.optimizers import CapturableOptimizers
from seqdni.chunk_step import ChunkPlan, ChunkUpdater, ForwardRun, FutureGrad
from seqdni.cores.base import Core
from seqdni.state import State, detach, leaves, map_state

FIRST_CHUNKS = 3  # of a kind, which run from Python before it is recorded
MOST_GRAPHS = 64  # each holds memory; a stream with more kinds of chunks has no use for graphs

ROOT = "seqdni/"

log = logging.getLogger(__name__)


class Results(NamedTuple):
    """What a chunk's computation leaves for the meter, on the device.

    Args:
        loss: summed over the scored steps.
        synth_losses: the synthesizer's losses.
    """

    loss: Tensor
    synth_losses: list[Tensor]


Learn: TypeAlias = Callable[
    [Core, State | None, ChunkPlan, ChunkData, FutureGrad | None],
    tuple[ForwardRun, list[Tensor] | None],
]
"""Computes a chunk up to the update: :meth:`seqdni.Trainer.learn`."""


class _Kind:
    """One kind of chunk: its buffers, and its graph once it is recorded."""

    def __init__(self, inputs: StaticInputs, compute: Callable[[], Results]):
        self.inputs = inputs
        self.compute = compute
        self.chunks = 0
        self.replay: Callable[[], None] | None = None
        self.results: Results | None = None
        self.problem: str | None = None  # why it cannot be recorded


class CapturedChunks:
    """Trains on chunks by graphs, where it can.

    Args:
        model: what is trained.
        updater: of the model.
        learn: computes a chunk up to the update.
        optimizers: all that make steps in a chunk.
        obstacle: why no chunk of this trainer can be captured; None: some can.

    Raises:
        ValueError: the model is not on a CUDA device, or an optimiser cannot be captured.
    """

    def __init__(
        self,
        model: nn.Module,
        updater: ChunkUpdater,
        learn: Learn,
        optimizers: list[torch.optim.Optimizer],
        obstacle: str | None,
    ):
        self._model = model
        self._updater = updater
        self._learn = learn
        self._obstacle = obstacle
        self._graphs = CudaGraphs(updater.device)
        self.optimizers = CapturableOptimizers(optimizers, updater.device)
        updater.keeps_grads = updater.learner.update_every != 1
        self.replayed = 0
        self.eager: Counter[str] = Counter()
        """Number of chunks that ran from Python, by the reason."""
        boundary = self._boundary
        self._modules = [*model.modules(), *(() if boundary is None else boundary.modules())]
        self._weights = [
            *updater.parameters,
            *(() if boundary is None else boundary.parameters()),
        ]
        self._trained = self._requires_grad()
        self.forget()

    def forget(self) -> None:
        """Drop all graphs: the tensors that they use were replaced, as by a checkpoint."""
        self.optimizers.prepare()
        self._kinds: dict[Hashable, _Kind] = {}
        self._carries: dict[int, State] = {}  # by the number of rows

    @property
    def graphs(self) -> int:
        """Number of kinds of chunks that have a graph."""
        return sum(kind.replay is not None for kind in self._kinds.values())

    def step(
        self, plan: ChunkPlan, data: ChunkData, carry: State | None
    ) -> tuple[Results, State] | None:
        """Train on a chunk, with its update; count neither.

        Args:
            plan: of the chunk.
            data: of the chunk.
            carry: the state that it starts from; None: the initial one.

        Returns:
            Its results and the state after it; None: this chunk is to be run from Python.
        """
        plan, data = general_plan(plan), general_data(data)
        self._follow_frozen()
        self.optimizers.write_rates()
        kind = self._kind(plan, data, carry)
        if isinstance(kind, str):
            self._note(kind)
            return None
        own = self._carries[plan.rows]
        if carry is not None and carry is not own:
            _copy(own, carry)
        kind.inputs.fill(plan, data)
        return self._run(kind, plan), own

    def _requires_grad(self) -> list[bool]:
        return [parameter.requires_grad for parameter in self._weights]

    def _follow_frozen(self) -> None:
        """Drop all graphs if other parameters are frozen now: they would train them further."""
        if (now := self._requires_grad()) == self._trained:
            return
        self._trained = now
        self.forget()
        for parameter in self._updater.parameters:
            if not parameter.requires_grad:
                parameter.grad = None

    def _run(self, kind: _Kind, plan: ChunkPlan) -> Results:
        kind.chunks += 1
        if kind.chunks <= FIRST_CHUNKS:
            self._note("first chunks of a kind")
            return self._graphs.run(kind.compute)
        if kind.replay is None:
            if (problem := self._record(kind)) is not None:
                kind.problem = f"cannot be recorded: {problem}"
                self._note(kind.problem)
                return self._graphs.run(kind.compute)
        elif plan.trains_synthesizer:
            assert self._boundary is not None
            self._boundary.count_step(_has_final(plan))
        assert kind.replay is not None
        assert kind.results is not None
        kind.replay()
        self.replayed += 1
        return kind.results

    def _record(self, kind: _Kind) -> str | None:
        """Record a kind. Its Python runs, and counts. If it fails, all is as before."""
        boundary, parameters = self._boundary, self._updater.parameters
        if self._updater.keeps_grads:
            for parameter in parameters:
                if parameter.grad is None and parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
        counters = [] if boundary is None else _counters(boundary)
        try:
            kind.replay, kind.results = self._graphs.record(kind.compute)
        except Exception as error:  # it ran before, so that recording is what it cannot do
            for module, state in counters:
                module.set_extra_state(state)
            if not self._updater.keeps_grads:
                for parameter in parameters:
                    parameter.grad = None
            for parameter in () if boundary is None else boundary.parameters():
                parameter.grad = None
            return _cause(error)
        return None

    @property
    def _boundary(self):
        synthetic = self._updater.synthetic
        return None if synthetic is None else synthetic.boundary

    def _kind(self, plan: ChunkPlan, data: ChunkData, carry: State | None) -> _Kind | str:
        """The kind of a chunk, or why it has to run from Python."""
        if self._obstacle is not None:
            return self._obstacle
        boundary, steps = self._boundary, restart_steps(data.chunk)
        counts: Hashable = None
        if boundary is not None:
            counts = boundary.capture_key(plan.trains_synthesizer, _has_final(plan))
            if counts is None:
                return _why_not(boundary.synthesizer)
        if (steps or restart_steps(data.ahead)) and hasattr(type(self._model), "unroll"):
            return f"restarts in a {type(self._model).__name__}, which has an unroll of its own"
        updates = self._updater.update_is_due(plan.has_gradient, plan.episode_over)
        key = (
            *(plan.key, shapes(plan, data), steps, restart_steps(data.ahead), updates, counts),
            *(carry is not None, self._settings(), self.optimizers.settings()),
        )
        if (kind := self._kinds.get(key)) is None:
            if plan.rows not in self._carries:
                if carry is None:
                    return "first chunk"
                self._carries[plan.rows] = map_state(torch.clone, detach(carry))
            if len(self._kinds) == MOST_GRAPHS:
                return f"more than {MOST_GRAPHS} kinds of chunks"
            kind = self._kinds[key] = self._new_kind(plan, data, carry is not None, updates)
        return kind if kind.problem is None else kind.problem

    def _settings(self) -> Hashable:
        learner, synthetic = self._updater.learner, self._updater.synthetic
        return (
            tuple(module.training for module in self._modules),
            *(learner.loss, learner.clip, learner.autocast),
            *(learner.non_finite, None if synthetic is None else synthetic.clip),
        )

    def _new_kind(self, plan: ChunkPlan, data: ChunkData, carried: bool, updates: bool) -> _Kind:
        inputs = StaticInputs(plan, data, self._updater.device)
        own = self._carries[plan.rows]
        model = KnownRestarts(self._model, restart_steps(data.chunk))  # type: ignore
        far = KnownRestarts(self._model, restart_steps(data.ahead))  # type: ignore

        def compute() -> Results:
            ahead, goes_on_B, known = inputs.data.ahead, inputs.data.goes_on_B, None
            if ahead is not None:
                known = self._updater.future_grad(far, ahead, goes_on_B)
            start = own if carried else None
            run, losses = self._learn(model, start, inputs.plan, inputs.data, known)
            assert run.loss is not None
            end = self._updater.next_carry(run, model.initial_state)
            loss = run.loss.detach()
            if updates:
                updater = self._updater
                updater.learner.update(updater.parameters, "a chunk", updater.keeps_grads)
            _copy(own, end)
            return Results(loss, losses or [])

        return _Kind(inputs, compute)

    def _note(self, reason: str) -> None:
        if reason not in self.eager:
            log.info("runs from Python: %s", reason)
        self.eager[reason] += 1


def _copy(to: State, source: State) -> None:
    with torch.no_grad():
        for buffer, leaf in zip(leaves(to), leaves(source), strict=True):
            buffer.copy_(leaf)


def _has_final(plan: ChunkPlan) -> bool:
    return plan.restarts.final is not None or not plan.gradient_at_end


def _counters(module: nn.Module) -> list[tuple[nn.Module, object]]:
    """Modules that count on the host, with their counts."""
    own = [m for m in module.modules() if type(m).get_extra_state is not nn.Module.get_extra_state]
    return [(each, each.get_extra_state()) for each in own]


def _cause(error: BaseException) -> str:
    """The first error of a chain in one line, with the last place of this package it came from."""
    while error.__context__ is not None:
        error = error.__context__
    places = [
        place for place in traceback.extract_tb(error.__traceback__) if ROOT in place.filename
    ]
    where = f" ({places[-1].filename.split(ROOT)[-1]}:{places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}{where}"


def _why_not(synthesizer: object) -> str:
    if hasattr(synthesizer, "capture_key"):
        return "the synthesizer's averages are young, or its coordinates change"
    return f"a {type(synthesizer).__name__} has no capture_key (see CapturableSynthesizer)"
