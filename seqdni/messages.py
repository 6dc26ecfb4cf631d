"""The way up between two levels: the gradient of messages, predicted, and corrected when it comes.

Shapes: m messages, B rows, M features of a message, K of a hint, N = m * B pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqdni.learner import Learner
from seqdni.state import or_zeros
from seqdni.targets import Pairs


class Messages:
    """A level's message boundary, with what is known beside each message until it is corrected.

    Args:
        learner: of the level that sends.
        feedback: whether predicted gradients are listened to, and learned.
    """

    def __init__(self, learner: Learner, feedback: bool):
        self.learner = learner
        self.boundary = learner.message_boundary if feedback else None
        self.begin()

    def begin(self) -> None:
        """Begin a stream."""
        self.hints: list[
            Tensor
        ] = []  # [B, K] each, beside messages not yet predicted and corrected
        self.held = 0  # messages before the first of these
        self.predicted = 0  # messages whose gradient was asked for
        self.corrected = 0  # messages whose gradient has come

    @property
    def hint_size(self) -> int:
        """K: what the synthesizer sees besides a message; 0: nothing."""
        synthesizer = None if self.boundary is None else self.boundary.synthesizer
        return 0 if synthesizer is None else synthesizer.context_size

    def synthetic_grad(self, messages_NM: Tensor, first: int, rows: int) -> Tensor | None:
        """What is predicted for some messages.

        Args:
            messages_NM: message after message.
            first: how many were sent before them since the stream began.
            rows: B.

        Returns:
            ``[N, M]``, per-example-sum units; None where nothing goes down.
        """
        if self.boundary is None or self.boundary.synthesizer is None:
            return None
        messages = len(messages_NM) // rows
        hint_NK = self._hint(first, messages)
        self.predicted = first + messages
        self._drop()
        return self.boundary.synthetic_grad(messages_NM, context_BK=hint_NK)

    def correct(self, pairs: Pairs, rows: int) -> Tensor | None:
        """Learn from the gradients of the messages that come next.

        Args:
            pairs: from the level above, in units of the objective.
            rows: B.

        Returns:
            The synthesizer's loss, or None where it does not learn.
        """
        messages, loss = len(pairs.state_NS) // rows, None
        if self.boundary is not None and self.learner.learns(self.boundary):
            state_NM, grad_NM, valid_N, final_N = pairs
            loss = self.boundary.regression(
                state_NM,
                grad_NM,
                valid_N,
                None if final_N is None else final_N.to(grad_NM.device, non_blocking=True),
                loss_scale=self.learner.loss_scale / rows,
                context_BK=self._hint(self.corrected, messages),
            )
            self.learner.teach(self.boundary, loss)
        self.corrected += messages
        self._drop()
        return loss

    def _hint(self, first: int, messages: int) -> Tensor | None:
        at = first - self.held
        return torch.cat(self.hints[at : at + messages]) if self.hints else None

    def _drop(self) -> None:
        """Hints of messages that were predicted and corrected; either may come first."""
        done = min(self.predicted, self.corrected)
        if done > self.held:
            del self.hints[: done - self.held]
            self.held = done


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
