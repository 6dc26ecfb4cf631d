r"""Looking ahead: the gradient of known next steps is computed and not predicted.

Shapes: K steps ahead, B rows, S features of a packed state.

In language modelling the next tokens are known while a chunk is trained. On text, the gradient of
the future can hardly be predicted from the state alone, because it depends on which symbols come
and on how badly the model will predict them. The model can compute it by running over them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqdni.boundary import Boundary, where_continues, with_grads
from seqdni.chunk import Chunk, ChunkLike, as_chunk, run_chunk
from seqdni.cores.base import Core, FixedWeights
from seqdni.losses import cross_entropy
from seqdni.parallel import DataParallel
from seqdni.state import State, cut, leaves, or_zeros, pack


def look_ahead(
    model: Core,
    ahead: ChunkLike,
    end: State,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    beyond: Callable[[State], Float[Tensor, "B S"]] | None = None,
    autocast: torch.dtype | None = None,
) -> Float[Tensor, "B S"]:
    r"""The gradient of the next K steps' loss with respect to a state, by running these steps.

    .. math:: \hat g(s) = \frac{\partial}{\partial s}
              \Big( \sum_{k=1}^{K} \ell_k + \langle \hat g_{beyond}(s_K), s_K \rangle \Big)

    It is exact for the loss of those steps (with dropout, for one draw of it). A synthesizer may
    predict the gradient of what comes after them. The cost is about K / T of that of a chunk, and
    O(K) memory besides the chunk's own. The weights get no gradient from these steps here, since
    they get it with the next chunk.

    Args:
        model: the model that is trained.
        ahead: the K steps after the chunk; a row that restarts in them gets credit up to there.
        end: the state at the chunk's end, without a graph.
        loss: ``(outputs, targets) -> [K, B]``.
        beyond: computes the synthetic gradient at the state after the K steps; None: no gradient
            comes from there.
        autocast: compute in this type where that is safe.

    Returns:
        A tensor without a graph, in units of a row's summed loss.

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
    runs_alone = hasattr(type(model), "unroll")  # gets chunks whole, with their restarts
    with torch.enable_grad():
        runner = model if runs_alone else FixedWeights(model)
        loss_sum, far, _ = run_chunk(runner, ahead, start, loss, autocast)
    roots, given = [loss_sum], [torch.ones_like(loss_sum)]
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
    goes_on_B: Bool[Tensor, " B"] | None = None,
    parallel: DataParallel | None = None,
) -> Float[Tensor, "B S"]:
    """The gradient at a boundary when the steps after it are known.

    It is exact for the loss of the known steps, and synthetic for what comes after them.

    Args:
        boundary: its synthesizer, bound and scale are for the state after the known steps; its
            control is applied to the sum.
        model: the model that is trained.
        ahead: the known steps.
        end: the state at the chunk's end, without a graph.
        continues_B: rows whose episode goes on after the chunk; None if all do.
        loss: ``(outputs, targets) -> [K, B]``.
        autocast: compute in this type where that is safe.
        synthesizer_ready: whether to use the synthesizer; False: no gradient comes from after the
            known steps.
        goes_on_B: rows whose episode goes on after the known steps; None if all do.
        parallel: processes whose rows the control is applied to together.

    Returns:
        A tensor without a graph, in units of a row's summed loss.
    """

    def beyond(far: State) -> Tensor:
        device = leaves(far)[0].device
        rows_B = None if goes_on_B is None else goes_on_B.to(device, non_blocking=True)
        return where_continues(boundary.limited(boundary.predict(far)), rows_B)

    further = beyond if synthesizer_ready and boundary.synthesizer is not None else None
    grad_BS = _look_ahead(model, ahead, end, loss, further, autocast)
    return boundary.masked(grad_BS, continues_B, parallel)
