"""The way up between two levels: the gradient of messages, predicted, and corrected when it comes.

Shapes: m messages, B rows, M features of a message, K of a condition, N = m * B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqdni.state import or_zeros
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.targets import Pairs


class Messages:
    """The boundary of a level's messages, with what is known beside each until it is corrected.

    Args:
        synthetic: bridges the way up; None: nothing comes down.
    """

    def __init__(self, synthetic: SyntheticGradients | None):
        self.synthetic = synthetic
        self.corrections = 0
        self.begin()

    def begin(self) -> None:
        """Begin a stream."""
        self.conditions: list[
            Tensor
        ] = []  # [B, K], beside messages not yet predicted and corrected
        self.held = 0  # messages before the first of these
        self.predicted = 0  # messages whose gradient was asked for
        self.corrected = 0  # messages whose gradient has come

    @property
    def condition_size(self) -> int:
        """K: what the synthesizer sees besides a message; 0: nothing."""
        return 0 if self.synthetic is None else self.synthetic.condition_size

    def synthetic_grad(self, messages_NM: Tensor, first: int, rows: int) -> Tensor | None:
        """What is predicted for some messages.

        Args:
            messages_NM: message after message.
            first: how many were sent before them since the stream began.
            rows: B.

        Returns:
            ``[N, M]``, per-example-sum units; None where nothing goes down.
        """
        if self.synthetic is None or self.synthetic.boundary.synthesizer is None:
            return None
        messages = len(messages_NM) // rows
        condition_NK = self._condition(first, messages)
        self.predicted = first + messages
        self._drop()
        return self.synthetic.boundary.synthetic_grad(messages_NM, condition_BK=condition_NK)

    def correct(self, pairs: Pairs, rows: int, factor: float) -> list[Tensor]:
        """Learn from the gradients of the messages that come next.

        Args:
            pairs: from the level above, in units of the objective.
            rows: B.
            factor: the objective's factor on the level's summed loss.

        Returns:
            The synthesizer's losses; none where it does not learn.
        """
        messages, losses = len(pairs.state_NS) // rows, []
        if self.synthetic is not None and self.synthetic.trains_on(self.corrections):
            condition_NK = self._condition(self.corrected, messages)
            losses = self.synthetic.teach(pairs, factor, condition_BK=condition_NK)
        self.corrections += 1
        self.corrected += messages
        self._drop()
        return losses

    def _condition(self, first: int, messages: int) -> Tensor | None:
        at = first - self.held
        return torch.cat(self.conditions[at : at + messages]) if self.conditions else None

    def _drop(self) -> None:
        """Hints of messages that were predicted and corrected; either may come first."""
        done = min(self.predicted, self.corrected)
        if done > self.held:
            del self.conditions[: done - self.held]
            self.held = done

    def state_dict(self) -> dict[str, Any]:
        """What the next messages depend on.

        Returns:
            Tensors and primitives.
        """
        return {
            "conditions": [condition.clone() for condition in self.conditions],
            "held": self.held,
            "predicted": self.predicted,
            "corrected": self.corrected,
            "corrections": self.corrections,
        }

    def load_state_dict(self, saved: Mapping[str, Any], device: torch.device) -> None:
        """Continue as if never stopped.

        Args:
            saved: from :meth:`state_dict`.
            device: where the level computes.
        """
        self.conditions = [condition.to(device) for condition in saved["conditions"]]
        self.held, self.predicted = saved["held"], saved["predicted"]
        self.corrected, self.corrections = saved["corrected"], saved["corrections"]


def message_pairs(received_mBM: Tensor, should_reset: Tensor, bootstrapped: bool) -> Pairs:
    """Messages as they were received, with the gradients that arrived at them.

    Args:
        received_mBM: leaves of a graph, after its backward pass.
        should_reset: ``[m + 1, B]`` of the level that received them.
        bootstrapped: whether the end of its chunk was bridged.

    Returns:
        N pairs. A pair is final if its row restarts later in the chunk.
    """
    (grad_mBM,) = or_zeros([received_mBM.grad], [received_mBM])
    final_mB = torch.full(received_mBM.shape[:2], not bootstrapped)
    final_mB = final_mB | (should_reset[1:].flip(0).cumsum(0).flip(0) > 0)
    final_N = final_mB.flatten() if bool(final_mB.any()) else None
    return Pairs(received_mBM.detach().flatten(0, 1), grad_mBM.flatten(0, 1), None, final_N)
