"""Runs each stage of a net in a process of its own; the processes talk by channels.

What a process does is in :mod:`seqdni.feedforward.stage_worker`. All processes run the same
program: each of them has the whole trainer and the same batches, and works one stage of it. At the
end each process gets what the others have trained.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist

from seqdni.channel import Channel
from seqdni.feedforward.layer_trainer import LayerTrainer
from seqdni.feedforward.stage_worker import (
    GivenBatch,
    Span,
    StageWorker,
    activations_ahead,
    check_apart,
    drawn_batches,
)
from seqdni.learner import check_count
from seqdni.parallel import DataParallel
from seqdni.shared_training import GivenData, Part, check_one_process_each, share


def train_in_processes(
    trainer: LayerTrainer,
    batches: Iterable[GivenBatch],
    *,
    staleness: int = 0,
    queue_size: int = 2,
    group: dist.ProcessGroup | None = None,
) -> list[Span]:
    """Train on some batches, with a process for each stage.

    Start as many processes as there are stages with ``torchrun``, call
    ``torch.distributed.init_process_group("gloo")``, build the same trainer in each, and call this
    function in all of them with the same batches. Process k works stage k. Afterwards the trainer
    is the same in all processes, and it can go on in any way, or be saved.

    Args:
        trainer: on the CPU. Its order must be ``"forward"``, without dropout, bounds and random
            controls.
        batches: inputs, targets and condition of each step, as for ``trainer.step``.
        staleness: how many of the last steps a boundary has not learned from yet when it predicts,
            besides the present one. With 0 the result is bit for bit that of ``trainer.step``.
        queue_size: how many activations wait before a stage at most.
        group: of processes; None: all.

    Returns:
        What the stage of this process did and when.

    Raises:
        ValueError: a number is out of range, the trainer cannot be run in this way, the number of
            processes is not that of the stages, or the processes have different trainers or
            batches. Different batches are noticed at the end, and the trainer must be restored
            from a checkpoint then.
        RuntimeError: ``torch.distributed`` is not initialised.
        seqdni.channel.ProcessEnded: another process has ended. The trainer must be restored from a
            checkpoint then, in all processes.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> adam = lambda parameters: torch.optim.Adam(parameters, 1e-3)
        >>> with tempfile.TemporaryDirectory() as folder:  # torchrun needs no such file
        ...     dist.init_process_group("gloo", f"file://{folder}/store", rank=0, world_size=1)
        ...     trainer = LayerTrainer([nn.Linear(4, 3)], [], adam, nn.functional.cross_entropy)
        ...     batch = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), None
        ...     spans = train_in_processes(trainer, [batch] * 3)
        ...     dist.destroy_process_group()
        >>> trainer.steps, trainer.updates_of_stages
        (3, [3])
    """
    check_count("staleness", staleness, least=0)
    check_count("queue_size", queue_size, least=1)
    check_apart(trainer)
    processes = DataParallel(group)
    state = trainer.state_dict()
    check_one_process_each(processes, len(trainer.stages), "stage", trainer.device, state)
    own, last = processes.rank, processes.size - 1
    before = trainer.meter.state_dict()
    ahead = activations_ahead(trainer, staleness, queue_size)
    # So many gradients are never on their way: the activations stop the stages before.
    gradients = ahead + 2 * staleness + 4
    channels = {
        k: Channel(k, f"runs stage {k}", in_flight=ahead if k > own else gradients, group=group)
        for k in (own - 1, own + 1)
        if 0 <= k <= last
    }
    worker = StageWorker(trainer, own, staleness, channels.get(own - 1), channels.get(own + 1))
    given = GivenData()
    worker.run(given.noted(drawn_batches(trainer, batches)))
    for channel in channels.values():
        channel.flush()
    parts = [_part(trainer, k) for k in range(processes.size)]
    own_updates = trainer.stages[own].updates
    updates = share(processes, parts, trainer.meter, before, given, own_updates)
    for stage, count in zip(trainer.stages, updates, strict=True):
        stage.updates = count
    return worker.spans


def _part(trainer: LayerTrainer, k: int) -> Part:
    """What the process of stage k trains: the stage, the cut after it, the input before it."""
    stage = trainer.stages[k]
    part: Part = [(stage.module, stage.learner.optimizer)]
    if stage.synthetic is not None:
        part.append((stage.synthetic.boundary, stage.synthetic.optimizer))
    if trainer.inputs is not None and k > 0:
        part.append((trainer.inputs[k - 1], trainer.input_optimizers[k - 1]))
    return part
