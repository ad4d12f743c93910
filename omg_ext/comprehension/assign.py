"""Which instance is which concept's, and the concepts' masks at the picture's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import UNSET

from ..request import Concept, Where
from .base import Detector, FirstPicture, Instance
from .masks import FloatArray, box_mask, decode_mask, resize
from .phrases import alike

# how far beside an instance a point may lie and still mean it, in picture widths
POINT_REACH = 0.05


def find_instances(concepts: Sequence[Concept], detector: Detector, picture: FirstPicture) -> list[Instance | None]:
    """What each concept is given of what the detector sees; None is not found, or not looked for."""
    chosen: list[Instance | None] = [None] * len(concepts)
    wanted = [index for index, concept in enumerate(concepts) if concept.needs_detection]
    if wanted:
        sought = [concepts[index] for index in wanted]
        phrases = distinct_phrases(sought)
        found = assign(sought, phrases, detector.find(picture, phrases))
        for index, instance in zip(wanted, found, strict=True):
            chosen[index] = instance
    return chosen


def distinct_phrases(concepts: Sequence[Concept]) -> list[str]:
    """The phrases to look for, in the concepts' order, without those like an earlier one: two things of one kind."""
    phrases: list[str] = []
    for concept in concepts:
        if concept.needs_detection and not any(alike(concept.phrase, phrase) for phrase in phrases):
            phrases.append(concept.phrase)
    return phrases


def assign(concepts: Sequence[Concept], phrases: Sequence[str],
           instances: Sequence[Sequence[Instance]]) -> list[Instance | None]:
    """Give each concept an instance of its phrase, each instance to one concept at most; None is not found.

    Args:
        concepts: concepts that need detection. Points and indices are served first, then those that take the best of
            what is left; within each kind in order.
        phrases: the distinct phrases that were looked for.
        instances: per phrase what was found, best first.
    """
    chosen: list[Instance | None] = [None] * len(concepts)
    used: set[Instance | None] = set()
    for index in sorted(range(len(concepts)), key=lambda i: concepts[i].where is None):
        concept = concepts[index]
        found = next(found for phrase, found in zip(phrases, instances, strict=True) if alike(concept.phrase, phrase))
        instance = _choose(concept.where, found, used)
        chosen[index] = instance
        used.add(instance)
    return chosen


def given_mask(where: Where | None, field: str, height: int, width: int) -> FloatArray | None:
    """The mask that the request itself gives, float32 ``[height, width]``; None if it is to be detected.

    Raises:
        OMGError: the mask cannot be read; the message names ``field``.
    """
    if where is not None and where.box is not UNSET:
        return box_mask(where.box, height, width)
    if where is not None and where.mask is not UNSET:
        return resize(decode_mask(where.mask, field), height, width)
    return None


def _choose(where: Where | None, found: Sequence[Instance], used: set[Instance | None]) -> Instance | None:
    """The instance that ``where`` means. An index counts all instances; one that is used is not given again."""
    if where is not None and where.index is not UNSET:
        in_order = sorted(found, key=lambda instance: instance.centre[0])
        found = in_order[where.index:where.index + 1]
    left = [instance for instance in found if instance not in used]
    if where is not None and where.point is not UNSET:
        x, y = where.point
        left = [instance for instance in left if _distance(instance, x, y) <= POINT_REACH]
        left.sort(key=lambda instance: _distance(instance, x, y))
    return left[0] if left else None


def _distance(instance: Instance, x: float, y: float) -> float:
    """From the point to the nearest cell of the mask, in picture widths; 0 inside."""
    height, width = instance.mask.shape
    rows, columns = np.nonzero(instance.mask >= 0.5)
    dx = np.maximum(np.abs(columns + 0.5 - x * width) - 0.5, 0)
    dy = np.maximum(np.abs(rows + 0.5 - y * height) - 0.5, 0)
    return float(np.hypot(dx, dy).min(initial=np.inf)) / width
