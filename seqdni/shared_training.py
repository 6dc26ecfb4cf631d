"""Gives each of several processes what the others have trained, where each trains a part.

Every process has the whole trainer. Each *part* of it (a stage of a net, or a level of a hierarchy)
is trained by one process, and the copies that the others have of it become old. Afterwards the
copies are brought up to date, so that every process can evaluate, save and go on.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from seqdni.channel import ProcessEnded
from seqdni.checkpoint import load_optimizer
from seqdni.cores.stack import LockedDropout
from seqdni.metrics import RunningSums
from seqdni.parallel import DataParallel
from seqdni.state_bytes import to_bytes
from seqdni.synthesizers import controls
from seqdni.synthetic_gradients import SyntheticGradients

Part: TypeAlias = list[tuple[nn.Module, torch.optim.Optimizer | None]]
"""The modules of a part, each with the optimiser of its parameters."""


Given = TypeVar("Given")


class GivenData:
    """The checksum of all that a process was given to train on; it must be the same in all of them.

    Example:
        >>> given = GivenData()
        >>> list(given.noted([torch.zeros(2)])), given.checksum
        ([tensor([0., 0.])], 1466491799)
    """

    def __init__(self):
        self.checksum = 0

    def noted(self, data: Iterable[Given]) -> Iterator[Given]:
        """Add some data to the checksum, one by one, when they are drawn.

        Args:
            data: chunks or batches: tensors and numbers, in any structure.

        Yields:
            The data.
        """
        for each in data:
            self.checksum = _checksum(each, self.checksum)
            yield each


def _checksum(data: Any, before: int = 0) -> int:
    """The checksum of some data, and of what was before it."""
    return zlib.crc32(to_bytes(data).numpy().data, before)


def check_one_process_each(
    processes: DataParallel, parts: int, what: str, device: torch.device, state: Any
) -> None:
    """Refuse a number of processes that is not that of the parts, a GPU, and other trainers.

    Args:
        processes: of the run.
        parts: how many there are.
        what: the name of a part, in errors.
        device: of the model.
        state: of the trainer of this process.

    Raises:
        ValueError: something does not fit; the message says what was expected.
        seqdni.channel.ProcessEnded: another process has ended.
    """
    backends = dist.get_backend_config(processes.group).split(",")
    if "cpu:gloo" not in backends:
        raise ValueError(
            f"the processes talk by {', '.join(backends)}, expected Gloo on the CPU, by which "
            f'{what}s send tensors: torch.distributed.init_process_group("gloo")'
        )
    if processes.size != parts:
        raise ValueError(
            f"got {processes.size} processes for {parts} {what}s, expected one for each {what}: "
            f"torchrun --nproc-per-node {parts} ..."
        )
    if device.type != "cpu":
        raise ValueError(
            f"the model is on {device}, expected the CPU: {what}s in processes of their own do not "
            "run on GPUs yet"
        )
    with _all_answer():
        processes.check_same("trainers (checksums of their states)", _checksum(state))


def check_no_draws(module: nn.Module, credit: Sequence[SyntheticGradients], what: str) -> None:
    """Refuse random numbers that parts of a trainer would draw from one generator.

    Args:
        module: of a part.
        credit: its synthetic gradients.
        what: the name of the part, in errors.

    Raises:
        ValueError: there is dropout, or a control that may draw.
    """
    order = "parts that work apart would draw from one generator, in an order that depends on "
    for each in module.modules():
        if each.training and _dropout_rate(each) > 0:
            raise ValueError(f"{what} has dropout, and {order}their speed; leave dropout out")
    for synthetic in credit:
        if synthetic.boundary.control not in (None, controls.batch_mean, controls.zero):
            raise ValueError(
                f"a boundary of {what} has a control that may draw random numbers, and {order}"
                "their speed; expected controls.batch_mean, controls.zero or None"
            )


def _dropout_rate(module: nn.Module) -> float:
    """Of a layer of torch, of a recurrent module between its layers, or of a locked mask."""
    if isinstance(module, LockedDropout):
        return module.rate
    if isinstance(module, nn.RNNBase):
        return module.dropout
    return module.p if isinstance(module, nn.modules.dropout._DropoutNd) else 0.0


def share(
    processes: DataParallel,
    parts: Sequence[Part],
    meter: RunningSums,
    before: Mapping[str, Any],
    given: GivenData,
    more: Any,
) -> list[Any]:
    """Give each process what the others have trained.

    Args:
        processes: process k has trained part k.
        parts: all of them, the same in each process but for the values.
        meter: the sums of this process; afterwards those of all.
        before: the sums when they began.
        given: what this process was trained on.
        more: what else belongs to the part of this process: tensors, numbers and strings.

    Returns:
        The ``more`` of each process.

    Raises:
        ValueError: the processes were trained on different data. The trainers must be restored from
            a checkpoint then.
        seqdni.channel.ProcessEnded: another process has ended.
    """
    own = {
        "modules": [module.state_dict() for module, _ in parts[processes.rank]],
        "optimizers": [each and each.state_dict() for _, each in parts[processes.rank]],
        "sums": meter.state_dict(),
        "more": more,
    }
    with _all_answer():
        processes.check_same("chunks or batches (checksums)", given.checksum)
        found = processes.of_all(own)
    for k, part in enumerate(found):
        if k == processes.rank:
            continue
        of_each = zip(parts[k], part["modules"], part["optimizers"], strict=True)
        for (module, optimizer), state, optimizer_state in of_each:
            module.load_state_dict(state)
            if optimizer is not None:
                load_optimizer(optimizer, optimizer_state)
    meter.load_state_dict(joined_sums(before, [part["sums"] for part in found]))
    return [part["more"] for part in found]


@contextmanager
def _all_answer() -> Iterator[None]:
    """Inside of the ``with`` block all processes exchange something."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessEnded(
            "another process has ended, or does not answer; its message says why. The others "
            "cannot go on without it: start all of them again from the last checkpoint"
        ) from error


def joined_sums(before: Mapping[str, Any], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums that several processes have gone on adding to, each by itself.

    Args:
        before: the sums when they began.
        after: those of each process.

    Returns:
        The sums of all. One that a single process has added to is its own, bit for bit.

    Example:
        >>> joined_sums({"a": 1.0}, [{"a": 1.0, "b": 2.0}, {"a": 1.5, "b": 3.0}])
        {'a': 1.5, 'b': 5.0}
    """
    joined = dict(before)
    for name in {name: None for sums in after for name in sums}:
        changed = [
            sums[name]
            for sums in after
            if name in sums and not (name in before and bool(sums[name] == before[name]))
        ]
        first = before.get(name, 0.0)
        if len(changed) == 1:
            joined[name] = changed[0]
        elif changed:
            joined[name] = first + sum(value - first for value in changed)
    return joined
