r"""Measures in training what synthetic gradients are worth, and scales them by it.

Shapes: B rows, S features of a packed state, P boundaries of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from seqdni.boundary import with_grads
from seqdni.chunk import Chunk, lockstep_end, rows_of, run_chunk
from seqdni.cores.stack import without_dropout
from seqdni.learner import Learner, check_count
from seqdni.parallel import DataParallel
from seqdni.parallel_checkpoint import OfRows, as_it_is
from seqdni.state import State, cut, detach, leaves, or_zeros, pack, target_grad

if TYPE_CHECKING:
    from seqdni.trainer_parts import Model

LONGEST = 10_000  # chunks of an episode


class _Kept(NamedTuple):
    """A chunk that was trained on, and the synthetic gradient at its end, not yet scaled."""

    start: State
    chunk: Chunk
    predicted_BS: Tensor


class Audit:
    r"""How much of a synthetic gradient is applied at each boundary of an episode, as measured.

    One in ``every`` episodes is run a second time when it ends: its chunks from the last to the
    first, each from the state that it started from. This gives the true gradient :math:`g_p` of all
    the loss to come at each boundary p, with the memory of one chunk's graph. What counts is the
    gradient of the weights :math:`\theta`: with the Jacobian :math:`J_p = \partial s_p / \partial
    \theta` of the chunk before the boundary, summed over the batch, the model gets

    .. math:: w_p \hat g_p, \qquad
              w_p = \min\Big(1, \max\Big(0,
                    \frac{\sum \langle J_p^T \hat g_p, J_p^T g_p \rangle}
                         {\sum \|J_p^T \hat g_p\|^2}\Big)\Big),

    the multiple of the synthetic gradient whose gradient of the weights is nearest to the true one;
    the outer sums are over audits. A boundary that no audit has seen has the factor of all those
    that were seen, together. An error that all rows share adds up over the batch, and weighs as
    much here as it does in training. What says nothing of the true gradient is worth 0, and
    training is then truncated BPTT. All rows must play their episodes in step.

    The second run has no dropout. Where the model is updated within an episode, its earlier chunks
    are run with later weights than in training, and the comparison is approximate.

    Args:
        every: one in so many episodes is audited, which adds about 2 / ``every`` to the time;
            before the first of them the episodes 1, 2, 4, 8 ... are audited.
        decay: factor on the sums of earlier audits, 0 < decay < 1.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> audit = Audit(every=40)
        >>> audit.worth()  # nothing has been measured
        tensor([0.])
    """

    def __init__(self, every: int = 40, decay: float = 0.9):
        check_count("every", every, least=1)
        if not 0 < decay < 1:
            raise ValueError(f"decay is {decay}, expected 0 < decay < 1")
        self.every = every
        self.decay = decay
        self.episodes = 0  # that have ended
        self.position = 0  # chunks of the present one that have ended
        self.sums = torch.zeros(0, 3, dtype=torch.float64)  # [P, <predicted, true>, both squares]
        self._kept: list[_Kept] = []

    def due(self) -> bool:
        """Whether the present episode is audited."""
        early = self.episodes < self.every and self.episodes & (self.episodes - 1) == 0
        return self.episodes > 0 and (early or self.episodes % self.every == 0)

    def scaled(self, predicted_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """What the model gets at the end of the present chunk.

        Args:
            predicted_BS: the synthetic gradient, zero in rows whose episode ended.

        Returns:
            As much of it as it is worth.
        """
        if self.sums.device != predicted_BS.device:
            self.sums = self.sums.to(predicted_BS.device)
        return self.worth()[self.position].to(predicted_BS.dtype) * predicted_BS

    def worth(self) -> Float[Tensor, " P"]:
        """The factor at each boundary, from 0 to 1.

        Returns:
            ``[P]``, up to the present boundary at least.
        """
        unseen = self.sums.sum(0).expand(max(0, self.position + 1 - len(self.sums)), 3)
        product, square, _ = torch.cat([self.sums, unseen]).unbind(-1)
        return (product / square.clamp_min(1e-200)).clamp(0.0, 1.0).float()

    def cosine(self) -> Float[Tensor, " P"]:
        """Cosine between the two gradients of the weights at each boundary.

        Returns:
            ``[P]`` of the boundaries that were measured; 0 where either gradient is zero.
        """
        product, square, true_square = self.sums.unbind(-1)
        return (product / (square.sqrt() * true_square.sqrt()).clamp_min(1e-200)).float()

    def after_chunk(
        self,
        model: Model,
        learner: Learner,
        start: State,
        chunk: Chunk,
        predicted_BS: Tensor | None,
        parallel: DataParallel | None = None,
    ) -> None:
        """Count a chunk, and keep it if its episode is audited; at the episode's end, compare.

        Args:
            model: that was trained.
            learner: its loss and autocast.
            start: the state that the chunk was started from.
            chunk: its steps.
            predicted_BS: the synthetic gradient at its end, not scaled; None: there was none.
            parallel: processes that train the same model on other rows of the same episodes.

        Raises:
            ValueError: rows do not end their episodes together.
        """
        ended = lockstep_end(rows_of(chunk.should_reset).ended)
        if chunk.should_reset is not None and bool(chunk.should_reset[0].all()):
            self._kept, self.position = [], 0  # also where the caller left an episode
        if self.position >= LONGEST:
            raise ValueError(
                f"{LONGEST} chunks without the end of an episode; an audit needs episodes, so give "
                "SyntheticGradients(audit=None)"
            )
        if self.due():
            start = detach(start)
            chunk = Chunk(*(None if x is None else x.clone() for x in chunk))  # type: ignore
            none = predicted_BS is None
            self._kept.append(
                _Kept(start, chunk, torch.zeros_like(pack(start)) if none else predicted_BS)
            )
        self.position += 1
        if not ended:
            return
        if self._kept:
            module: Any = model
            with without_dropout(module):
                self._compare(model, learner, parallel)
        self._kept, self.position = [], 0
        self.episodes += 1

    def _compare(self, model: Model, learner: Learner, parallel: DataParallel | None) -> None:
        """Run the kept chunks from the last to the first, and add what is found to the sums."""
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        true_BS: Tensor | None = None  # of all the loss after the chunk
        found: list[Tensor] = []
        for kept in reversed(self._kept):
            start = cut(kept.start)
            inputs = leaves(start)
            loss, end, _ = run_chunk(model, kept.chunk, start, learner.loss, learner.autocast)
            arrived = _grads([loss], [None], inputs)
            if true_BS is not None:
                true = _grads(*with_grads(end, true_BS), [*inputs, *weights])
                predicted = _grads(*with_grads(end, kept.predicted_BS), weights)
                found.append(_moments(predicted, true[len(inputs) :], parallel))
                arrived = [a + b for a, b in zip(arrived, true, strict=False)]
            for leaf, grad in zip(inputs, arrived, strict=True):
                leaf.grad = grad
            true_BS = target_grad(start)
            del loss, end  # one graph at a time
        if found:
            new = torch.stack(found[::-1])
            new = torch.where(new.isfinite().all(), new, torch.zeros_like(new))
            old = self.sums.to(new) * self.decay
            self.sums = new.new_zeros(max(len(new), len(old)), 3)
            self.sums[: len(old)] += old
            self.sums[: len(new)] += new

    def state_dict(self, whole: OfRows = as_it_is) -> dict[str, Any]:
        """What was found, and the chunks that are kept.

        Args:
            whole: makes a tensor of all rows from one with the rows of this process.

        Returns:
            Tensors and primitives.
        """
        kept = [
            [
                [whole(leaf, -2) for leaf in leaves(start)],
                _saved_chunk(chunk, whole),
                whole(predicted_BS, 0),
            ]
            for start, chunk, predicted_BS in self._kept
        ]
        return {
            "episodes": self.episodes,
            "position": self.position,
            "sums": self.sums,
            "kept": kept,
        }

    def load_state_dict(
        self,
        saved: Mapping[str, Any],
        restore: Callable[[list[Tensor]], State | None],
        own: OfRows = as_it_is,
    ) -> None:
        """Continue as if never stopped.

        Args:
            saved: from :meth:`state_dict`.
            restore: makes a state of the rows of this process again, of its leaves.
            own: takes the rows of this process out of a tensor of all rows.
        """
        self.episodes, self.position = saved["episodes"], saved["position"]
        self.sums = saved["sums"]
        self._kept = []
        for start, chunk, predicted_BS in saved["kept"]:
            state = restore(start)
            assert state is not None
            device = leaves(state)[0].device
            own_chunk = Chunk(*(own(part, 1) for part in chunk))
            self._kept.append(_Kept(state, own_chunk, own(predicted_BS, 0).to(device)))


def _saved_chunk(chunk: Chunk, whole: OfRows) -> list[Tensor | None]:
    inputs, targets, mask, should_reset = chunk
    # Where one process has no mask, which scores all steps, and another one has, None is zeros.
    left_out = whole(None if mask is None else ~mask, 1)
    mask = None if left_out is None else ~left_out
    return [whole(inputs, 1), whole(targets, 1), mask, whole(should_reset, 1)]


def _grads(
    roots: Sequence[Tensor], grads: Sequence[Tensor | None], inputs: Sequence[Tensor]
) -> list[Tensor]:
    """Gradients of the roots, 0 where there is no way from an input to any root."""
    attached = [(r, g) for r, g in zip(roots, grads, strict=True) if r.requires_grad]
    if not attached:
        return or_zeros([None] * len(inputs), inputs)
    found = torch.autograd.grad(
        [r for r, _ in attached],
        inputs,
        [g for _, g in attached],
        retain_graph=True,
        allow_unused=True,
    )
    return or_zeros(found, inputs)


def _moments(predicted: list[Tensor], true: list[Tensor], parallel: DataParallel | None) -> Tensor:
    """Inner product and squares of two gradients of the weights, of the rows of all processes."""
    a, b = (torch.cat([part.flatten() for part in parts]).double() for parts in (predicted, true))
    if parallel is not None:
        a, b = parallel.total(torch.stack([a, b]))
    return torch.stack([a @ b, a @ a, b @ b])
