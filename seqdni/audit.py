r"""Measures in training what synthetic gradients are worth, and scales them by it.

Shapes: B rows, S features of a packed state, P boundaries of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from seqdni.boundary import with_grads
from seqdni.chunk import Chunk, lockstep_end, rows_of, run_chunk
from seqdni.cores.base import Core
from seqdni.learner import Learner, check_count
from seqdni.state import State, cut, detach, leaves, or_zeros, pack, target_grad

POOLED = 0.1  # weight of all boundaries together in what is said of one of them


class _Kept(NamedTuple):
    """A chunk that was trained on, and the synthetic gradient at its end, not yet scaled."""

    start: State
    chunk: Chunk
    predicted_BS: Tensor


class Audit:
    r"""How much of a synthetic gradient is applied at each boundary of an episode, as measured.

    One in ``every`` episodes is run a second time when it ends: its chunks from the last to the
    first, each from the state that it started from. This gives the true gradient :math:`g_p` of all
    the loss to come at each boundary p, with the memory of one chunk's graph. It is compared with
    the synthetic gradient :math:`\hat g_p`: the mean over the rows, whose error adds up over the
    batch, and what is left of each row, apart. The model gets

    .. math:: w_p \hat g_p, \qquad
              w_p = \min\Big(1, \max\Big(0, \frac{\sum \langle \hat g_p, g_p \rangle}
                    {\sum \|\hat g_p\|^2}\Big)\Big),

    the multiple of :math:`\hat g_p` that is nearest to :math:`g_p`; the sums are over rows and
    audits. What says nothing of the true gradient is worth 0, and training is then truncated BPTT.
    All rows must play their episodes in step.

    Args:
        every: one in so many episodes is audited, which adds about 1 / ``every`` to the time.
        decay: factor on the sums of earlier audits, 0 < decay < 1.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> audit = Audit(every=20)
        >>> audit.worth()  # nothing has been measured
        tensor([[0., 0.]])
    """

    def __init__(self, every: int = 20, decay: float = 0.9):
        check_count("every", every, least=1)
        if not 0 < decay < 1:
            raise ValueError(f"decay is {decay}, expected 0 < decay < 1")
        self.every = every
        self.decay = decay
        self.episodes = 0  # that have ended
        self.position = 0  # chunks of the present one that have ended
        self.sums = torch.zeros(0, 2, 3)  # [P, mean and rest, <predicted, true> and both squares]
        self._kept: list[_Kept] = []

    def scaled(self, predicted_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """What the model gets at the end of the present chunk.

        Args:
            predicted_BS: the synthetic gradient, zero in rows whose episode ended.

        Returns:
            As much of it as it is worth.
        """
        shared, rest = self.worth()[self.position].to(predicted_BS.device)
        mean_1S = predicted_BS.mean(0, keepdim=True)
        return shared * mean_1S + rest * (predicted_BS - mean_1S)

    def worth(self) -> Float[Tensor, "P 2"]:
        """The factor at each boundary, from 0 to 1: on the mean over the rows, and on the rest.

        A boundary that no audit has seen has the factor of all boundaries together.

        Returns:
            ``[P, 2]``, up to the present boundary at least.
        """
        product, square, true_square = self._pooled().unbind(-1)
        # A prediction of almost zero is worth nothing, whatever its direction.
        return (product / square.maximum(1e-12 * true_square).clamp_min(1e-30)).clamp(0.0, 1.0)

    def cosine(self) -> Float[Tensor, "P 2"]:
        """Cosine between synthetic and true gradients at each boundary: of the mean, of the rest.

        Returns:
            ``[P, 2]``; 0 where nothing has been measured.
        """
        product, square, true_square = self._pooled().unbind(-1)
        square = square.maximum(1e-12 * true_square)
        return product / (square * true_square).sqrt().clamp_min(1e-30)

    def _pooled(self) -> Tensor:
        unseen = self.sums.new_zeros(max(0, self.position + 1 - len(self.sums)), 2, 3)
        mean_23 = self.sums.sum(0) / max(len(self.sums), 1)
        return torch.cat([self.sums, unseen]) + POOLED * mean_23

    def after_chunk(
        self,
        model: Core,
        learner: Learner,
        start: State,
        chunk: Chunk,
        predicted_BS: Tensor | None,
    ) -> None:
        """Count a chunk, and keep it if its episode is audited; at the episode's end, compare.

        Args:
            model: that was trained.
            learner: its loss and autocast.
            start: the state that the chunk was started from.
            chunk: its steps.
            predicted_BS: the synthetic gradient at its end, not scaled; None: there was none.

        Raises:
            ValueError: rows do not end their episodes together.
        """
        ended = lockstep_end(rows_of(chunk.should_reset).ended)
        if self.episodes % self.every == 0:
            start = detach(start)
            none = predicted_BS is None
            self._kept.append(
                _Kept(start, chunk, torch.zeros_like(pack(start)) if none else predicted_BS)
            )
        self.position += 1
        if not ended:
            return
        if self._kept:
            self._compare(model, learner)
        self._kept, self.position = [], 0
        self.episodes += 1

    def _compare(self, model: Core, learner: Learner) -> None:
        """Run the kept chunks from the last to the first, and add what is found to the sums."""
        true_BS: Tensor | None = None  # at the end of the chunk that is looked at
        found: list[Tensor] = []
        for kept in reversed(self._kept):
            chunk = kept.chunk
            if true_BS is not None:
                found.append(_moments(kept.predicted_BS, true_BS))
                if len(found) == len(self._kept) - 1:
                    break
            start = cut(kept.start)
            loss_sum, end, _ = run_chunk(model, chunk, start, learner.loss, learner.autocast)
            roots, grads = ([], []) if true_BS is None else with_grads(end, true_BS)
            roots, grads = [loss_sum, *roots], [torch.ones_like(loss_sum), *grads]
            attached = [(r, g) for r, g in zip(roots, grads, strict=True) if r.requires_grad]
            inputs = leaves(start)
            arrived = torch.autograd.grad(
                [r for r, _ in attached], inputs, [g for _, g in attached], allow_unused=True
            )
            for leaf, grad in zip(inputs, or_zeros(arrived, inputs), strict=True):
                leaf.grad = grad
            true_BS = target_grad(start)
        if found:
            new = torch.stack(found[::-1])
            old = self.sums.to(new) * self.decay
            places = max(len(new), len(old))
            self.sums = new.new_zeros(places, 2, 3)
            self.sums[: len(old)] += old
            self.sums[: len(new)] += new

    def state_dict(self) -> dict[str, Any]:
        """What was found, and the chunks that are kept.

        Returns:
            Tensors and primitives.
        """
        kept = [[leaves(k.start), list(k.chunk), k.predicted_BS] for k in self._kept]
        return {
            "episodes": self.episodes,
            "position": self.position,
            "sums": self.sums,
            "kept": kept,
        }

    def load_state_dict(
        self, saved: Mapping[str, Any], restore: Callable[[list[Tensor]], State | None]
    ) -> None:
        """Continue as if never stopped.

        Args:
            saved: from :meth:`state_dict`.
            restore: makes a state of its leaves again.
        """
        self.episodes, self.position = saved["episodes"], saved["position"]
        self.sums = saved["sums"]
        self._kept = []
        for start, chunk, predicted_BS in saved["kept"]:
            state = restore(start)
            assert state is not None
            self._kept.append(_Kept(state, Chunk(*chunk), predicted_BS))


def _moments(predicted_BS: Tensor, true_BS: Tensor) -> Float[Tensor, "2 3"]:
    """Inner product and squares, of the means over the rows and of what is left."""
    means = predicted_BS.mean(0), true_BS.mean(0)
    rests = predicted_BS - means[0], true_BS - means[1]
    return torch.stack(
        [
            factor * torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()])
            for (a, b), factor in ((means, len(true_BS)), (rests, 1))
        ]
    ).float()
