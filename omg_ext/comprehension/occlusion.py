"""Which of several things a place belongs to: the one in front. No place is two things'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .base import Instance

BoolArray = npt.NDArray[np.bool_]

# parts of a mask smaller than these are specks
MIN_SHARE_OF_LARGEST = 0.1
MIN_SHARE_OF_PICTURE = 0.005


def disjoint(instances: Sequence[Instance], ranks: Sequence[float]) -> list[Instance | None]:
    """The instances without what others hide of them, and without specks and holes; None for one that is hidden.

    A place is the instance's whose mask is surest there; where they are as sure, the one's with the highest rank.

    Args:
        instances: whose masks, of one size, may overlap.
        ranks: how sure each is, comparable among all.
    """
    if not instances:
        return []
    order = sorted(range(len(instances)), key=lambda index: -ranks[index])
    stack = np.stack([instances[index].mask for index in order])
    owner = np.where(stack.max(0) >= 0.5, stack.argmax(0), -1)  # argmax takes the first of equals
    shown = [without_specks(owner == place) for place in range(len(order))]
    left: list[Instance | None] = [None] * len(instances)
    for index, mask in zip(order, fill_holes(shown), strict=True):
        if mask.any():
            left[index] = Instance(mask.astype(np.float32), instances[index].score)
    return left


def parts(area: BoolArray) -> list[BoolArray]:
    """The connected parts of an area ``[h, w]``, without specks."""
    labels, count = ndimage.label(area)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    least = max(MIN_SHARE_OF_LARGEST * sizes.max(initial=0), MIN_SHARE_OF_PICTURE * area.size)
    return [labels == label for label, size in enumerate(sizes, 1) if size >= least]


def without_specks(area: BoolArray, share: float = MIN_SHARE_OF_LARGEST) -> BoolArray:
    """An area ``[h, w]`` without parts that are specks beside its largest, which stays however small it is.

    Args:
        share: of the largest, below which a part is a speck.
    """
    labels, count = ndimage.label(area)
    if count < 2:
        return area
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    least = max(share * sizes.max(), min(MIN_SHARE_OF_PICTURE * area.size, sizes.max()))
    return np.asarray((sizes >= least)[labels])


def fill_holes(areas: Sequence[BoolArray]) -> list[BoolArray]:
    """Disjoint areas ``[h, w]`` with their holes filled, save for what another area holds: they stay disjoint."""
    if not areas:
        return []
    taken = np.any(areas, axis=0)
    whole = [ndimage.binary_fill_holes(area) for area in areas]
    filled = list(areas)
    # the innermost first: its hole lies in the holes of those around it
    for index in sorted(range(len(areas)), key=lambda index: whole[index].sum()):
        filled[index] = areas[index] | (whole[index] & ~taken)
        taken |= filled[index]
    return filled
