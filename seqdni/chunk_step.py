r"""The parts of one update from one chunk, of a model or of one level of a hierarchy.

.. code-block:: text

    plan -> forward -> roots -> backward pass -> teach the synthesizer -> update

The *plan* is made from values on the CPU alone, so that nothing waits for the device. The caller
runs the *forward* pass. The *roots* are the tensors in which the one backward pass begins: the
loss of the chunk, the state at its end with the gradient of what follows, and what the caller adds.

Shapes: B rows, S features of a packed state, K features of a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from seqdni.boundary import with_grads
from seqdni.chunk import Chunk, Rows, lockstep_end, no_rows, rows_of
from seqdni.cores.base import Core
from seqdni.cores.state_gradients import Trace
from seqdni.learner import Learner
from seqdni.metrics import RunningSums
from seqdni.parallel import DataParallel
from seqdni.parallel_checkpoint import restore_grads, saved_grads
from seqdni.state import State, detach, leaves, reset_rows
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.targets import boundary_pairs, dense_pairs
from seqdni.truncation.look_ahead import ahead_grad

FutureGrad: TypeAlias = Callable[[State, Tensor | None], Tensor]
"""Computes the gradient of what follows a chunk from the known steps after it. Its arguments are
the state at the chunk's end, without a graph, and the rows whose episode continues, ``[B]`` (None:
all). It returns the gradient, ``[B, S]``, in units of the loss summed over the steps of a row."""


@dataclass(frozen=True)
class ChunkPlan:
    """What will happen in a chunk, decided before anything is computed.

    Args:
        rows: B.
        steps: T.
        scored: number of scored steps, summed over the rows.
        factor: ``loss_scale / B``, which the summed loss is multiplied by.
        restarts: which rows begin, end or go on with an episode, as five masks.
        taught_B: rows in which the synthesizer learns from the state at the chunk's start; None:
            all rows.
        episode_over: whether an update is due because an episode of all rows ends.
        continues_stream: whether the chunk follows another one.
        synthesizer_ready: whether the synthesizer is past its warm-up.
        gradient_at_end: whether a gradient of what follows is added at the chunk's end.
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
    gradient_at_end: bool
    trains_synthesizer: bool
    dense_targets: bool

    @property
    def key(self) -> tuple[Any, ...]:
        """All that decides which operations the chunk needs; masks and counts are left out."""
        named = (
            *("rows", "steps", "factor", "continues_stream", "synthesizer_ready"),
            *("gradient_at_end", "trains_synthesizer", "dense_targets"),
        )
        masks = (self.taught_B, *self.restarts)
        return (
            *(getattr(self, name) for name in named),
            bool(self.scored),
            *(mask is None for mask in masks),
        )

    @property
    def has_gradient(self) -> bool:
        """Whether the chunk has a scored step, or a gradient at its end."""
        return bool(self.scored) or self.gradient_at_end


@dataclass
class ForwardRun:
    """The results of a chunk's forward pass.

    Args:
        start: the state that the chunk started from; made by :func:`seqdni.cut` where the
            synthesizer learns.
        loss: summed over steps and rows; None where the chunk has no loss.
        end: the state after its last step, with its graph.
        trace: records the states inside the chunk, for dense targets; else None.
        end_tensors: the tensors that the gradient of what follows is added at; None: ``end``.
        predicted_BS: the synthesizer's prediction at the end; None before it is computed.
        applied_BS: the same as the model gets it, before an audit scales it; None: there is none.
    """

    start: State
    loss: Tensor | None
    end: State
    trace: Trace | None = None
    end_tensors: State | None = None
    predicted_BS: Tensor | None = None
    applied_BS: Tensor | None = None


