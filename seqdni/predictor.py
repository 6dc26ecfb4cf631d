"""What a boundary needs of a synthesizer.

Shapes: B rows, S features of a packed state, K features of context.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Predictor(Protocol):
    """The contract: any ``nn.Module`` with these can stand in for a :class:`seqdni.Synthesizer`.

    Called with a packed state (and a context, if ``context_size`` is not 0) it gives the predicted
    gradient, per-example-sum units; ``loss`` is what it learns from, as in
    :meth:`seqdni.synthesizer.Synthesizer.loss`. Without parameters it learns inside ``loss``. One
    with the auxiliary task also has a module ``aux_head``.
    """

    @property
    def context_size(self) -> int: ...

    def __call__(self, state_BS: Tensor, context_BK: Tensor | None = None, /) -> Tensor: ...

    def loss(
        self,
        state_BS: Tensor,
        target_BS: Tensor,
        *,
        valid_B: Tensor | None = None,
        context_BK: Tensor | None = None,
        next_predicted_BS: Tensor | None = None,
        next_valid_B: Tensor | None = None,
    ) -> Tensor: ...
