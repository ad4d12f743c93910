"""Pictures as networks take them, and networks' masks as pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .boxes import Picture
from .masks import FloatArray

Colour = tuple[float, float, float]
IMAGENET: tuple[Colour, Colour] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of the colours, in 0..1, of the pictures that many networks have learnt from."""
EVEN: tuple[Colour, Colour] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""The same for networks that take colours in -1..1."""


def resized(picture: Picture, height: int, width: int, colours: tuple[Colour, Colour]) -> Tensor:
    """A picture ``[H, W, 3]`` at the size that a network takes, stretched if need be: float32 ``[1, 3, h, w]``.

    Args:
        colours: mean and deviation, to which the picture's are put.
    """
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    mean, deviation = (torch.tensor(each)[:, None, None] for each in colours)
    return ((torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255 - mean) / deviation)[None]


def soft_masks(logits: Tensor, height: int, width: int) -> FloatArray:
    """Masks ``[N, height, width]`` in 0..1 from a network's logits ``[N, h, w]`` over the whole picture."""
    if not len(logits):
        return np.zeros((0, height, width), np.float32)
    whole = F.interpolate(logits[None].float(), (height, width), mode="bilinear", align_corners=False)[0]
    return np.asarray(whole.sigmoid().cpu().numpy(), dtype=np.float32)
