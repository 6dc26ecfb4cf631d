r"""Trains a hierarchy as one graph, or each level by itself with synthetic gradients between them.

Shapes: T steps of a chunk, n ticks of a level in it, B rows.

Source: Jaderberg et al., arXiv 1608.05343, section 3.2 (multi-network systems).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqdni.checkpoint import check_format, load_optimizer, new_checkpoint
from seqdni.chunk import Chunk, ChunkLike, as_chunk
from seqdni.chunk_step import FutureGrad
from seqdni.hierarchy.checks import Mode, check_levels, check_looks_ahead
from seqdni.hierarchy.chunk import (
    Answers,
    HierarchyChunk,
    Ticks,
    as_hierarchy_chunk,
    check_chunk,
    filled_mask,
    joined,
    one_by_one,
)
from seqdni.hierarchy.clock import clock_above
from seqdni.hierarchy.level_trainer import (
    Ahead,
    LevelTrainer,
    LevelTraining,
    restored_carry,
    saved_carry,
)
from seqdni.hierarchy.look_ahead import HierarchyFromState
from seqdni.hierarchy.model import Hierarchy, LevelCarry
from seqdni.hierarchy.work import EveryLevel, Work
from seqdni.learner import Learner
from seqdni.losses import scored_loss
from seqdni.metrics import RunningSums
from seqdni.parallel import DataParallel
from seqdni.parallel_checkpoint import OfRows, number_of, own_rows, own_sums, saved_sums, whole_rows
from seqdni.state import in_full_precision
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.trainer_parts import check_parallel


class HierarchyTrainer:
    r"""Trains a hierarchy in one of three ways.

    ``joint``: one graph goes over a chunk of the slowest level and all the steps of the stream in
    it. All levels are updated, and the graph is cut. With :math:`L_k` the summed loss of level k,
    the objective is

    .. math:: \frac{1}{B} \sum_k loss\_scale_k \, L_k

    ``dni``: each level learns when its own chunk is over, from one backward pass of

    .. math:: \frac{loss\_scale_k}{B} \Big( L_k + \langle \hat g_{state}, s \rangle
              + \sum_i \langle \hat g_{message}(m_i), m_i \rangle \Big)
              + \sum_j \langle g_j, c_j \rangle

    with the synthetic gradients of its state and of its messages :math:`m_i`, and the gradients
    :math:`g_j` that the level below computed for the contexts :math:`c_j` that it gave. The
    gradients at the messages that it received teach the synthesizer of the level below.
    ``no-feedback``: the same without :math:`\hat g_{message}`. docs/hierarchy.md has a diagram of
    what happens when.

    Args:
        model: the hierarchy.
        trainings: how each level is trained, from the lowest.
        mode: one of the three ways.
        parallel: processes that train the same hierarchy, each on rows of its own.

    Raises:
        ValueError: the trainings do not fit the levels or the mode.

    Example:
        >>> from seqdni import Boundary, Learner, LeastSquares, SyntheticGradients, Level
        >>> from seqdni import TorchCore
        >>> fast = Level(TorchCore(nn.GRU(2, 8)), readout=nn.Linear(8, 3))
        >>> slow = Level(TorchCore(nn.GRU(8, 8)), readout=nn.Linear(8, 5), period=4)
        >>> trainings = [
        ...     LevelTraining(Learner(torch.optim.Adam(fast.parameters())),
        ...                   message_credit=SyntheticGradients(Boundary(LeastSquares(8)))),
        ...     LevelTraining(Learner(torch.optim.Adam(slow.parameters())), chunk_len=2)]
        >>> trainer = HierarchyTrainer(Hierarchy([fast, slow], torch.zeros(1, 1, 2)), trainings)
        >>> for _ in range(4):
        ...     fast_answers = torch.zeros(4, 6, dtype=torch.long), None
        ...     slow_answers = torch.zeros(1, 6, dtype=torch.long), None
        ...     trainer.step(HierarchyChunk(torch.randn(4, 6, 2), [fast_answers, slow_answers]))
        >>> trainer.updates_of_levels
        [4, 2]
    """

    def __init__(
        self,
        model: Hierarchy,
        trainings: Sequence[LevelTraining],
        mode: Mode = "dni",
        parallel: DataParallel | None = None,
    ):
        check_levels(model, trainings, mode)
        check_parallel(parallel)
        self.model = model
        self.parallel = parallel
        self.trainings = list(trainings)
        self.mode = mode
        self.boundary = nn.ModuleList(b for each in trainings for b in each.boundaries())
        self.device = next(model.parameters()).device
        self.meter = RunningSums(self.device)
        self.tokens = 0  # steps so far, summed over the rows
        self.levels: list[LevelTrainer] = []
        for k in reversed(range(len(trainings))):
            above, above_level = (
                (self.levels[0], model.levels[k + 1]) if self.levels else (None, None)
            )
            settings = (trainings[k], above, above_level, mode == "dni", self.meter, k, parallel)
            self.levels.insert(0, LevelTrainer(model.levels[k], *settings))
        if parallel is not None:
            losses = [learner.loss_module for learner in self.learners]
            for module in (model, self.boundary, *(loss for loss in losses if loss)):
                parallel.copy_first(module)
        self.work: Work = EveryLevel(self.levels)
        self._begin(None)

    @property
    def learners(self) -> list[Learner]:
        """The learners of the levels, from the lowest."""
        return [training.learner for training in self.trainings]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimisers of the levels, then those of their synthesizers."""
        synth = [each.optimizer for each in self._synthetic if each and each.optimizer]
        return [*(learner.optimizer for learner in self.learners), *synth]

    @property
    def updates_of_levels(self) -> list[int]:
        """Weight updates of each level."""
        return [level.updates for level in self.levels]

    @property
    def updates(self) -> int:
        """Weight updates of the lowest level."""
        return self.levels[0].updates

    def step(self, chunk: HierarchyChunk, *, ahead: ChunkLike | None = None) -> None:
        """Take some steps of the stream, and let each level learn whose chunk they complete.

        Args:
            chunk: row b continues row b of the chunk before. In the modes ``dni`` and
                ``no-feedback`` it is the lowest level's chunk. In ``joint`` it is kept until the
                slowest level's chunk is complete.
            ahead: the steps after the chunk as far as they are known, with the lowest level's
                targets. They give the exact gradient of their own losses (see
                :func:`seqdni.look_ahead`) at the lowest level's state and, if the chunk's last step
                sends a message, at this message. The synthesizer of the state predicts what comes
                after them; messages then have no synthesizer. A chunk that goes on after a tick of
                the level above gets this gradient at its state alone.

        Raises:
            ValueError: shapes do not fit, or ``ahead`` cannot be used.
        """
        chunk = as_hierarchy_chunk(chunk)
        inputs, answers, should_reset, conditions = chunk
        steps, rows = inputs.shape[:2]
        known = rows if self.carry is None else len(self.since[0])
        check_chunk(chunk, self.model, self.stream_steps, known)
        if ahead is not None:
            ahead = as_chunk(ahead)
            check_looks_ahead(self.model, self.trainings[0], self.mode, ahead, rows)
        for k, level in enumerate(self.levels):
            if (size := level.message_gradients.condition_size) == 0:
                continue
            condition = None if conditions is None else conditions[k]
            if condition is None or condition.shape[-1] != size:
                got = "none" if condition is None else f"some of {condition.shape[-1]} features"
                raise ValueError(
                    f"the message_credit of level {k} has condition_size={size}, and there are "
                    f"{got}: give conditions with chunks"
                )
        if self.carry is None:
            if self.parallel is not None:
                self.parallel.check_same("rows in a chunk", rows)
            self._begin(rows)
        if should_reset is None:
            should_reset = torch.zeros(steps + 1, rows, dtype=torch.bool)
        self.meter.add(loss_sum=0.0, scored=0)  # it can be read at any time
        if self.mode == "joint":
            self.waiting.append(HierarchyChunk(inputs, tuple(answers), should_reset))
            if sum(len(each.inputs) for each in self.waiting) >= self.window:
                self._joint()
        else:
            lowest, *others = self._ticks(answers, should_reset)
            for level, ticks in zip(self.levels[1:], others, strict=True):
                level.pending_ticks += one_by_one(ticks)
            for level, condition in zip(self.levels, conditions or (), strict=False):
                if condition is not None and level.message_gradients.condition_size:
                    here = condition.to(self.device, non_blocking=True)
                    level.message_gradients.conditions += here.unbind(0)
            self.work.step(inputs, lowest, None if ahead is None else self._ahead(ahead))
        self.stream_steps += steps
        self.tokens += steps * rows * number_of(self.parallel)

    def finish(self) -> None:
        """End the stream: learn from the incomplete chunks, and be ready for another stream."""
        if self.mode == "joint":
            if self.waiting:
                self._joint()
        elif self.carry is not None:
            self.work.finish()
        self._begin(None)

    @property
    def window(self) -> int:
        """Steps of the stream in one graph of ``joint``: those of a chunk of the slowest level. In
        a hierarchy of one level each chunk that is given is one graph."""
        return self.model.periods[-1] * (self.trainings[-1].chunk_len or 1)

    @property
    def _built(self) -> list[Any]:
        """The mode and the chunk lengths, which a checkpoint and the trainer must share."""
        return [self.mode, *[training.chunk_len for training in self.trainings]]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, chunks in the making included.

        With ``parallel`` all processes must call it together.

        Returns:
            Tensors and primitives only: it survives ``torch.load(weights_only=True)``.
        """
        whole = whole_rows(self.parallel)
        return new_checkpoint(
            model=self.model.state_dict(),
            optimizers=[each.learner.optimizer.state_dict() for each in self.trainings],
            synthetic=[each and each.state_dict() for each in self._synthetic],
            levels=[level.state_dict(whole) for level in self.levels],
            since=[whole(since_B, 0) for since_B in self.since],
            carry=self.carry and [saved_carry(each, whole) for each in self.carry],
            waiting=[_of_rows(chunk, whole) for chunk in self.waiting],
            tokens=self.tokens,
            stream_steps=self.stream_steps,
            built=self._built,
            meter=saved_sums(self.meter, self.parallel),
            processes=number_of(self.parallel),
        )

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue as if training had never stopped.

        Args:
            saved: from :meth:`state_dict` of a trainer built alike.

        Raises:
            ValueError: the checkpoint has another format, another mode, or other chunk lengths.
        """
        check_format(saved)
        if (got := saved["built"]) != (own := self._built):
            raise ValueError(
                f"the saved trainer has the mode and chunk lengths {got}, this one {own}"
            )
        self.model.load_state_dict(saved["model"])
        for training, state in zip(self.trainings, saved["optimizers"], strict=True):
            load_optimizer(training.learner.optimizer, state)
        for synthetic, state in zip(self._synthetic, saved["synthetic"], strict=True):
            if (synthetic is None) != (state is None):
                raise ValueError("the saved trainer and this one differ in their boundaries")
            if synthetic is not None:
                synthetic.load_state_dict(state)
        own, processes = own_rows(self.parallel), saved.get("processes", 1)
        for level, state in zip(self.levels, saved["levels"], strict=True):
            level.load_state_dict(state, own, processes)
        self.since = [own(since_B, 0) for since_B in saved["since"]]
        carry = saved["carry"]
        self.carry = carry and [
            restored_carry(each, level, self.device, own)
            for each, level in zip(carry, self.model.levels, strict=True)
        ]
        self.waiting = [
            HierarchyChunk(*_of_rows(HierarchyChunk(*chunk), own)) for chunk in saved["waiting"]
        ]
        self.tokens, self.stream_steps = saved["tokens"], saved["stream_steps"]
        self.meter.load_state_dict(own_sums(saved["meter"], processes, self.parallel))

    def _begin(self, rows: int | None) -> None:
        """Begin a stream of so many rows; None: their number is not known yet."""
        self.carry = None if rows is None else self.model.initial_carry(rows)
        self.since = (
            [] if rows is None else [torch.zeros(rows, dtype=torch.bool)] * len(self.levels)
        )
        self.waiting: list[HierarchyChunk] = []  # for an update in ``joint``
        self.stream_steps = 0
        for level, carry in zip(self.levels, self.carry or [None] * len(self.levels), strict=True):
            level.begin(carry)
        self.work.begin()

    def _ticks(self, answers: Sequence[Answers | None], should_reset: Tensor) -> list[Ticks]:
        """The targets, masks and restarts of each level, for its ticks in these steps."""
        ticks_of_levels = []
        for k, pair in enumerate(answers):
            targets, mask = pair or (None, None)
            ticks_of_levels.append(Ticks(targets, mask, should_reset))
            if k + 1 < len(self.levels):
                ticks = self.stream_steps // self.model.periods[k]
                period = self.model.levels[k + 1].period
                above = clock_above(ticks, period, should_reset, self.since[k])
                should_reset, self.since[k] = above.should_reset, above.since_B
        return ticks_of_levels

    @property
    def _synthetic(self) -> list[SyntheticGradients | None]:
        return [each for one in self.trainings for each in (one.credit, one.message_credit)]

    def _ahead(self, ahead: Chunk) -> Ahead:
        """Prepare the look-ahead of the lowest level, which is called after the chunk has run."""
        lowest, *others = self.levels

        def known(after: LevelCarry, restarts_2B: Tensor | None) -> FutureGrad:
            above = [each.running_carry for each in others if each.running_carry is not None]
            from_state = HierarchyFromState(self.model, [after, *above], restarts_2B)
            return lowest.future_grad(from_state, ahead)

        return known

    def _joint(self) -> None:
        """Learn from all chunks that were kept: one graph, one backward pass, one update."""
        chunks, self.waiting = self.waiting, []
        assert self.carry is not None
        inputs = torch.cat([chunk.inputs for chunk in chunks])
        inputs = inputs.to(self.device, non_blocking=True)
        ticks = [Ticks(None, None, reset) for _, _, reset, _ in chunks if reset is not None]
        with self.trainings[0].learner.precision(self.device):
            outputs, carry = self.model(inputs, self.carry, joined(ticks).should_reset)
        objective = torch.zeros((), device=self.device, dtype=inputs.dtype)
        for k, (training, y) in enumerate(zip(self.trainings, outputs, strict=True)):
            given = [pair for chunk in chunks if (pair := chunk.answers[k]) is not None]
            if y is None or not given:
                continue
            targets = torch.cat([targets for targets, _ in given])
            mask = torch.cat([filled_mask(pair) for pair in given])
            targets, mask_TB = (each.to(self.device, non_blocking=True) for each in (targets, mask))
            learner = training.learner
            loss = scored_loss(learner.loss, in_full_precision(y), targets, mask_TB)
            scored = int(mask.sum())
            objective = objective + loss * (learner.loss_scale / len(self.since[0]))
            self.meter.add(loss_sum=loss, scored=scored)
            self.meter.add(**{f"loss_sum_{k}": loss, f"scored_{k}": scored})
        self.carry = [each.detached() for each in carry]
        if objective.requires_grad:
            objective.backward()
        for level in self.levels:
            level.update_jointly(objective.requires_grad)


def _of_rows(chunk: HierarchyChunk, rows: OfRows) -> list[Any]:
    """Inputs, answers and restarts of a chunk that waits for an update, with other rows."""
    inputs, answers, should_reset, _ = chunk
    pairs = [pair and (rows(pair[0], 1), rows(filled_mask(pair), 1)) for pair in answers]
    return [rows(inputs, 1).clone(), pairs, rows(should_reset, 1)]
