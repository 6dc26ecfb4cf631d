r"""Trains a model by truncated BPTT, with or without synthetic gradients.

One step of training can be read from top to bottom in :meth:`Trainer.step`; its parts are in
``chunk_step.py``.

Shapes: T steps, B rows, K features of a condition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from seqdni.boundary import Boundary
from seqdni.checkpoint import check_format, new_checkpoint, restored_state
from seqdni.chunk import Chunk, ChunkLike, as_chunk, check_ahead, check_shapes, run_chunk
from seqdni.chunk_step import ChunkPlan, ChunkUpdater, ForwardRun
from seqdni.cores.base import Core
from seqdni.learner import Learner, check_optimizer
from seqdni.losses import IGNORE
from seqdni.metrics import RunningSums
from seqdni.parallel import DataParallel
from seqdni.state import State, cut, leaves, state_size
from seqdni.synthesizers.mlp import check_state_size
from seqdni.synthetic_gradients import SyntheticGradients, check_dense
from seqdni.truncation.influence import Influence, unitwise_core
from seqdni.truncation.overlap import Overlap


@runtime_checkable
class Model(Core, Protocol):
    """A core with parameters: any ``nn.Module`` under the core contract."""

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


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

    Raises:
        ValueError: the learner or ``credit`` does not fit the model.
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
    ):
        if isinstance(model, DistributedDataParallel):
            parallel = parallel or DataParallel(model.process_group)
            model = model.module
        _check_model(model)
        _check_parts(learner, credit)
        _check_parallel(credit, parallel)
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
            for module in (model, self.boundary, learner.loss):
                if isinstance(module, torch.nn.Module):
                    parallel.copy_first(module)

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
        at_start, at_end = map(self._updater.to_device, condition or (None, None))

        scored = steps * rows if chunk.mask is None else int(chunk.mask.sum())
        carried, looks_ahead = self.carry is not None, ahead is not None
        plan = self._updater.plan(rows, steps, scored, chunk.should_reset, carried, looks_ahead)
        run = self._forward(chunk, plan)
        assert run.loss is not None
        if finite := self._updater.check_loss(run):
            known = None if ahead is None else self._updater.future_grad(self.model, ahead)
            self._updater.roots(plan, run, known, at_end).run()
            if self.influence is not None and carried and plan.has_gradient:
                self.influence.add_gradients(self.model, run.start)
            self._updater.teach(plan, run, chunk.should_reset, at_start)
            self.meter.add(loss_sum=run.loss, scored=_counted(chunk, scored))
        self._keep_for_later(chunk, run, carried)
        self.carry = self._updater.next_carry(run, self.model.initial_state)
        self.tokens += steps * rows * (1 if self.parallel is None else self.parallel.size)
        self._updater.count_and_update(finite and plan.has_gradient, plan.episode_over)

    def _forward(self, chunk: Chunk, plan: ChunkPlan) -> ForwardRun:
        """Run a chunk; with overlapping chunks, together with the chunks before it."""
        carry, inputs, should_reset = self.carry, chunk.inputs, chunk.should_reset
        has_influence = self.influence is not None
        if self.overlap is not None and plan.scored:
            carry, inputs, should_reset = self.overlap.extend(carry, inputs, should_reset)
        if carry is None:
            start = self.model.initial_state(plan.rows)
        else:
            start = cut(carry) if plan.trains_synthesizer or has_influence else carry
        longer = Chunk(inputs, chunk.targets, chunk.mask, should_reset)
        loss, autocast = self.learner.loss, self.learner.autocast
        traced = plan.dense_targets or has_influence
        with torch.set_grad_enabled(plan.has_gradient):
            loss_sum, end, trace = run_chunk(self.model, longer, start, loss, autocast, traced)
        return ForwardRun(start, loss_sum, end, trace)

    def _keep_for_later(self, chunk: Chunk, run: ForwardRun, carried: bool) -> None:
        """Let what carries credit past the chunk's end take what it needs of the chunk."""
        if self.overlap is not None:
            self.overlap.keep(self.carry, chunk.inputs, chunk.should_reset)
        if self.synthetic is not None and self.synthetic.audit is not None:
            self.synthetic.audit.after_chunk(
                self.model, self.learner, run.start, chunk, run.applied_BS
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

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on. With ``parallel`` all processes must call it together.

        Returns:
            Tensors and primitives only: it survives ``torch.load(weights_only=True)``.
        """
        return new_checkpoint(
            model=self.model.state_dict(),
            optimizer=self.learner.optimizer.state_dict(),
            synthetic=None if self.synthetic is None else self.synthetic.state_dict(),
            overlap=None if self.overlap is None else self.overlap.state_dict(),
            influence=None if self.influence is None else self.influence.state_dict(),
            carry=None if self.carry is None else leaves(self._whole(self.carry)),
            steps=self._updater.state_dict(),
            tokens=self.tokens,
            meter=self._saved_meter(),
            processes=1 if self.parallel is None else self.parallel.size,
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
        self.model.load_state_dict(saved["model"])
        self.learner.optimizer.load_state_dict(saved["optimizer"])
        if self.synthetic is not None:
            self.synthetic.load_state_dict(saved["synthetic"], self._restored)
        if self.overlap is not None:
            self.overlap.load_state_dict(saved["overlap"], self._restored)
        if self.influence is not None:
            self.influence.load_state_dict(saved["influence"], self.device)
        self.carry = self._restored(saved["carry"])
        if self.parallel is not None and self.carry is not None:
            self.carry = self.parallel.own_state(self.carry)
        processes = saved.get("processes", 1)
        self._updater.load_state_dict(saved["steps"], processes)
        self.tokens = saved["tokens"]
        self.meter.load_state_dict(self._own_meter(saved["meter"], processes))

    def _whole(self, carry: State) -> State:
        return carry if self.parallel is None else self.parallel.whole_state(carry)

    def _saved_meter(self) -> dict[str, Any]:
        """The sums; with several processes those of each, ``[n]``."""
        if self.parallel is None:
            return self.meter.state_dict()
        sums = self.meter.read()
        each = self.parallel.of_each(torch.tensor(list(sums.values()), dtype=torch.float64))
        return dict(zip(sums, each.unbind(1), strict=True))

    def _own_meter(self, saved: dict[str, Any], processes: int) -> dict[str, Any]:
        """The part of this process in saved sums. Where it has none, the first one has them all."""
        rank = 0 if self.parallel is None else self.parallel.rank
        if self.parallel is not None and self.parallel.size == processes > 1:
            return {name: float(value[rank]) for name, value in saved.items()}
        if processes > 1:
            saved = {name: float(value.sum()) for name, value in saved.items()}
        return saved if rank == 0 else dict.fromkeys(saved, 0.0)

    def _restored(self, saved: list[Tensor] | None) -> State | None:
        return None if saved is None else restored_state(saved, self.model, self.device)


def _counted(chunk: Chunk, scored: int) -> int | Tensor:
    """Steps that count in the mean. On a GPU, targets of -100 are subtracted there, as a tensor."""
    targets, mask = chunk.targets, chunk.mask
    if targets.device.type == "cpu" or targets.is_floating_point() or targets.dim() != 2:
        return scored
    counts = targets != IGNORE
    return (counts if mask is None else counts & mask.to(counts.device, non_blocking=True)).sum()


# What is refused


def _check_parts(learner: object, credit: object) -> None:
    if not isinstance(learner, Learner):
        raise TypeError(
            f"got a {type(learner).__name__}, expected a Learner: "
            "Trainer(model, Learner(optimizer, clip=1.0))"
        )
    if credit is not None and not isinstance(credit, (SyntheticGradients, Overlap, Influence)):
        raise TypeError(
            f"got a {type(credit).__name__}, expected what carries credit beyond a chunk: "
            "SyntheticGradients(boundary), Overlap(history=1), Influence(), or None"
        )


def _check_parallel(credit: object, parallel: object) -> None:
    if parallel is None:
        return
    if not isinstance(parallel, DataParallel):
        raise TypeError(
            f"got a {type(parallel).__name__} for parallel, expected a DataParallel: "
            "Trainer(model, learner, credit, parallel=DataParallel())"
        )
    audited = isinstance(credit, SyntheticGradients) and credit.audit is not None
    if audited or isinstance(credit, (Overlap, Influence)):
        kept = "an audit" if audited else type(credit).__name__
        raise ValueError(
            f"{kept} keeps what belongs to the rows of one process, and cannot be dealt to several "
            "yet; leave it out, or leave parallel out"
        )


def _check_model(model: Model) -> None:
    """Refuse a model that does not keep the core contract, or whose state has another row axis."""
    if not hasattr(model, "initial_state"):
        wrapped = getattr(model, "module", None)
        name = type(model).__name__
        raise TypeError(
            f"{name} has no initial_state(batch_size)"
            + (
                f"; it wraps a {type(wrapped).__name__}: give the trainer that one, {name}.module"
                if wrapped is not None
                else ", expected a core: model(x, state) -> (outputs, state) and "
                "initial_state(batch_size); seqdni.SequenceModel and seqdni.TorchCore make one"
            )
        )
    rows = 3
    shapes = [tuple(leaf.shape) for leaf in leaves(model.initial_state(rows))]
    if any(len(shape) not in (2, 3) or shape[-2] != rows for shape in shapes):
        raise ValueError(
            f"initial_state({rows}) gives the shapes {shapes}, expected [L, {rows}, H] or "
            f"[{rows}, H]: the rows are the second to last axis of a state"
        )
