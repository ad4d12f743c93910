"""Where the concepts are in a finished picture, by visual comprehension (paper Sec. 4.1), and what that says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..errors import OMGError
from ..request import Concept, Where
from . import spec

if TYPE_CHECKING:
    from ..comprehension.base import Find
    from ..comprehension.models import Models

Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[np.uint8]

RIM = 8
"""Pixels around a region that do not count as background: one cell of the latent grid."""


def iou(place: Mask | None, other: Mask | None) -> float:
    """Intersection over union of two masks [H, W]; NaN without a place, 0 without the other."""
    if place is None:
        return math.nan
    return 0.0 if other is None else float((place & other).sum() / (place | other).sum())


def background_change(picture: Picture, first: Picture, regions: Sequence[Mask]) -> float:
    """Mean absolute difference of two pictures [H, W, 3] away from the regions of the first, 0 to 255.

    NaN where the regions, with :data:`RIM` pixels around them, fill the picture.
    """
    change = np.abs(picture.astype(np.float64) - first).mean(axis=2)
    figures = np.any([np.zeros(change.shape, bool), *regions], axis=0)
    away = ~ndimage.binary_dilation(figures, iterations=RIM)
    return float(change[away].mean()) if away.any() else math.nan


def cut(picture: Picture, region: Mask) -> Picture:
    """The box around a region that is not empty, [h, w, 3]."""
    columns, rows = np.flatnonzero(region.any(0)), np.flatnonzero(region.any(1))
    return picture[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


class Seen(NamedTuple):
    """Something in a picture.

    Attributes:
        classes: the class words as which it is seen.
        mask: what shows of it, bool [H, W], not empty.
    """

    classes: frozenset[str]
    mask: Mask


@dataclass(frozen=True, eq=False)
class FindRegions:
    """Finds all that is of some classes.

    Attributes:
        find: a detector's.
    """

    find: Find

    @classmethod
    @contextmanager
    def loaded(cls, regions: spec.Regions, models: Models) -> Iterator[FindRegions]:
        """For use within the block.

        Raises:
            OMGError: naming ``regions.detector``: it is unknown, lacks something, or goes by the prompt, so that it
                sees nothing in finished pictures.
        """
        from ..comprehension import DETECTORS
        from ..comprehension.models import require
        from ..comprehension.painted import PaintedDetector

        usable = {name: each for name, each in DETECTORS.items()
                  if not (each.goes_by_prompt or each.needs_attention or isinstance(each, PaintedDetector))}
        if regions.detector not in usable:
            raise OMGError("regions.detector", f"`{regions.detector}` is none that sees finished pictures; take one of "
                                               + ", ".join(sorted(usable)))
        detector = usable[regions.detector]
        require(detector.name, detector.needs(regions.detect, models), models.remedy, "regions.detector")
        with detector.loaded(regions.detect, models) as find:
            yield cls(find)

    def __call__(self, picture: Picture, classes: Sequence[str]) -> list[Seen]:
        """From left to right.

        Args:
            picture: uint8 RGB [H, W, 3].
            classes: of the concepts, as often as there are to be some.
        """
        from ..comprehension.assign import find_things
        from ..comprehension.base import FirstPicture
        from ..comprehension.masks import resize
        from ..comprehension.phrases import alike

        concepts = [Concept("", phrase, where=Where(index=classes[:index].count(phrase))
                            if classes.count(phrase) > 1 else None) for index, phrase in enumerate(classes)]
        queries, things = find_things(concepts, self.find, FirstPicture.of(picture))
        found = []
        for thing in things:
            named = [queries[number].phrase for number in thing.scores]
            mask = resize(thing.instance.mask, *picture.shape[:2]) >= 0.5
            if mask.any():
                found.append(Seen(frozenset(own for own in classes if any(alike(own, each) for each in named)), mask))
        return found
