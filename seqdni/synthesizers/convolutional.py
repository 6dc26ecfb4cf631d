r"""A synthesizer for feature maps, which keeps their resolution.

Shapes: B rows, C channels, H and W height and width of the maps, S = C H W, K of a condition.

Source: Jaderberg et al., arXiv 1608.05343, supplement (convolutional nets).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqdni.synthesizers.inputs import check_condition, check_width, refuse_aux
from seqdni.synthesizers.mlp import MLPSynthesizer


class ConvSynthesizer(nn.Module):
    r"""Convolutional layers from feature maps to the gradient of the loss with respect to them.

    Hidden layers are convolutions with batch norm and ReLU that keep height and width. At each
    position a linear map, the same for all positions, reads their output. It is an
    :class:`seqdni.MLPSynthesizer` without hidden layers, so it starts at zero and scales its
    targets. A condition is given to every position as K constant maps. Since a convolution does not
    know where it is, two further maps tell each position its row and its column, from -1 to 1.

    Args:
        shape: (C, H, W) of one row's maps. The synthesizer reads them flattened, ``[B, C H W]``.
        channels: of the hidden layers.
        condition_size: K, the width of an optional condition (cDNI); 0 for none.
        kernel_size: of the convolutions, odd.

    Raises:
        ValueError: a size is out of range.

    Example:
        >>> synthesizer = ConvSynthesizer((2, 4, 4), channels=(8,), condition_size=3)
        >>> synthesizer(torch.randn(5, 32), torch.eye(3)[[0, 1, 2, 0, 1]]).abs().sum()
        tensor(0., grad_fn=<SumBackward0>)
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (64,),
        *,
        condition_size: int = 0,
        kernel_size: int = 5,
    ):
        super().__init__()
        if len(shape) != 3 or min(*shape, *channels) < 1 or condition_size < 0:
            raise ValueError(
                f"got shape {tuple(shape)}, channels {tuple(channels)} and condition_size "
                f"{condition_size}, expected three sizes (C, H, W) >= 1, channels >= 1 and a "
                "condition_size >= 0"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}, expected an odd number >= 1")
        self.shape = tuple(shape)
        self.state_size = prod(shape)
        self.condition_size = condition_size
        _, height, width = self.shape
        layers: list[nn.Module] = []
        inputs = shape[0] + condition_size + 2
        for outputs in channels:
            convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.trunk = nn.Sequential(*layers)
        self.head = MLPSynthesizer(inputs, (), output_size=shape[0])
        rows_HW, columns_HW = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        self.position_2HW: Tensor
        self.register_buffer("position_2HW", torch.stack([rows_HW, columns_HW]), persistent=False)

    def forward(
        self, state_BS: Float[Tensor, "B S"], condition_BK: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B S"]:
        """Predict the synthetic gradient of the maps.

        Args:
            state_BS: the maps, flattened.
            condition_BK: the condition, if ``condition_size`` is not 0.

        Returns:
            The predicted gradient, flattened, per-example-sum units.
        """
        predicted_NC = self.head(self._features(state_BS, condition_BK))
        channels, height, width = self.shape
        predicted_BHWC = predicted_NC.view(-1, height, width, channels)
        return predicted_BHWC.movedim(-1, 1).flatten(1)

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
        """The regression loss of :meth:`seqdni.MLPSynthesizer.loss`, the mean over all positions.

        Args:
            state_BS: the maps, flattened, without a graph.
            target_BS: gradient that arrived there, per-example-sum units.
            valid_B: rows to use; None: all.
            condition_BK: the condition at that boundary.
            next_predicted_BS: must be None, because this synthesizer has no Aux head.
            next_valid_B: not used.

        Returns:
            A scalar; its backward pass reaches only the synthesizer.

        Raises:
            ValueError: ``next_predicted_BS`` was given.
        """
        refuse_aux(next_predicted_BS)
        channels, height, width = self.shape
        target_NC = target_BS.view(-1, channels, height * width).movedim(1, -1).flatten(0, 1)
        valid_N = None if valid_B is None else valid_B.repeat_interleave(height * width)
        return self.head.loss(self._features(state_BS, condition_BK), target_NC, valid_B=valid_N)

    def _features(self, state_BS: Tensor, condition_BK: Tensor | None) -> Tensor:
        """The output of the hidden layers, one row for each position: ``[B H W, F]``."""
        check_width(state_BS, self.state_size)
        check_condition(condition_BK, self.condition_size)
        dtype, size = self.head.head.weight.dtype, self.shape[1:]
        maps = [state_BS.unflatten(1, self.shape).to(dtype)]
        maps.append(self.position_2HW.to(dtype).expand(len(state_BS), -1, -1, -1))
        if condition_BK is not None:
            maps.append(condition_BK.to(dtype)[:, :, None, None].expand(-1, -1, *size))
        return self.trunk(torch.cat(maps, dim=1)).movedim(1, -1).flatten(0, 2)
