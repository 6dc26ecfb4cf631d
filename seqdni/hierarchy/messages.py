"""Predicts the gradients of a level's messages, and learns from them when they arrive.

Shapes: m messages, B rows, M features of a message, K of a condition, N = m * B pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqdni.parallel import DataParallel
from seqdni.parallel_checkpoint import OfRows, as_it_is
from seqdni.state import or_zeros
from seqdni.synthetic_gradients import SyntheticGradients
from seqdni.targets import Pairs


class Messages:
    """Predicts the gradients of a level's messages, and learns from the gradients that arrive.

    The conditions of a message are kept until both have happened.

    Args:
        synthetic: predicts the gradients; None: messages get no gradient.
        parallel: processes that train the same level on other rows.
    """

    def __init__(self, synthetic: SyntheticGradients | None, parallel: DataParallel | None = None):
        self.synthetic = synthetic
        self.parallel = parallel
        self.corrections = 0  # chunks of the level above whose gradients have arrived
        self.begin()

    def begin(self) -> None:
        """Begin a stream: no message was sent, and no condition is kept."""
        self.conditions: list[Tensor] = []  # [B, K] for each message that still needs its own
        self.held = 0  # messages before the first of these
        self.predicted = 0  # messages whose gradient was predicted
        self.corrected = 0  # messages whose gradient has arrived

    @property
    def condition_size(self) -> int:
        """K: features that the synthesizer reads besides a message; 0: none."""
        return 0 if self.synthetic is None else self.synthetic.condition_size

    def synthetic_grad(self, messages_NM: Tensor, first: int, rows: int) -> Tensor | None:
        """Predict the gradients of some messages.

        Args:
            messages_NM: all rows of one message, then all rows of the next.
            first: messages that were sent before them since the stream began.
            rows: B.

        Returns:
            ``[N, M]`` in the units of a row's summed loss; None where there is no synthesizer.
        """
        if self.synthetic is None or self.synthetic.boundary.synthesizer is None:
            return None
        messages = len(messages_NM) // rows
        condition_NK = self._condition(first, messages)
        self.predicted = first + messages
        self._drop()
        boundary = self.synthetic.boundary
        grad_NM = boundary.limited(boundary.predict(messages_NM, condition_NK))
        return boundary.masked(grad_NM, parallel=self.parallel, rows=rows)

    def correct(self, pairs: Pairs, rows: int, factor: float) -> list[Tensor]:
        """Learn from the gradients of the next messages whose gradients have not arrived yet.

        Args:
            pairs: messages and their gradients, from the level above, in units of the objective.
            rows: B.
            factor: the objective's factor on the summed loss of the level that sent the messages.

        Returns:
            The synthesizer's losses; empty where it does not learn.
        """
        messages, losses = len(pairs.state_NS) // rows, []
        if self.synthetic is not None and self.synthetic.trains_on(self.corrections):
            condition_NK = self._condition(self.corrected, messages)
            if self.parallel is not None:
                pairs = self.parallel.all_pairs(pairs, rows)
                condition_NK = self.parallel.all_rows(condition_NK, rows)
            losses = self.synthetic.teach(pairs, factor, condition_BK=condition_NK)
        self.corrections += 1
        self.corrected += messages
        self._drop()
        return losses

    def _condition(self, first: int, messages: int) -> Tensor | None:
        at = first - self.held
        return torch.cat(self.conditions[at : at + messages]) if self.conditions else None

    def _drop(self) -> None:
        """Drop the conditions that were used for both; the prediction need not come first."""
        done = min(self.predicted, self.corrected)
        if done > self.held:
            del self.conditions[: done - self.held]
            self.held = done

    def state_dict(self, whole: OfRows = as_it_is) -> dict[str, Any]:
        """All that the next messages depend on, except the boundary.

        Args:
            whole: makes a tensor of all rows from one with the rows of this process.

        Returns:
            Tensors and primitives.
        """
        return {
            "conditions": [whole(condition, 0).clone() for condition in self.conditions],
            "held": self.held,
            "predicted": self.predicted,
            "corrected": self.corrected,
            "corrections": self.corrections,
        }

    def load_state_dict(
        self, saved: Mapping[str, Any], device: torch.device, own: OfRows = as_it_is
    ) -> None:
        """Continue as if training had never stopped.

        Args:
            saved: from :meth:`state_dict`.
            device: where the level computes.
            own: takes the rows of this process out of a tensor of all rows.
        """
        self.conditions = [own(condition, 0).to(device) for condition in saved["conditions"]]
        self.held, self.predicted = saved["held"], saved["predicted"]
        self.corrected, self.corrections = saved["corrected"], saved["corrections"]


def message_pairs(received_mBM: Tensor, should_reset: Tensor, bootstrapped: bool) -> Pairs:
    """Pairs of a message that a level received and the gradient that arrived there.

    Args:
        received_mBM: the messages, leaves of a graph after its backward pass.
        should_reset: ``[m + 1, B]``, the rows of the receiving level that restart.
        bootstrapped: whether a gradient arrived at the end of the receiving level's chunk.

    Returns:
        N pairs. A pair is final, which means that its gradient contains no prediction, if no
        gradient arrived at the chunk's end or if its row restarts later in the chunk.
    """
    (grad_mBM,) = or_zeros([received_mBM.grad], [received_mBM])
    final_mB = torch.full(received_mBM.shape[:2], not bootstrapped)
    final_mB = final_mB | (should_reset[1:].flip(0).cumsum(0).flip(0) > 0)
    final_N = final_mB.flatten() if bool(final_mB.any()) else None
    return Pairs(received_mBM.detach().flatten(0, 1), grad_mBM.flatten(0, 1), None, final_N)
