r"""A synthetic input: what a stage of a net computes with before its true input is there.

Shapes: B rows, I features of the net's input, O features of a stage's input.

.. math:: \tilde h_k = a(I_k(x)), \qquad L_k = \| I_k(x) - h_k \|^2

Here x is the input of the net, :math:`h_k` the activation that really arrives at the stage, and a
an activation function. With synthetic inputs and synthetic gradients no stage waits for another one
(complete unlock).

Source: Jaderberg et al., arXiv 1608.05343, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seqdni.synthesizers.base import Synthesizer


def _as_it_is(x: Tensor) -> Tensor:
    return x


class SyntheticInput(nn.Module):
    """Predicts the input of a stage from the input of the net.

    Args:
        synthesizer: predicts the features of the stage's input from those of the net's input, for
            example ``MLPSynthesizer(784, (512,), output_size=256, batch_norm=True)``.
        shape: of the stage's input without the rows, for example ``(32, 7, 7)``; None: one axis.
        activation: of a prediction where a stage computes with it, not where the synthesizer is
            taught. With ``torch.relu`` a synthetic input has no negative numbers, as the true one
            after a ReLU has none.

    Raises:
        ValueError: the synthesizer reads a condition.

    Example:
        >>> from seqdni import MLPSynthesizer
        >>> synthetic = SyntheticInput(MLPSynthesizer(6, output_size=4), activation=torch.relu)
        >>> synthetic.predict(torch.randn(3, 2, 3)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        shape: Sequence[int] | None = None,
        activation: Callable[[Tensor], Tensor] = _as_it_is,
    ):
        super().__init__()
        if synthesizer.condition_size:
            raise ValueError(
                f"the synthesizer of an input has condition_size={synthesizer.condition_size}, "
                "expected 0: at test time there is no condition, so build it without one"
            )
        self.synthesizer = synthesizer
        self.shape = None if shape is None else tuple(shape)
        self.activation = activation

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """The synthetic input of the stage.

        Args:
            inputs: of the net, ``[B, ...]``.

        Returns:
            ``[B, O]``, or ``[B, *shape]``, without a graph.
        """
        predicted_BO = self.activation(self.synthesizer(inputs.flatten(1)))
        return predicted_BO if self.shape is None else predicted_BO.unflatten(1, self.shape)

    def loss(self, inputs: Tensor, arrived: Tensor) -> Tensor:
        """How far the prediction is from what really arrived.

        Args:
            inputs: of the net, ``[B, ...]``.
            arrived: the output of the stage before, ``[B, ...]``, without a graph.

        Returns:
            A scalar whose backward pass reaches only the synthesizer; 1 is as good as a prediction
            of zero.
        """
        return self.synthesizer.loss(inputs.flatten(1), arrived.flatten(1))
