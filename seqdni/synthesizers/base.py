"""The interface of a synthesizer.

Shapes: B rows, S features of a packed state, K features of a condition.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Synthesizer(Protocol):
    """The contract of a synthesizer: an ``nn.Module`` with these methods, to be put in a boundary.

    A call with a packed state (and a condition, if ``condition_size`` is not 0) returns the
    predicted gradient, in units of the loss summed over the steps of a row. ``loss`` returns the
    loss that an optimiser then minimises, as :meth:`seqdni.MLPSynthesizer.loss` does. A synthesizer
    without parameters learns inside ``loss``. One with the auxiliary task also has a module
    ``aux_head``.
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
