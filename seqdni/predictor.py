"""What a boundary needs of a synthesizer.

Shapes: B rows, S features of a packed state, K features of context.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Predictor(Protocol):
    """The contract: any ``nn.Module`` with these can stand in for a :class:`seqdni.Synthesizer`.

    Called with a packed state (and a context, if ``context_size`` is not 0) it gives the predicted
    gradient, per-example-sum units; ``loss`` is what it learns from, as in
    :meth:`seqdni.synthesizer.Synthesizer.loss`. Without parameters it learns inside ``loss``.
    ``aux_head`` is None without the auxiliary task.
    """

    @property
    def context_size(self) -> int: ...

    @property
    def aux_head(self) -> nn.Module | None: ...

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
