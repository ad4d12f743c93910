"""Where the concepts' faces are in the first picture: IdentityNet draws them as they look there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..comprehension.places import Places
from .base import ConceptFace, Face, FloatArray, Picture

# of a face's key points in the mask, from which on it is the concept's
_INSIDE = 0.5


def find_faces(faces: Sequence[ConceptFace | None], places: Places, picture: Callable[[int], Picture],
               analyse: Callable[[Picture], Sequence[Face]]) -> Places:
    """The places with the key points of the concepts' faces, and a warning for each that has none.

    Args:
        faces: of each concept; those without an IdentityNet are not looked for.
        picture: the first picture of each number in the batch.
        analyse: all faces in a picture.
    """
    posed = [index for index, face in enumerate(faces) if face is not None and face.is_posed]
    if not posed:
        return places
    points: list[list[FloatArray | None]] = []
    for number, masks in enumerate(places.masks):
        wanted = [index for index in posed if masks[index] is not None]
        points.append([None] * len(masks))
        if wanted:
            shown = picture(number)
            own = [mask for index in wanted if (mask := masks[index]) is not None]
            for index, face in zip(wanted, whose(analyse(shown), own), strict=True):
                if face is not None:
                    points[number][index] = (face.points / shown.shape[1::-1]).astype(np.float32)
    warnings = [_without(index, missing, len(points)) for index in posed
                if (missing := [number for number, masks in enumerate(places.masks)
                                if masks[index] is not None and points[number][index] is None])]
    return replace(places, points=points, warnings=[*places.warnings, *warnings])


def whose(faces: Sequence[Face], masks: Sequence[FloatArray]) -> list[Face | None]:
    """The face in each mask [H, W]; None where there is none.

    Where masks overlap, each takes another if there are enough. Concepts that share one place share its face.
    """
    shares = np.array([[_share(face, mask) for face in faces] for mask in masks]).reshape(len(masks), len(faces))
    shares[shares < _INSIDE] = 0
    best = {int(row): int(column) for row, column in zip(*linear_sum_assignment(-shares), strict=True)
            if shares[row, column] > 0}
    for row, own in enumerate(shares):
        if row not in best and own.any():
            best[row] = int(own.argmax())
    return [faces[best[row]] if row in best else None for row in range(len(masks))]


def _share(face: Face, mask: FloatArray) -> float:
    """How much of the face's key points lies in the mask; larger faces a hair before smaller ones."""
    height, width = mask.shape
    x, y = np.floor(face.points).astype(int).T
    is_in = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x0, y0, x1, y1 = face.box
    area = float((x1 - x0) * (y1 - y0)) / (height * width)
    return float(mask[y[is_in], x[is_in]].sum()) / len(x) + 1e-3 * min(area, 1.0)


def _without(index: int, missing: Sequence[int], pictures: int) -> str:
    where = "" if pictures == 1 else f" in picture {', '.join(str(number + 1) for number in missing)}"
    return (f"concepts[{index}]: no face was found in its place{where} (it may be too small there, or seen from "
            "behind), so IdentityNet is left out and the face is drawn without its pose")
