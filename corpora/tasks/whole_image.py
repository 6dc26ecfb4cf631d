"""Whole images of digits for nets that read an image at once.

Shapes: P pixels of an image, B rows.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from seqdni.corpora.tasks.mnist import Images, draw
from seqdni.corpora.tasks.task import Episode


@dataclass(frozen=True)
class WholeImage:
    """Makes an episode of one step of an image, so that images can be streamed as sequences are.

    Example:
        >>> images = Images(torch.zeros(3, 64, dtype=torch.uint8), torch.tensor([7, 2, 1]))
        >>> episode = WholeImage().episode(images)
        >>> episode.inputs_LB.shape, episode.targets_LB
        (torch.Size([1, 3, 64]), tensor([[7, 2, 1]]))
    """

    def episode(self, images: Images) -> Episode:
        """An episode with a row for each image; pixels are from 0 to 1."""
        labels_1B = images.labels_n[None]
        mask_1B = torch.ones(labels_1B.shape, dtype=torch.bool)
        return Episode(images.pixels_nP[None].float() / 255, labels_1B, mask_1B)

    def render(self, pixels_P: Float32[Tensor, " P"], target: int, output: int) -> str:
        """The square image, two characters for a pixel, the digit and the answer."""
        verdict = "" if output == target else "  wrong"
        return "\n".join([*draw(pixels_P), f"target  {target}", f"output  {output}{verdict}"])
