r"""Trains a model by truncated BPTT, with or without synthetic gradients.

One step of training can be read from top to bottom in :meth:`Trainer.step`; its parts are in
``chunk_step.py``.

Shapes: T steps, B rows, K features of a condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from seqdni.boundary import Boundary
from seqdni.captured.chunks import CapturedChunks
from seqdni.captured.inputs import ChunkData
from seqdni.checkpoint import check_format, load_optimizer, new_checkpoint, restored_state
from seqdni.chunk import Chunk, ChunkLike, as_chunk, check_ahead, check_shapes, rows_of, run_chunk
from seqdni.chunk_step import ChunkPlan, ChunkUpdater, ForwardRun, FutureGrad
from seqdni.cores.base import Core
from seqdni.learner import Learner, check_optimizer
from seqdni.losses import IGNORE
from seqdni.metrics import RunningSums
from seqdni.parallel import DataParallel
from seqdni.parallel_checkpoint import number_of, own_rows, own_sums, saved_sums, whole_rows
from seqdni.state import State, cut, leaves, state_size
from seqdni.synthesizers.inputs import check_state_size
from seqdni.synthetic_gradients import SyntheticGradients, check_dense
from seqdni.trainer_parts import Model, check_model, check_parallel, check_parts
from seqdni.truncation.influence import Influence, unitwise_core
from seqdni.truncation.overlap import Overlap


class Trainer:
    r"""Trains a model over a stream of chunks by truncated BPTT; with synthetic gradients, by DNI.

    For a chunk that starts from :math:`s_0`, one backward pass of

    .. math:: \frac{loss\_scale}{B} \Big( \sum_{t,b} \ell_{t,b}
              + \langle \hat g(s_T), s_T \rangle \Big)

    gives the model's gradient and, at :math:`s_0`, the synthesizer's target. The sum is over the
    scored steps. :math:`\hat g` is a constant: the gradient of what follows the chunk, predicted by
    the synthesizer or computed from known steps, and 0 in rows whose episode ended. Full BPTT is
    this trainer without ``credit`` over :func:`whole_episodes`.

    Args:
        model: a core with parameters, whose outputs are what the loss takes.
        learner: the optimiser, the loss, and when the model is updated.
        credit: how credit crosses the ends of a chunk: by :class:`SyntheticGradients`, by
            overlapping chunks (:class:`Overlap`), by the influence of the parameters on the state
            (:class:`Influence`), or, with None, not at all (truncated BPTT).
        parallel: processes that train the same model, each on rows of its own. A model that is
            wrapped in ``DistributedDataParallel`` has its processes, which need not be given.
        capture: compute each chunk by a CUDA graph, which the device runs without waiting for
            Python. It needs a model on a CUDA device, and Adam or AdamW. Chunks that no graph can
            compute run as usual; ``trainer.captured.eager`` counts them by the reason.

    Raises:
        ValueError: the learner or ``credit`` does not fit the model, or it cannot be captured.
        TypeError: the model does not keep the core contract, or an argument has a wrong type.

    Example:
        >>> import torch.nn as nn
        >>> from seqdni import OneHot, SequenceModel, MLPSynthesizer, TorchCore
        >>> model = SequenceModel(OneHot(3), TorchCore(nn.GRU(3, 8)), nn.Linear(8, 3))
        >>> boundary = Boundary(MLPSynthesizer(state_size=8))
        >>> trainer = Trainer(
        ...     model,
        ...     Learner(torch.optim.Adam(model.parameters()), clip=1.0),
        ...     SyntheticGradients(boundary, torch.optim.Adam(boundary.parameters())))
        >>> tokens = torch.randint(3, (4 + 1, 2))
        >>> trainer.step((tokens[:-1], tokens[1:]))
        >>> trainer.updates, sorted(trainer.meter.read())
        (1, ['loss_sum', 'scored'])
    """

    def __init__(
        self,
        model: Model,
        learner: Learner,
        credit: SyntheticGradients | Overlap | Influence | None = None,
        parallel: DataParallel | None = None,
        *,
        capture: bool = False,
    ):
        if isinstance(model, DistributedDataParallel):
            parallel = parallel or DataParallel(model.process_group)
            model = model.module
        check_model(model)
        check_parts(learner, credit)
        check_parallel(parallel, capture)
        check_optimizer("optimizer", learner.optimizer, "model", model, learner.loss)
        self.model = model
        self.learner = learner
        self.credit = credit
        self.parallel = parallel
        self.overlap = credit if isinstance(credit, Overlap) else None
        self.synthetic = credit if isinstance(credit, SyntheticGradients) else None
        self.influence = credit if isinstance(credit, Influence) else None
        check_dense(self.synthetic, model)
        if self.influence is not None:
            unitwise_core(model)
        if self.boundary is not None:
            check_state_size(self.boundary.synthesizer, state_size(model.initial_state(1)))
        self.device = next(model.parameters()).device
        self.meter = RunningSums(self.device)
        self.carry: State | None = None
        self.tokens = 0
        self._updater = ChunkUpdater(
            model.parameters(), learner, self.synthetic, self.meter, parallel=parallel
        )
        if parallel is not None:
            for module in (model, self.boundary, learner.loss_module):
                if isinstance(module, torch.nn.Module):
                    parallel.copy_first(module)
        self.captured = self._capture() if capture else None

    @property
    def boundary(self) -> Boundary | None:
        """The boundary of ``credit``, or None where it has none."""
        return None if self.synthetic is None else self.synthetic.boundary

    @property
    def learners(self) -> list[Learner]:
        """A list of the one learner; a hierarchy's trainer has one for each level."""
        return [self.learner]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The model's, then the synthesizer's if it has one."""
        synth_optimizer = None if self.synthetic is None else self.synthetic.optimizer
        return [self.learner.optimizer, *([synth_optimizer] if synth_optimizer else [])]

    @property
    def updates(self) -> int:
        """Weight updates of the model."""
        return self._updater.updates

    @property
    def chunks(self) -> int:
        """The number of chunks so far."""
        return self._updater.chunks

    def step(
        self,
        chunk: ChunkLike,
        condition: tuple[Tensor, Tensor] | None = None,
        ahead: ChunkLike | None = None,
    ) -> None:
        """Train on one chunk: forward, one backward pass, synthesizer, and an update if it is due.

        Args:
            chunk: a :class:`seqdni.Chunk`, or a tuple of its first two to four fields. Row b
                continues row b of the chunk before.
            condition: two tensors ``[B, K]``, what the synthesizer reads besides the state at the
                chunk's start and at its end, if it was built with ``condition_size``.
            ahead: the steps after the chunk as far as they are known, any number of them. The
                gradient of their loss is computed (see :func:`seqdni.look_ahead`), and the
                synthesizer predicts that of the steps after them.

        Raises:
            ValueError: shapes do not fit; ``update_every="episode"`` on a stream whose rows do not
                end their episodes together; ``ahead`` without a boundary, or with a condition.
            FloatingPointError: the loss or the gradient is not finite (see ``non_finite``).
        """
        chunk = as_chunk(chunk)
        steps, rows = check_shapes(chunk, self.carry)
        if self.parallel is not None and self.carry is None:
            self.parallel.check_same("rows in a chunk", rows)
        ahead = self._checked_ahead(ahead, rows, condition)
        goes_on_B = None if ahead is None else rows_of(ahead.should_reset).continues
        scored = steps * rows if chunk.mask is None else int(chunk.mask.sum())
        carried, looks_ahead = self.carry is not None, ahead is not None
        plan = self._updater.plan(rows, steps, scored, chunk.should_reset, carried, looks_ahead)
        data = ChunkData(chunk, *(condition or (None, None)), ahead, goes_on_B)
        if self.captured is None or not self._step_by_graph(self.captured, plan, data):
            self._step(plan, data)

    def _step(self, plan: ChunkPlan, data: ChunkData) -> None:
        chunk, carried = data.chunk, self.carry is not None
        if self.overlap is not None and self._all_begin(chunk):
            self.overlap.forget()
        known = None
        if data.ahead is not None:
            known = self._updater.future_grad(self.model, data.ahead, data.goes_on_B)
        run, synth_losses = self.learn(self.model, self.carry, plan, data, known)
        if finite := synth_losses is not None:
            assert run.loss is not None
            self._measure(plan, chunk, run.loss, synth_losses)
        self._keep_for_later(chunk, run, carried)
        self.carry = self._updater.next_carry(run, self.model.initial_state)
        self._count_tokens(plan)
        self._updater.count_and_update(finite and plan.has_gradient, plan.episode_over)

    def _step_by_graph(self, captured: CapturedChunks, plan: ChunkPlan, data: ChunkData) -> bool:
        """The same as :meth:`_step` by a graph; False: no graph can do it."""
        if (done := captured.step(plan, data, self.carry)) is None:
            return False
        results, self.carry = done
        self._measure(plan, data.chunk, *results)
        self._count_tokens(plan)
        self._updater.updates += self._updater.update_is_due(plan.has_gradient, plan.episode_over)
        self._updater.count(plan.has_gradient, plan.episode_over)
        return True

    def _measure(
        self, plan: ChunkPlan, chunk: Chunk, loss: Tensor, synth_losses: list[Tensor]
    ) -> None:
        self._updater.add_synth_losses(synth_losses)
        self.meter.add(loss_sum=loss, scored=_counted(chunk, plan.scored))

    def _count_tokens(self, plan: ChunkPlan) -> None:
        self.tokens += plan.steps * plan.rows * number_of(self.parallel)

    def learn(
        self,
        model: Core,
        carry: State | None,
        plan: ChunkPlan,
        data: ChunkData,
        known: FutureGrad | None,
    ) -> tuple[ForwardRun, list[Tensor] | None]:
        """The part of a step that the device computes: all but the update.

        Args:
            model: runs the chunk.
            carry: the state that it starts from; None: the initial one.
            plan: of the chunk.
            data: of the chunk.
            known: looks ahead, or None.

        Returns:
            The forward run, and the synthesizer's losses; None: the loss is not finite, and nothing
            was learned.
        """
        updater, chunk = self._updater, data.chunk
        run = self._forward(model, carry, chunk, plan)
        if not updater.check_loss(run):
            return run, None
        updater.roots(plan, run, known, updater.to_device(data.at_end)).run()
        if self.influence is not None and carry is not None and plan.has_gradient:
            self.influence.add_gradients(self.model, run.start)
        return run, updater.teach(plan, run, chunk.should_reset, updater.to_device(data.at_start))

    def _forward(
        self, model: Core, carry: State | None, chunk: Chunk, plan: ChunkPlan
    ) -> ForwardRun:
        """Run a chunk; with overlapping chunks, together with the chunks before it."""
        inputs, should_reset = chunk.inputs, chunk.should_reset
        has_influence = self.influence is not None
        if self.overlap is not None and plan.scored:
            carry, inputs, should_reset = self.overlap.extend(carry, inputs, should_reset)
        if carry is None:
            start = model.initial_state(plan.rows)
        else:
            start = cut(carry) if plan.trains_synthesizer or has_influence else carry
        longer = Chunk(inputs, chunk.targets, chunk.mask, should_reset)
        loss, autocast = self.learner.loss, self.learner.autocast
        traced = plan.dense_targets or has_influence
        with torch.set_grad_enabled(plan.has_gradient):
            loss_sum, end, trace = run_chunk(model, longer, start, loss, autocast, traced)
        return ForwardRun(start, loss_sum, end, trace)

    def _all_begin(self, chunk: Chunk) -> bool:
        """Whether no row continues an episode, in any process."""
        restarts = chunk.should_reset
        begin = self.carry is None or (restarts is not None and bool(restarts[0].all()))
        return begin if self.parallel is None else not self.parallel.any(not begin)

    def _keep_for_later(self, chunk: Chunk, run: ForwardRun, carried: bool) -> None:
        """Let what carries credit past the chunk's end take what it needs of the chunk."""
        if self.overlap is not None:
            self.overlap.keep(self.carry, chunk.inputs, chunk.should_reset)
        if self.synthetic is not None and self.synthetic.audit is not None:
            self.synthetic.audit.after_chunk(
                self.model, self.learner, run.start, chunk, run.applied_BS, self.parallel
            )
        if self.influence is not None:
            assert run.trace is not None
            if not carried:
                self.influence.forget()
            skips = self.learner.non_finite == "skip"
            self.influence.keep(self.model, run.trace, chunk.should_reset, skips)

    def _checked_ahead(
        self, ahead: ChunkLike | None, rows: int, condition: tuple[Tensor, Tensor] | None
    ) -> Chunk | None:
        if ahead is None:
            return None
        check_ahead(ahead := as_chunk(ahead), rows)
        if self.boundary is None:
            raise ValueError(
                "ahead needs a boundary; without a synthesizer: SyntheticGradients(Boundary(None))"
            )
        if condition is not None:
            raise ValueError("give the synthesizer a condition or look ahead, not both")
        if self.synthetic is not None and self.synthetic.audit is not None:
            raise ValueError(
                "an audit compares the synthesizer's own gradients with true ones, and does not go "
                "with ahead; give SyntheticGradients(audit=None)"
            )
        return ahead

    def _capture(self) -> CapturedChunks:
        assert isinstance(self.model, torch.nn.Module)
        obstacle = None if self.credit is None else self.credit.obstacle_to_capture
        return CapturedChunks(self.model, self._updater, self.learn, self.optimizers(), obstacle)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on. With ``parallel`` all processes must call it together.

        Returns:
            Tensors and primitives only: it survives ``torch.load(weights_only=True)``.
        """
        whole = whole_rows(self.parallel)
        optimizer = self.learner.optimizer.state_dict()
        synthetic = None if self.synthetic is None else self.synthetic.state_dict(whole)
        if self.captured is not None:  # as a trainer without graphs would save them
            optimizer = self.captured.optimizers.plain(0, optimizer)
            if synthetic is not None and synthetic["optimizer"] is not None:
                plain = self.captured.optimizers.plain(1, synthetic["optimizer"])
                synthetic = {**synthetic, "optimizer": plain}
        return new_checkpoint(
            model=self.model.state_dict(),
            optimizer=optimizer,
            synthetic=synthetic,
            overlap=None if self.overlap is None else self.overlap.state_dict(whole),
            influence=None if self.influence is None else self.influence.state_dict(whole),
            carry=None
            if self.carry is None
            else [whole(x, -2).clone() for x in leaves(self.carry)],
            steps=self._updater.state_dict(),
            tokens=self.tokens,
            meter=saved_sums(self.meter, self.parallel),
            processes=number_of(self.parallel),
        )

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue as if training had never stopped.

        Args:
            saved: from :meth:`state_dict` of a trainer built with the same settings.

        Raises:
            ValueError: the checkpoint has another format, only one of the two trainers has
                synthetic gradients, overlapping chunks or an influence, or the saved ``history``
                is longer.
        """
        check_format(saved)
        for name in ("synthetic", "overlap", "influence"):
            if (getattr(self, name) is None) != (saved[name] is None):
                raise ValueError(f"the saved trainer and this one differ: one has no {name}")
        own = own_rows(self.parallel)
        self.model.load_state_dict(saved["model"])
        load_optimizer(self.learner.optimizer, saved["optimizer"])
        if self.synthetic is not None:
            self.synthetic.load_state_dict(saved["synthetic"], self._restored, own)
        if self.overlap is not None:
            self.overlap.load_state_dict(saved["overlap"], self._restored, own)
        if self.influence is not None:
            self.influence.load_state_dict(saved["influence"], self.device, own)
        self.carry = self._restored(saved["carry"])
        processes = saved.get("processes", 1)
        self._updater.load_state_dict(saved["steps"], processes)
        self.tokens = saved["tokens"]
        self.meter.load_state_dict(own_sums(saved["meter"], processes, self.parallel))
        if self.captured is not None:
            self.captured.forget()

    def _restored(self, saved: list[Tensor] | None) -> State | None:
        """A state of the rows of this process, from the tensors of all rows."""
        if saved is None:
            return None
        own = own_rows(self.parallel)
        return restored_state([own(x, -2) for x in saved], self.model, self.device)


def _counted(chunk: Chunk, scored: int) -> int | Tensor:
    """Steps that count in the mean. On a GPU, targets of -100 are subtracted there, as a tensor."""
    targets, mask = chunk.targets, chunk.mask
    if targets.device.type == "cpu" or targets.is_floating_point() or targets.dim() != 2:
        return scored
    counts = targets != IGNORE
    return (counts if mask is None else counts & mask.to(counts.device, non_blocking=True)).sum()
