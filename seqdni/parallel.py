"""Several processes that train one model, each on rows of its own.

Shapes: n processes, B rows of each, N pairs of a state and a gradient, S features of a packed
state.

Each process runs its own rows of every chunk and keeps their carry. Before an update the gradients
are averaged over the processes, so that all make the same step. What a synthesizer learns from,
states and gradients at the boundaries, is small: each process gets that of all rows and teaches its
own copy with it. So the copies stay the same, whatever the synthesizer is and however it learns.

Source: Li et al., PyTorch Distributed, arXiv 2006.15704, for averaging gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seqdni.state_bytes import from_bytes, to_bytes
from seqdni.targets import Pairs


class DataParallel:
    r"""The processes that train a model together; the rows of the batch are dealt among them.

    With n processes of B rows each, training is that of one process with n B rows, whose rows are
    those of process 0, then those of process 1, and so on. The model's gradient is
    :math:`\frac1n \sum_i g_i`. All processes must take the same number of chunks, of the same
    number of rows.

    Start the processes with ``torchrun`` and call ``torch.distributed.init_process_group`` first.
    On GPUs use the backend ``"cpu:gloo,cuda:nccl"``, because what is decided on the host is told
    to the others without waiting for a device.

    Args:
        group: of processes; None: all.

    Raises:
        RuntimeError: ``torch.distributed`` is not initialised.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:  # torchrun needs no such file
        ...     dist.init_process_group("gloo", f"file://{folder}/store", rank=0, world_size=1)
        ...     print(DataParallel().rows(32))
        ...     dist.destroy_process_group()
        slice(0, 32, None)
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        if not dist.is_initialized():
            raise RuntimeError(
                "torch.distributed is not initialised; start the processes with torchrun, and call "
                'torch.distributed.init_process_group("gloo")'
            )
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def rows(self, batch_size: int) -> slice:
        """The rows of this process.

        Args:
            batch_size: rows of all processes together.

        Returns:
            A slice of the rows.

        Raises:
            ValueError: the rows cannot be dealt equally.
        """
        if batch_size % self.size:
            raise ValueError(
                f"{batch_size} rows cannot be dealt equally to {self.size} processes; use a batch "
                f"that {self.size} divides"
            )
        own = batch_size // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def check_same(self, what: str, value: int) -> None:
        """Refuse a number that differs between the processes.

        Args:
            what: its name.
            value: of this process.

        Raises:
            ValueError: in every process, if any has another number.
        """
        found = self._all(torch.tensor([value])).tolist()
        if any(other != value for other in found):
            raise ValueError(
                f"the processes have different {what}: {found}, expected the same in all of them"
            )

    def any(self, flag: bool) -> bool:
        """Whether a flag is true in any process.

        Args:
            flag: of this process.
        """
        return bool(self._all(torch.tensor([flag])).any())

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Sums over the processes.

        Args:
            values: numbers by name, the same names in all processes.

        Returns:
            The sums, the same in all processes.
        """
        sums = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(sums, group=self.group)
        return dict(zip(values, sums.tolist(), strict=True))

    def from_first(self, values: Sequence[float]) -> list[float]:
        """What the first process says.

        Args:
            values: numbers; those of the other processes are ignored.

        Returns:
            Those of the first process.
        """
        told = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(told, self._global(0), group=self.group)
        return told.tolist()

    def of_all(self, state: Any) -> list[Any]:
        """What each process has, in all of them.

        Args:
            state: of this process: tensors, numbers and strings, in any structure.

        Returns:
            Those of the first process, of the second, and so on, with tensors on the CPU.
        """
        own = to_bytes(state)
        found = []
        for rank, size in enumerate(self._all(torch.tensor([len(own)])).tolist()):
            data = own if rank == self.rank else torch.empty(size, dtype=torch.uint8)
            dist.broadcast(data, self._global(rank), group=self.group)
            found.append(from_bytes(data))
        return found

    def wait(self) -> None:
        """Wait until all processes have come here."""
        dist.barrier(group=self.group)

    def copy_first(self, module: nn.Module) -> None:
        """Give a module the weights and buffers that it has in the first process.

        Args:
            module: the same in all processes, but for the values.
        """
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.data, self._global(0), group=self.group)

    @torch.no_grad()
    def average(self, parameters: Iterable[nn.Parameter], due: bool = True) -> bool:
        """Replace the gradients by their means over the processes, if an update is due in any.

        A parameter without a gradient counts as one with zeros, and has none afterwards if no
        process has one. The gradients become parts of one tensor.

        Args:
            parameters: the same in all processes, in the same order.
            due: whether an update is due in this process.

        Returns:
            Whether it is due in any process.
        """
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        flags = [due, *(parameter.grad is not None for parameter in trained)]
        due_anywhere, *given = self._all(torch.tensor([flags])).any(0).tolist()
        if not due_anywhere:
            return False
        by_type: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter, anywhere in zip(trained, given, strict=True):
            if anywhere:
                by_type.setdefault(parameter.dtype, []).append(parameter)
        for held in by_type.values():
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat, group=self.group)
            flat /= self.size
            parts = flat.split([parameter.numel() for parameter in held])
            for parameter, part in zip(held, parts, strict=True):
                grad = part.view_as(parameter)
                if not parameter.is_contiguous():  # a fused optimiser expects its strides
                    grad = torch.empty_like(parameter).copy_(grad)
                parameter.grad = grad
        return True

    def all_pairs(self, pairs: Pairs, rows: int) -> Pairs:
        """The pairs of all processes.

        Args:
            pairs: of this process, of the same number in each: one for each row, then the next one
                for each row, and so on.
            rows: B.

        Returns:
            One for each row of all processes, then the next one for each row, and so on.
        """
        state_NS, grad_NS = pairs.state_NS, pairs.grad_NS.to(pairs.state_NS.dtype)
        both = self._all_rows(torch.cat([state_NS, grad_NS], dim=1), rows)
        state_NS, grad_NS = both.chunk(2, dim=1)
        count = len(pairs.state_NS)
        valid = torch.ones(count, dtype=torch.bool) if pairs.valid_N is None else pairs.valid_N
        final = torch.zeros(count, dtype=torch.bool) if pairs.final_N is None else pairs.final_N
        masks_N2 = self._all_rows(torch.stack([valid.cpu(), final.cpu()], dim=1), rows)
        valid_N, final_N = masks_N2.unbind(1)
        return Pairs(
            state_NS.contiguous(),
            grad_NS.to(pairs.grad_NS.dtype),
            None if bool(valid_N.all()) else valid_N,
            final_N if bool(final_N.any()) else None,
        )

    def all_rows(self, x: Tensor | None, rows: int) -> Tensor | None:
        """The rows of all processes.

        Args:
            x: ``[m B, ...]`` of this process, m numbers for each row; None in all processes.
            rows: B.

        Returns:
            ``[m n B, ...]``: the first number of all rows, then the second, and so on; or None.
        """
        return None if x is None else self._all_rows(x, rows)

    def on_all_rows(
        self, change: Callable[[Tensor], Tensor], x: Tensor, rows: int | None = None
    ) -> Tensor:
        """Change the rows of all processes together. The first process alone draws random numbers.

        Args:
            change: takes and returns ``[m n B, ...]``, as of one process with all rows.
            x: ``[m B, ...]`` of this process, m numbers for each row.
            rows: B; None: there is one number for each row.

        Returns:
            ``[m B, ...]``: the changed rows of this process.
        """
        rows = len(x) if rows is None else rows
        whole = self._all_rows(x, rows)
        changed = change(whole).contiguous() if self.rank == 0 else torch.empty_like(whole)
        dist.broadcast(changed, self._global(0), group=self.group)
        changed_mB = changed.unflatten(0, (-1, self.size * rows))
        return changed_mB[:, self.rows(self.size * rows)].flatten(0, 1)

    def total(self, x: Tensor) -> Tensor:
        """The sum of a tensor over the processes.

        Args:
            x: of this process, of the same shape in all.

        Returns:
            The sum, the same in all processes.
        """
        total = x.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def of_each(self, x: Tensor) -> Tensor:
        """A tensor of each process, for a checkpoint.

        Args:
            x: of this process, of the same shape in all.

        Returns:
            ``[n, ...]``.
        """
        return self._all(x[None])

    def whole(self, x: Tensor | None, axis: int) -> Tensor | None:
        """What belongs to the rows of all processes, for a checkpoint.

        Args:
            x: of the rows of this process; None counts as zeros where another process has a tensor.
            axis: of the rows.

        Returns:
            A tensor on the CPU; None if no process has one.
        """
        found = self.of_all(x)
        (like, *_) = [each for each in found if each is not None] or [None]
        if like is None:
            return None
        return torch.cat([torch.zeros_like(like) if x is None else x for x in found], axis)

    def own(self, x: Tensor | None, axis: int) -> Tensor | None:
        """What belongs to the rows of this process, from a checkpoint.

        Args:
            x: of all rows, or None.
            axis: of the rows.

        Returns:
            A tensor of its own, or None.

        Raises:
            ValueError: the rows cannot be dealt equally.
        """
        if x is None:
            return None
        rows = self.rows(x.shape[axis])
        return x.narrow(axis, rows.start, rows.stop - rows.start).clone()

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def _all_rows(self, x: Tensor, rows: int) -> Tensor:
        """The rows of all processes, ``[m n B, ...]``, from ``[m B, ...]``."""
        x_mB = x.unflatten(0, (-1, rows))
        return self._all(x_mB, axis=1).flatten(0, 1)

    def _all(self, x: Tensor, axis: int = 0) -> Tensor:
        """The tensors of all processes, joined along an axis."""
        own = x.contiguous()
        sent = own.view(torch.uint8) if own.dtype == torch.bool else own
        found = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(found, sent, group=self.group)
        return torch.cat(found, axis).view(x.dtype)
