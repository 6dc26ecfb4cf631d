r"""Trains one level of a hierarchy at its own pace, from synthetic gradients.

Shapes: T ticks of a chunk, m messages sent in it, B rows, M features of a message, C of a context,
N = m * B pairs of a message and its gradient.

The level above gets two things from a level: messages (:meth:`LevelTrainer.receive`), and the
gradients of its own contexts (:meth:`LevelTrainer.receive_context_gradients`). The level below also
gets two: a context (:attr:`LevelTrainer.context`), and the gradients of its own messages
(:meth:`LevelTrainer.learn_complete_chunks`). All of these are tensors without a graph.
docs/hierarchy.md has a diagram of what happens when.

Source: Jaderberg et al., arXiv 1608.05343, section 3.2 (multi-network systems).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from seqdni.boundary import Boundary
from seqdni.checkpoint import restored_state
from seqdni.chunk import Chunk, rows_of
from seqdni.chunk_step import (
    BackwardPass,
    ChunkPlan,
    ChunkUpdater,
    ForwardRun,
    FutureGrad,
)
from seqdni.cores.base import Core
from seqdni.hierarchy.chunk import Ticks, joined
from seqdni.hierarchy.clock import Above, clock_above
from seqdni.hierarchy.level import Level
from seqdni.hierarchy.messages import Messages, message_pairs
from seqdni.hierarchy.model import LevelCarry, only_of_this_episode, run_pieces
from seqdni.learner import Learner, check_count
from seqdni.losses import scored_loss
from seqdni.metrics import RunningSums
from seqdni.parallel import DataParallel
from seqdni.parallel_checkpoint import OfRows, as_it_is, number_of
from seqdni.state import cut, in_full_precision, leaves
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.targets import Pairs

Ahead: TypeAlias = Callable[[LevelCarry, Tensor | None], FutureGrad]
"""Prepares the look-ahead after a chunk. Its arguments are the level's carry after the chunk, and
``should_reset`` ``[2, B]`` of the level above, before and after its tick on the message of the
chunk's last step (None: no gradient is computed for a message). It returns the function that
computes the gradient of what follows."""


@dataclass
class LevelTraining:
    """How one level of a hierarchy is trained.

    Args:
        learner: the optimiser, the loss, and when the level is updated.
        chunk_len: ticks in a chunk of this level. None for the lowest level: its chunks are those
            that the trainer is given.
        credit: predicts the gradient at the end of each chunk of this level; None truncates there.
            The prediction is a gradient of the whole objective, divided by the level's
            ``loss_scale``.
        message_credit: predicts the gradient of all losses that depend on a message, from the
            message. The state size of its synthesizer is the width of a message. None: no gradient
            comes from the level above.

    Raises:
        ValueError: a number is out of range, or the synthesizer cannot be used in a hierarchy.

    Example:
        >>> from torch import nn
        >>> from seqdni import LeastSquares, TorchCore
        >>> level = Level(TorchCore(nn.LSTM(2, 8)), readout=nn.Linear(8, 3))
        >>> training = LevelTraining(
        ...     Learner(torch.optim.Adam(level.parameters())),
        ...     message_credit=SyntheticGradients(Boundary(LeastSquares(8))))
        >>> [boundary.grad_scale for boundary in training.boundaries()]
        [1.0]
    """

    learner: Learner
    chunk_len: int | None = None
    credit: SyntheticGradients | None = None
    message_credit: SyntheticGradients | None = None

    def __post_init__(self):
        if not isinstance(self.learner, Learner):
            raise TypeError(
                f"got a {type(self.learner).__name__}, expected a Learner: "
                "LevelTraining(Learner(optimizer), chunk_len=4)"
            )
        if self.chunk_len is not None:
            check_count("chunk_len", self.chunk_len, least=1)
        if any(boundary.aux for boundary in self.boundaries()):
            raise ValueError("a hierarchy does not train Aux heads; build synthesizers without")
        if self.message_credit is not None and self.message_credit.targets != "boundary":
            raise ValueError("a message has one gradient; message_credit has no dense targets")

    def boundaries(self) -> Iterator[Boundary]:
        """The boundaries that are given: that of the state, then that of the messages."""
        yield from (each.boundary for each in (self.credit, self.message_credit) if each)


class LevelAbove(Protocol):
    """What a level needs of the level above it. The methods of :class:`LevelTrainer` say more."""

    @property
    def context(self) -> Tensor | None: ...

    def receive(self, messages_mBM: Tensor) -> None: ...

    def receive_context_gradients(self, grads: dict[int, Tensor], expired: int) -> None: ...

    def learn_complete_chunks(self, all_of_it: bool = False) -> Iterator[Pairs]: ...


class LevelTrainer:
    """Trains one level, and keeps what its next chunk needs. No graph is kept between two calls.

    A chunk of a level above the lowest is complete when all its ``chunk_len`` messages have come.
    If the level gives contexts, the level below must also have finished the steps in which it used
    the last of them, because only then are the gradients of all contexts known. The chunk is then
    run with a graph, for one backward pass.

    Args:
        level: the model of this level.
        training: how it is trained.
        above: trains the level above; None at the top.
        above_level: the model of the level above, for its period and the size of its context.
        feedback: whether gradients of messages are predicted and used.
        meter: where losses are added up.
        k: the number of this level, 0 for the lowest.
        parallel: processes that train the same level on other rows.
    """

    def __init__(
        self,
        level: Level,
        training: LevelTraining,
        above: LevelTrainer | None,
        above_level: Level | None,
        feedback: bool,
        meter: RunningSums,
        k: int,
        parallel: DataParallel | None = None,
    ):
        self.level = level
        self.training = training
        self.above: LevelAbove | None = above
        self.above_level = above_level
        self.message_gradients = Messages(training.message_credit if feedback else None, parallel)
        self.meter = meter
        self.k = k
        self._updater = ChunkUpdater(
            level.parameters(),
            training.learner,
            training.credit,
            meter,
            f" of level {k}",
            parallel,
        )
        self.begin(None)

    def begin(self, carry: LevelCarry | None) -> None:
        """Begin a stream. What was not yet learned from is dropped.

        Args:
            carry: this level's part of :meth:`seqdni.Hierarchy.initial_carry`; None: a later call
                gives it.
        """
        # A level above the lowest runs twice. It first runs without a graph, as soon as a message
        # comes, because the level below needs its context or the level above its messages. It runs
        # again when it learns. Each of these two runs has its own carry. A level whose contexts and
        # messages no other level needs runs only when it learns.
        self.trained_carry = self.running_carry = carry
        self.carried = False  # whether the next chunk continues another one
        self.ended_B: Tensor | None = None  # rows whose episode ended with the last chunk
        # Per tick, for the ticks that the level has not learned from yet:
        self.pending_ticks: list[Ticks] = []  # targets, mask and restarts, from the stream
        self.messages: list[Tensor] = []  # [B, M], the message from the level below
        self.contexts: list[Tensor] = []  # [B, C], the context from the level above
        self.message_gradients.begin()
        self.context_grads: dict[int, Tensor] = {}  # [B, C] by the tick that gave the context
        self.expired_contexts = 0  # ticks whose context the level below no longer uses

    # What the level below sees

    @property
    def context(self) -> Tensor | None:
        """The context that the level below gets now, ``[B, C]``, without a graph."""
        return None if self.running_carry is None else self.running_carry.context_BC

    def receive(self, messages_mBM: Tensor) -> None:
        """Take messages from the level below, one for each tick of this level.

        If another level needs the context or the messages that follow from them, this level runs at
        once, without a graph.

        Args:
            messages_mBM: the messages, without a graph.
        """
        assert self.running_carry is not None
        first = len(self.messages)
        self.messages += list(messages_mBM.unbind(0))
        if self.above is not None or self.level.context_size:
            ticks = joined(self.pending_ticks[first : len(self.messages)])
            self.contexts += self._run_without_learning(messages_mBM, ticks.should_reset)

    def receive_context_gradients(self, grads: dict[int, Tensor], expired: int) -> None:
        """Take the gradients of contexts that this level gave, from the level below.

        Args:
            grads: ``[B, C]`` each, in units of the objective, by the tick (counted from 1) of this
                level that gave the context.
            expired: the number of ticks whose context the level below no longer uses. Their
                gradients are complete.
        """
        for tick, grad_BC in grads.items():
            before = self.context_grads.get(tick)
            self.context_grads[tick] = grad_BC if before is None else before + grad_BC
        self.expired_contexts = expired

    def learn_complete_chunks(self, all_of_it: bool = False) -> Iterator[Pairs]:
        """Learn from the chunks that are complete.

        Args:
            all_of_it: whether to learn from an incomplete last chunk too, because the stream is
                over.

        Yields:
            For each chunk, the messages that it received with their gradients, in units of the
            objective. They contain the synthetic gradient at the chunk's end.
        """
        assert self.trained_carry is not None
        chunk_len = self.training.chunk_len
        assert chunk_len is not None
        while self.messages:
            steps = min(chunk_len, len(self.messages))
            whole = steps == chunk_len
            last = self.trained_carry.ticks + steps
            expired = not self.level.context_size or self.expired_contexts >= last
            if not (all_of_it or (whole and expired)):
                return
            chunk = joined(self.pending_ticks[:steps])
            messages = torch.stack(self.messages[:steps])
            seen = torch.stack(self.contexts[:steps]) if self.contexts else None
            for pending in (self.pending_ticks, self.messages, self.contexts):
                del pending[:steps]
            if all_of_it and not self.messages:
                chunk.should_reset[-1] = True
            pairs = self._learn(messages, chunk, seen)
            self.let_level_above_learn()
            assert pairs is not None
            yield pairs

    # What the trainer calls

    def step(self, inputs: Tensor, chunk: Ticks, ahead: Ahead | None = None) -> None:
        """Learn from a chunk of the lowest level, and send its messages.

        Args:
            inputs: ``[T, B, ...]``.
            chunk: targets, mask and restarts of the same steps.
            ahead: looks ahead; None where the steps after the chunk are not known.
        """
        assert self.trained_carry is not None
        inputs = inputs.to(self._updater.device, non_blocking=True)
        seen, has_run = None, False
        if self.above is not None and self.context_size:
            assert self.above_level is not None
            # The context changes inside of a chunk that goes on after a tick of the level above.
            # Such a chunk first runs without a graph, and sends its messages, to get each context.
            has_run = self.trained_carry.ticks % self.above_level.period + len(inputs) > (
                self.above_level.period
            )
            if has_run:
                seen = torch.stack(self._run_without_learning(inputs, chunk.should_reset))
            else:
                context_BC = self.above.context
                assert context_BC is not None
                seen = context_BC.expand(len(inputs), -1, -1)
        self._learn(inputs, chunk, seen, not has_run, ahead)
        self.running_carry = self.trained_carry

    @property
    def context_size(self) -> int:
        """Width of the context that this level gets from the level above; 0: it gets none."""
        return 0 if self.above_level is None else self.above_level.context_size

    def let_level_above_learn(self, all_of_it: bool = False) -> None:
        """Let the level above learn from its complete chunks, and then the synthesizer of messages.

        Args:
            all_of_it: whether the level above learns from an incomplete chunk too.
        """
        if self.above is not None:
            self.learn_message_gradients(self.above.learn_complete_chunks(all_of_it))

    def learn_message_gradients(self, arrived: Iterable[Pairs]) -> None:
        """Let the synthesizer of messages learn.

        Args:
            arrived: messages with the gradients that the level above has found for them.
        """
        for pairs in arrived:
            factor = self.training.learner.loss_scale / self._rows
            losses = self.message_gradients.correct(pairs, self._rows, factor)
            names = f"message_loss_{self.k}", f"message_steps_{self.k}"
            self._updater.add_synth_losses(losses, *names)

    @torch.no_grad()
    def _run_without_learning(self, x: Tensor, should_reset: Tensor) -> list[Tensor]:
        """Run some ticks without a graph and send their messages.

        Returns:
            The context ``[B, C]`` that the level had at each tick; empty if it gets none.
        """
        assert self.running_carry is not None
        context = lambda: None if self.above is None else self.above.context  # noqa: E731
        seen: list[Tensor] = []
        with self.training.learner.precision(self._updater.device):
            run = run_pieces(
                self.level, self.above_level, x, should_reset, self.running_carry, context
            )
            for piece in run:
                self.running_carry = piece.carry
                if piece.context_TBC is not None:
                    seen += piece.context_TBC.unbind(0)
                if self.above is None:
                    continue
                if (messages := self._messages(piece.features_TBF, piece.above)) is not None:
                    self.above.receive(messages)
        return seen

    def _learn(
        self,
        x: Tensor,
        chunk: Ticks,
        context_TBC: Tensor | None,
        send: bool = False,
        ahead: Ahead | None = None,
    ) -> Pairs | None:
        """Learn from one chunk: forward, one backward pass, the synthesizer, an update.

        Args:
            x: inputs, or the messages of the level below, ``[T, B, ...]``.
            chunk: targets, mask and restarts of the same ticks.
            context_TBC: the context at each tick; None if the level gets none.
            send: whether to send the chunk's messages now; False: they were sent before.
            ahead: looks ahead; None where the steps after the chunk are not known.

        Returns:
            The messages that the chunk received, with their gradients; None at the lowest level.
        """
        carry, updater = self.trained_carry, self._updater
        assert carry is not None
        x = x.detach().requires_grad_(self.k > 0)
        context_TBC = None if context_TBC is None else context_TBC.detach().requires_grad_()
        clock = self._clock(carry, chunk)
        plan = self._plan(x, chunk, looks_ahead=ahead is not None)

        run, features_TBF = self._forward(plan, x, chunk, context_TBC, clock)
        finite = updater.check_loss(run)
        since_B = carry.since_B if clock is None else clock.since_B
        end = updater.next_carry(run, self.level.initial_state)
        after = LevelCarry(end, None, carry.ticks + plan.steps, since_B).detached()
        messages_mBM = self._messages(features_TBF, clock)
        future, covers_last = self._future(ahead, run, after, messages_mBM, clock, send)

        backward = updater.roots(plan, run, future) if finite else BackwardPass()
        if messages_mBM is not None and not covers_last:
            self._bridge_messages(backward, messages_mBM, carry.ticks, plan.factor)
        self._add_context_gradients(backward, features_TBF, carry.ticks)
        if finite:
            self._note_loss(run, plan)
            backward.run()
            updater.add_synth_losses(updater.teach(plan, run, chunk.should_reset))
        updater.count_and_update(finite and bool(backward.roots), plan.episode_over)

        self.trained_carry = after
        if self.k > 0 and not self.messages:
            assert self.running_carry is not None
            self.trained_carry = self.trained_carry._replace(
                context_BC=self.running_carry.context_BC
            )
            self.running_carry = self.trained_carry
        self.carried = True
        ended_B = plan.restarts.ended
        self.ended_B = ended_B if bool(chunk.should_reset[-1].any()) else None
        if self.above is not None:
            if context_TBC is not None:
                self._send_context_gradients(context_TBC, carry.ticks)
            if send and messages_mBM is not None:
                self.let_level_above_learn()  # from these contexts, before its next tick
                self.above.receive(messages_mBM.detach())
        return message_pairs(x, chunk.should_reset, plan.gradient_at_end) if self.k else None

    def _clock(self, carry: LevelCarry, chunk: Ticks) -> Above | None:
        """When the level above ticks in a chunk; None at the top."""
        if self.above_level is None:
            return None
        period = self.above_level.period
        return clock_above(carry.ticks, period, chunk.should_reset, carry.since_B)

    def _plan(self, x: Tensor, chunk: Ticks, looks_ahead: bool) -> ChunkPlan:
        (steps, rows), scored = x.shape[:2], 0
        if self.level.readout is not None:
            scored = steps * rows if chunk.mask is None else int(chunk.mask.sum())
        plan = self._updater.plan(
            rows, steps, scored, chunk.should_reset, self.carried, looks_ahead=looks_ahead
        )
        return replace(plan, taught_B=None if self.ended_B is None else ~self.ended_B)

    def _forward(
        self,
        plan: ChunkPlan,
        x: Tensor,
        chunk: Ticks,
        given_TBC: Tensor | None,
        clock: Above | None,
    ) -> tuple[ForwardRun, Tensor]:
        """Run a chunk, and also return its features ``[T, B, F]``."""
        level, learner, carry = self.level, self.training.learner, self.trained_carry
        assert carry is not None
        cuts = plan.trains_synthesizer and plan.continues_stream
        run = ForwardRun(cut(carry.state) if cuts else carry.state, None, carry.state)
        context_TBC = None
        if given_TBC is not None:
            assert clock is not None
            context_TBC = only_of_this_episode(given_TBC, clock.restarted_TB)
        with learner.precision(self._updater.device):
            inputs = (x, run.start, chunk.should_reset, context_TBC)
            if plan.dense_targets:
                features_TBF, run.end, run.trace = level.traced_features(*inputs)
            else:
                features_TBF, run.end = level.features(*inputs)
        if plan.scored:
            assert level.readout is not None
            assert chunk.targets is not None
            with learner.precision(self._updater.device):
                outputs = in_full_precision(level.readout(features_TBF))
            targets, mask = chunk.targets.to(outputs.device, non_blocking=True), chunk.mask
            mask = self._updater.to_device(mask)
            run.loss = scored_loss(learner.loss, outputs, targets, mask)
        return run, features_TBF

    def _note_loss(self, run: ForwardRun, plan: ChunkPlan) -> None:
        if run.loss is not None:
            self.meter.add(loss_sum=run.loss, scored=plan.scored)
            self.meter.add(**{f"loss_sum_{self.k}": run.loss, f"scored_{self.k}": plan.scored})

    def _messages(self, features_TBF: Tensor, clock: Above | None) -> Tensor | None:
        """The messages that a chunk sends, ``[m, B, M]``; None where it sends none."""
        if clock is None or not clock.sent:
            return None
        learner = self.training.learner
        with learner.precision(self._updater.device):
            messages_mBM = in_full_precision(self.level.message(features_TBF[clock.sent]))
        if learner.non_finite == "skip":  # a NaN of this level must not reach the levels above
            messages_mBM = messages_mBM.nan_to_num(0.0, 0.0, 0.0)
        return messages_mBM

    def _future(
        self,
        ahead: Ahead | None,
        run: ForwardRun,
        after: LevelCarry,
        messages_mBM: Tensor | None,
        clock: Above | None,
        send: bool,
    ) -> tuple[FutureGrad | None, bool]:
        """What computes the gradient from known steps; whether also that of the last message."""
        if ahead is None:
            return None, False
        run.end_tensors, restarts_2B = (run.end,), None
        last = clock is not None and clock.sent[-1:] == [after.ticks - self.ticks - 1]
        covers_last = last and send and self.message_gradients.synthetic is not None
        if covers_last:
            assert clock is not None
            assert messages_mBM is not None
            run.end_tensors, restarts_2B = (run.end, messages_mBM[-1]), clock.should_reset[-2:]
        return ahead(after, restarts_2B), covers_last

    def _bridge_messages(
        self, backward: BackwardPass, messages_mBM: Tensor, ticks: int, factor: float
    ) -> None:
        """Add the synthetic gradients of messages to a backward pass."""
        assert self.above_level is not None
        flat_NM = messages_mBM.flatten(0, 1)
        first = ticks // self.above_level.period
        grad_NM = self.message_gradients.synthetic_grad(flat_NM, first, messages_mBM.shape[1])
        synthetic = self.message_gradients.synthetic
        if grad_NM is not None and synthetic is not None and synthetic.ready(self.chunks):
            backward.add(flat_NM, grad_NM * factor)

    def _add_context_gradients(
        self, backward: BackwardPass, features_TBF: Tensor, ticks: int
    ) -> None:
        """Add the gradients that arrived at the contexts which a chunk gave."""
        of_chunk = range(ticks + 1, ticks + len(features_TBF) + 1)
        arrived = {t: self.context_grads.pop(t) for t in of_chunk if t in self.context_grads}
        if arrived:
            at = [t - ticks - 1 for t in arrived]
            with self.training.learner.precision(self._updater.device):
                contexts = in_full_precision(self.level.context(features_TBF[at]))
            backward.add(contexts, torch.stack(list(arrived.values())))

    def _send_context_gradients(self, context_TBC: Tensor, ticks: int) -> None:
        """Pass the gradients of a chunk's contexts to the level above, which gave them."""
        assert self.above is not None
        assert self.above_level is not None
        period = self.above_level.period
        grads: dict[int, Tensor] = {}
        if context_TBC.grad is not None:
            for t, grad_BC in enumerate(context_TBC.grad.unbind(0)):
                if (tick := (ticks + t) // period) > 0:  # 0: the zeros before its first tick
                    grads[tick] = grads[tick] + grad_BC if tick in grads else grad_BC
        self.above.receive_context_gradients(grads, (ticks + len(context_TBC)) // period - 1)

    def update_jointly(self, has_gradient: bool) -> None:
        """Count one graph over all levels, and update this level if an update is due.

        Args:
            has_gradient: whether the backward pass of that graph has run.
        """
        self._updater.count_and_update(has_gradient)

    def future_grad(self, model: Core, ahead: Chunk) -> FutureGrad:
        """What computes the gradient at the end of the present chunk from the steps after it.

        Args:
            model: runs these steps.
            ahead: the steps.

        Returns:
            A function: see ``FutureGrad`` in chunk_step.py.
        """
        return self._updater.future_grad(model, ahead, rows_of(ahead.should_reset).continues)

    @property
    def received(self) -> int:
        """Messages that the level has received since the stream began."""
        return (self.trained_carry.ticks if self.trained_carry else 0) + len(self.messages)

    @property
    def synthetic(self) -> list[SyntheticGradients]:
        """Those at the level's state and at its messages, where there are any."""
        training = self.training
        return [each for each in (training.credit, training.message_credit) if each is not None]

    @property
    def ticks(self) -> int:
        """Ticks that the level has learned from."""
        assert self.trained_carry is not None
        return self.trained_carry.ticks

    @property
    def chunks(self) -> int:
        """Chunks that the level has learned from."""
        return self._updater.chunks

    @property
    def updates(self) -> int:
        """Weight updates of the level."""
        return self._updater.updates

    @property
    def _rows(self) -> int:
        assert self.trained_carry is not None
        return len(self.trained_carry.since_B)

    def state_dict(self, whole: OfRows = as_it_is) -> dict[str, Any]:
        """All that the next chunk depends on, except the model and the boundaries.

        Args:
            whole: makes a tensor of all rows from one with the rows of this process.

        Returns:
            Tensors and primitives. An incomplete chunk is saved as its messages, with the targets,
            masks and restarts of the same ticks.
        """
        # Where no row of a process has a loss, the process has no gradients of contexts; others may
        # have some. So all of them look at the same ticks.
        ticks = range(self.received - len(self.messages) + 1, self.received + 1)
        context_grads = {t: whole(self.context_grads.get(t), 0) for t in ticks}
        return {
            "steps": self._updater.state_dict(),
            "trained_carry": self.trained_carry and saved_carry(self.trained_carry, whole),
            "running_carry": self.running_carry and saved_carry(self.running_carry, whole),
            "carried": self.carried,
            "ended_B": whole(self.ended_B, 0),
            "pending_ticks": [[whole(x, 1) for x in ticks] for ticks in self.pending_ticks],
            "messages": [whole(message, 0).clone() for message in self.messages],
            "contexts": [whole(context, 0) for context in self.contexts],
            "context_grads": {t: grad for t, grad in context_grads.items() if grad is not None},
            "expired_contexts": self.expired_contexts,
            "message_gradients": self.message_gradients.state_dict(whole),
        }

    def load_state_dict(
        self, saved: Mapping[str, Any], own: OfRows = as_it_is, processes: int = 1
    ) -> None:
        """Continue as if training had never stopped.

        Args:
            saved: from :meth:`state_dict`.
            own: takes the rows of this process out of a tensor of all rows.
            processes: that saved it.
        """
        device = self._updater.device
        self._updater.load_state_dict(saved["steps"], processes)
        self.trained_carry, self.running_carry = (
            saved[name] and restored_carry(saved[name], self.level, device, own)
            for name in ("trained_carry", "running_carry")
        )
        self.carried = saved["carried"]
        self.ended_B = own(saved["ended_B"], 0)
        self.pending_ticks = [
            Ticks(*(own(x, 1) for x in ticks)) for ticks in saved["pending_ticks"]
        ]
        self.messages = [own(message, 0).to(device) for message in saved["messages"]]
        self.contexts = [own(context, 0).to(device) for context in saved["contexts"]]
        # They are in units of the objective, which is a mean over the rows of a process.
        factor = number_of(self._updater.parallel) / processes
        self.context_grads = {
            t: own(grad, 0).to(device) * factor for t, grad in saved["context_grads"].items()
        }
        self.expired_contexts = saved["expired_contexts"]
        self.message_gradients.load_state_dict(saved["message_gradients"], device, own)


def saved_carry(carry: LevelCarry, whole: OfRows = as_it_is) -> dict[str, Any]:
    """A level's carry as tensors and primitives, for a checkpoint.

    Args:
        carry: of a level.
        whole: makes a tensor of all rows from one with the rows of this process.

    Returns:
        Values by name.
    """
    return {
        "state": [whole(leaf, -2) for leaf in leaves(carry.state)],
        "context_BC": whole(carry.context_BC, 0),
        "ticks": carry.ticks,
        "since_B": whole(carry.since_B, 0),
    }


def restored_carry(
    saved: Mapping[str, Any], level: Level, device: torch.device, own: OfRows = as_it_is
) -> LevelCarry:
    """The carry that was saved.

    Args:
        saved: from :func:`saved_carry`.
        level: the level that it belongs to, which has the structure of its state.
        device: where the level computes.
        own: takes the rows of this process out of a tensor of all rows.

    Returns:
        The carry on that device.
    """
    state = restored_state([own(leaf, -2) for leaf in saved["state"]], level, device)
    context_BC = own(saved["context_BC"], 0)
    context_BC = None if context_BC is None else context_BC.to(device)
    return LevelCarry(state, context_BC, saved["ticks"], own(saved["since_B"], 0))
