"""One map of a kind of thing, and as many things as are asked for: which place is whose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

UPRIGHT = 0.5
"""What a step up counts against one to the side: things stand beside each other, and are tall."""
_ROUNDS = 30


def nearest(area: BoolArray, count: int) -> npt.NDArray[np.intp]:
    """Which of ``count`` groups each place belongs to, ``[h, w]``, numbered from left to right.

    The places of ``area`` are grouped by k-means (Lloyd 1982); all others belong to the group whose centre is nearest.
    Deterministic: the centres start side by side, each with the same share of the area.

    Args:
        area: bool ``[h, w]``, not empty.
    """
    height, width = area.shape
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([UPRIGHT * rows, columns], axis=-1).astype(np.float64)
    points = places[area]
    along = np.quantile(points[:, 1], (np.arange(count) + 0.5) / count)
    centres = np.stack([np.full(count, points[:, 0].mean()), along], axis=1)
    for _ in range(_ROUNDS):
        owner = _owners(points, centres)
        moved = np.stack([points[owner == number].mean(0) if (owner == number).any() else centre
                          for number, centre in enumerate(centres)])
        if np.array_equal(moved, centres):
            break
        centres = moved
    return _owners(places, centres[np.argsort(centres[:, 1], kind="stable")])


def _owners(points: FloatArray, centres: FloatArray) -> npt.NDArray[np.intp]:
    """The number of the nearest of the centres ``[n, 2]`` to each of the points ``[..., 2]``."""
    return np.asarray(((points[..., None, :] - centres) ** 2).sum(-1).argmin(-1))
