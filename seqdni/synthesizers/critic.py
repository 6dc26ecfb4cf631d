r"""A synthesizer that predicts the answers to come; its gradient is the gradient of their loss.

Shapes: B rows, S features of a packed state, K of a condition, P positions, n answers, C classes
(1 for real answers).

With a label at the end this is deep supervision, or an auxiliary loss, of a readout that the model
itself does not use, seen as a synthetic gradient.

Source: Lee et al., Deeply-Supervised Nets, arXiv 1409.5185; Trinh et al., Learning Longer-term
Dependencies in RNNs with Auxiliary Losses, arXiv 1803.00144.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from seqdni.synthesizers.inputs import check_width, refuse_aux


class Critic(nn.Module):
    r"""Predicts the loss to come from the state and the answers, which training knows.

    .. math:: V(s, y) = \sum_{j=1}^{n} \ell(W_{p,j}\, s + b_{p,j},\; y_j), \qquad
              M(s) = \frac{\partial V}{\partial s}

    The loss :math:`\ell` is the cross-entropy of a class, or the squared error of a real value. The
    answers :math:`y` and the position :math:`p` of the boundary are given as the condition, which
    :meth:`condition` makes. Each position has a readout of its own. It is taught by the answers
    themselves, not by gradients, so that nothing has to be bootstrapped: how many boundaries lie
    before an answer does not matter.

    The mean of :math:`M(s)` over what the readout believes is zero: a state that says all it can
    about the answers gets a gradient that is zero on average, which a free regression on state and
    answer does not have.

    The readouts start at zero: training starts exactly as plain TBPTT. Use it with
    ``Boundary(critic, grad_scale=0.1)``: its gradient usually is longer than the true one.

    Args:
        state_size: S, the width of a packed state.
        classes: C, for answers that are ids from 0 to C - 1; None for real values.
        answers: n, the largest number of coming answers that it predicts at a boundary.
        positions: P, the number of boundaries in an episode; 1 for the same readout at all of them.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> critic = Critic(state_size=4, classes=3)
        >>> label = critic.condition(torch.tensor([[0, 2]]))
        >>> label
        tensor([[1., 0., 0.],
                [0., 0., 1.]])
        >>> critic(torch.randn(2, 4), label).abs().sum()
        tensor(0.)
    """

    def __init__(
        self, state_size: int, classes: int | None, *, answers: int = 1, positions: int = 1
    ):
        super().__init__()
        if state_size < 1 or answers < 1 or positions < 1:
            raise ValueError(
                "expected state_size >= 1, answers >= 1 and positions >= 1, got "
                f"{state_size}, {answers} and {positions}"
            )
        if classes is not None and classes < 2:
            raise ValueError(f"classes is {classes}, expected >= 2, or None for real answers")
        self.state_size = state_size
        self.classes = classes
        self.answers = answers
        self.positions = positions
        self.readout = nn.Linear(state_size, positions * answers * (classes or 1))
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    @property
    def condition_size(self) -> int:
        """K: n blocks of C numbers, or of two for a real value; then P if there are several."""
        return self.answers * (self.classes or 2) + self._position_size

    @property
    def _position_size(self) -> int:
        return self.positions if self.positions > 1 else 0

    def condition(
        self,
        answers_nB: Tensor,
        known_nB: Bool[Tensor, "n B"] | None = None,
        position: int = 0,
    ) -> Float[Tensor, "B K"]:
        """What the synthesizer sees besides a state: the answers to come, and where it is.

        Args:
            answers_nB: the coming answers, the next one first: ids, or real values. Those beyond
                the n of the constructor are left out.
            known_nB: which of them there are; None: all but ids below 0.
            position: of the boundary in its episode, from 0. One past the last counts as the last.

        Returns:
            The condition.

        Raises:
            ValueError: the answers do not have two axes, an id is none of the classes, or the
                position is negative.

        Example:
            >>> critic = Critic(state_size=4, classes=None, answers=2, positions=3)
            >>> critic.condition(torch.tensor([[0.5]]), position=1)
            tensor([[0.5000, 1.0000, 0.0000, 0.0000, 0.0000, 1.0000, 0.0000]])
        """
        if answers_nB.dim() != 2:
            raise ValueError(
                f"got answers of shape {list(answers_nB.shape)}, expected [n, B]; give one answer "
                "a row as answers[None]"
            )
        if position < 0:
            raise ValueError(f"position is {position}, expected >= 0")
        given_nB = answers_nB[: self.answers]
        rows = given_nB.shape[1]
        if known_nB is None:
            every_nB = torch.ones_like(given_nB, dtype=torch.bool)
            known_nB = every_nB if self.classes is None else given_nB >= 0
        known_nB1 = known_nB[: self.answers, :, None].float()
        if self.classes is None:
            blocks_nBC = torch.cat([given_nB[..., None].float() * known_nB1, known_nB1], dim=2)
        else:
            if given_nB.is_floating_point():
                raise ValueError(
                    f"got answers of type {given_nB.dtype}, expected ids; with classes=None the "
                    "answers are real values"
                )
            ids_nB = given_nB.masked_fill(known_nB1[..., 0] == 0, 0)
            if ids_nB.device.type == "cpu" and ids_nB.numel():
                least, most = ids_nB.min().item(), ids_nB.max().item()
                if least < 0 or most >= self.classes:
                    raise ValueError(
                        f"got an answer of {least if least < 0 else most}, expected ids from 0 to "
                        f"{self.classes - 1}"
                    )
            blocks_nBC = functional.one_hot(ids_nB, self.classes).float() * known_nB1
        told_BK = blocks_nBC.transpose(0, 1).flatten(1)
        condition_BK = told_BK.new_zeros(rows, self.condition_size)
        condition_BK[:, : told_BK.shape[1]] = told_BK
        if self._position_size:
            first = self.condition_size - self.positions
            condition_BK[:, first + min(position, self.positions - 1)] = 1.0
        return condition_BK

    def capture_key(self) -> Hashable:
        """Always the same: the loss depends on tensors alone (see ``CapturableSynthesizer``)."""
        return True

    def count_step(self) -> None:
        """Count nothing: the critic has no counters."""

    @torch.no_grad()
    def forward(
        self, state_BS: Float[Tensor, "B S"], condition_BK: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B S"]:
        """The synthetic gradient at a boundary.

        Args:
            state_BS: the packed state.
            condition_BK: from :meth:`condition`.

        Returns:
            The predicted gradient, per-example-sum units.
        """
        predicted_BnC, answer_BnC, known_Bn, position_BP = self._read(state_BS, condition_BK)
        if self.classes is None:
            error_BnC = 2 * (predicted_BnC - answer_BnC)
        else:
            error_BnC = predicted_BnC.softmax(-1) - answer_BnC
        error_BnC = error_BnC * known_Bn[..., None]
        if position_BP is not None:  # each row's error, at its own position, zero at the others
            error_BnC = position_BP[:, :, None, None] * error_BnC[:, None]
        return error_BnC.flatten(1) @ self.readout.weight

    def loss(
        self,
        state_BS: Float[Tensor, "B S"],
        target_BS: Float[Tensor, "B S"],
        *,
        valid_B: Bool[Tensor, " B"] | None = None,
        condition_BK: Float[Tensor, "B K"] | None = None,
        next_predicted_BS: Float[Tensor, "B S"] | None = None,
        next_valid_B: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, ""]:
        r"""The loss of the predicted answers, relative to a prediction of zero.

        .. math:: \sum_b V(s_b, y_b) \,/\, \sum_b V_0(y_b)

        Args:
            state_BS: packed state at the boundary.
            target_BS: gradient that arrived there; the critic does not use it.
            valid_B: rows that count; None counts all.
            condition_BK: from :meth:`condition`.
            next_predicted_BS: not for this synthesizer, which has no Aux head.
            next_valid_B: not for this synthesizer.

        Returns:
            A scalar whose backward pass reaches only the readouts.

        Raises:
            ValueError: an Aux target, or no condition.
        """
        refuse_aux(next_predicted_BS)
        predicted_BnC, answer_BnC, known_Bn, _ = self._read(state_BS.detach(), condition_BK)
        if valid_B is not None:
            known_Bn = known_Bn * valid_B[:, None]
        if self.classes is None:
            loss_Bn = (predicted_BnC - answer_BnC).square()[..., 0]
            zero_Bn = answer_BnC.square()[..., 0]
        else:
            loss_Bn = -(predicted_BnC.log_softmax(-1) * answer_BnC).sum(-1)
            zero_Bn = torch.full_like(loss_Bn, math.log(self.classes))
        loss_of_zero = (zero_Bn * known_Bn).sum()
        # Answers that are all zero: the error itself.
        loss_of_zero = torch.where(loss_of_zero > 0, loss_of_zero, known_Bn.sum().clamp_min(1))
        return (loss_Bn * known_Bn).sum() / loss_of_zero

    def _read(
        self, state_BS: Tensor, condition_BK: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Predicted answers and true ones ``[B, n, C]``, which are known, and the positions."""
        check_width(state_BS, self.state_size)
        if condition_BK is None or condition_BK.shape[1] != self.condition_size:
            got = "no condition" if condition_BK is None else f"{condition_BK.shape[1]} features"
            raise ValueError(
                f"got {got}, expected the {self.condition_size} features of "
                "critic.condition(answers, position=...)"
            )
        rows, width = len(state_BS), self.classes or 1
        state_BS = state_BS.to(self.readout.weight.dtype)  # with autocast the core may have another
        condition_BK = condition_BK.to(state_BS.dtype)
        output_BO = self.readout(state_BS)
        told_BK, position_BP = condition_BK, None
        if self._position_size:
            told_BK, position_BP = condition_BK.split(
                [self.condition_size - self.positions, self.positions], dim=1
            )
            output_BPO = output_BO.view(rows, self.positions, -1)
            output_BO = (output_BPO * position_BP[..., None]).sum(1)
        told_BnC = told_BK.view(rows, self.answers, -1)
        if self.classes is None:
            answer_BnC, known_Bn = told_BnC[..., :1], told_BnC[..., 1]
        else:
            answer_BnC, known_Bn = told_BnC, told_BnC.sum(-1)
        return output_BO.view(rows, self.answers, width), answer_BnC, known_Bn, position_BP