class BackwardPass:
    """Collects the tensors in which a backward pass begins, with their gradients; runs it once.

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
        """Let the backward pass begin in a tensor.

        Args:
            root: the tensor, with its graph.
            grad: its gradient, of the same shape; None for a scalar loss.
        """
        self.roots.append(root)
        self.grads.append(grad)

    def add_gradient(self, state: State, grad_BS: Tensor) -> None:
        """Let the backward pass begin in a state.

        Args:
            state: with its graph; its tensors without a graph are left out.
            grad_BS: the gradient of what lies outside of the graph, packed, in units of the
                objective.
        """
        roots, grads = with_grads(state, grad_BS)
        self.roots += roots
        self.grads += grads

    def run(self) -> None:
        """Run the backward pass; with nothing to begin in, do nothing."""
        if self.roots:
            torch.autograd.backward(self.roots, self.grads)


class ChunkUpdater:
    """Updates one model, or one level of a hierarchy, chunk by chunk.

    Args:
        parameters: of the model.
        learner: how the model learns from its gradient.
        synthetic: gives the gradient at the ends of the chunks; None truncates there.
        meter: where the losses of the synthesizer are added up.
        error_suffix: added to "chunk 7" in an error, to name the level: `` of level 1``.
        parallel: processes that train the same model on other rows.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learner: Learner,
        synthetic: SyntheticGradients | None,
        meter: RunningSums,
        error_suffix: str = "",
        parallel: DataParallel | None = None,
    ):
        self.parameters = list(parameters)
        self.device = self.parameters[0].device
        self.learner = learner
        self.loss = learner.loss_module
        # All that the optimiser may hold: those of the loss too, which no clip limits.
        held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
        of_loss = [] if self.loss is None else [p for p in self.loss.parameters() if id(p) in held]
        self.trained = list(dict.fromkeys([*self.parameters, *of_loss]))
        self.synthetic = synthetic
        self.meter = meter
        self.error_suffix = error_suffix
        self.parallel = parallel
        self.chunks = 0
        self.updates = 0
        self.window = 0  # chunks since the last update was due
        self.window_has_gradient = False
        self.keeps_grads = False  # set gradients to zero after an update, and not to None

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
            scored: number of scored steps, summed over the rows.
            should_reset: ``[T + 1, B]`` on the CPU; None: no row restarts.
            continues_stream: whether the chunk follows another one.
            looks_ahead: whether steps after the chunk are known.

        Returns:
            The plan.

        Raises:
            ValueError: an update is due at the end of each episode, or there is an audit, and some
                rows end an episode where others do not.
        """
        synthetic, restarts = self.synthetic, rows_of(should_reset)
        by_episode, ended = self.learner.update_every == "episode", restarts.ended
        in_step = by_episode or (synthetic is not None and synthetic.audit is not None)
        if self.parallel is not None and in_step:
            none = torch.zeros(rows, dtype=torch.bool)  # all must come to the same plan
            ended = self.parallel.all_rows(none if ended is None else ended.cpu(), rows)
        all_end = in_step and lockstep_end(ended)  # others are refused before anything is computed
        ready = synthetic is not None and synthetic.ready(self.chunks)
        bridges = synthetic is not None and (ready or looks_ahead)
        goes_on = bridges and not no_rows(restarts.continues)
        has_control = synthetic is not None and synthetic.boundary.control is not None
        if self.parallel is not None and has_control:
            goes_on = self.parallel.any(goes_on)  # a control needs the gradients of all
        trains = synthetic is not None and synthetic.trains_on(self.chunks)
        return ChunkPlan(
            rows=rows,
            steps=steps,
            scored=scored,
            factor=self.learner.loss_scale / rows,
            restarts=restarts,
            taught_B=restarts.continued,
            episode_over=by_episode and all_end,
            continues_stream=continues_stream,
            synthesizer_ready=ready,
            gradient_at_end=goes_on,
            trains_synthesizer=trains,
            dense_targets=trains and synthetic is not None and synthetic.targets == "dense",
        )

    def check_loss(self, run: ForwardRun) -> bool:
        """Whether the loss of a chunk is finite. One that is not is counted as skipped, or refused.

        On a GPU the result is always True, because to read the loss would be to wait for it.

        Args:
            run: of the chunk.

        Raises:
            FloatingPointError: the loss is not finite, and ``non_finite`` is ``"raise"``.
        """
        if run.loss is None and self.parallel is None:
            return True
        loss = torch.zeros((), device=self.device) if run.loss is None else run.loss
        where = f"chunk {self.chunks}{self.error_suffix}"
        return self.learner.accepts(loss, where, self.meter, self.parallel)

    def future_grad(self, model: Core, ahead: Chunk, goes_on_B: Tensor | None) -> FutureGrad:
        """What computes the gradient at the end of the present chunk from the steps after it.

        Args:
            model: runs these steps.
            ahead: the steps, as far as they are known.
            goes_on_B: rows whose episode goes on after these steps; None: all.

        Returns:
            The function, for :meth:`roots`.
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
            goes_on_B=goes_on_B,
            parallel=self.parallel,
        )

    def roots(
        self,
        plan: ChunkPlan,
        run: ForwardRun,
        known: FutureGrad | None = None,
        condition_BK: Tensor | None = None,
    ) -> BackwardPass:
        """Prepare a backward pass that begins in a chunk's loss and in the state at its end.

        Args:
            plan: of the chunk.
            run: of the chunk.
            known: looks ahead; None: the synthesizer predicts the gradient of what follows.
            condition_BK: what the synthesizer reads besides the state at the end.

        Returns:
            A backward pass that has not run yet; the caller may add to it.
        """
        backward, synthetic = BackwardPass(), self.synthetic
        if synthetic is not None and (
            (plan.gradient_at_end and known is None)
            or (plan.trains_synthesizer and synthetic.boundary.aux)
        ):
            run.predicted_BS = synthetic.boundary.predict(run.end, condition_BK)
        if run.loss is not None and plan.has_gradient:
            backward.add(run.loss, run.loss.new_full((), plan.factor))
        if synthetic is not None and plan.gradient_at_end:
            end_tensors, continues_B = (
                run.end_tensors or run.end,
                self.to_device(plan.restarts.continues),
            )
            if known is not None:
                grad_BS = known(detach(end_tensors), continues_B)
            else:
                assert run.predicted_BS is not None
                boundary = synthetic.boundary
                grad_BS = boundary.applied(run.predicted_BS, continues_B, self.parallel)
                run.applied_BS = grad_BS
                if synthetic.audit is not None:
                    grad_BS = synthetic.audit.scaled(grad_BS)
            backward.add_gradient(end_tensors, grad_BS * plan.factor)
        return backward

    def teach(
        self,
        plan: ChunkPlan,
        run: ForwardRun,
        should_reset: Tensor | None,
        condition_BK: Tensor | None = None,
    ) -> list[Tensor]:
        """Let the synthesizer learn from the gradients that the backward pass computed.

        Args:
            plan: of the chunk.
            run: of the chunk, after its backward pass.
            should_reset: ``[T + 1, B]`` of the chunk, or None.
            condition_BK: what the synthesizer reads besides the state at the start.

        Returns:
            The synthesizer's losses; empty where it does not learn.
        """
        synthetic = self.synthetic
        if synthetic is None or not plan.trains_synthesizer:
            return []
        if run.trace is not None:
            no_row_B = torch.zeros(plan.rows, dtype=torch.bool)
            taught_B = plan.taught_B if plan.continues_stream else no_row_B
            pairs = dense_pairs(run.trace, should_reset, taught_B, plan.gradient_at_end)
        elif plan.continues_stream:
            pairs = boundary_pairs(
                run.start, plan.taught_B, plan.restarts.final, plan.gradient_at_end
            )
        else:
            return []
        aux = synthetic.boundary.aux
        next_predicted_BS = run.predicted_BS if aux else None
        next_valid_B = self.to_device(plan.restarts.spans) if aux else None
        if self.parallel is not None:
            pairs = self.parallel.all_pairs(pairs, plan.rows)
            condition_BK = self.parallel.all_rows(condition_BK, plan.rows)
            if next_predicted_BS is not None:
                if next_valid_B is None:
                    next_valid_B = next_predicted_BS.new_ones(plan.rows, dtype=torch.bool)
                next_valid_B = self.parallel.all_rows(next_valid_B, plan.rows)
                next_predicted_BS = self.parallel.all_rows(next_predicted_BS, plan.rows)
        return synthetic.teach(
            pairs,
            plan.factor,
            condition_BK=condition_BK,
            next_predicted_BS=next_predicted_BS,
            next_valid_B=next_valid_B,
        )

    def add_synth_losses(
        self, losses: list[Tensor], loss_name: str = "synth_loss", steps_name: str = "synth_steps"
    ) -> None:
        """Add a synthesizer's losses to the meter.

        Args:
            losses: of each of its steps, as from :meth:`teach`.
            loss_name: of their sum.
            steps_name: of their number.
        """
        counts = self.parallel is None or self.parallel.rank == 0  # the losses of all are the same
        for loss in losses:
            self.meter.add(**{loss_name: loss if counts else 0.0 * loss, steps_name: int(counts)})

    def next_carry(self, run: ForwardRun, initial_state: Callable[[int], State]) -> State:
        """The state that the next chunk starts from, without a graph.

        With ``non_finite="skip"`` a row that is not finite starts again from the initial state.

        Args:
            run: of the chunk.
            initial_state: the model's method of this name.
        """
        if self.learner.non_finite == "raise" or (
            self.device.type == "cpu" and (run.loss is None or run.loss.isfinite())
        ):
            return detach(run.end)
        finite_B = torch.stack([_finite_rows(leaf) for leaf in leaves(run.end)]).all(0)
        initial = detach(initial_state(len(finite_B)))
        return reset_rows(detach(run.end), ~finite_B, initial)

    def count_and_update(self, has_gradient: bool, episode_over: bool = False) -> None:
        """Count a chunk, and update the model if an update is due and there is a gradient.

        Without a gradient there is no update, because an optimiser with momentum would repeat old
        steps. (On a GPU, gradients that are not finite become zero, and the update takes place.)

        Args:
            has_gradient: whether the chunk's backward pass began in any tensor.
            episode_over: whether an update is due whatever ``update_every`` is.

        Raises:
            FloatingPointError: a gradient is not finite, and ``non_finite`` is ``"raise"``.
        """
        due, where = self.update_is_due(has_gradient, episode_over), self._window_name()
        ends = self._ends_window(episode_over)
        self.count(has_gradient, episode_over)
        if self.parallel is not None and ends:
            due = self.parallel.average(self.trained, due)
        if due:
            self.updates += self.learner.update(self.parameters, where, self.keeps_grads)

    def update_is_due(self, has_gradient: bool, episode_over: bool = False) -> bool:
        """Whether the present chunk completes an update, before it is counted.

        Args:
            has_gradient: whether the chunk's backward pass begins in any tensor.
            episode_over: whether an update is due whatever ``update_every`` is.
        """
        ends = self._ends_window(episode_over)
        return ends and (self.window_has_gradient or has_gradient)

    def count(self, has_gradient: bool, episode_over: bool = False) -> None:
        """Count a chunk, but not its update.

        Args:
            has_gradient: as for :meth:`update_is_due`.
            episode_over: as for :meth:`update_is_due`.
        """
        ends = self._ends_window(episode_over)
        self.chunks += 1
        self.window = 0 if ends else self.window + 1
        self.window_has_gradient = not ends and (self.window_has_gradient or has_gradient)

    def _ends_window(self, episode_over: bool) -> bool:
        # update_every may be "episode", which no window equals: then episode_over decides.
        return episode_over or self.window + 1 == self.learner.update_every

    def _window_name(self) -> str:
        first, last = self.chunks - self.window, self.chunks
        name = f"chunk {last}" if first == last else f"chunks {first} to {last}"
        return name + self.error_suffix

    def to_device(self, x: Tensor | None) -> Tensor | None:
        """Copy a tensor to the model's device, without waiting for the copy.

        Args:
            x: on any device, or None.
        """
        return None if x is None else x.to(self.device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """All that the next chunk depends on, except the model and the optimisers.

        Returns:
            Tensors and primitives.
        """
        has_gradient = self.window_has_gradient
        if self.parallel is not None:
            has_gradient = self.parallel.any(has_gradient)
        of_loss = {} if self.loss is None else {"loss": self.loss.state_dict()}
        return {
            **of_loss,
            "chunks": self.chunks,
            "updates": self.updates,
            "window": self.window,
            "window_has_gradient": has_gradient,
            "grads": saved_grads(self.trained, self.parallel) if self.window else None,
        }

    def load_state_dict(self, saved: Mapping[str, Any], processes: int = 1) -> None:
        """Continue as if training had never stopped.

        Args:
            saved: from :meth:`state_dict`.
            processes: that saved it.

        Raises:
            ValueError: one of the two has weights of the loss, and the other does not.
        """
        self.chunks, self.updates = saved["chunks"], saved["updates"]
        self.window = saved["window"]
        self.window_has_gradient = saved["window_has_gradient"]
        if "loss" in saved and self.loss is None:
            raise ValueError(
                "the saved trainer has weights or buffers of a loss, and this one has none; give "
                "its Learner the same loss"
            )
        if self.loss is not None and "loss" in saved:
            self.loss.load_state_dict(saved["loss"])
        elif self.loss is not None and list(self.loss.parameters()):
            raise ValueError(
                "the loss has weights, and the saved trainer has none; give its Learner the same "
                "loss, or train anew"
            )
        restore_grads(self.trained, saved["grads"], processes, self.parallel)


def _finite_rows(leaf: Tensor) -> Tensor:
    return leaf.isfinite().movedim(-2, 0).flatten(1).all(1)
