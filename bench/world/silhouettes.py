"""Silhouettes as a spatial condition: which figure is where, and nothing of what it looks like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bench.world.attributes import RGB
from bench.world.render import Picture

COLOURS: Mapping[str, RGB] = {"man": (230, 60, 60), "woman": (70, 200, 90), "dog": (80, 110, 240),
                              "robot": (235, 205, 60)}
"""By class, as the colours of a segmentation map tell what is where; the ground is black"""

Places = Iterable[tuple[str, npt.NDArray[np.bool_]]]
"""Classes and where their figures are to show, bool [H, W] each"""


def silhouettes(places: Places, size: int) -> npt.NDArray[np.uint8]:
    """The condition, uint8 [H, W, 3]: every figure in the colour of its class, without its outermost pixels.

    So two figures of one class that touch stay two.
    """
    condition = np.zeros((size, size, 3), np.uint8)
    for kind, mask in places:
        condition[ndimage.binary_erosion(mask)] = COLOURS[kind]
    return condition


def of_picture(picture: Picture) -> npt.NDArray[np.uint8]:
    """The silhouettes of a rendering."""
    return silhouettes(((figure.character.kind, figure.visible) for figure in picture.figures), len(picture.image))
