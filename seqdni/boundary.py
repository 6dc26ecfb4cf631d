r"""A place where the graph is cut: the end of a chunk, or a message between levels of a hierarchy.

Shapes: B rows, S features of a packed state, K features of a condition.

What runs before a boundary with state :math:`s` adds :math:`\langle \hat g, s \rangle` to its
objective, where :math:`\hat g = scale \cdot M(s)` is a constant. Its backward pass then begins with
:math:`\hat g` at :math:`s`. What runs after the boundary starts from a copy of :math:`s` without a
graph. The gradient of this copy becomes the target of the synthesizer M.

Source: Jaderberg et al., arXiv 1608.05343, section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqdni.guard import TargetGuard
from seqdni.parallel import DataParallel
from seqdni.state import State, leaves, pack, target_grad, unpack
from seqdni.synthesizers.base import Synthesizer
from seqdni.synthesizers.gradient_scale import GradientScale


def bootstrap_term(state: State, synthetic_grad_BS: Float[Tensor, "B S"]) -> Float[Tensor, ""]:
    r"""The scalar whose gradient with respect to the state is the synthetic gradient.

    .. math:: \langle \mathrm{stop\_grad}(\hat g), s \rangle

    Args:
        state: the state at the chunk's end, with the chunk's graph.
        synthetic_grad_BS: its synthetic gradient, packed.

    Returns:
        A scalar to add to the objective before the one backward pass.

    Example:
        >>> state = torch.ones(1, 2, requires_grad=True)
        >>> bootstrap_term(state, torch.tensor([[3.0, 4.0]])).backward()
        >>> state.grad
        tensor([[3., 4.]])
    """
    return (pack(state) * synthetic_grad_BS.detach()).sum()


def with_grads(state: State, grad_BS: Float[Tensor, "B S"]) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of a state that have a graph, and the gradient of each.

    Args:
        state: the state at the chunk's end, with the chunk's graph.
        grad_BS: the gradient of the state, packed.

    Returns:
        Two lists of equal length, for ``torch.autograd.backward``.
    """
    pairs = zip(leaves(state), leaves(unpack(grad_BS, like=state)), strict=True)
    attached = [(leaf, grad) for leaf, grad in pairs if leaf.requires_grad]
    return [leaf for leaf, _ in attached], [grad for _, grad in attached]


def where_continues(
    grad_BS: Float[Tensor, "B S"], continues_B: Bool[Tensor, " B"] | None
) -> Float[Tensor, "B S"]:
    """Set a gradient to 0 in the rows whose episode ended.

    Args:
        grad_BS: packed.
        continues_B: rows whose episode goes on; None if all do.

    Returns:
        ``[B, S]``.
    """
    return grad_BS if continues_B is None else grad_BS.masked_fill(~continues_B[:, None], 0.0)


