"""What a boundary needs of a synthesizer.

Shapes: B rows, S features of a packed state, K features of condition.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Synthesizer(Protocol):
    """The contract: any ``nn.Module`` with these can stand in for a :class:`seqdni.MLPSynthesizer`.

    Called with a packed state (and a condition, if ``condition_size`` is not 0) it gives the
    predicted gradient, in units of the loss summed over the steps of a row; ``loss`` is what it
    learns from, as in :meth:`seqdni.MLPSynthesizer.loss`. Without parameters it learns inside
    ``loss``. One with the auxiliary task also has a module ``aux_head``.
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
