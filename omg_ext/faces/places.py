"""Which face of the first picture is in which concept's place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..comprehension.masks import FloatArray
from .analysis import Face

LEAST_SHARE = 0.5
"""So much of a face has to be in a concept's place to be the concept's."""
LEAST_SIDE = 40.0
"""Of a face's box, in pixels: on smaller ones the key points, discs of 20 pixels, hide each other."""
NO_FACE = "no face was found in its place; it may be seen from behind, turned away, hidden or too small"


def in_masks(faces: Sequence[Face], masks: Sequence[FloatArray | None],
             least_side: float = LEAST_SIDE) -> list[Face | str]:
    """Each concept's face, or why it has none, in words for a note.

    A face is in a mask if half of it is (:func:`_share`), and is one concept's. Of several faces in a mask a larger one
    is preferred, and one that is wholly inside; of several masks around a face the one that holds more of it, or is
    smaller. The assignment is the best as a whole.

    Args:
        faces: of the whole picture.
        masks: of all concepts, those with no face of their own included, float ``[H, W]`` in 0..1 at the picture's
            size; None where a concept was not found.
        least_side: of a face's box, in pixels.
    """
    values = np.zeros((len(masks), len(faces)))
    for row, mask in enumerate(masks):
        for column, face in enumerate(faces):
            share = 0.0 if mask is None else _share(face, mask)
            if mask is not None and share >= LEAST_SHARE:
                # the last factor decides between masks that hold as much of it
                values[row, column] = face.area * share ** 2 * (1 - 1e-3 * mask.mean())
    chosen: list[Face | str] = [NO_FACE] * len(masks)
    for row, column in zip(*linear_sum_assignment(values, maximize=True), strict=True):
        if values[row, column]:
            chosen[row] = _large_enough(faces[column], least_side)
    return chosen


def _share(face: Face, mask: FloatArray) -> float:
    """How much of a face is in a mask, 0 to 1: the mean of its box's share and its points'.

    A shape leaves out the box's corners, which are no face; the points are all on the face.
    """
    height, width = mask.shape
    left, top, right, bottom = (round(float(edge)) for edge in face.box)
    within = mask[max(top, 0):max(bottom, 0), max(left, 0):max(right, 0)]
    x, y = face.points.round().astype(int).T
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    points = mask[y[seen], x[seen]].sum() / len(face.points)
    return float((within.mean() if within.size else 0.0) + points) / 2


def _large_enough(face: Face, least_side: float) -> Face | str:
    if min(face.width, face.height) >= least_side:
        return face
    return (f"the face in its place is too small: {face.width:.0f} x {face.height:.0f} pixels, and at least "
            f"{least_side:.0f} x {least_side:.0f} are needed")