class Boundary(nn.Module):
    r"""A cut in the graph, with a synthesizer that predicts the gradient there.

    ``loss_scale`` below is the factor of the objective on the loss summed over a row's steps (1 / B
    for a batch mean of sums, 1 / (T * B) for a mean over all steps). The synthesizer works without
    this factor, in *per-example-sum units*: gradients of one row's summed loss, which do not depend
    on batch size and normalisation.

    A factor on the *whole* objective, bootstrap included, is found without being given, for example
    that of a gradient scaler or of gradient accumulation. :meth:`bootstrap` reads it in the
    backward pass, and :meth:`loss` divides the target by it.

    Args:
        synthesizer: predicts the gradient from the packed state: :class:`seqdni.MLPSynthesizer`,
            :class:`seqdni.LeastSquares`, or any :class:`Synthesizer`. None predicts zero, for a
            trainer that only looks ahead.
        grad_scale: factor on the synthetic gradient where it is applied. On an endless stream a
            factor below 1 keeps bootstrapped targets from growing.
        bound: largest root mean square of a row's synthetic gradient where it is applied, as a
            multiple of that of the targets (see :mod:`seqdni.synthesizers.gradient_scale`). None
            sets no limit.
        control: for experiments, changes predictions before they are applied; see
            :mod:`seqdni.synthesizers.controls`.

    Raises:
        ValueError: ``grad_scale`` is negative or infinite, or ``bound`` is not positive.

    Example:
        >>> from seqdni import MLPSynthesizer, cut
        >>> boundary = Boundary(MLPSynthesizer(state_size=4))
        >>> start = cut(torch.randn(1, 3, 4))
        >>> end = torch.tanh(start)
        >>> (end.sum() + boundary.bootstrap(end)).backward()
        >>> boundary.loss(start).backward()
    """

    def __init__(
        self,
        synthesizer: Synthesizer | None,
        grad_scale: float = 1.0,
        bound: float | None = None,
        control: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        if not 0 <= grad_scale < math.inf:
            raise ValueError(f"grad_scale is {grad_scale}, expected a finite number >= 0")
        if bound is not None and not 0 < bound < math.inf:
            raise ValueError(
                f"bound is {bound}, expected a finite number > 0, or None for no bound"
            )
        self.synthesizer = synthesizer
        self.grad_scale = grad_scale
        self.bound = bound
        self.control = control
        self.gradient_scale = GradientScale()
        self.guard = TargetGuard()
        self.objective_scale: Tensor | None = None  # on the objective of the last backward pass

    @property
    def aux(self) -> bool:
        """Whether the synthesizer has an Aux head, whose target is the next synthetic gradient."""
        return getattr(self.synthesizer, "aux_head", None) is not None

    @torch.no_grad()
    def predict(
        self, state: State, condition_BK: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B S"]:
        """The synthesizer's prediction :math:`M(s)`, which is also the target of an Aux head.

        Args:
            state: the state at the chunk's end.
            condition_BK: the condition at that boundary.

        Returns:
            A tensor without a graph, in per-example-sum units.
        """
        packed_BS = pack(state)
        if self.synthesizer is None:
            return torch.zeros_like(packed_BS)
        return self.synthesizer(packed_BS, condition_BK)

    def applied(
        self,
        predicted_BS: Float[Tensor, "B S"],
        continues_B: Bool[Tensor, " B"] | None = None,
        parallel: DataParallel | None = None,
    ) -> Float[Tensor, "B S"]:
        """The gradient that the model gets from a prediction: :meth:`limited` and :meth:`masked`.

        Args:
            predicted_BS: from :meth:`predict`.
            continues_B: rows whose episode goes on after the chunk; None if all do.
            parallel: as in :meth:`masked`.

        Returns:
            A tensor without a graph, in per-example-sum units.
        """
        return self.masked(self.limited(predicted_BS), continues_B, parallel)

    def limited(self, predicted_BS: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """Limit a prediction to the bound, and multiply it by ``grad_scale``.

        Args:
            predicted_BS: from :meth:`predict`.

        Returns:
            A tensor without a graph, in per-example-sum units.
        """
        grad_BS = predicted_BS.detach()
        if self.bound is not None:
            grad_BS = self.gradient_scale.bounded(grad_BS, self.bound)
        return grad_BS if self.grad_scale == 1 else grad_BS * self.grad_scale

    def masked(
        self,
        grad_BS: Float[Tensor, "B S"],
        continues_B: Bool[Tensor, " B"] | None = None,
        parallel: DataParallel | None = None,
        rows: int | None = None,
    ) -> Float[Tensor, "B S"]:
        """Apply the control to a gradient, and set it to 0 where the episode ended.

        Args:
            grad_BS: the gradient of what follows, known or predicted.
            continues_B: rows whose episode goes on after the chunk; None if all do.
            parallel: processes whose rows the control is applied to together.
            rows: of the batch, where there are several gradients for each, as for messages.

        Returns:
            A tensor without a graph, in per-example-sum units.
        """
        grad_BS, control = grad_BS.detach(), self.control
        if control is not None and parallel is not None:
            grad_BS = parallel.on_all_rows(control, grad_BS, rows)
        elif control is not None:
            grad_BS = control(grad_BS)
        return where_continues(grad_BS, continues_B)

    def synthetic_grad(
        self,
        state: State,
        continues_B: Bool[Tensor, " B"] | None = None,
        condition_BK: Float[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B S"]:
        r"""The gradient for a chunk's end: :math:`scale \cdot M(s)`, 0 where the episode ended.

        Args:
            state: the state at the chunk's end.
            continues_B: rows whose episode goes on after the chunk; None if all do.
            condition_BK: the condition at that boundary.

        Returns:
            A tensor without a graph, in per-example-sum units.
        """
        return self.applied(self.predict(state, condition_BK), continues_B)

    def bootstrap(
        self,
        state: State,
        continues_B: Bool[Tensor, " B"] | None = None,
        *,
        loss_scale: float = 1.0,
        condition_BK: Float[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, ""]:
        """The term to add to the chunk's objective.

        Args:
            state: the state at the chunk's end, with the chunk's graph.
            continues_B: rows whose episode goes on after the chunk; None if all do.
            loss_scale: the objective's factor on the per-example-sum loss.
            condition_BK: the condition at that boundary.

        Returns:
            A scalar in the objective's units.
        """
        grad_BS = self.synthetic_grad(state, continues_B, condition_BK)
        term = bootstrap_term(state, grad_BS) * loss_scale
        if term.requires_grad:
            term.register_hook(self._note_objective_scale)
        return term

    def _note_objective_scale(self, grad: Tensor) -> None:
        self.objective_scale = grad.detach()

    def loss(
        self,
        start: State | None,
        valid_B: Bool[Tensor, " B"] | None = None,
        *,
        loss_scale: float = 1.0,
        condition_BK: Float[Tensor, "B K"] | None = None,
        next_predicted_BS: Float[Tensor, "B S"] | None = None,
        next_valid_B: Bool[Tensor, " B"] | None = None,
        final_B: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, ""]:
        """The synthesizer's regression loss, after the chunk's backward pass.

        Args:
            start: the cut state that the chunk started from (see :func:`seqdni.cut`). With None,
                for the first chunk of a stream, the loss is 0.
            valid_B: rows that continued an episode here; a row that restarted has no target.
            loss_scale: the objective's factor on the per-example-sum loss.
            condition_BK: the condition at the chunk's start.
            next_predicted_BS: the Aux head's target, :meth:`predict` at the chunk's end.
            next_valid_B: rows whose episode spans the chunk and goes on; None if all do.
            final_B: rows whose episode ended within the chunk, so that their target contains no
                bootstrap; None if there is none.

        Returns:
            A scalar whose backward pass reaches only the synthesizer.

        Raises:
            ValueError: there is no synthesizer, or ``start`` was not cut, or no backward pass has
                reached it yet.
        """
        self._check_has_synthesizer()
        if start is None:
            return torch.zeros((), requires_grad=True)
        grad_BS = target_grad(start)
        if all(leaf.grad is None for leaf in leaves(start)):
            raise ValueError(
                "no gradient has arrived at this state yet; run the backward pass of the chunk "
                "that started from it first: (loss + boundary.bootstrap(end)).backward()"
            )
        if self.objective_scale is not None:
            grad_BS = grad_BS.to(self.objective_scale.dtype) / self.objective_scale
        return self.regression(
            pack(start).detach(),
            grad_BS,
            valid_B,
            final_B,
            loss_scale=loss_scale,
            condition_BK=condition_BK,
            next_predicted_BS=next_predicted_BS,
            next_valid_B=next_valid_B,
        )

    def regression(
        self,
        state_BS: Float[Tensor, "B S"],
        grad_BS: Float[Tensor, "B S"],
        valid_B: Bool[Tensor, " B"] | None = None,
        final_B: Bool[Tensor, " B"] | None = None,
        *,
        loss_scale: float = 1.0,
        condition_BK: Float[Tensor, "B K"] | None = None,
        next_predicted_BS: Float[Tensor, "B S"] | None = None,
        next_valid_B: Bool[Tensor, " B"] | None = None,
        run_backward: bool = False,
    ) -> Float[Tensor, ""]:
        """The regression loss of :meth:`loss`, for any pairs of a state and its gradient.

        Args:
            state_BS: packed states without a graph. Here B is the number of pairs, from one step or
                from many.
            grad_BS: the gradients, in the objective's units.
            valid_B: pairs that are learned from; None: all.
            final_B: pairs whose gradient contains no bootstrap; None: no pair.
            loss_scale: as in :meth:`loss`.
            condition_BK: as in :meth:`loss`.
            next_predicted_BS: as in :meth:`loss`.
            next_valid_B: as in :meth:`loss`.
            run_backward: also run the backward pass of the loss, in the fastest way that the
                synthesizer has.

        Returns:
            A scalar whose backward pass reaches only the synthesizer. If it was run already, the
            scalar has no graph.

        Raises:
            ValueError: there is no synthesizer.
        """
        synthesizer = self.synthesizer
        self._check_has_synthesizer()
        assert synthesizer is not None
        state_BS, target_BS, valid_B = self._checked_pairs(
            state_BS, grad_BS / loss_scale, valid_B, final_B
        )
        loss = synthesizer.loss
        if run_backward:
            loss = getattr(synthesizer, "loss_after_backward", loss)
        value = loss(
            state_BS,
            target_BS,
            valid_B=valid_B,
            condition_BK=condition_BK,
            next_predicted_BS=next_predicted_BS,
            next_valid_B=next_valid_B,
        )
        if run_backward and value.requires_grad:
            value.backward()
        return value.detach() if run_backward else value

    @torch.no_grad()
    def _checked_pairs(
        self, state_BS: Tensor, target_BS: Tensor, valid_B: Tensor | None, final_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """States, targets and valid pairs as the synthesizer gets them; the level is updated."""
        if not self.training:
            return state_BS, target_BS, valid_B
        state_BS, target_BS, valid_B = self.guard.checked(state_BS, target_BS, valid_B)
        if self.bound is not None:
            self.gradient_scale.update(target_BS, valid_B, final_B)
        return state_BS, target_BS, valid_B

    def capture_key(self, learns: bool, final: bool) -> Hashable | None:
        """What a chunk's computation depends on here, besides tensors; None: it cannot be captured.

        Args:
            learns: whether the synthesizer learns from the chunk.
            final: whether some rows ended their episode in it, so that ``final_B`` is given.
        """
        settings = (self.grad_scale, self.bound, self.control, self.training)
        if self.synthesizer is None:
            return settings
        own_key = getattr(self.synthesizer, "capture_key", None)
        if own_key is None:
            return None
        if not learns:
            return settings
        limited = self.bound is not None and self.training
        keys = (
            own_key(),
            self.gradient_scale.capture_key(final) if limited else False,
        )
        return None if None in keys else (*settings, *keys)

    def count_step(self, final: bool) -> None:
        """Count a step of the synthesizer's learning that a captured graph has made.

        Args:
            final: as for :meth:`capture_key`.
        """
        assert self.synthesizer is not None
        getattr(self.synthesizer, "count_step")()  # noqa: B009 - only some have it
        if self.bound is not None and self.training:
            self.gradient_scale.count_step(final)

    def _check_has_synthesizer(self) -> None:
        if self.synthesizer is None:
            raise ValueError("this boundary has no synthesizer to teach")
