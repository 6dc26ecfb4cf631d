r"""One level of a hierarchy, trained at its own pace from synthetic gradients.

Shapes: T ticks of a chunk, m messages sent in it, B rows, M features of a message, C of a context,
N = m * B pairs of a message and its gradient.

Levels exchange messages (up, :meth:`LevelTrainer.receive`), contexts (down,
:attr:`LevelTrainer.context`) and gradients (of contexts up, :meth:`LevelTrainer.hand_up`; of
messages down, :meth:`LevelTrainer.settle`); all of them constants. The timing diagram is in
docs/hierarchy.md.

Source: Jaderberg et al., arXiv 1608.05343, section 3.2 (multi-network systems).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from seqdni.boundary import Boundary
from seqdni.checkpoint import restored_state
from seqdni.chunk import Chunk
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
from seqdni.state import cut, in_full_precision, leaves
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.targets import Pairs

Ahead: TypeAlias = Callable[[LevelCarry, Tensor | None], FutureGrad]
"""Looks ahead: the carry after a chunk, and the restarts of the level above around its tick on the
message of the chunk's last step (None: nothing is computed for that message) -> what computes the
gradient of what follows."""


@dataclass
class LevelTraining:
    """How one level of a hierarchy is trained.

    Args:
        learner: the optimiser, the loss, and when the level is updated.
        chunk_len: ticks of the level's own chunk. None for the lowest level, whose chunks are those
            that are fed.
        credit: bridges the ends of the level's own chunks; None truncates there. It predicts
            gradients of the whole objective, divided by the level's ``loss_scale``.
        message_credit: bridges the way up: predicts the gradient of what follows from a message,
            from the message. Its synthesizer's state size is the message's width. None: the level
            above tells this one nothing.

    Raises:
        ValueError: a number out of range, or a synthesizer that a hierarchy has no use for.

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
        """Those that there are: of the state, then of messages."""
        yield from (each.boundary for each in (self.credit, self.message_credit) if each)


