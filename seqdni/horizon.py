r"""How far credit reaches: synthetic against true gradients, on held-out chunks.

Shapes: B rows, S features of a packed state.

The true gradient of all remaining loss at a boundary comes from unrolling the chunks as one graph,
so the memory is that of full BPTT over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from seqdni.boundary import Boundary, with_grads
from seqdni.chunk import Chunk, ChunkLike, as_chunk, no_rows, rows_of, run_chunk, steps_ahead
from seqdni.losses import cross_entropy
from seqdni.state import State, cut, detach, leaves, map_state, or_zeros, pack
from seqdni.trainer import Model
from seqdni.truncation.look_ahead import ahead_grad

CREDIT = 0.1  # least share of a lag's credit that counts as reached


class Agreement(NamedTuple):
    """Synthetic against true state gradient at one boundary, over all rows and features.

    Args:
        step: steps from the first chunk's start to the boundary.
        cosine: of the angle between the two; 0 is no information, 1 the right direction.
        norm_ratio: length of the synthetic over that of the true one.
        r2: share of the true gradient's energy that is predicted; 0 for a prediction of zero.
    """

    step: int
    cosine: float
    norm_ratio: float
    r2: float


class Lag(NamedTuple):
    r"""How much credit for the losses of a later chunk the synthetic gradient carries.

    With :math:`g_j` the true gradient, at a boundary, of the losses of the j-th chunk after it, the
    shares are the least-squares fit over rows, features and boundaries of

    .. math:: \hat g \approx \sum_j share_j \, g_j

    A lag with less than about a millionth of the energy gets no share: there is nothing to carry.

    Args:
        steps: from the boundary to the end of that chunk.
        energy: of :math:`g_j`, as a share of all lags'.
        share: 1 where all its credit arrives, 0 where none does, as in TBPTT.
    """

    steps: int
    energy: float
    share: float


class Horizon(NamedTuple):
    """What :func:`measure_horizon` finds.

    Args:
        boundaries: one :class:`Agreement` a boundary, in order.
        lags: one :class:`Lag` a distance in chunks, in order.
        effective: steps that the training gradient reaches back, in whole chunks: T, and beyond it
            the steps of the last lag up to which every ``share`` is at least ``CREDIT``. T is the
            first chunk's. Of the last of these chunks perhaps only a part arrives.
        spectrum: eigenvalues of the covariance of the states at the boundaries, largest first.
        tbptt_cosine: of the weight gradient of TBPTT with that of full BPTT.
        dni_cosine: of the weight gradient of DNI, as applied, with that of full BPTT.
        tbptt_norm_ratio: length of TBPTT's weight gradient over full BPTT's.
        dni_norm_ratio: the same for DNI.
    """

    boundaries: list[Agreement]
    lags: list[Lag]
    effective: int
    spectrum: list[float]
    tbptt_cosine: float
    dni_cosine: float
    tbptt_norm_ratio: float
    dni_norm_ratio: float


def measure_horizon(
    model: Model,
    boundary: Boundary,
    chunks: Sequence[ChunkLike],
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    steps_known: int = 0,
) -> Horizon:
    """Compare DNI and TBPTT with full BPTT over a few consecutive chunks.

    Args:
        model: as in training.
        boundary: as in training; it learns nothing here.
        chunks: at least two, from the beginning of a stream or an episode, on the model's device
            but for masks; what follows the last is taken to be no loss.
        loss: as in training.
        steps_known: steps that the trainer looks ahead. Beyond the data's end the synthesizer is
            still asked.

    Returns:
        Agreement at each boundary between two chunks, and of the weight gradients.

    Raises:
        ValueError: fewer than two chunks.

    Example:
        >>> from torch import nn
        >>> from seqdni import LeastSquares, OneHot, SequenceModel, TorchCore
        >>> model = SequenceModel(OneHot(3), TorchCore(nn.GRU(3, 4)), nn.Linear(4, 3))
        >>> x = torch.randint(3, (2, 5))
        >>> found = measure_horizon(model, Boundary(LeastSquares(4)), [(x, x, None, None)] * 3)
        >>> [agreement.step for agreement in found.boundaries]
        [2, 4]
    """
    if len(chunks) < 2:
        raise ValueError(f"got {len(chunks)} chunk, expected at least 2: one boundary between them")
    chunks = [as_chunk(chunk) for chunk in chunks]
    weights = list(model.parameters())
    state = model.initial_state(chunks[0].inputs.shape[1])
    losses, ends = [], []
    for chunk in chunks:
        nats, state, _ = run_chunk(model, chunk, state, loss)
        losses.append(nats)
        ends.append(state)
    inner = [leaf for end in ends[:-1] for leaf in leaves(end)]
    grads = torch.autograd.grad(
        torch.stack(losses).sum(), [*weights, *inner], retain_graph=True, allow_unused=True
    )
    full = _flat(grads[: len(weights)], weights)
    arrived = iter(or_zeros(grads[len(weights) :], inner))
    boundaries, said, step = [], [], 0
    for k, end in enumerate(ends[:-1]):
        step += len(chunks[k][0])
        true_BS = pack(map_state(lambda _: next(arrived), end))
        said.append(_said(model, boundary, chunks[k:], end, loss, steps_known))
        boundaries.append(_agreement(step, said[-1], true_BS))
    lags = _by_lag(losses, ends, said, len(chunks[0][0]))
    reached = list(takewhile(lambda lag: lag.share >= CREDIT, lags))
    states = torch.cat([pack(detach(end)) for end in ends[:-1]]).double()
    spectrum = (
        torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(states.T, correction=0))).flip(0).tolist()
    )
    tbptt = _chunked(model, None, chunks, loss, 0)
    dni = _chunked(model, boundary, chunks, loss, steps_known)
    cosines = [torch.cosine_similarity(part, full, dim=0).item() for part in (tbptt, dni)]
    ratios = [(part.norm() / full.norm()).item() for part in (tbptt, dni)]
    effective = len(chunks[0][0]) + (reached[-1].steps if reached else 0)
    return Horizon(boundaries, lags, effective, spectrum, *cosines, *ratios)


def _by_lag(
    losses: list[Tensor], ends: list[State], said: list[Tensor], chunk_len: int
) -> list[Lag]:
    """Credit by distance in chunks, over all boundaries."""
    count = len(said)
    by_lag: list[list[Tensor]] = [[] for _ in said]  # of each boundary, the nearest lag first
    for later in range(1, count + 1):
        before = [leaf for end in ends[:later] for leaf in leaves(end)]
        grads = torch.autograd.grad(losses[later], before, retain_graph=True, allow_unused=True)
        found = or_zeros(grads, before)
        parts = len(found) // later
        for k in range(later):
            true_BS = pack(tuple(found[k * parts : (k + 1) * parts]))
            by_lag[k].append(true_BS.flatten())
    inner = torch.zeros(count, count, dtype=torch.float64)
    carried = torch.zeros(count, dtype=torch.float64)
    for said_BS, true in zip(said, by_lag, strict=True):
        lags_KN = torch.stack(true).double()
        here = slice(0, len(true))
        inner[here, here] += (lags_KN @ lags_KN.T).cpu()
        carried[here] += (lags_KN @ said_BS.flatten().double()).cpu()
    shares = (torch.linalg.pinv(inner, rtol=1e-6, hermitian=True) @ carried).tolist()
    energy = inner.diagonal()
    portions = (energy / energy.sum().clamp_min(1e-300)).tolist()
    steps = range(chunk_len, chunk_len * (count + 1), chunk_len)
    return [Lag(*lag) for lag in zip(steps, portions, shares, strict=True)]


def _chunked(
    model: Model,
    boundary: Boundary | None,
    chunks: Sequence[Chunk],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps_known: int,
) -> Tensor:
    """The summed weight gradient of chunk after chunk, bridged or not."""
    weights = list(model.parameters())
    state = model.initial_state(chunks[0][0].shape[1])
    total = torch.zeros(sum(weight.numel() for weight in weights), device=weights[0].device)
    for k, chunk in enumerate(chunks):
        nats, end, _ = run_chunk(model, chunk, cut(state), loss)
        outputs, given = [nats], [torch.ones_like(nats)]
        if boundary is not None and k < len(chunks) - 1 and not no_rows(_continues(chunk)):
            said_BS = _said(model, boundary, chunks[k:], end, loss, steps_known)
            states, grads = with_grads(end, said_BS)
            outputs, given = outputs + states, given + grads
        total += _flat(torch.autograd.grad(outputs, weights, given, allow_unused=True), weights)
        state = detach(end)
    return total


def _said(
    model: Model,
    boundary: Boundary,
    chunks: Sequence[Chunk],
    end: State,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps_known: int,
) -> Tensor:
    """What is applied at the end of the first of these chunks."""
    end, continues_B = detach(end), _continues(chunks[0])
    if not steps_known:
        return boundary.applied(boundary.predict(end), continues_B)
    ahead = steps_ahead(chunks[1:], steps_known)
    return ahead_grad(boundary, model, ahead, end, continues_B, loss)


def _continues(chunk: Chunk) -> Tensor | None:
    mask = rows_of(chunk[3]).continues
    return None if mask is None else mask.to(chunk[0].device)


def _flat(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    return torch.cat([grad.flatten() for grad in or_zeros(grads, like)])


def _agreement(step: int, said_BS: Tensor, true_BS: Tensor) -> Agreement:
    said, true = said_BS.double().flatten(), true_BS.double().flatten()
    energy = true.square().sum().clamp_min(1e-300)
    return Agreement(
        step,
        torch.cosine_similarity(said, true, dim=0, eps=1e-150).item(),
        (said.norm() / energy.sqrt()).item(),
        (1 - (said - true).square().sum() / energy).item(),
    )
