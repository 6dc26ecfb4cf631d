"""What belongs to one of several processes, in a checkpoint that any number of them can load.

There are two kinds. Of what belongs to *rows*, the checkpoint has the rows of all processes, in the
order of the processes; each process takes its own rows of it again. Of a *sum* that the processes
have not added up yet, the checkpoint has the term of each process, ``[n, ...]``. The same number
of processes takes these terms again; for another number they are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from seqdni.metrics import RunningSums
from seqdni.parallel import DataParallel

OfRows: TypeAlias = Callable[[Any, int], Any]
"""From a tensor with rows, or None, and the axis of the rows, to the same with other rows."""


def as_it_is(x: Any, _axis: int) -> Any:
    """What one process that works alone saves and restores.

    Args:
        x: a tensor with rows, or None.

    Returns:
        The same.
    """
    return x


def whole_rows(parallel: DataParallel | None) -> OfRows:
    """What turns a tensor with the rows of this process into one with the rows of all of them.

    Args:
        parallel: the processes; None: one process alone.
    """
    return as_it_is if parallel is None else parallel.whole


def own_rows(parallel: DataParallel | None) -> OfRows:
    """What takes the rows of this process out of a tensor with the rows of all of them.

    Args:
        parallel: the processes; None: one process alone.
    """
    return as_it_is if parallel is None else parallel.own


def number_of(parallel: DataParallel | None) -> int:
    """The number of processes.

    Args:
        parallel: the processes; None: one process alone.
    """
    return 1 if parallel is None else parallel.size


def saved_sums(meter: RunningSums, parallel: DataParallel | None) -> dict[str, Any]:
    """Running sums for a checkpoint. All processes must call this together.

    Args:
        meter: of this process; it may have other names than that of another process.
        parallel: the processes; None: one process alone.

    Returns:
        Sums by name; with several processes those of each, ``[n]``.
    """
    if parallel is None or parallel.size == 1:
        return meter.state_dict()
    found = parallel.of_all(meter.read())
    names = {name: None for sums in found for name in sums}
    return {
        name: torch.tensor([sums.get(name, 0.0) for sums in found], dtype=torch.float64)
        for name in names
    }


def own_sums(
    saved: Mapping[str, Any], processes: int, parallel: DataParallel | None
) -> dict[str, Any]:
    """The running sums of this process. With another number of processes the first has them all.

    Args:
        saved: from :func:`saved_sums`.
        processes: that saved it.
        parallel: the processes now; None: one process alone.

    Returns:
        Sums by name.
    """
    rank = 0 if parallel is None else parallel.rank
    if number_of(parallel) == processes > 1:
        return {name: float(value[rank]) for name, value in saved.items()}
    if processes > 1:
        saved = {name: float(value.sum()) for name, value in saved.items()}
    return dict(saved) if rank == 0 else dict.fromkeys(saved, 0.0)


def saved_grads(
    parameters: Sequence[nn.Parameter], parallel: DataParallel | None
) -> list[Tensor | None]:
    """Gradients that wait for an update, for a checkpoint. All processes must call this together.

    Args:
        parameters: that have the gradients.
        parallel: the processes; None: one process alone.

    Returns:
        The gradient of each parameter; with several processes that of each, ``[n, ...]``. None
        where no process has one.
    """
    if parallel is None or parallel.size == 1:
        return [parameter.grad for parameter in parameters]
    grads = [parameter.grad for parameter in parameters]
    given = parallel.of_each(torch.tensor([grad is not None for grad in grads])).any(0).tolist()
    saved: list[Tensor | None] = []
    for parameter, grad, anywhere in zip(parameters, grads, given, strict=True):
        own = torch.zeros_like(parameter) if grad is None else grad
        saved.append(parallel.of_each(own) if anywhere else None)
    return saved


def restore_grads(
    parameters: Sequence[nn.Parameter],
    saved: Sequence[Tensor | None] | None,
    processes: int,
    parallel: DataParallel | None,
) -> None:
    """Give parameters the gradients that were saved; their mean, if others than these saved them.

    Args:
        parameters: that get the gradients.
        saved: from :func:`saved_grads`; None: there are no gradients.
        processes: that saved it.
        parallel: the processes now; None: one process alone.
    """
    same = parallel is not None and parallel.size == processes
    for parameter, grad in zip(parameters, saved or [None] * len(parameters), strict=True):
        if grad is not None and processes > 1:
            grad = grad[parallel.rank] if parallel is not None and same else grad.mean(0)
        parameter.grad = None if grad is None else _laid_out_as(parameter, grad)


def _laid_out_as(parameter: nn.Parameter, grad: Tensor) -> Tensor:
    """A copy of a gradient with the parameter's strides, which a fused optimiser expects."""
    return torch.empty_like(parameter).copy_(grad.reshape(parameter.shape))
