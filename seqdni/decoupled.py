r"""One level of a hierarchy, trained at its own pace from synthetic gradients.

Shapes: T ticks of a chunk, m messages sent in it, B rows, M features of a message, C of a context,
N = m * B pairs of a message and its gradient.

Levels exchange messages (up, :meth:`DecoupledLevel.receive`), contexts (down,
:attr:`DecoupledLevel.context`) and gradients (of contexts up, :meth:`DecoupledLevel.hand_up`; of
messages down, :meth:`DecoupledLevel.settle`); all of them constants. The timing diagram is in
docs/hierarchy.md.

Source: Jaderberg et al., arXiv 1608.05343, section 3.2 (multi-network systems).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from seqdni.boundary import with_grads
from seqdni.chunk import nobody, rows_of
from seqdni.clock import clock_above
from seqdni.hierarchy import LevelCarry, only_of_this_episode, run_pieces
from seqdni.hierarchy_chunk import Ticks, joined
from seqdni.learner import Learner
from seqdni.losses import scored_loss
from seqdni.messages import Messages, message_pairs
from seqdni.meter import Meter
from seqdni.state import State, cut, detach
from seqdni.targets import Pairs, boundary_pairs
from seqdni.timescale import Timescale

Known: TypeAlias = Callable[[LevelCarry, State, Tensor | None, Tensor | None], Tensor]
"""Looks ahead: the carry after a chunk; its state and perhaps the message of its last step, as
:class:`seqdni.hierarchy_ahead.Onward` takes them; the restarts around the tick on that message;
rows that continue -> their gradient, packed, a constant in per-example-sum units."""


class DecoupledLevel:
    """A level with its chunk in the making; no graph outlives a method.

    A chunk above the lowest level is complete with its ``chunk_len`` messages and, if the level
    gives contexts, once the last of them is no longer in force: only then is their gradient known.
    It is then run once more, with a graph, for one backward pass.

    Args:
        level: what is trained.
        learner: how.
        above: the level above, or whatever answers like one; None at the top.
        above_level: the model of that level, for its period and the size of its context.
        feedback: whether predicted message gradients are listened to.
        carry: where the stream begins.
        meter: where losses are added up.
        k: its number, for the meter.
    """

    def __init__(
        self,
        level: Timescale,
        learner: Learner,
        above: DecoupledLevel | None,
        above_level: Timescale | None,
        feedback: bool,
        meter: Meter,
        k: int,
    ):
        self.level = level
        self.learner = learner
        self.above = above
        self.above_level = above_level
        self.way_up = Messages(learner, feedback)
        self.meter = meter
        self.k = k
        self.chunks = 0
        self.updates = 0
        self.begin(None)

    def begin(self, carry: LevelCarry | None) -> None:
        """Begin a stream; what was pending is dropped.

        Args:
            carry: from :meth:`seqdni.hierarchy.Hierarchy.initial_carry`.
        """
        self.learned = self.live = carry  # up to the last backward pass; up to the last message
        self.carried = False  # whether the next chunk continues another one
        self.ended_B: Tensor | None = None  # rows that the last chunk's end was not bridged for
        self.told: list[Ticks] = []  # by the stream, one tick each, not yet learned from
        self.messages: list[Tensor] = []  # [B, M] each, not yet learned from
        self.seen: list[Tensor] = []  # [B, C] each, the contexts that were in force then
        self.way_up.begin()
        self.context_grads: dict[int, Tensor] = {}  # [B, C] by the tick that gave the context
        self.used = 0  # ticks that gave a context which is no longer in force

    # What the level below sees

    @property
    def context(self) -> Tensor | None:
        """What the level below gets now, ``[B, C]``, a constant."""
        assert self.live is not None
        return self.live.context_BC

    def receive(self, messages_mBM: Tensor) -> None:
        """Take messages, a tick each; contexts and messages that follow from them are out at once.

        Args:
            messages_mBM: constants.
        """
        assert self.live is not None
        first = len(self.messages)
        self.messages += list(messages_mBM.unbind(0))
        if self.above is not None or self.level.context_size:
            told = joined(self.told[first : len(self.messages)])
            self.seen += list(self._walk(messages_mBM, told.should_reset))

    def hand_up(self, grads: dict[int, Tensor], used: int) -> None:
        """Take the gradients that arrived at contexts, in units of the objective.

        Args:
            grads: ``[B, C]`` each, by the tick (from 1) of this level that gave the context.
            used: ticks whose context is no longer in force, so that no more of these follow.
        """
        for tick, grad_BC in grads.items():
            before = self.context_grads.get(tick)
            self.context_grads[tick] = grad_BC if before is None else before + grad_BC
        self.used = used

    def settle(self, all_of_it: bool = False) -> Iterator[Pairs]:
        """Learn from the chunks that are complete.

        Args:
            all_of_it: also from an incomplete one: the stream is over.

        Yields:
            The messages of each chunk with the gradients that arrived at them, in units of the
            objective, the chunk's own bootstrap included.
        """
        assert self.learned is not None
        assert self.learner.chunk_len is not None
        while self.messages:
            steps = min(self.learner.chunk_len, len(self.messages))
            whole = steps == self.learner.chunk_len
            used = not self.level.context_size or self.used >= self.learned.ticks + steps
            if not (all_of_it or (whole and used)):
                return
            chunk = joined(self.told[:steps])
            messages = torch.stack(self.messages[:steps])
            seen = torch.stack(self.seen[:steps]) if self.seen else None
            for pending in (self.told, self.messages, self.seen):
                del pending[:steps]
            if all_of_it and not self.messages:
                chunk.should_reset[-1] = True
            pairs = self._learn(messages, chunk, seen)
            self.learn_from_above()
            assert pairs is not None
            yield pairs

    # What the trainer calls

    def step(self, inputs: Tensor, chunk: Ticks, known: Known | None = None) -> None:
        """The lowest level: learn from a chunk at once, and send what follows from it.

        Args:
            inputs: ``[T, B, ...]``.
            chunk: the rest of it.
            known: looks ahead; None where the steps after the chunk are not known.
        """
        assert self.learned is not None
        inputs = inputs.to(self._device, non_blocking=True)
        seen, walked = None, False
        if self.above is not None and self.context_size:
            assert self.above_level is not None
            walked = self.learned.ticks % self.above_level.period + len(inputs) > (
                self.above_level.period
            )
            if walked:
                seen = torch.stack(list(self._walk(inputs, chunk.should_reset)))
            else:
                context_BC = self.above.context
                assert context_BC is not None
                seen = context_BC.expand(len(inputs), -1, -1)
        self._learn(inputs, chunk, seen, not walked, known)
        self.live = self.learned

    @property
    def context_size(self) -> int:
        """Width of the context that this level takes."""
        return 0 if self.above_level is None else self.above_level.context_size

    def learn_from_above(self, all_of_it: bool = False) -> None:
        """Let the level above learn from what is complete there, and this one's messages from that.

        Args:
            all_of_it: also from an incomplete chunk.
        """
        if self.above is None:
            return
        for pairs in self.above.settle(all_of_it):
            loss = self.way_up.correct(pairs, self._rows)
            if loss is not None:
                self.meter.add(**{f"message_loss_{self.k}": loss, f"message_steps_{self.k}": 1})

    @torch.no_grad()
    def _walk(self, x: Tensor, should_reset: Tensor) -> Iterator[Tensor]:
        """Go on without learning: send messages as they come, keep what contexts were in force."""
        assert self.live is not None
        context = lambda: None if self.above is None else self.above.context  # noqa: E731
        seen: list[Tensor] = []
        for piece in run_pieces(self.level, self.above_level, x, should_reset, self.live, context):
            self.live = piece.carry
            if piece.context_TBC is not None:
                seen += piece.context_TBC.unbind(0)
            if self.above is not None and piece.above is not None and piece.above.sent:
                self.above.receive(self.level.message(piece.features_TBF[piece.above.sent]))
        return iter(seen)

    def _learn(
        self,
        x: Tensor,
        chunk: Ticks,
        seen_TBC: Tensor | None,
        send: bool = False,
        known: Known | None = None,
    ) -> Pairs | None:
        """One chunk: forward, one backward pass, the synthesizer, an update."""
        level, learner, carry = self.level, self.learner, self.learned
        assert carry is not None
        steps, rows = x.shape[:2]
        factor = learner.loss_scale / rows
        restarts = rows_of(chunk.should_reset)
        continues_B = self._here(restarts.continues)
        scored = 0
        if level.readout is not None:
            scored = steps * rows if chunk.mask is None else int(chunk.mask.sum())
        listens = self.chunks >= learner.warmup_chunks
        boundary = learner.boundary
        heard = boundary is not None and (listens or known is not None)
        bootstraps = heard and not nobody(restarts.continues)
        teaches = learner.learns(boundary)
        clock, period = None, 1
        if self.above_level is not None:
            period = self.above_level.period
            clock = clock_above(carry.ticks, period, chunk.should_reset, carry.since_B)

        start = cut(carry.state) if teaches and self.carried else carry.state
        if self.k > 0:
            x = x.detach().requires_grad_()
        context_TBC = None
        if seen_TBC is not None:
            seen_TBC = seen_TBC.detach().requires_grad_()
            assert clock is not None
            context_TBC = only_of_this_episode(seen_TBC, clock.restarted_TB)
        features_TBF, end = level.features(x, start, chunk.should_reset, context_TBC)

        roots: list[Tensor] = []
        grads: list[Tensor | None] = []
        if scored:
            assert level.readout is not None
            assert chunk.targets is not None
            targets = chunk.targets.to(self._device, non_blocking=True)
            outputs = level.readout(features_TBF)
            nats = scored_loss(learner.loss, outputs, targets, self._here(chunk.mask))
            roots, grads = [nats * factor], [None]
            self.meter.add(nats=nats, scored=scored)
            self.meter.add(**{f"nats_{self.k}": nats, f"scored_{self.k}": scored})
        messages_mBM, told = None, False
        if clock is not None and clock.sent:
            messages_mBM = level.message(features_TBF[clock.sent])
        since_B = carry.since_B if clock is None else clock.since_B
        after = LevelCarry(end, None, carry.ticks + steps, since_B).detached()
        if bootstraps:
            assert boundary is not None
            bridged: State = end
            if known is None:
                grad_BS = boundary.consumed(boundary.predict(end), continues_B)
            else:
                bridged, restarts_2B = (end,), None
                if clock is not None and messages_mBM is not None and clock.sent[-1] == steps - 1:
                    told = send and self.way_up.boundary is not None
                    if told:
                        bridged, restarts_2B = (end, messages_mBM[-1]), clock.should_reset[-2:]
                grad_BS = known(after, detach(bridged), restarts_2B, continues_B)
            states, given = with_grads(bridged, grad_BS * factor)
            roots, grads = [*roots, *states], [*grads, *given]
        if messages_mBM is not None and not told:
            flat_NM = messages_mBM.flatten(0, 1)
            grad_NM = self.way_up.synthetic_grad(flat_NM, carry.ticks // period, rows)
            if listens and grad_NM is not None:
                roots.append(flat_NM)
                grads.append(grad_NM * factor)
        ticks = range(carry.ticks + 1, carry.ticks + steps + 1)
        if arrived := {t: self.context_grads.pop(t) for t in ticks if t in self.context_grads}:
            at = [t - carry.ticks - 1 for t in arrived]
            roots.append(level.context(features_TBF[at]))
            grads.append(torch.stack(list(arrived.values())))
        if roots:
            torch.autograd.backward(roots, grads)

        if teaches and self.carried:
            assert boundary is not None
            pairs = boundary_pairs(start, restarts, True, bootstraps)
            valid_B = None if self.ended_B is None else ~self.ended_B
            if not nobody(valid_B):
                loss = boundary.regression(
                    pairs.state_NS,
                    pairs.grad_NS,
                    self._here(valid_B),
                    self._here(pairs.final_N),
                    loss_scale=factor,
                )
                learner.teach(boundary, loss)
                self.meter.add(synth_loss=loss, synth_steps=1)
        if roots:
            self.updates += learner.update(level, f"chunk {self.chunks} of level {self.k}")
        self.learned = after
        if self.k > 0 and not self.messages:
            assert self.live is not None
            self.learned = self.learned._replace(context_BC=self.live.context_BC)
            self.live = self.learned
        self.carried = True
        self.ended_B = restarts.ended if bool(chunk.should_reset[-1].any()) else None
        self.chunks += 1

        if self.above is not None:
            if seen_TBC is not None:
                assert clock is not None
                self._hand_up(seen_TBC, carry.ticks)
            if send and messages_mBM is not None:
                self.learn_from_above()  # so that its next tick has learned from these contexts
                self.above.receive(messages_mBM.detach())
        if self.k == 0:
            return None
        return message_pairs(x, chunk.should_reset, bootstraps)

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

    @property
    def _rows(self) -> int:
        assert self.learned is not None
        return len(self.learned.since_B)

    @property
    def _device(self) -> torch.device:
        return next(self.level.parameters()).device

    def _here(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(self._device, non_blocking=True)
