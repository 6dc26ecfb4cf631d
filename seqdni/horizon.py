r"""Measures how far credit reaches: compares synthetic with true gradients on held-out chunks.

Shapes: B rows, S features of a packed state.

The true gradient of all remaining loss at a boundary is computed with all the chunks as one graph,
which needs the memory of full BPTT over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from seqdni.boundary import Boundary, with_grads
from seqdni.chunk import Chunk, ChunkLike, as_chunk, rows_of, run_chunk, steps_ahead
from seqdni.losses import cross_entropy
from seqdni.state import State, cut, detach, leaves, map_state, or_zeros, pack
from seqdni.trainer_parts import Model
from seqdni.truncation.look_ahead import ahead_grad

CREDIT = 0.1  # the least share of the credit at a lag with which that lag counts as reached


class Agreement(NamedTuple):
    """How well the synthetic gradient of the state at one boundary agrees with the true one.

    Both are taken as one vector over all rows and features.

    Args:
        step: steps from the first chunk's start to the boundary.
        cosine: of the angle between the two: 0 is no information, 1 the right direction.
        norm_ratio: the norm of the synthetic gradient divided by that of the true one.
        r2: share of the true gradient's energy (sum of squares) that is predicted: 1 is exact, 0 is
            as good as a prediction of zero, and below 0 is worse.
    """

    step: int
    cosine: float
    norm_ratio: float
    r2: float


class Lag(NamedTuple):
    r"""How much credit for the losses of a later chunk the synthetic gradient carries.

    Let :math:`g_j` be the true gradient, at a boundary, of the losses of the j-th chunk after it.
    The shares are the least-squares fit, over rows, features and boundaries, of

    .. math:: \hat g \approx \sum_j share_j \, g_j

    A lag with less than about a millionth of the energy gets the share 0, because it has no credit
    to carry.

    Args:
        steps: from the boundary to the end of that chunk.
        energy: the sum of squares of :math:`g_j`, as a fraction of the sum over all lags.
        share: 1 where all credit of the lag arrives, 0 where none does, as in TBPTT.
    """

    steps: int
    energy: float
    share: float


class Horizon(NamedTuple):
    """The result of :func:`measure_horizon`.

    Args:
        boundaries: one :class:`Agreement` for each boundary, in order.
        lags: one :class:`Lag` for each distance in chunks, from 1.
        effective: steps that the training gradient reaches back, in whole chunks: T of the first
            chunk, plus the steps of the last lag up to which every ``share`` is at least
            ``CREDIT``. From the last of these chunks perhaps only a part of the credit arrives.
        spectrum: eigenvalues of the covariance of the states at the boundaries, largest first.
        tbptt_cosine: cosine between the weight gradients of TBPTT and of full BPTT.
        dni_cosine: cosine between the weight gradients of DNI and of full BPTT.
        tbptt_norm_ratio: norm of the weight gradient of TBPTT divided by that of full BPTT.
        dni_norm_ratio: norm of the weight gradient of DNI divided by that of full BPTT.
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
    conditions: Sequence[Tensor] | None = None,
    worth: Tensor | None = None,
) -> Horizon:
    """Compare DNI and TBPTT with full BPTT over a few consecutive chunks.

    Args:
        model: as in training.
        boundary: as in training; it learns nothing here.
        chunks: at least two, from the beginning of a stream or an episode. Inputs and targets lie
            on the model's device. There is taken to be no loss after the last chunk.
        loss: as in training.
        steps_known: steps that the trainer looks ahead. Near the end of the chunks it looks ahead
            as far as they go, and the synthesizer predicts what would come after them.

        conditions: what the synthesizer sees besides the state at each boundary between two chunks,
            ``[B, K]`` each, if it was built with ``condition_size``.
        worth: the factor on the synthetic gradient at each of these boundaries, of an
            :class:`seqdni.Audit`; None: 1.

    Returns:
        Agreement at each boundary between two chunks, and of the weight gradients.

    Raises:
        ValueError: fewer than two chunks, or another number of conditions than boundaries.

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
    seen = [None] * (len(chunks) - 1) if conditions is None else list(conditions)
    factors = [1.0] * len(seen) if worth is None else worth.tolist()
    factors += factors[-1:] * (len(seen) - len(factors))  # episodes longer than in training
    if len(seen) != len(chunks) - 1:
        raise ValueError(f"got {len(seen)} conditions, expected {len(chunks) - 1}: one a boundary")
    weights = list(model.parameters())
    state = model.initial_state(chunks[0].inputs.shape[1])
    losses, ends = [], []
    for chunk in chunks:
        loss_sum, state, _ = run_chunk(model, chunk, state, loss)
        losses.append(loss_sum)
        ends.append(state)
    inner = [leaf for end in ends[:-1] for leaf in leaves(end)]
    grads = torch.autograd.grad(
        torch.stack(losses).sum(), [*weights, *inner], retain_graph=True, allow_unused=True
    )
    full = _flat(grads[: len(weights)], weights)
    arrived = iter(or_zeros(grads[len(weights) :], inner))
    boundaries, applied, step = [], [], 0
    for k, end in enumerate(ends[:-1]):
        step += len(chunks[k][0])
        true_BS = pack(map_state(lambda _: next(arrived), end))
        applied_BS = _applied(model, boundary, chunks[k:], end, loss, steps_known, seen[k])
        applied.append(factors[k] * applied_BS)
        boundaries.append(_agreement(step, applied[-1], true_BS))
    lags = _by_lag(losses, ends, applied, len(chunks[0][0]))
    reached = list(takewhile(lambda lag: lag.share >= CREDIT, lags))
    states = torch.cat([pack(detach(end)) for end in ends[:-1]]).double()
    spectrum = (
        torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(states.T, correction=0))).flip(0).tolist()
    )
    tbptt = _chunked(model, chunks, loss, [])
    dni = _chunked(model, chunks, loss, applied)
    cosines = [torch.cosine_similarity(part, full, dim=0).item() for part in (tbptt, dni)]
    ratios = [(part.norm() / full.norm()).item() for part in (tbptt, dni)]
    effective = len(chunks[0][0]) + (reached[-1].steps if reached else 0)
    return Horizon(boundaries, lags, effective, spectrum, *cosines, *ratios)


def _by_lag(
    losses: list[Tensor], ends: list[State], applied: list[Tensor], chunk_len: int
) -> list[Lag]:
    """Fit the shares of the credit by distance in chunks, over all boundaries."""
    count = len(applied)
    by_lag: list[list[Tensor]] = [[] for _ in applied]  # of each boundary, the nearest lag first
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
    for applied_BS, true in zip(applied, by_lag, strict=True):
        lags_KN = torch.stack(true).double()
        here = slice(0, len(true))
        inner[here, here] += (lags_KN @ lags_KN.T).cpu()
        carried[here] += (lags_KN @ applied_BS.flatten().double()).cpu()
    shares = (torch.linalg.pinv(inner, rtol=1e-6, hermitian=True) @ carried).tolist()
    energy = inner.diagonal()
    portions = (energy / energy.sum().clamp_min(1e-300)).tolist()
    steps = range(chunk_len, chunk_len * (count + 1), chunk_len)
    return [Lag(*lag) for lag in zip(steps, portions, shares, strict=True)]


def _chunked(
    model: Model,
    chunks: Sequence[Chunk],
    loss: Callable[[Tensor, Tensor], Tensor],
    applied: Sequence[Tensor],
) -> Tensor:
    """The weight gradient summed over the chunks: of DNI, or, with nothing applied, of TBPTT."""
    weights = list(model.parameters())
    state = model.initial_state(chunks[0][0].shape[1])
    total = torch.zeros(sum(weight.numel() for weight in weights), device=weights[0].device)
    for k, chunk in enumerate(chunks):
        loss_sum, end, _ = run_chunk(model, chunk, cut(state), loss)
        outputs, given = [loss_sum], [torch.ones_like(loss_sum)]
        if k < len(applied):
            states, grads = with_grads(end, applied[k])
            outputs, given = outputs + states, given + grads
        total += _flat(torch.autograd.grad(outputs, weights, given, allow_unused=True), weights)
        state = detach(end)
    return total


def _applied(
    model: Model,
    boundary: Boundary,
    chunks: Sequence[Chunk],
    end: State,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps_known: int,
    condition_BK: Tensor | None,
) -> Tensor:
    """The gradient that training would apply at the end of the first of these chunks."""
    end, continues_B = detach(end), _continues(chunks[0])
    if not steps_known:
        return boundary.applied(boundary.predict(end, condition_BK), continues_B)
    ahead = steps_ahead(chunks[1:], steps_known)
    return ahead_grad(boundary, model, ahead, end, continues_B, loss, goes_on_B=_continues(ahead))


def _continues(chunk: Chunk) -> Tensor | None:
    mask = rows_of(chunk[3]).continues
    return None if mask is None else mask.to(chunk[0].device)


def _flat(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    return torch.cat([grad.flatten() for grad in or_zeros(grads, like)])


def _agreement(step: int, applied_BS: Tensor, true_BS: Tensor) -> Agreement:
    applied, true = applied_BS.double().flatten(), true_BS.double().flatten()
    energy = true.square().sum().clamp_min(1e-300)
    return Agreement(
        step,
        torch.cosine_similarity(applied, true, dim=0, eps=1e-150).item(),
        (applied.norm() / energy.sqrt()).item(),
        (1 - (applied - true).square().sum() / energy).item(),
    )
