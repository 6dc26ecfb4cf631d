"""Synthetic gradients: a boundary with its synthesizer, and how this synthesizer learns.

Shapes: N pairs of a state and a gradient, S features of a packed state, K of a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from seqdni.audit import Audit
from seqdni.boundary import Boundary
from seqdni.checkpoint import load_optimizer
from seqdni.cores.base import TraceableCore
from seqdni.learner import check_clip, check_count, check_optimizer, descend
from seqdni.parallel_checkpoint import OfRows, as_it_is
from seqdni.state import State
from seqdni.targets import Pairs

GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread evenly without a period


@dataclass
class SyntheticGradients:
    """Synthetic gradients at the ends of the chunks, or at the messages of a level.

    Args:
        boundary: has the synthesizer, and limits and scales its predictions. ``Boundary(None)`` has
            no synthesizer: a gradient then comes only from known steps ahead.
        optimizer: of the boundary's parameters. A synthesizer that is solved for, such as
            :class:`seqdni.LeastSquares`, has no parameters and needs no optimiser. One with
            parameters is frozen by ``boundary.requires_grad_(False)``.
        clip: largest norm of the synthesizer's gradient; None: no limit.
        warmup_chunks: number of first chunks in which the synthesizer learns but its predictions
            are not used. It then learns the gradient of one chunk (and of known steps ahead) only,
            because the targets contain no bootstrap.
        targets: the gradients that the synthesizer learns from: that of the state at the chunk's
            start, or, ``"dense"``, those of every state inside the chunk, from the same backward
            pass. ``"dense"`` needs a model with ``traced`` and ``can_trace``
            (:class:`seqdni.TraceableCore`).
        updates_per_chunk: the targets of a chunk are split into this many parts, with a step of
            the optimiser for each. Running averages of the boundary count these steps.
        train_fraction: share of the chunks that the synthesizer learns from, 0 < share <= 1. They
            are spread evenly, without a fixed period. Most of a synthesizer's cost is its learning;
            0.5 halves that.
        audit: measures what the synthetic gradients are worth, and scales them by it; None applies
            them as they are. For episodes that all rows play in step.

    Raises:
        ValueError: a number is out of range, nothing would train the synthesizer, or the
            synthesizer does not go with the targets.

    Example:
        >>> from seqdni import LeastSquares
        >>> synthetic = SyntheticGradients(Boundary(LeastSquares(8)), train_fraction=0.5)
        >>> [synthetic.trains_on(chunk) for chunk in range(4)]
        [True, False, True, False]
    """

    boundary: Boundary
    optimizer: torch.optim.Optimizer | None = None
    clip: float | None = None
    warmup_chunks: int = 0
    targets: Literal["boundary", "dense"] = "boundary"
    updates_per_chunk: int = 1
    train_fraction: float = 1.0
    audit: Audit | None = None

    def __post_init__(self):
        if not isinstance(self.boundary, Boundary):
            raise TypeError(
                f"got a {type(self.boundary).__name__} for the boundary, expected a Boundary: "
                "SyntheticGradients(Boundary(synthesizer))"
            )
        check_clip("the synthesizer's clip", self.clip)
        check_count("warmup_chunks", self.warmup_chunks, least=0)
        check_count("updates_per_chunk", self.updates_per_chunk, least=1)
        if not 0 < self.train_fraction <= 1:
            raise ValueError(
                f"train_fraction is {self.train_fraction}, expected a share 0 < share <= 1"
            )
        if self.audit is not None and self.boundary.synthesizer is None:
            raise ValueError(
                "an audit measures what a synthesizer predicts, and the boundary has none; "
                "leave out the audit"
            )
        self._check_targets()
        self._check_optimizer()
        self._parameters = list(self.boundary.parameters())

    @property
    def learns(self) -> bool:
        """Whether the synthesizer learns (without parameters, by solving and not by descent)."""
        if not self.boundary.training or self.boundary.synthesizer is None:
            return False
        return self.optimizer is not None or not list(self.boundary.parameters())

    @property
    def condition_size(self) -> int:
        """K: features that the synthesizer reads besides a state; 0: none."""
        synthesizer = self.boundary.synthesizer
        return 0 if synthesizer is None else synthesizer.condition_size

    @property
    def obstacle_to_capture(self) -> str | None:
        """Why no chunk can be computed by a CUDA graph; None: there is no reason."""
        if self.audit is not None:
            return "an audit, which reads what the device computed"
        if self.targets == "dense":
            return "dense targets"
        return "several updates a chunk" if self.updates_per_chunk > 1 else None

    def ready(self, chunks: int) -> bool:
        """Whether the synthesizer is past its warm-up, so that its predictions are used.

        Args:
            chunks: the number of chunks so far.
        """
        return chunks >= self.warmup_chunks

    def trains_on(self, chunk: int) -> bool:
        """Whether the synthesizer learns from a chunk.

        Args:
            chunk: its number, counted from 0.
        """
        return self.learns and chunk * GOLDEN % 1 < self.train_fraction

    def teach(
        self,
        pairs: Pairs,
        factor: float,
        *,
        condition_BK: Tensor | None = None,
        next_predicted_BS: Tensor | None = None,
        next_valid_B: Tensor | None = None,
    ) -> list[Tensor]:
        """Let the synthesizer learn. A gradient that is not finite is not used.

        Args:
            pairs: states, and the gradients that arrived there in units of the objective.
            factor: the objective's factor on the summed loss.
            condition_BK: what the synthesizer reads besides each state.
            next_predicted_BS: the target of an Aux head.
            next_valid_B: the rows that have such a target; None: all.

        Returns:
            The loss of each of the ``updates_per_chunk`` parts.
        """
        losses = []
        for part in pairs.dealt(self.updates_per_chunk):
            device = part.state_NS.device
            valid_N, final_N = (
                None if mask is None else mask.to(device, non_blocking=True)
                for mask in (part.valid_N, part.final_N)
            )
            loss = self.boundary.regression(
                part.state_NS,
                part.grad_NS,
                valid_N,
                final_N,
                loss_scale=factor,
                condition_BK=condition_BK,
                next_predicted_BS=next_predicted_BS,
                next_valid_B=next_valid_B,
                run_backward=self.optimizer is not None,
            )
            if self.optimizer is not None:
                descend(self._parameters, self.optimizer, self.clip)
            losses.append(loss.detach())
        return losses

    def state_dict(self, whole: OfRows = as_it_is) -> dict[str, Any]:
        """The boundary's and the optimiser's state.

        Args:
            whole: makes a tensor of all rows from one with the rows of this process.

        Returns:
            Tensors and primitives.
        """
        optimizer = None if self.optimizer is None else self.optimizer.state_dict()
        audit = None if self.audit is None else self.audit.state_dict(whole)
        return {"boundary": self.boundary.state_dict(), "optimizer": optimizer, "audit": audit}

    def load_state_dict(
        self,
        saved: Mapping[str, Any],
        restore: Callable[[list[Tensor]], State | None] = lambda _: None,
        own: OfRows = as_it_is,
    ) -> None:
        """Continue as if training had never stopped.

        Args:
            saved: from :meth:`state_dict`.
            restore: makes a state of the rows of this process from the list of its tensors; only an
                audit needs it.
            own: takes the rows of this process out of a tensor of all rows; likewise.

        Raises:
            ValueError: one of the two has an optimiser, or an audit, and the other does not.
        """
        if (self.audit is None) != (saved["audit"] is None):
            raise ValueError("the saved trainer and this one differ: one has no audit")
        if (self.optimizer is None) != (saved["optimizer"] is None):
            raise ValueError(
                "the saved trainer and this one differ: one has no optimizer of the synthesizer"
            )
        self.boundary.load_state_dict(saved["boundary"])
        if self.optimizer is not None:
            load_optimizer(self.optimizer, saved["optimizer"])
        if self.audit is not None:
            self.audit.load_state_dict(saved["audit"], restore, own)

    def _check_optimizer(self) -> None:
        if self.optimizer is not None:
            check_optimizer(
                "the synthesizer's optimizer", self.optimizer, "boundary", self.boundary
            )
            return
        if any(p.requires_grad for p in self.boundary.parameters()):
            raise ValueError(
                "the boundary has parameters and no optimizer, so that its synthesizer would "
                "predict zero for ever; give "
                "SyntheticGradients(boundary, torch.optim.Adam(boundary.parameters())), "
                "or freeze it on purpose with boundary.requires_grad_(False)"
            )
        if self.clip is not None or self.updates_per_chunk > 1:
            raise ValueError(
                "clip and updates_per_chunk are for a synthesizer that learns by descent, and "
                "there is no optimizer; leave them out, or give one"
            )

    def _check_targets(self) -> None:
        aux, size = self.boundary.aux, self.condition_size
        if self.boundary.synthesizer is None and (
            self.targets != "boundary" or self.train_fraction != 1
        ):
            raise ValueError(
                "targets and train_fraction are for a synthesizer, which learns from them, and "
                "the boundary has none"
            )
        if self.updates_per_chunk > 1 and (aux or size):
            raise ValueError("updates_per_chunk > 1 does not go with an Aux head or a condition")
        if self.targets not in ("boundary", "dense"):
            raise ValueError(f"targets is {self.targets!r}, expected 'boundary' or 'dense'")
        if self.targets == "dense" and aux:
            raise ValueError(
                "targets='dense' does not go with an Aux head: its target is a chunk ahead, which "
                "only the chunk's start has; build the synthesizer with aux=False, or use "
                "'boundary'"
            )
        if self.targets == "dense" and size:
            raise ValueError(
                "targets='dense' does not go with a condition, which is given for the start and "
                f"the end of a chunk alone; the synthesizer has condition_size={size}: "
                "build it with condition_size=0, or use targets='boundary'"
            )


def check_dense(synthetic: SyntheticGradients | None, model: object) -> None:
    """Refuse dense targets of a model that cannot return the gradients of the states in a chunk.

    Args:
        synthetic: with or without dense targets; None is accepted.
        model: what is trained.

    Raises:
        ValueError: the model cannot do that; the message names it.
    """
    if synthetic is None or synthetic.targets != "dense":
        return
    if not (isinstance(model, TraceableCore) and model.can_trace):
        raise ValueError(
            f"targets='dense' needs a model that tells the gradient of every state, and this "
            f"{type(model).__name__} cannot (an LSTM or a GRU without dropout can); "
            "use targets='boundary'"
        )
