"""What detectors share that find boxes, and have a segmenter turn them into shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .base import Instance
from .masks import FloatArray, box_mask

Picture = npt.NDArray[np.uint8]
"""``[H, W, 3]``"""
Segment = Callable[[Picture, FloatArray], FloatArray]
"""``(picture, corners [N, 4] in pixels) -> masks [N, H, W] in 0..1``, one in each box, in the same order"""

# of one phrase, two boxes that share so much of their union are one thing seen twice, and so are two masks
SAME_BOX = 0.6
SAME_MASK = 0.7
# so many of one phrase at most: segmenting costs by the box
MOST = 24


class Boxes(NamedTuple):
    """N boxes that one phrase was found in.

    Attributes:
        corners: float32 ``[N, 4]``: x0, y0, x1, y1 in pixels of the picture.
        scores: float32 ``[N]``.
    """

    corners: FloatArray
    scores: FloatArray

    def best(self, threshold: float, height: int, width: int) -> Boxes:
        """Those that are sure enough, within the picture and without doubles; the surest first."""
        corners = np.clip(self.corners, 0, np.array([width, height, width, height], np.float32))
        is_there = (corners[:, 2:] - corners[:, :2] >= 1).all(1) & (self.scores >= threshold)
        order = [int(number) for number in np.argsort(-self.scores, kind="stable") if is_there[number]]
        overlaps = intersection_over_union(corners)
        kept: list[int] = []
        for number in order:
            if len(kept) < MOST and (overlaps[number, kept] < SAME_BOX).all():
                kept.append(number)
        return Boxes(corners[kept], self.scores[kept])


def intersection_over_union(corners: FloatArray) -> FloatArray:
    """``[N, N]`` of boxes ``[N, 4]``; 0 where both are empty."""
    low = np.maximum(corners[:, None, :2], corners[None, :, :2])
    high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    areas = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)
    union = areas[:, None] + areas[None] - common
    return np.asarray(common / np.maximum(union, 1e-9), dtype=np.float32)


def from_centres(boxes: FloatArray, height: float, width: float) -> FloatArray:
    """Corners in pixels ``[N, 4]`` of boxes ``[N, 4]`` given as centre x, y, width, height in fractions (DETR's)."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return np.asarray(corners * np.array([width, height, width, height]), dtype=np.float32)


def box_shapes(picture: Picture, corners: FloatArray) -> FloatArray:
    """A :data:`Segment` that takes boxes for shapes, where there is no segmenter."""
    height, width = picture.shape[:2]
    fractions = corners / np.array([width, height, width, height])
    masks = [box_mask(box, height, width) for box in fractions.tolist()]
    return np.stack(masks) if masks else np.zeros((0, height, width), np.float32)


def surest(scores: FloatArray, threshold: float) -> list[int]:
    """The numbers of those that are sure enough, :data:`MOST` at most, the surest first."""
    return [int(number) for number in np.argsort(-scores, kind="stable")[:MOST] if scores[number] >= threshold]


def shapes(picture: Picture, found: Sequence[Boxes], segment: Segment) -> list[list[Instance]]:
    """Instances from boxes, of several phrases that do not disturb each other.

    Args:
        found: by phrase, the surest first.
    """
    corners = np.concatenate([np.zeros((0, 4), np.float32), *(boxes.corners for boxes in found)])
    masks = segment(picture, corners) if len(corners) else np.zeros((0, *picture.shape[:2]), np.float32)
    ends = np.cumsum([len(boxes.scores) for boxes in found])
    return [instances(masks[end - len(boxes.scores):end], boxes.scores)
            for end, boxes in zip(ends, found, strict=True)]


def instances(masks: FloatArray, scores: FloatArray) -> list[Instance]:
    """The :data:`MOST` surest instances of one phrase from masks ``[N, h, w]``, without empty ones and doubles."""
    kept: list[Instance] = []
    solids: list[npt.NDArray[np.bool_]] = []
    for number in np.argsort(-scores, kind="stable"):
        mask = np.ascontiguousarray(masks[number], dtype=np.float32)
        solid = mask >= 0.5
        if len(kept) == MOST:
            break
        if solid.any() and all((solid & other).sum() < SAME_MASK * (solid | other).sum() for other in solids):
            solids.append(solid)
            kept.append(Instance(mask, float(scores[number])))
    return kept
