r"""One stage of a net: how it computes, what it learns from, and what the cut after it learns.

Shapes: B rows, S features of an activation, K features of a condition.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqdni.feedforward.checks import check_outputs
from seqdni.learner import Learner
from seqdni.metrics import RunningSums
from seqdni.state import in_full_precision
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.targets import Pairs


class Stage:
    """A part of a net that is updated on its own.

    Args:
        index: its number, from 0.
        module: from one tensor ``[B, ...]`` to another.
        learner: how it learns from its gradient.
        synthetic: the synthetic gradients at the cut after it; None: it is the last stage, which
            learns from the loss.
        before_last: whether the next stage is the last one.
        meter: where losses and updates are added up.
    """

    def __init__(
        self,
        index: int,
        module: nn.Module,
        learner: Learner,
        synthetic: SyntheticGradients | None,
        before_last: bool,
        meter: RunningSums,
    ):
        self.index = index
        self.module = module
        self.parameters = list(module.parameters())
        self.device = self.parameters[0].device
        self.learner = learner
        self.synthetic = synthetic
        self.before_last = before_last
        self.meter = meter
        self.updates = 0

    def forward(self, start: Tensor, learns: bool) -> Tensor:
        """Compute the stage's output.

        Args:
            start: its input, after a cut.
            learns: whether a backward pass will follow.

        Returns:
            The output, in full precision.

        Raises:
            TypeError: the output is not one tensor.
            ValueError: it has other rows, or no real numbers.
        """
        with torch.set_grad_enabled(learns), self.learner.precision(self.device):
            end = self.module(start)
        check_outputs(end, self.index, len(start))
        return in_full_precision(end)

    def backward(
        self, step: int, end: Tensor, targets: Tensor, condition_BK: Tensor | None
    ) -> bool:
        """Run the backward pass, from the loss or from the synthetic gradient at the end.

        Args:
            step: its number.
            end: the output, with its graph.
            targets: for the loss.
            condition_BK: what the synthesizer reads besides the output.

        Returns:
            Whether there was a gradient.

        Raises:
            FloatingPointError: the loss is not finite, and ``non_finite`` is ``"raise"``.
        """
        if self.synthetic is None:
            loss = self.learner.loss(end, targets)
            if not self.learner.accepts(loss, f"step {step}", self.meter):
                return False
            loss.backward()
            self.meter.add(loss_sum=loss * len(targets), scored=len(targets))
            return True
        boundary = self.synthetic.boundary
        if boundary.synthesizer is None or not self.synthetic.ready(step):
            return False
        told = condition_BK if self.synthetic.condition_size else None
        grad_BS = boundary.synthetic_grad(end.detach().flatten(1), condition_BK=told)
        end.backward(grad_BS.to(end.dtype).view_as(end) / len(targets))
        return True

    def teach(
        self, step: int, start: Tensor, grad: Tensor | None, condition_BK: Tensor | None
    ) -> None:
        """Teach the boundary after this stage what arrived there.

        Args:
            step: its number.
            start: the input of the next stage.
            grad: the gradient that arrived at it; None: there was none.
            condition_BK: what the synthesizer reads besides the input.
        """
        synthetic, rows = self.synthetic, len(start)
        assert synthetic is not None
        if grad is None or not synthetic.trains_on(step):
            return
        # Only the target before the last stage contains no prediction. It alone sets the level.
        sets_level = self.before_last and synthetic.boundary.bound is not None
        final_B = torch.ones(rows, dtype=torch.bool) if sets_level else None
        pairs = Pairs(start.detach().flatten(1), grad.flatten(1), None, final_B)
        told = condition_BK if synthetic.condition_size else None
        for loss in synthetic.teach(pairs, 1 / rows, condition_BK=told):
            self.meter.add(**{f"synth_loss_{self.index}": loss, f"synth_steps_{self.index}": 1})

    def update(self, step: int) -> None:
        """Update the parameters from their gradient.

        Args:
            step: its number.

        Raises:
            FloatingPointError: the gradient is not finite, and ``non_finite`` is ``"raise"``.
        """
        where = f"step {step} in stage {self.index}"
        updated = self.learner.update(self.parameters, where)
        self.updates += updated
        self.meter.add(**{f"updates_{self.index}": int(updated)})
