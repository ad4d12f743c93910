"""Where the concepts' faces are in the first picture: IdentityNet draws them as they look there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..comprehension.places import Places
from .base import ConceptFace, Face, FloatArray, Picture, sides

LEAST_SHARE = 0.5
"""So much of a face has to be in a concept's place to be the concept's."""
LEAST_SIDE = 40.0
"""Of a face's box, in pixels: on smaller ones the key points, discs of 20 pixels, hide each other."""
NO_FACE = "no face was found in its place; it may be seen from behind, turned away, hidden or too small"


def find_faces(faces: Sequence[ConceptFace | None], places: Places, picture: Callable[[int], Picture],
               analyse: Callable[[Sequence[Picture]], Sequence[Sequence[Face]]]) -> Places:
    """The places with the key points of the concepts' faces, and a warning for each that has none.

    Args:
        faces: of each concept; those without an IdentityNet are not looked for.
        picture: the first picture of each number in the batch.
        analyse: all faces in each of some pictures.
    """
    posed = [index for index, face in enumerate(faces) if face is not None and face.is_posed]
    if not posed:
        return places
    points: list[list[FloatArray | None]] = [[None] * len(masks) for masks in places.masks]
    reasons: dict[tuple[int, str], list[int]] = {}
    looked_at = [number for number, masks in enumerate(places.masks)
                 if any(masks[index] is not None for index in posed)]
    pictures = [picture(number) for number in looked_at]
    for number, shown, faces_there in zip(looked_at, pictures, analyse(pictures), strict=True):
        masks, chosen = places.masks[number], in_masks(faces_there, places.masks[number])
        for index in posed:
            face = chosen[index]
            if not isinstance(face, str):
                points[number][index] = np.asarray(face.points / shown.shape[1::-1], np.float32)
            elif masks[index] is not None:
                reasons.setdefault((index, face), []).append(number)
    warnings = [_without(index, reason, numbers, len(points)) for (index, reason), numbers in sorted(reasons.items())]
    return replace(places, points=points, warnings=[*places.warnings, *warnings])


def _without(index: int, reason: str, numbers: Sequence[int], pictures: int) -> str:
    where = "" if pictures == 1 else f", picture {' and '.join(str(number + 1) for number in numbers)}"
    return f"concepts[{index}]{where}: {reason}. So IdentityNet is left out, and the face is drawn without its pose"


def in_masks(faces: Sequence[Face], masks: Sequence[FloatArray | None],
             least_side: float | None = None) -> list[Face | str]:
    """Each concept's face, or why it has none, in words for a note.

    A face is in a mask if half of it is (:func:`_share`), and is one concept's. Of several faces in a mask a larger one
    is preferred, and one that is wholly inside; of several masks around a face the one that holds more of it, or is
    smaller. The assignment is the best as a whole.

    Args:
        faces: of the whole picture.
        masks: of all concepts, those with no face of their own included, float ``[H, W]`` in 0..1 at the picture's
            size; None where a concept was not found.
        least_side: of a face's box, in pixels; None is :data:`LEAST_SIDE`.
    """
    values = np.zeros((len(masks), len(faces)))
    for row, mask in enumerate(masks):
        for column, face in enumerate(faces):
            share = 0.0 if mask is None else _share(face, mask)
            if mask is not None and share >= LEAST_SHARE:
                # the last factor decides between masks that hold as much of it
                values[row, column] = max(math.prod(sides(face)), 1e-6) * share ** 2 * (1 - 1e-3 * mask.mean())
    chosen: list[Face | str] = [NO_FACE] * len(masks)
    for row, column in zip(*linear_sum_assignment(values, maximize=True), strict=True):
        if values[row, column]:
            chosen[row] = _large_enough(faces[column], LEAST_SIDE if least_side is None else least_side)
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
    width, height = sides(face)
    if min(width, height) >= least_side:
        return face
    return (f"the face in its place is too small: {width:.0f} x {height:.0f} pixels, and at least {least_side:.0f} x "
            f"{least_side:.0f} are needed")
