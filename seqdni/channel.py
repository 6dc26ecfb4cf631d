r"""A channel between two processes: it sends a few tensors in one message, without waiting.

A message is a header of three whole numbers (the kind of the message, the step of the training that
it belongs to, and the number of its bytes) and the bytes of its tensors, see
:mod:`seqdni.state_bytes`. So nothing that arrives is ever executed, and a message that does not
belong where it arrives is noticed.

The processes talk by ``torch.distributed``, point to point, with the backend Gloo.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from seqdni.state_bytes import from_bytes, to_bytes

Kind = TypeVar("Kind", bound=IntEnum)


class ProcessEnded(RuntimeError):
    """Another process of a run has ended, or does not answer."""


@runtime_checkable
class Link(Protocol):
    """What two workers that follow each other talk by; each of them has an end of it."""

    def send(self, kind: IntEnum, step: int, tensors: Sequence[Tensor | None]) -> None:
        """Send a message of a step, and go on before it has arrived."""
        ...

    def receive(self, kind: IntEnum, step: int) -> list[Tensor | None]:
        """Wait for the next message, which must be of this kind and step."""
        ...


class Channel:
    """Sends messages to another process, and receives those that it sends, in their order.

    Args:
        peer: the rank of the other process in the group.
        role: what the other process does, for errors: ``"runs stage 2"``.
        in_flight: how many messages are on their way to the other process at most. A further one
            waits until the other process has taken the first of them. None: no limit; call
            :meth:`flush` then, since the messages are kept until it.
        group: of processes; None: all.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.

    Example:
        >>> class Sent(IntEnum):
        ...     ACTIVATION = 1
        >>> def send(channel, x):  # in one process
        ...     channel.send(Sent.ACTIVATION, 7, [x, None])
        >>> def receive(channel):  # in the other one
        ...     return channel.receive(Sent.ACTIVATION, 7)
    """

    def __init__(
        self,
        peer: int,
        role: str,
        *,
        in_flight: int | None = 4,
        group: dist.ProcessGroup | None = None,
    ):
        if not dist.is_initialized():
            raise RuntimeError(
                "torch.distributed is not initialised; start the processes with torchrun, and call "
                'torch.distributed.init_process_group("gloo")'
            )
        self.peer = peer
        self.role = role
        self.in_flight = in_flight
        self.group = group
        self._rank = peer if group is None else dist.get_global_rank(group, peer)
        self.waits: list[tuple[float, float]] = []  # for the other process; begin and end, in s
        # The transfers of each message, with what is sent: it must stay until they are done.
        self._sending: deque[list[tuple[dist.Work, Tensor]]] = deque()

    def send(self, kind: IntEnum, step: int, tensors: Sequence[Tensor | None]) -> None:
        """Send a message, and go on before it has arrived.

        Args:
            kind: of the message.
            step: the step of the training that it belongs to.
            tensors: of any shape and type; None is sent as None. They are copied, so that they may
                change afterwards.

        Raises:
            ProcessEnded: the other process has ended.
        """
        if self.in_flight is not None and len(self._sending) >= self.in_flight:
            began = time.perf_counter()
            self._wait_for_first()
            self.waits.append((began, time.perf_counter()))
        data = to_bytes(list(tensors))
        header = torch.tensor([int(kind), step, data.numel()])
        try:
            self._sending.append([(self._sent(part), part) for part in (header, data)])
        except RuntimeError as error:
            raise self._ended(error) from error

    def receive(self, kind: IntEnum, step: int) -> list[Tensor | None]:
        """Wait for the next message.

        Args:
            kind: that the message must have.
            step: likewise.

        Returns:
            Its tensors, on the CPU.

        Raises:
            ProcessEnded: the other process has ended.
            ValueError: the next message is another one.
        """
        found, tensors = self.receive_any(type(kind), step)
        if found != kind:
            raise self._unexpected(found.name, step, kind.name, step)
        return tensors

    def receive_any(self, kinds: type[Kind], step: int) -> tuple[Kind, list[Tensor | None]]:
        """Wait for the next message, of any kind.

        Args:
            kinds: that there are.
            step: that the message must have.

        Returns:
            Its kind and its tensors, on the CPU.

        Raises:
            ProcessEnded: the other process has ended.
            ValueError: the next message has another step, or a kind that is none of these.
        """
        began = time.perf_counter()
        header = torch.empty(3, dtype=torch.int64)
        self._fill(header)
        kind, found_step, size = header.tolist()
        data = torch.empty(size, dtype=torch.uint8)
        self._fill(data)
        self.waits.append((began, time.perf_counter()))
        if found_step != step or kind not in set(kinds):
            name = kinds(kind).name if kind in set(kinds) else str(kind)
            raise self._unexpected(name, found_step, "one", step)
        return kinds(kind), from_bytes(data)

    def flush(self, keep: int = 0) -> None:
        """Wait until the other process has received all messages but the last ones.

        Args:
            keep: how many may still be on their way.

        Raises:
            ProcessEnded: it has ended.
        """
        while len(self._sending) > keep:
            self._wait_for_first()

    def _sent(self, part: Tensor) -> dist.Work:
        work = dist.isend(part, self._rank, self.group)
        assert work is not None  # None: this process is not in the group
        return work

    def _fill(self, part: Tensor) -> None:
        try:
            dist.recv(part, self._rank, self.group)
        except RuntimeError as error:
            raise self._ended(error) from error

    def _wait_for_first(self) -> None:
        try:
            for work, _ in self._sending.popleft():
                work.wait()
        except RuntimeError as error:
            raise self._ended(error) from error

    def _unexpected(self, kind: str, step: int, expected: str, at: int) -> ValueError:
        return ValueError(
            f"process {self.peer}, which {self.role}, sent a message {kind} of step {step}, "
            f"expected {expected} of step {at}; all processes must be given the same data, and "
            "have the same settings"
        )

    def _ended(self, error: RuntimeError) -> ProcessEnded:
        what = "does not answer" if "imed out" in str(error) else "has ended"
        return ProcessEnded(
            f"process {self.peer}, which {self.role}, {what}; its message says why. The others "
            "cannot go on without it: start all of them again from the last checkpoint"
        )
