r"""Two levels of a hierarchy in two processes: what they say to each other.

The level below asks, and the level above answers. In the process of the level below,
:class:`RemoteLevel` stands in the place of the level above. In the process of the level above,
:class:`Answering` carries out what the level below asks for.

With *staleness* s, the level below goes on before the level above has answered. After n ticks of
the level above, it uses the answers to its first n - s messages and no later ones: the context that
was given at tick n - s, and the gradients of messages that were sent before. It waits where these
are not there yet. So the result does not depend on how fast the processes are, and with staleness 0
it is bit for bit that of one process.

Shapes: m messages, B rows, M features of a message, C of a context, N = m * B pairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import IntEnum

import torch
from torch import Tensor

from seqdni.channel import Link
from seqdni.hierarchy.level_trainer import LevelTrainer
from seqdni.targets import Pairs


class Said(IntEnum):
    """What two neighbouring levels say; the step is the number of messages sent before."""

    MESSAGES = 1  # upwards: [m, B, M], one for each tick of the level above
    CONTEXT = 2  # the answer to it, of a level that gives contexts: [B, C]
    CONTEXT_GRADIENTS = 3  # upwards: [1 + n] expired ticks and the ticks of [n, B, C] gradients
    LEARN = 4  # upwards: [] bool, learn from the chunks that are complete, or from all there is
    PAIRS = 5  # the answer to it for each chunk: messages and their gradients
    DONE = 6  # upwards: [] answers taken so far; no more questions in this step of the stream


class RemoteLevel:
    """Stands for the level above, which another process works.

    Args:
        link: to that process.
        level: the copy of the level above in this process, as it is now. It does not learn. The
            trainer adds ticks to its ``pending_ticks``, and nothing takes them out.
        staleness: s, see above.
    """

    def __init__(self, link: Link, level: LevelTrainer, staleness: int):
        self.link = link
        self.level = level
        self.staleness = staleness
        self.taken = 0  # answers
        self.begin()

    def begin(self) -> None:
        """Begin where the copy of the level is: at the beginning of a stream, or in its midst."""
        self.first = self.sent = self.level.received  # messages
        self.learned = self.first - len(self.level.messages)  # ticks that it has learned from
        self.expired = self.level.expired_contexts
        self._context = self.level.context
        self._restarts: dict[int, Tensor] = {}  # [B] bool, rows that restart before a tick
        self._pairs: deque[Pairs] = deque()
        # Answers that have not arrived yet, with the number of messages when they were asked for:
        self._awaited: deque[tuple[Said, int]] = deque()

    @property
    def context(self) -> Tensor | None:
        """The context that the level below gets now, ``[B, C]``: that of tick n - s.

        It is 0 in rows that have restarted since.
        """
        self._take_answers(self.sent - self.staleness)
        if self._context is None:
            return None
        return self._of_this_episode(self._context, self.sent)

    def receive(self, messages_mBM: Tensor) -> None:
        """Send messages; see :meth:`LevelTrainer.receive`.

        Args:
            messages_mBM: one for each tick of the level above.
        """
        if self.level.level.context_size:
            first, count = self.sent - self.level.ticks, len(messages_mBM)
            ticks = self.level.pending_ticks[first : first + count]
            for tick, each in enumerate(ticks, self.sent + 1):
                self._restarts[tick] = each.should_reset[0]
            self._awaited.append((Said.CONTEXT, self.sent + count))
        self.link.send(Said.MESSAGES, self.sent, [messages_mBM])
        self.sent += len(messages_mBM)

    def receive_context_gradients(self, grads: dict[int, Tensor], expired: int) -> None:
        """Send gradients of contexts; see :meth:`LevelTrainer.receive_context_gradients`.

        Args:
            grads: ``[B, C]`` each, by the tick whose context would be used without staleness.
            expired: the last such tick whose context is no longer used.
        """
        summed: dict[int, Tensor] = {}
        for tick, grad_BC in grads.items():
            if (used := self._used(tick)) > 0:  # 0: the zeros before the first tick
                grad_BC = self._of_this_episode(grad_BC, tick)
                summed[used] = summed[used] + grad_BC if used in summed else grad_BC
        self.expired = self._used(expired + 1) - 1
        self._restarts = {t: rows for t, rows in self._restarts.items() if t > self.expired}
        ticks = torch.tensor([self.expired, *summed])
        grads_nBC = torch.stack(list(summed.values())) if summed else None
        self.link.send(Said.CONTEXT_GRADIENTS, self.sent, [ticks, grads_nBC])

    def learn_complete_chunks(self, all_of_it: bool = False) -> Iterator[Pairs]:
        """Let the level above learn; see :meth:`LevelTrainer.learn_complete_chunks`.

        Args:
            all_of_it: whether to learn from an incomplete last chunk too.

        Yields:
            The messages and gradients that have arrived: with staleness, those of earlier chunks.
        """
        if chunks := self._complete(all_of_it):
            self.link.send(Said.LEARN, self.sent, [torch.tensor(all_of_it)])
            self._awaited += [(Said.PAIRS, self.sent)] * chunks
        yield from self.arrived(0 if all_of_it else self.staleness)

    def arrived(self, staleness: int) -> Iterator[Pairs]:
        """Take answers.

        Args:
            staleness: ticks whose answers are not taken yet.

        Yields:
            Messages and their gradients.
        """
        self._take_answers(self.sent - staleness)
        while self._pairs:
            yield self._pairs.popleft()

    def done(self) -> None:
        """Tell the other process that nothing more is asked in this step of the stream."""
        self.link.send(Said.DONE, self.sent, [torch.tensor(self.taken)])

    def _used(self, tick: int) -> int:
        """The tick whose context is used instead of that of a tick, because of the staleness."""
        return max(tick - self.staleness, min(tick, self.first))

    def _of_this_episode(self, x_BC: Tensor, tick: int) -> Tensor:
        """Set what belongs to the used context to 0 in rows that restarted before a tick."""
        rows = [self._restarts[t] for t in range(self._used(tick) + 1, tick + 1)]
        return x_BC.masked_fill(torch.stack(rows).any(0)[:, None], 0.0) if rows else x_BC

    def _complete(self, all_of_it: bool) -> int:
        """How many chunks the level above can learn from now; they are counted as learned."""
        chunks, length = 0, self.level.training.chunk_len
        assert length is not None
        while (steps := min(length, self.sent - self.learned)) > 0:
            last = self.learned + steps
            expired = not self.level.level.context_size or self.expired >= last
            if not (all_of_it or (steps == length and expired)):
                break
            self.learned, chunks = last, chunks + 1
        return chunks

    def _take_answers(self, last: int) -> None:
        """Take the answers to the messages up to a number; wait for them."""
        while self._awaited and self._awaited[0][1] <= last:
            kind, sent = self._awaited.popleft()
            tensors = self.link.receive(kind, sent)
            self.taken += 1
            if kind is Said.CONTEXT:
                self._context = tensors[0]
            else:
                state_NM, grad_NM, valid_N, final_N = tensors
                assert state_NM is not None
                assert grad_NM is not None
                self._pairs.append(Pairs(state_NM, grad_NM, valid_N, final_N))


class Answering:
    """Carries out what the level below asks for, and answers.

    Args:
        link: to the process of the level below.
        level: the level that is asked.
    """

    def __init__(self, link: Link, level: LevelTrainer):
        self.link = link
        self.level = level
        self.answers = 0  # that were sent

    def carry_out(self, kind: Said, tensors: list[Tensor | None]) -> None:
        """Do what was asked for.

        Args:
            kind: what it is.
            tensors: that came with it.
        """
        level, first = self.level, tensors[0]
        assert first is not None
        if kind is Said.MESSAGES:
            level.receive(first)
            if level.level.context_size:
                self._answer(Said.CONTEXT, level.received, [level.context])
        elif kind is Said.CONTEXT_GRADIENTS:
            expired, *ticks = first.tolist()
            grads = [] if tensors[1] is None else tensors[1].unbind(0)
            level.receive_context_gradients(dict(zip(ticks, grads, strict=True)), expired)
        elif kind is Said.LEARN:
            received = level.received
            for pairs in level.learn_complete_chunks(bool(first)):
                self._answer(Said.PAIRS, received, list(pairs))
        else:
            raise ValueError(f"the level below sent {kind.name}, which only a level above sends")

    def _answer(self, kind: Said, step: int, tensors: list[Tensor | None]) -> None:
        self.link.send(kind, step, tensors)
        self.answers += 1