class LevelTrainer:
    """A level with its chunk in the making; no graph outlives a method.

    A chunk above the lowest level is complete with its ``chunk_len`` messages and, if the level
    gives contexts, once the last of them is no longer in force: only then is their gradient known.
    It is then run once more, with a graph, for one backward pass.

    Args:
        level: what is trained.
        training: how.
        above: the level above, or whatever answers like one; None at the top.
        above_level: the model of that level, for its period and the size of its context.
        feedback: whether gradients of messages are predicted and used.
        meter: where losses are added up.
        k: its number, for the meter.
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
    ):
        self.level = level
        self.training = training
        self.above = above
        self.above_level = above_level
        self.way_up = Messages(training.message_credit if feedback else None)
        self.meter = meter
        self.k = k
        self._updater = ChunkUpdater(
            level.parameters(), training.learner, training.credit, meter, f" of level {k}"
        )
        self.begin(None)

    def begin(self, carry: LevelCarry | None) -> None:
        """Begin a stream; what was pending is dropped.

        Args:
            carry: from :meth:`seqdni.hierarchy.Hierarchy.initial_carry`.
        """
        # Above the lowest level there are two places in the stream: up to where the level has been
        # trained, and up to where it has run, without a graph, because the level below needs its
        # context or the level above its messages. A level that no other needs runs when
        # it is trained.
        self.trained_carry = self.running_carry = carry
        self.carried = False  # whether the next chunk continues another one
        self.ended_B: Tensor | None = None  # rows that the last chunk's end was not bridged for
        self.pending_ticks: list[Ticks] = []  # by the stream, one tick each, not yet learned from
        self.messages: list[Tensor] = []  # [B, M] each, not yet learned from
        self.seen: list[Tensor] = []  # [B, C] each, the contexts that were in force then
        self.way_up.begin()
        self.context_grads: dict[int, Tensor] = {}  # [B, C] by the tick that gave the context
        self.expired_contexts = 0  # ticks that gave a context which is no longer in force

    # What the level below sees

    @property
    def context(self) -> Tensor | None:
        """What the level below gets now, ``[B, C]``, a constant."""
        assert self.running_carry is not None
        return self.running_carry.context_BC

    def receive(self, messages_mBM: Tensor) -> None:
        """Take messages, a tick each; contexts and messages that follow from them are out at once.

        Args:
            messages_mBM: constants.
        """
        assert self.running_carry is not None
        first = len(self.messages)
        self.messages += list(messages_mBM.unbind(0))
        if self.above is not None or self.level.context_size:
            ticks = joined(self.pending_ticks[first : len(self.messages)])
            self.seen += self._walk(messages_mBM, ticks.should_reset)

    def hand_up(self, grads: dict[int, Tensor], expired: int) -> None:
        """Take the gradients that arrived at contexts, in units of the objective.

        Args:
            grads: ``[B, C]`` each, by the tick (from 1) of this level that gave the context.
            expired: ticks whose context is no longer in force, so that no more of these follow.
        """
        for tick, grad_BC in grads.items():
            before = self.context_grads.get(tick)
            self.context_grads[tick] = grad_BC if before is None else before + grad_BC
        self.expired_contexts = expired

    def settle(self, all_of_it: bool = False) -> Iterator[Pairs]:
        """Learn from the chunks that are complete.

        Args:
            all_of_it: also from an incomplete one: the stream is over.

        Yields:
            The messages of each chunk with the gradients that arrived at them, in units of the
            objective, the chunk's own bootstrap included.
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
            seen = torch.stack(self.seen[:steps]) if self.seen else None
            for pending in (self.pending_ticks, self.messages, self.seen):
                del pending[:steps]
            if all_of_it and not self.messages:
                chunk.should_reset[-1] = True
            pairs = self._learn(messages, chunk, seen)
            self.settle_level_above()
            assert pairs is not None
            yield pairs

    # What the trainer calls

    def step(self, inputs: Tensor, chunk: Ticks, ahead: Ahead | None = None) -> None:
        """The lowest level: learn from a chunk at once, and send what follows from it.

        Args:
            inputs: ``[T, B, ...]``.
            chunk: the rest of it.
            ahead: looks ahead; None where the steps after the chunk are not known.
        """
        assert self.trained_carry is not None
        inputs = inputs.to(self._updater.device, non_blocking=True)
        seen, walked = None, False
        if self.above is not None and self.context_size:
            assert self.above_level is not None
            walked = self.trained_carry.ticks % self.above_level.period + len(inputs) > (
                self.above_level.period
            )
            if walked:
                seen = torch.stack(self._walk(inputs, chunk.should_reset))
            else:
                context_BC = self.above.context
                assert context_BC is not None
                seen = context_BC.expand(len(inputs), -1, -1)
        self._learn(inputs, chunk, seen, not walked, ahead)
        self.running_carry = self.trained_carry

    @property
    def context_size(self) -> int:
        """Width of the context that this level takes."""
        return 0 if self.above_level is None else self.above_level.context_size

    def settle_level_above(self, all_of_it: bool = False) -> None:
        """Let the level above learn from what is complete there, and this one's messages from that.

        Args:
            all_of_it: also from an incomplete chunk.
        """
        if self.above is None:
            return
        for pairs in self.above.settle(all_of_it):
            factor = self.training.learner.loss_scale / self._rows
            for loss in self.way_up.correct(pairs, self._rows, factor):
                self.meter.add(**{f"message_loss_{self.k}": loss, f"message_steps_{self.k}": 1})

    @torch.no_grad()
    def _walk(self, x: Tensor, should_reset: Tensor) -> list[Tensor]:
        """Go on without learning: send messages as they come, keep what contexts were in force."""
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
        seen_TBC: Tensor | None,
        send: bool = False,
        ahead: Ahead | None = None,
    ) -> Pairs | None:
        """One chunk: forward, one backward pass, the synthesizer, an update.

        Args:
            x: inputs, or the messages of the level below.
            chunk: the rest of it.
            seen_TBC: the contexts that were in force, a tick each.
            send: whether the chunk's messages go up now; else they went up before.
            ahead: looks ahead.

        Returns:
            Above the lowest level, the messages that it received with their gradients.
        """
        carry, updater = self.trained_carry, self._updater
        assert carry is not None
        x = x.detach().requires_grad_(self.k > 0)
        seen_TBC = None if seen_TBC is None else seen_TBC.detach().requires_grad_()
        clock = self._clock(carry, chunk)
        plan = self._plan(x, chunk, looks_ahead=ahead is not None)

        run, features_TBF = self._forward(plan, x, chunk, seen_TBC, clock)
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
            updater.teach(plan, run, chunk.should_reset)
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
            if seen_TBC is not None:
                self._hand_up(seen_TBC, carry.ticks)
            if send and messages_mBM is not None:
                self.settle_level_above()  # so that its next tick has learned from these contexts
                self.above.receive(messages_mBM.detach())
        return message_pairs(x, chunk.should_reset, plan.bridges_end) if self.k else None

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
        seen_TBC: Tensor | None,
        clock: Above | None,
    ) -> tuple[ForwardRun, Tensor]:
        """Run a chunk; its features ``[T, B, F]`` come beside it."""
        level, learner, carry = self.level, self.training.learner, self.trained_carry
        assert carry is not None
        cuts = plan.trains_synthesizer and plan.continues_stream
        run = ForwardRun(cut(carry.state) if cuts else carry.state, None, carry.state)
        context_TBC = None
        if seen_TBC is not None:
            assert clock is not None
            context_TBC = only_of_this_episode(seen_TBC, clock.restarted_TB)
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
        if learner.non_finite == "skip":  # what breaks here must not break the levels above
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
        """What known steps will tell, and whether they tell it of the last message too."""
        if ahead is None:
            return None, False
        run.bridged, restarts_2B = (run.end,), None
        last = clock is not None and clock.sent[-1:] == [after.ticks - self.ticks - 1]
        covers_last = last and send and self.way_up.synthetic is not None
        if covers_last:
            assert clock is not None
            assert messages_mBM is not None
            run.bridged, restarts_2B = (run.end, messages_mBM[-1]), clock.should_reset[-2:]
        return ahead(after, restarts_2B), covers_last

    def _bridge_messages(
        self, backward: BackwardPass, messages_mBM: Tensor, ticks: int, factor: float
    ) -> None:
        """Add the synthetic gradients of messages to a backward pass."""
        assert self.above_level is not None
        flat_NM = messages_mBM.flatten(0, 1)
        first = ticks // self.above_level.period
        grad_NM = self.way_up.synthetic_grad(flat_NM, first, messages_mBM.shape[1])
        synthetic = self.way_up.synthetic
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

    def _hand_up(self, seen_TBC: Tensor, ticks: int) -> None:
        """Hand the gradients of a chunk's contexts to the level that gave them."""
        assert self.above is not None
        assert self.above_level is not None
        period = self.above_level.period
        grads: dict[int, Tensor] = {}
        if seen_TBC.grad is not None:
            for t, grad_BC in enumerate(seen_TBC.grad.unbind(0)):
                if (tick := (ticks + t) // period) > 0:  # before the first tick there are zeros
                    grads[tick] = grads[tick] + grad_BC if tick in grads else grad_BC
        self.above.hand_up(grads, (ticks + len(seen_TBC)) // period - 1)

    def update_jointly(self, has_gradient: bool) -> None:
        """An update, if one is due, from a graph that all levels had in common.

        Args:
            has_gradient: whether the backward pass of that graph has run.
        """
        self._updater.count_and_update(has_gradient)

    def future_grad(self, model: Core, ahead: Chunk) -> FutureGrad:
        """What known steps tell of the end of the present chunk.

        Args:
            model: runs these steps.
            ahead: the steps.
        """
        return self._updater.future_grad(model, ahead)

    @property
    def ticks(self) -> int:
        """Ticks that the level has learned from."""
        assert self.trained_carry is not None
        return self.trained_carry.ticks

    @property
    def chunks(self) -> int:
        """Chunks that it has learned from."""
        return self._updater.chunks

    @property
    def updates(self) -> int:
        """Its weight updates."""
        return self._updater.updates

    @property
    def _rows(self) -> int:
        assert self.trained_carry is not None
        return len(self.trained_carry.since_B)

    def state_dict(self) -> dict[str, Any]:
        """What the next chunk depends on, the model and the boundaries not included.

        A level keeps no graph between two steps: a chunk in the making is its messages and what the
        stream said about them.

        Returns:
            Tensors and primitives.
        """
        return {
            "steps": self._updater.state_dict(),
            "trained_carry": self.trained_carry and saved_carry(self.trained_carry),
            "running_carry": self.running_carry and saved_carry(self.running_carry),
            "carried": self.carried,
            "ended_B": self.ended_B,
            "pending_ticks": [list(ticks) for ticks in self.pending_ticks],
            "messages": [message.clone() for message in self.messages],
            "seen": list(self.seen),
            "context_grads": dict(self.context_grads),
            "expired_contexts": self.expired_contexts,
            "way_up": self.way_up.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue as if never stopped.

        Args:
            saved: from :meth:`state_dict`.
        """
        device = self._updater.device
        self._updater.load_state_dict(saved["steps"])
        self.trained_carry = saved["trained_carry"] and restored_carry(
            saved["trained_carry"], self.level, device
        )
        self.running_carry = saved["running_carry"] and restored_carry(
            saved["running_carry"], self.level, device
        )
        self.carried = saved["carried"]
        self.ended_B = saved["ended_B"]
        self.pending_ticks = [Ticks(*ticks) for ticks in saved["pending_ticks"]]
        self.messages = [message.to(device) for message in saved["messages"]]
        self.seen = [context.to(device) for context in saved["seen"]]
        self.context_grads = {t: grad.to(device) for t, grad in saved["context_grads"].items()}
        self.expired_contexts = saved["expired_contexts"]
        self.way_up.load_state_dict(saved["way_up"], device)


def saved_carry(carry: LevelCarry) -> dict[str, Any]:
    """A carry as tensors and primitives.

    Args:
        carry: of a level.
    """
    return {
        "state": leaves(carry.state),
        "context_BC": carry.context_BC,
        "ticks": carry.ticks,
        "since_B": carry.since_B,
    }


def restored_carry(saved: Mapping[str, Any], level: Level, device: torch.device) -> LevelCarry:
    """The carry again.

    Args:
        saved: from :func:`saved_carry`.
        level: whose; gives the structure of its state.
        device: where it computes.
    """
    state = restored_state(saved["state"], level, device)
    context_BC = saved["context_BC"]
    context_BC = None if context_BC is None else context_BC.to(device)
    return LevelCarry(state, context_BC, saved["ticks"], saved["since_B"])
