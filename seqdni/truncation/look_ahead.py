r"""Looking ahead: where the next steps of a stream are known, their credit need not be guessed.

Shapes: K steps ahead, B rows, S features of a packed state.

In language modelling the next tokens are known while a chunk is trained. From the state alone the
gradient of the future on text is almost unpredictable: it depends on which symbols come, and on how
badly the model will predict them. The model itself can tell.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqdni.boundary import Boundary, where_continues, with_grads
from seqdni.chunk import Chunk, ChunkLike, as_chunk, rows_of, run_chunk
from seqdni.cores.base import Core
from seqdni.losses import cross_entropy
from seqdni.state import State, cut, leaves, or_zeros, pack


def look_ahead(
    model: Core,
    ahead: ChunkLike,
    end: State,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    beyond: Callable[[State], Float[Tensor, "B S"]] | None = None,
    autocast: torch.dtype | None = None,
) -> Float[Tensor, "B S"]:
    r"""The gradient of the next K steps' loss with respect to a state, by running the model on.

    .. math:: \hat g(s) = \frac{\partial}{\partial s}
              \Big( \sum_{k=1}^{K} \ell_k + \langle \hat g_{beyond}(s_K), s_K \rangle \Big)

    Exact over those steps (with dropout, for one draw of it); what lies beyond them is left to a
    synthesizer. It costs about K / T of a chunk, and O(K) memory beside the chunk's own. The
    weights' gradient from these steps is not taken here: it comes with the next chunk.

    Args:
        model: in training.
        ahead: the K steps after the chunk; a row that restarts in them gets credit up to there.
        end: the state at the chunk's end, a constant.
        loss: ``(outputs, targets) -> [K, B]``.
        beyond: the synthetic gradient at the state after the K steps; None: no credit comes from
            there.
        autocast: compute in this type where that is safe.

    Returns:
        A constant, per-example-sum units.

    Example:
        >>> from torch import nn
        >>> from seqdni import OneHot, SequenceModel, TorchCore
        >>> model = SequenceModel(OneHot(3), TorchCore(nn.GRU(3, 4)), nn.Linear(4, 3))
        >>> tokens = torch.randint(3, (2 + 1, 5))
        >>> look_ahead(model, (tokens[:-1], tokens[1:], None, None), model.initial_state(5)).shape
        torch.Size([5, 4])
    """
    return _look_ahead(model, as_chunk(ahead), end, loss, beyond, autocast)


def _look_ahead(
    model: Core,
    ahead: Chunk,
    end: State,
    loss: Callable[[Tensor, Tensor], Tensor],
    beyond: Callable[[State], Tensor] | None,
    autocast: torch.dtype | None,
) -> Tensor:
    start = cut(end)
    with torch.enable_grad():
        nats, far, _ = run_chunk(model, ahead, start, loss, autocast)
    roots, given = [nats], [torch.ones_like(nats)]
    if beyond is not None:
        states, grads = with_grads(far, beyond(far))
        roots, given = roots + states, given + grads
    inside = leaves(start)
    arrived = torch.autograd.grad(roots, inside, given, allow_unused=True)
    return pack(tuple(or_zeros(arrived, inside)))


def ahead_grad(
    boundary: Boundary,
    model: Core,
    ahead: Chunk,
    end: State,
    continues_B: Bool[Tensor, " B"] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    autocast: torch.dtype | None = None,
    synthesizer_ready: bool = True,
) -> Float[Tensor, "B S"]:
    """What crosses a boundary when steps after it are known: exact over them, synthetic beyond.

    Args:
        boundary: its synthesizer is asked beyond the known steps, its bound and scale apply there;
            its control applies to the whole.
        model: in training.
        ahead: the known steps.
        end: the state at the chunk's end, a constant.
        continues_B: rows whose episode goes on after the chunk; None if all do.
        loss: ``(outputs, targets) -> [K, B]``.
        autocast: compute in this type where that is safe.
        synthesizer_ready: whether the synthesizer is asked; else nothing is known beyond.

    Returns:
        A constant, per-example-sum units.
    """

    def beyond(far: State) -> Tensor:
        goes_on_B = rows_of(ahead.should_reset).continues
        if goes_on_B is not None:
            goes_on_B = goes_on_B.to(leaves(far)[0].device, non_blocking=True)
        return where_continues(boundary.limited(boundary.predict(far)), goes_on_B)

    further = beyond if synthesizer_ready and boundary.synthesizer is not None else None
    grad_BS = _look_ahead(model, ahead, end, loss, further, autocast)
    return boundary.masked(grad_BS, continues_B)
