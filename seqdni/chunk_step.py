r"""The update of one model, or of one level of a hierarchy, from one chunk.

.. code-block:: text

    plan -> forward -> roots -> backward pass -> teach the synthesizer -> update

The *plan* is made from what lies on the CPU, so that nothing waits for the device. The *forward*
pass is the caller's. The *roots* are where the one backward pass begins: the loss of the chunk,
the state at its end with the gradient of what follows, and whatever the caller adds.

Shapes: B rows, S features of a packed state, K features of a condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from seqdni.boundary import with_grads
from seqdni.chunk import Chunk, Rows, lockstep_end, no_rows, rows_of
from seqdni.cores.base import Core
from seqdni.cores.state_gradients import Trace
from seqdni.learner import GO_ON, Learner
from seqdni.metrics import RunningSums
from seqdni.state import State, detach, leaves, reset_rows
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.targets import boundary_pairs, dense_pairs
from seqdni.truncation.look_ahead import ahead_grad

FutureGrad: TypeAlias = Callable[[State, Tensor | None], Tensor]
"""Computes the gradient of what follows from steps that are known: a state without a graph, and
the rows that continue (None: all) -> the gradient, packed, in units of the loss summed over the
steps of a row."""


@dataclass(frozen=True)
class ChunkPlan:
    """What will happen in a chunk, decided before anything is computed.

    Args:
        rows: B.
        steps: T.
        scored: scored steps of all rows.
        factor: on the summed loss, ``loss_scale / B``.
        restarts: which rows begin, end or go on with an episode, as five masks.
        taught_B: rows whose state at the chunk's start is taught; None: all of them.
        episode_over: whether an update is due because an episode of all rows ends.
        continues_stream: whether the chunk follows another one.
        synthesizer_ready: whether the synthesizer is past its warm-up.
        bridges_end: whether a gradient arrives at the chunk's end.
        trains_synthesizer: whether the synthesizer learns from this chunk.
        dense_targets: whether it learns from every state inside the chunk.
    """

    rows: int
    steps: int
    scored: int
    factor: float
    restarts: Rows
    taught_B: Tensor | None
    episode_over: bool
    continues_stream: bool
    synthesizer_ready: bool
    bridges_end: bool
    trains_synthesizer: bool
    dense_targets: bool

    @property
    def has_gradient(self) -> bool:
        """Whether the chunk has a loss, or a gradient at its end."""
        return bool(self.scored) or self.bridges_end


@dataclass
class ForwardRun:
    """A chunk after its forward pass.

    Args:
        start: the state it was started from; a cut one where the synthesizer learns.
        loss: summed over steps and rows; None where there is none.
        end: the state after its last step, with its graph.
        trace: of the states inside, for dense targets.
        bridged: where the gradient of what follows arrives; None: at ``end``.
        predicted_BS: what the synthesizer said about the end, once it was asked.
    """

    start: State
    loss: Tensor | None
    end: State
    trace: Trace | None = None
    bridged: State | None = None
    predicted_BS: Tensor | None = None


class BackwardPass:
    """Collects where a backward pass begins, and with what gradient; then runs it once.

    Example:
        >>> state = torch.ones(1, 2, requires_grad=True)
        >>> backward = BackwardPass()
        >>> backward.add((2 * state).sum())
        >>> backward.add_gradient(state * 1, torch.tensor([[3.0, 4.0]]))
        >>> backward.run()
        >>> state.grad
        tensor([[5., 6.]])
    """

    def __init__(self):
        self.roots: list[Tensor] = []
        self.grads: list[Tensor | None] = []

    def add(self, root: Tensor, grad: Tensor | None = None) -> None:
        """Begin in a tensor.

        Args:
            root: with its graph.
            grad: the gradient that arrives there, of the same shape; None for a scalar loss.
        """
        self.roots.append(root)
        self.grads.append(grad)

    def add_gradient(self, state: State, grad_BS: Tensor) -> None:
        """Begin in a state, with the gradient that arrives there from outside of the graph.

        Args:
            state: with its graph; leaves without one are passed over.
            grad_BS: packed, in units of the objective.
        """
        roots, grads = with_grads(state, grad_BS)
        self.roots += roots
        self.grads += grads

    def run(self) -> None:
        """Run the backward pass, if it begins anywhere."""
        if self.roots:
            torch.autograd.backward(self.roots, self.grads)


class ChunkUpdater:
    """Updates one model, or one level of a hierarchy, chunk by chunk.

    Args:
        parameters: of the model.
        learner: how the model learns from its gradient.
        synthetic: bridges the ends of the chunks; None truncates there.
        meter: where the losses of the synthesizer are added up.
        error_suffix: names the model in an error, `` of level 1``.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learner: Learner,
        synthetic: SyntheticGradients | None,
        meter: RunningSums,
        error_suffix: str = "",
    ):
        self.parameters = list(parameters)
        self.device = self.parameters[0].device
        self.learner = learner
        self.synthetic = synthetic
        self.meter = meter
        self.error_suffix = error_suffix
        self.chunks = 0
        self.updates = 0
        self.window = 0  # chunks since the last update was due
        self.window_has_gradient = False

    def plan(
        self,
        rows: int,
        steps: int,
        scored: int,
        should_reset: Tensor | None,
        continues_stream: bool,
        looks_ahead: bool = False,
    ) -> ChunkPlan:
        """Decide what will happen in a chunk.

        Args:
            rows: B.
            steps: T.
            scored: scored steps of all rows.
            should_reset: ``[T + 1, B]`` on the CPU, or None.
            continues_stream: whether the chunk follows another one.
            looks_ahead: whether steps after the chunk are known.

        Returns:
            The plan.

        Raises:
            ValueError: an update is due at the end of episodes that rows do not end together.
        """
        synthetic, restarts = self.synthetic, rows_of(should_reset)
        ready = synthetic is not None and synthetic.ready(self.chunks)
        bridges = synthetic is not None and (ready or looks_ahead)
        trains = synthetic is not None and synthetic.trains_on(self.chunks)
        return ChunkPlan(
            rows=rows,
            steps=steps,
            scored=scored,
            factor=self.learner.loss_scale / rows,
            restarts=restarts,
            taught_B=restarts.continued,
            episode_over=self.learner.update_every == "episode" and lockstep_end(restarts.ended),
            continues_stream=continues_stream,
            synthesizer_ready=ready,
            bridges_end=bridges and not no_rows(restarts.continues),
            trains_synthesizer=trains,
            dense_targets=trains and synthetic is not None and synthetic.targets == "dense",
        )

    def check_loss(self, run: ForwardRun) -> bool:
        """Whether the loss of a chunk is finite; what is not is counted, or raises an error.

        On a GPU, where asking would wait, the answer is always True.

        Args:
            run: of the chunk.

        Raises:
            FloatingPointError: it is not, and ``non_finite`` is ``"raise"``.
        """
        if run.loss is None or self.device.type != "cpu" or math.isfinite(run.loss.item()):
            return True
        if self.learner.non_finite == "raise":
            raise FloatingPointError(
                f"the loss of chunk {self.chunks}{self.error_suffix} is {run.loss.item()}, "
                f"which is not finite; {GO_ON}"
            )
        self.meter.add(skipped=1)
        return False

    def future_grad(self, model: Core, ahead: Chunk) -> FutureGrad:
        """What computes the gradient at the end of the present chunk from the steps after it.

        Args:
            model: runs these steps.
            ahead: the steps, as far as they are known.
        """
        synthetic, learner = self.synthetic, self.learner
        assert synthetic is not None
        ready = synthetic.ready(self.chunks)
        return lambda end, continues_B: ahead_grad(
            synthetic.boundary,
            model,
            ahead,
            end,
            continues_B,
            learner.loss,
            learner.autocast,
            synthesizer_ready=ready,
        )

    def roots(
        self,
        plan: ChunkPlan,
        run: ForwardRun,
        known: FutureGrad | None = None,
        condition_BK: Tensor | None = None,
    ) -> BackwardPass:
        """Where the backward pass of a chunk begins: in its loss, and in the state at its end.

        Args:
            plan: of the chunk.
            run: of the chunk.
            known: looks ahead; None: the synthesizer says what follows.
            condition_BK: what the synthesizer sees besides the state at the end.

        Returns:
            A backward pass that has not run; the caller may add to it.
        """
        backward, synthetic = BackwardPass(), self.synthetic
        if synthetic is not None and (
            (plan.bridges_end and known is None)
            or (plan.trains_synthesizer and synthetic.boundary.aux)
        ):
            run.predicted_BS = synthetic.boundary.predict(run.end, condition_BK)
        if run.loss is not None and plan.has_gradient:
            backward.add(run.loss * plan.factor)
        if synthetic is not None and plan.bridges_end:
            bridged, continues_B = run.bridged or run.end, self.to_device(plan.restarts.continues)
            if known is not None:
                grad_BS = known(detach(bridged), continues_B)
            else:
                assert run.predicted_BS is not None
                grad_BS = synthetic.boundary.applied(run.predicted_BS, continues_B)
            backward.add_gradient(bridged, grad_BS * plan.factor)
        return backward

    def teach(
        self,
        plan: ChunkPlan,
        run: ForwardRun,
        should_reset: Tensor | None,
        condition_BK: Tensor | None = None,
    ) -> None:
        """Let the synthesizer learn from the gradients that the backward pass brought.

        Args:
            plan: of the chunk.
            run: of the chunk, after its backward pass.
            should_reset: of the chunk.
            condition_BK: what the synthesizer sees besides the state at the start.
        """
        synthetic = self.synthetic
        if synthetic is None or not plan.trains_synthesizer:
            return
        if run.trace is not None:
            nobody_B = torch.zeros(plan.rows, dtype=torch.bool)
            taught_B = plan.taught_B if plan.continues_stream else nobody_B
            pairs = dense_pairs(run.trace, should_reset, taught_B, plan.bridges_end)
        elif plan.continues_stream:
            pairs = boundary_pairs(run.start, plan.taught_B, plan.restarts.final, plan.bridges_end)
        else:
            return
        aux = synthetic.boundary.aux
        for synth_loss in synthetic.teach(
            pairs,
            plan.factor,
            condition_BK=condition_BK,
            next_predicted_BS=run.predicted_BS if aux else None,
            next_valid_B=self.to_device(plan.restarts.spans) if aux else None,
        ):
            self.meter.add(synth_loss=synth_loss, synth_steps=1)

    def next_carry(self, run: ForwardRun, initial_state: Callable[[int], State]) -> State:
        """The state that the next chunk goes on from, without a graph.

        With ``non_finite="skip"`` the rows that are not finite begin anew.

        Args:
            run: of the chunk.
            initial_state: of the model, by the number of rows.
        """
        if self.learner.non_finite == "raise" or (
            self.device.type == "cpu" and (run.loss is None or run.loss.isfinite())
        ):
            return detach(run.end)
        finite_B = torch.stack([_finite_rows(leaf) for leaf in leaves(run.end)]).all(0)
        initial = detach(initial_state(len(finite_B)))
        return reset_rows(detach(run.end), ~finite_B, initial)

    def count_and_update(self, has_gradient: bool, episode_over: bool = False) -> None:
        """Count a chunk, and update the model if that is due and there is a gradient.

        Without one there is no update: an optimiser with momentum would go on with old gradients.
        (On a GPU, gradients that are not finite become zero, and this is not asked.)

        Args:
            has_gradient: whether its backward pass began anywhere.
            episode_over: whether an update is due in any case.

        Raises:
            FloatingPointError: a gradient is not finite, and ``non_finite`` is ``"raise"``.
        """
        self.chunks += 1
        self.window += 1
        self.window_has_gradient |= has_gradient
        # update_every may be "episode", which no window equals: then episode_over decides.
        if not (episode_over or self.window == self.learner.update_every):
            return
        first, last = self.chunks - self.window, self.chunks - 1
        due, self.window, self.window_has_gradient = self.window_has_gradient, 0, False
        if due:
            where = f"chunk {last}" if first == last else f"chunks {first} to {last}"
            self.updates += self.learner.update(self.parameters, where + self.error_suffix)

    def to_device(self, x: Tensor | None) -> Tensor | None:
        """A tensor on the model's device, without waiting for it.

        Args:
            x: from anywhere, or None.
        """
        return None if x is None else x.to(self.device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """What the next chunk depends on, the model and the optimisers not included.

        Returns:
            Tensors and primitives.
        """
        return {
            "chunks": self.chunks,
            "updates": self.updates,
            "window": self.window,
            "window_has_gradient": self.window_has_gradient,
            "grads": [p.grad for p in self.parameters] if self.window else None,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue as if never stopped.

        Args:
            saved: from :meth:`state_dict`.
        """
        self.chunks, self.updates = saved["chunks"], saved["updates"]
        self.window = saved["window"]
        self.window_has_gradient = saved["window_has_gradient"]
        grads = saved["grads"] or [None] * len(self.parameters)
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = None if grad is None else grad.to(self.device)


def _finite_rows(leaf: Tensor) -> Tensor:
    return leaf.isfinite().movedim(-2, 0).flatten(1).all(1)
