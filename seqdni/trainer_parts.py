"""The parts that a trainer is made of, and what is refused as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from seqdni.cores.base import Core
from seqdni.learner import Learner
from seqdni.parallel import DataParallel
from seqdni.state import leaves
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.truncation.influence import Influence
from seqdni.truncation.overlap import Overlap


@runtime_checkable
class Model(Core, Protocol):
    """A core with parameters: any ``nn.Module`` under the core contract."""

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


def check_parts(learner: object, credit: object) -> None:
    """Refuse what is no learner, and what carries no credit.

    Args:
        learner: expected to be a :class:`Learner`.
        credit: expected to be what carries credit, or None.

    Raises:
        TypeError: it is something else; the message says what was expected.
    """
    if not isinstance(learner, Learner):
        raise TypeError(
            f"got a {type(learner).__name__}, expected a Learner: "
            "Trainer(model, Learner(optimizer, clip=1.0))"
        )
    if credit is not None and not isinstance(credit, (SyntheticGradients, Overlap, Influence)):
        raise TypeError(
            f"got a {type(credit).__name__}, expected what carries credit beyond a chunk: "
            "SyntheticGradients(boundary), Overlap(history=1), Influence(), or None"
        )


def check_model(model: Model) -> None:
    """Refuse a model that does not keep the core contract, or whose state has another row axis.

    Args:
        model: what is to be trained.

    Raises:
        TypeError: it has no ``initial_state``.
        ValueError: the rows are at another axis of its state, or each process has only a part of
            its weights.
    """
    if _is_sharded(model):
        raise ValueError(
            "the weights are spread over the processes (FSDP, or tensors with a device mesh), and "
            "a trainer reads and saves whole weights; give it the model as it was before, with "
            "parallel=DataParallel(), which splits the rows"
        )
    if not hasattr(model, "initial_state"):
        wrapped = getattr(model, "module", None)
        name = type(model).__name__
        raise TypeError(
            f"{name} has no initial_state(batch_size)"
            + (
                f"; it wraps a {type(wrapped).__name__}: give the trainer that one, {name}.module"
                if wrapped is not None
                else ", expected a core: model(x, state) -> (outputs, state) and "
                "initial_state(batch_size); seqdni.SequenceModel and seqdni.TorchCore make one"
            )
        )
    rows = 3
    shapes = [tuple(leaf.shape) for leaf in leaves(model.initial_state(rows))]
    if any(len(shape) not in (2, 3) or shape[-2] != rows for shape in shapes):
        raise ValueError(
            f"initial_state({rows}) gives the shapes {shapes}, expected [L, {rows}, H] or "
            f"[{rows}, H]: the rows are the second to last axis of a state"
        )


def _is_sharded(model: Model) -> bool:
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else []
    wrapped = type(model).__name__ == "FullyShardedDataParallel"
    return wrapped or any(getattr(p, "device_mesh", None) is not None for p in parameters)


def check_parallel(parallel: object, capture: bool = False) -> None:
    """Refuse what is no :class:`DataParallel`, and CUDA graphs in several processes.

    Args:
        parallel: the processes, or None.
        capture: whether chunks are computed by graphs.

    Raises:
        TypeError: ``parallel`` is something else.
        ValueError: there are graphs.
    """
    if parallel is None:
        return
    if not isinstance(parallel, DataParallel):
        raise TypeError(
            f"got a {type(parallel).__name__} for parallel, expected a DataParallel: "
            "Trainer(model, learner, credit, parallel=DataParallel())"
        )
    if capture:
        raise ValueError("capture=True is for one process alone; leave out capture, or parallel")
