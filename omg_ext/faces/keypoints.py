"""The picture of a face's key points, which InstantID's IdentityNet reads."""

from __future__ import annotations

import math

import numpy as np

from ..comprehension.boxes import Picture
from ..comprehension.masks import FloatArray

# eyes, nose, corners of the mouth
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
# each from a point, whose colour it has, to the nose
_LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))
_LIMB_WIDTH, _RADIUS = 4, 10
# of a limb's colour
_DIMMED = 0.6


def draw(points: FloatArray, size: tuple[int, int]) -> Picture:
    """Key points as InstantID's ``draw_kps`` draws them, to the pixel: uint8 RGB ``[H, W, 3]``, on black.

    Args:
        points: float32 ``[5, 2]`` in pixels, see :class:`.Face`. What lies outside is cut off.
        size: height and width in pixels.
    """
    import cv2  # insightface brings it

    picture = np.zeros((*size, 3), np.uint8)
    for limb in _LIMBS:
        x, y = points[list(limb)].T
        length = ((x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2) ** 0.5
        angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
        outline = cv2.ellipse2Poly((int(np.mean(x)), int(np.mean(y))), (int(length / 2), _LIMB_WIDTH), int(angle),
                                   0, 360, 1)
        cv2.fillConvexPoly(picture, np.asarray(outline), COLOURS[limb[0]])
    picture = (picture * _DIMMED).astype(np.uint8)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        cv2.circle(picture, (int(x), int(y)), _RADIUS, colour, -1)
    return picture
