"""The readers' networks, small enough to read a hundred pictures in a second on one core."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.world.attributes import KINDS
from bench.world.scenes import SCENES

OFFSET = 32.0
"""Pixels per unit of the way to a figure's centre."""
EMBEDDING = 64
"""Length of an identity's vector."""
CROP = (64, 48)
"""Height and width to which a figure's box is resized."""


def _block(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class FigureNet(nn.Module):
    """A U-Net on a quarter of the resolution, whose maps have half of it.

    From pictures ``[B, 3, H, W]`` in -1..1, H and W multiples of 16, it makes:

    - maps ``[B, 8, H / 2, W / 2]``, of every other pixel: logits of background and each class; the way to the figure's
      centre, right and down, in units of :data:`OFFSET` pixels; log2 of the share of the picture that the whole figure
      would cover,
    - logits of the scene ``[B, 4]``.
    """

    def __init__(self, channels: tuple[int, int, int] = (32, 64, 96)) -> None:
        super().__init__()
        high, middle, low = channels
        self.high = nn.Sequential(nn.PixelUnshuffle(4), _block(48, high))
        self.middle = nn.Sequential(_block(high, middle, 2), _block(middle, middle))
        self.low = nn.Sequential(_block(middle, low, 2), _block(low, low), _block(low, low))
        self.scene = nn.Linear(low, len(SCENES))
        self.up_middle = nn.Sequential(nn.Conv2d(low + middle, middle, 1), _block(middle, middle))
        self.up_high = nn.Sequential(nn.Conv2d(middle + high, high, 1), _block(high, high))
        self.maps = nn.Sequential(nn.Conv2d(high, 4 * (len(KINDS) + 4), 1), nn.PixelShuffle(2))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        high = self.high(pictures)
        middle = self.middle(high)
        low = self.low(middle)
        scene = self.scene(low.mean(dim=(2, 3)))
        middle = self.up_middle(torch.cat([F.interpolate(low, scale_factor=2), middle], dim=1))
        return self.maps(self.up_high(torch.cat([F.interpolate(middle, scale_factor=2), high], dim=1))), scene


def crops(pictures: Tensor, masks: Tensor) -> Tensor:
    """The boxes of the masks, each stretched to :data:`CROP`.

    Args:
        pictures: ``[B, 3, H, W]`` in -1..1.
        masks: bool ``[B, H, W]``.

    Returns:
        ``[B, 4, *CROP]``: the picture, grey outside the mask, and the mask as -1 and 1.

    Raises:
        ValueError: a mask is empty.
    """
    if not masks.flatten(1).any(dim=1).all():
        raise ValueError("masks: each must hold at least one pixel")
    thetas = torch.zeros(len(masks), 2, 3)
    for row, (axis, size) in enumerate(((1, masks.shape[2]), (2, masks.shape[1]))):
        used = masks.any(dim=axis).to(torch.uint8)
        start, stop = used.argmax(dim=1), size - used.flip(1).argmax(dim=1)
        thetas[:, row, row] = (stop - start) / size
        thetas[:, row, 2] = (stop + start) / size - 1
    inside = masks[:, None].to(pictures)
    layers = torch.cat([pictures * inside, 2 * inside - 1], dim=1)
    grid = F.affine_grid(thetas, [len(masks), 4, *CROP], align_corners=False)
    return F.grid_sample(layers, grid, padding_mode="border", align_corners=False)


class IdentityNet(nn.Module):
    """Crops ``[B, 4, *CROP]`` to vectors ``[B, EMBEDDING]`` of unit length.

    What is where in the crop matters, so the vector is made of all places and not of their mean.
    """

    def __init__(self, channels: tuple[int, ...] = (64, 96, 96)) -> None:
        super().__init__()
        places = CROP[0] // 16 * (CROP[1] // 16)
        self.features = nn.Sequential(
            nn.PixelUnshuffle(4), _block(64, channels[0]),
            *(_block(*pair, stride=2) for pair in pairwise(channels)))
        # the last norm centres the vectors: without, all of them lie in one narrow cone
        self.embedding = nn.Sequential(
            nn.Flatten(), nn.Linear(places * channels[-1], EMBEDDING, bias=False), nn.BatchNorm1d(EMBEDDING))

    def forward(self, figures: Tensor) -> Tensor:
        return F.normalize(self.embedding(self.features(figures)), dim=1)
