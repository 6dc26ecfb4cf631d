"""The interface of a synthesizer.

Shapes: B rows, S features of a packed state, K features of a condition.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Synthesizer(Protocol):
    """The contract of a synthesizer: an ``nn.Module`` with these methods, to be put in a boundary.

    A call with a packed state (and a condition, if ``condition_size`` is not 0) returns the
    predicted gradient, in units of the loss summed over the steps of a row. ``loss`` returns the
    loss that an optimiser then minimises, as :meth:`seqdni.MLPSynthesizer.loss` does. A synthesizer
    without parameters learns inside ``loss``. One with the auxiliary task also has a module
    ``aux_head``. One that knows its gradients without autograd may have ``loss_after_backward``, as
    :meth:`seqdni.MLPSynthesizer.loss_after_backward`; a trainer then calls that.
    """

    @property
    def condition_size(self) -> int: ...

    def __call__(self, state_BS: Tensor, condition_BK: Tensor | None = None, /) -> Tensor: ...

    def loss(
        self,
        state_BS: Tensor,
        target_BS: Tensor,
        *,
        valid_B: Tensor | None = None,
        condition_BK: Tensor | None = None,
        next_predicted_BS: Tensor | None = None,
        next_valid_B: Tensor | None = None,
    ) -> Tensor: ...


@runtime_checkable
class CapturableSynthesizer(Synthesizer, Protocol):
    """A synthesizer whose learning can be captured in a CUDA graph (``Trainer(capture=True)``).

    A graph repeats what the device computed and runs no Python. What ``loss`` computes may depend
    on Python values only as far as ``capture_key`` tells them: it is the same in calls with equal
    keys. With None the next call cannot be captured and runs as usual. ``count_step`` counts a call
    that a graph has made, as ``loss`` itself would count it.
    """

    def capture_key(self) -> Hashable | None: ...

    def count_step(self) -> None: ...
