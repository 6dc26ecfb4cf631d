r"""The paper's synthesizer: a network that predicts the gradient of all future loss from a state.

Shapes: B rows, S features of a packed state (see :func:`seqdni.pack`), K features of a condition, O
of a prediction.

Source: Jaderberg et al., Decoupled Neural Interfaces using Synthetic Gradients, arXiv 1608.05343.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from seqdni.synthesizers.by_hand import (
    activations,
    add_gradients,
    is_plain,
    mean_square,
    mean_square_grad,
)
from seqdni.synthesizers.inputs import check_width, with_condition
from seqdni.synthesizers.whitening import Whitening

_TINY = 1e-24  # least divisor, which keeps the division by a mean square of zero finite


class MLPSynthesizer(nn.Module):
    r"""A network from a packed state to the gradient of the future loss with respect to it.

    .. math:: M(s) = \sigma \, net(s), \qquad
              \sigma^2 = \text{running mean of } target^2

    The running scale :math:`\sigma` keeps the output of the network near 1 in any units of the
    loss, so that the regression is equally well conditioned. When the scale changes, the output
    layer is rescaled, so that the predictions stay the same. Weight and bias of the output layer
    start at zero, so that training starts exactly as plain TBPTT.

    With ``scaled=False`` the network's output is the prediction: :math:`M(s) = net(s)`. A step of
    Adam, which does not depend on the size of the gradients, then changes the predictions
    :math:`1 / \sigma` times as much. So the output layer follows targets that change quickly, while
    the hidden layers learn at the rate that suits them.

    Args:
        state_size: S, the width of a packed state.
        hidden_sizes: widths of the hidden layers. The paper has one layer as wide as the core;
            without any the synthesizer is linear.
        condition_size: K, the width of an optional condition (cDNI); 0 for none.
        aux: whether to also learn to predict the synthetic gradient at the *next* boundary from the
            same hidden layers (DNI+Aux). This second prediction is used only to train them.
        activation: of the hidden layers; with ``nn.Tanh`` an unusual state has a limited effect.
        whitening: coordinates in which the state is read; None: it is read as it is. When the
            coordinates change, the first layer is changed so that the predictions stay the same.
        output_size: the width of a prediction; None: S, that of a gradient of the state.
        scaled: whether the prediction is the network's output times the running scale; False: it is
            that output itself.
        batch_norm: whether each hidden layer is normalised over the batch before its activation,
            as in the paper's feed-forward nets. It needs two rows or more in training.
        scale_decay: decay of that running mean at each regression step, after the first
            1 / (1 - decay) steps.

    Raises:
        ValueError: ``aux`` was given without a hidden layer, or a size is below one.

    Example:
        >>> synthesizer = MLPSynthesizer(state_size=6, hidden_sizes=(8,))
        >>> synthesizer(torch.randn(4, 6)).abs().sum()
        tensor(0., grad_fn=<SumBackward0>)
    """

    def __init__(
        self,
        state_size: int,
        hidden_sizes: Sequence[int] = (256,),
        *,
        condition_size: int = 0,
        aux: bool = False,
        activation: type[nn.Module] = nn.ReLU,
        whitening: Whitening | None = None,
        scale_decay: float = 0.99,
        output_size: int | None = None,
        scaled: bool = True,
        batch_norm: bool = False,
    ):
        super().__init__()
        output_size = state_size if output_size is None else output_size
        if (
            min(state_size, output_size) < 1
            or condition_size < 0
            or min(hidden_sizes, default=1) < 1
        ):
            raise ValueError(
                "expected state_size >= 1, output_size >= 1, condition_size >= 0 and hidden widths "
                f">= 1, got {state_size}, {output_size}, {condition_size} and {list(hidden_sizes)}"
            )
        if aux and not hidden_sizes:
            raise ValueError(
                "aux=True shapes the synthesizer's hidden layers, and there are none; "
                "give hidden_sizes or leave aux out"
            )
        self.state_size = state_size
        self.output_size = output_size
        self.condition_size = condition_size
        self.whitening = whitening
        self.scale_decay = scale_decay
        self.scaled = scaled
        layers: list[nn.Module] = []
        width = state_size + condition_size
        for hidden in hidden_sizes:
            norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
            layers += [nn.Linear(width, hidden), *norm, activation()]
            width = hidden
        self.trunk = nn.Sequential(*layers)
        self.head = _zero_linear(width, output_size)
        self.aux_head = _zero_linear(width, output_size) if aux else None
        self.targets_seen = 0
        self.mean_square: Tensor
        self.register_buffer("mean_square", torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        """The running root mean square of the targets; 0 before the first."""
        return self.mean_square.sqrt()

    def get_extra_state(self) -> dict[str, int | bool]:
        """The number of regression steps so far, and what an output means, for the state_dict."""
        return {"targets_seen": self.targets_seen, "scaled": self.scaled}

    def set_extra_state(self, state: dict[str, int | bool]) -> None:
        """Restore what :meth:`get_extra_state` returned; ValueError if an output meant more."""
        if (saved := state.get("scaled", True)) != self.scaled:
            raise ValueError(
                f"the saved synthesizer has scaled={saved}, this one scaled={self.scaled}, so that "
                f"its predictions would have another size; build it with scaled={saved}"
            )
        self.targets_seen = state["targets_seen"]

    def capture_key(self) -> Hashable | None:
        """What the next step of learning depends on (see ``CapturableSynthesizer``).

        Returns:
            None as long as the rate of the running scale still changes, and where the whitening
            changes its coordinates, which waits for the device.
        """
        if not self.training:
            return False
        settled = 1 - self.scale_decay >= 1 / (self.targets_seen + 1)
        return True if settled and (self.whitening is None or self.whitening.can_capture) else None

    def count_step(self) -> None:
        """Count a step of learning that a captured graph has made."""
        if self.training:
            self.targets_seen += 1
            if self.whitening is not None:
                self.whitening.updates += 1

    def forward(
        self, state_BS: Float[Tensor, "B S"], condition_BK: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B O"]:
        """Predict the synthetic gradient at a boundary.

        Args:
            state_BS: the packed state; no gradient flows back into it if it was detached.
            condition_BK: the condition, if ``condition_size`` is not 0.

        Returns:
            The predicted gradient, per-example-sum units.
        """
        x, head = self._inputs(state_BS, condition_BK), self.head
        if torch.is_grad_enabled() or not is_plain(self.trunk, [head]):
            predicted_BS = head(self.trunk(x))
        else:
            features = activations(self.trunk, x)[-1]
            predicted_BS = functional.linear(features, head.weight, head.bias)
        return predicted_BS * self.scale if self.scaled else predicted_BS

    def _inputs(self, state_BS: Tensor, condition_BK: Tensor | None) -> Tensor:
        """What the first layer reads.

        Args:
            state_BS: the packed state.
            condition_BK: the condition, ``[B, K]``, or None.

        Returns:
            ``[B, S + K]``.

        Raises:
            ValueError: the state or the condition has another width than the synthesizer was built
                with, or one of the condition and ``condition_size`` is missing.
        """
        check_width(state_BS, self.state_size)
        state_BS = state_BS.to(self.head.weight.dtype)
        state_BS = state_BS if self.whitening is None else self.whitening(state_BS)
        x = with_condition(state_BS, condition_BK, self.condition_size)
        return x.to(self.head.weight.dtype)

    def loss(
        self,
        state_BS: Float[Tensor, "B S"],
        target_BS: Float[Tensor, "B O"],
        *,
        valid_B: Bool[Tensor, " B"] | None = None,
        condition_BK: Float[Tensor, "B K"] | None = None,
        next_predicted_BS: Float[Tensor, "B O"] | None = None,
        next_valid_B: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, ""]:
        r"""The regression loss; in training mode, also one step of the running scale.

        .. math:: \frac{1}{|valid|\,O} \sum_{b \in valid} \| M(s_b) - target_b \|^2 / \sigma^2

        A loss of about 1 is as good as predicting zero. With ``next_predicted_BS`` the same error
        of the Aux head is added. In training mode a scaled output layer is rescaled in place, so
        that the backward pass of a loss must run before the next loss is computed.

        Args:
            state_BS: packed state at the boundary, without a graph.
            target_BS: gradient that arrived there, without a graph, per-example-sum units.
            valid_B: rows to use; None: all.
            condition_BK: the condition at that boundary.
            next_predicted_BS: the target of the Aux head, without a graph: the prediction of this
                synthesizer at the next boundary.
            next_valid_B: rows that have such a target; None: all.

        Returns:
            A scalar; its backward pass reaches only the synthesizer.

        Raises:
            ValueError: ``next_predicted_BS`` was given, and the synthesizer has no Aux head.
        """
        x, target_BS = self._pairs(state_BS, target_BS, valid_B, condition_BK)
        features = self.trunk(x)
        loss = mean_square(self._relative(self.head(features) - target_BS), valid_B)
        if next_predicted_BS is not None:
            missed_BS = self._existing_aux_head(features) - self._as_output(next_predicted_BS)
            loss = loss + mean_square(self._relative(missed_BS), next_valid_B)
        return loss

    def loss_after_backward(
        self,
        state_BS: Float[Tensor, "B S"],
        target_BS: Float[Tensor, "B O"],
        *,
        valid_B: Bool[Tensor, " B"] | None = None,
        condition_BK: Float[Tensor, "B K"] | None = None,
        next_predicted_BS: Float[Tensor, "B O"] | None = None,
        next_valid_B: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of :meth:`loss`, after its backward pass; the usual layers need no autograd.

        Args:
            state_BS: as for :meth:`loss`.
            target_BS: likewise.
            valid_B: likewise.
            condition_BK: likewise.
            next_predicted_BS: likewise.
            next_valid_B: likewise.

        Returns:
            A scalar without a graph. The gradients were added to ``.grad`` of the parameters.

        Raises:
            ValueError: as for :meth:`loss`.
        """
        heads = [self.head]
        if next_predicted_BS is not None:
            heads.append(self._existing_aux_head)
        computes_loss = type(self).loss is MLPSynthesizer.loss  # a subclass may have its own
        in_autocast = torch.is_autocast_enabled(state_BS.device.type)
        if not (computes_loss and is_plain(self.trunk, heads)) or in_autocast:
            loss = self.loss(
                state_BS,
                target_BS,
                valid_B=valid_B,
                condition_BK=condition_BK,
                next_predicted_BS=next_predicted_BS,
                next_valid_B=next_valid_B,
            )
            if loss.requires_grad:
                loss.backward()
            return loss.detach()
        with torch.no_grad():
            x, target_BS = self._pairs(state_BS, target_BS, valid_B, condition_BK)
            targets, masks = [target_BS], [valid_B]
            if next_predicted_BS is not None:
                targets.append(self._as_output(next_predicted_BS))
                masks.append(next_valid_B)
            activated = activations(self.trunk, x)
            errors = [
                self._relative(functional.linear(activated[-1], head.weight, head.bias) - target)
                for head, target in zip(heads, targets, strict=True)
            ]
            losses = [mean_square(*pair) for pair in zip(errors, masks, strict=True)]
            pairs = zip(errors, masks, strict=True)
            grads = [self._relative(mean_square_grad(*pair)) for pair in pairs]
            add_gradients(self.trunk, heads, activated, grads)
            return losses[0] if len(losses) == 1 else losses[0] + losses[1]

    @property
    def _existing_aux_head(self) -> nn.Linear:
        if self.aux_head is None:
            raise ValueError("this synthesizer has no Aux head; build it with aux=True")
        return self.aux_head

    @torch.no_grad()
    def _pairs(
        self,
        state_BS: Tensor,
        target_BS: Tensor,
        valid_B: Tensor | None,
        condition_BK: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The input and the target of the network; in training, after its running averages."""
        if self.training and self.whitening is not None:
            self._update_whitening(state_BS, valid_B)
        x = self._inputs(state_BS, condition_BK)
        target_BS = target_BS.to(x.dtype)
        if self.training:
            self._update_scale(target_BS, valid_B)
        return x, self._as_output(target_BS)

    def _as_output(self, target_BS: Tensor) -> Tensor:
        """A gradient as an output of the network."""
        return target_BS * self._inverse_scale() if self.scaled else target_BS

    def _relative(self, error_BS: Tensor) -> Tensor:
        """An error of the network's output, as a multiple of the scale."""
        return error_BS if self.scaled else error_BS * self._inverse_scale()

    def _inverse_scale(self) -> Tensor:
        return self.mean_square.clamp_min(_TINY).rsqrt_()

    @torch.no_grad()
    def _update_whitening(self, state_BS: Tensor, valid_B: Tensor | None) -> None:
        """Update the whitening, and change the first layer so that it computes the same."""
        assert self.whitening is not None
        first = self.trunk[0] if len(self.trunk) else self.head
        assert isinstance(first, nn.Linear)
        change = self.whitening.update(state_BS.to(first.weight.dtype), valid_B)
        if change is not None:
            turn, shift = change
            reads_state = first.weight[:, : len(shift)]
            first.bias.add_(reads_state @ shift)
            reads_state.copy_(reads_state @ turn)

    def _update_scale(self, target_BS: Tensor, valid_B: Tensor | None) -> None:
        """Update the running scale, and keep the predictions the same."""
        running, before = self.mean_square, self.mean_square.clone()
        self.targets_seen += 1
        rate: float | Tensor = max(1 - self.scale_decay, 1 / self.targets_seen)
        if valid_B is not None:
            rate = rate * valid_B.any().to(running.dtype)  # without a valid row it stays
        running.lerp_(mean_square(target_BS, valid_B), rate)
        if not self.scaled:
            return
        ratio = before.div_(running.clamp_min(_TINY)).sqrt_()
        for head in (self.head, self.aux_head):
            if head is not None:
                head.weight.mul_(ratio)
                head.bias.mul_(ratio)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
