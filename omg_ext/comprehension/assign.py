"""From instances to concepts: which of what a detector saw is which concept's (one instance, one concept)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from msgspec import UNSET
from scipy.optimize import linear_sum_assignment

from ..request import Concept, Where
from .base import Find, FirstPicture, Instance, Query
from .masks import FloatArray, box_mask, decode_mask, resize
from .occlusion import disjoint
from .phrases import alike, counted

# how far beside an instance a point may lie and still mean it, in picture widths
POINT_REACH = 0.05
# masks that share so much of their union are one thing, found by two phrases
SAME_THING = 0.7
# an assignment is worth this, whatever the scores, which are at most 1; one by point, index or overlap twice as much
_FOUND = 4.0


@dataclass(frozen=True, eq=False)
class Thing:
    """Something in the picture, seen by one or several phrases.

    Attributes:
        instance: itself; its mask as found may overlap others', once assigned it is what shows of it.
        shares: for each query that sees it, its score as a share of the best one of that query.
        scores: the same as the detector gave them.
        concept: whose it is, if any's.
        numbers: for each of these queries which of all that it sees this is, 0 for the leftmost, as ``where.index``.
    """

    instance: Instance
    shares: dict[int, float]
    scores: dict[int, float]
    concept: int | None = None
    numbers: dict[int, int] = field(default_factory=dict)


def find_things(concepts: Sequence[Concept], find: Find, picture: FirstPicture) -> tuple[list[Query], list[Thing]]:
    """What a detector sees of all that the concepts name, and whose each thing is.

    Returns:
        The queries, and what was found for them, from left to right, with disjoint masks.
    """
    queries = queries_of(concepts, *(picture.wordings or [picture.prompt]))
    if not queries:
        return [], []
    return queries, assign(concepts, queries, find(picture, queries))


def queries_of(concepts: Sequence[Concept], *wordings: str) -> list[Query]:
    """What to look for, in the concepts' order: a phrase like an earlier one is the same query.

    A query asks for as many instances as concepts name it, as their indices need, or as the global prompt counts.

    Args:
        wordings: how the global prompt reads in the course of sampling.
    """
    phrases: list[str] = []
    for concept in concepts:
        if concept.needs_detection and not any(alike(concept.phrase, phrase) for phrase in phrases):
            phrases.append(concept.phrase)
    return [Query(phrase, max(_wanted(concepts, phrase), *(counted(phrase, text) for text in wordings), 1))
            for phrase in phrases]


def _wanted(concepts: Sequence[Concept], phrase: str) -> int:
    named = [concept for concept in concepts if concept.needs_detection and alike(concept.phrase, phrase)]
    indices = [concept.where.index + 1 for concept in named
               if concept.where is not None and concept.where.index is not UNSET]
    return max(len(named), *indices, 0)


def assign(concepts: Sequence[Concept], queries: Sequence[Query], found: Sequence[Sequence[Instance]]) -> list[Thing]:
    """Give each concept an instance of its phrase, each instance to one concept at most.

    The best one-to-one assignment (Kuhn-Munkres): as many concepts as possible, those with a point, an index or an
    overlap before the others; then the best scores, an earlier concept's before a later one's. What is assigned is
    then freed of what others hide of it.

    Args:
        concepts: all of the request; those that need no detection get nothing.
        queries: see :func:`queries_of`.
        found: per query what was found, best first.

    Returns:
        All things, from left to right.
    """
    things = _things(found)
    values = np.zeros((len(concepts), len(things)))
    for index, concept in enumerate(concepts):
        if concept.needs_detection:
            query = next(number for number, each in enumerate(queries) if alike(concept.phrase, each.phrase))
            # an earlier concept's score counts a little more, so that of two alike the first takes the better
            values[index] = _values(concept.where, query, things, 1 + (len(concepts) - index) / (100 * len(concepts)))
    owners = {int(column): int(row) for row, column in zip(*linear_sum_assignment(-values), strict=True)
              if values[row, column] > 0}
    shown = disjoint([thing.instance for thing in things], [max(thing.shares.values()) for thing in things])
    return [replace(thing, instance=instance, concept=owners.get(number))
            for number, (thing, instance) in enumerate(zip(things, shown, strict=True)) if instance is not None]


class Owned(Protocol):
    """Something that may be a concept's."""

    @property
    def instance(self) -> Instance: ...

    @property
    def concept(self) -> int | None: ...


def of_concepts(things: Sequence[Owned], count: int) -> list[Instance | None]:
    """What each of so many concepts was given."""
    owned = {thing.concept: thing.instance for thing in things}
    return [owned.get(concept) for concept in range(count)]


def given_mask(where: Where | None, field: str, height: int, width: int) -> FloatArray | None:
    """The mask that the request itself gives, float32 ``[height, width]``; None if it is to be found.

    Raises:
        OMGError: the mask cannot be read; the message names ``field``.
    """
    if where is not None and where.box is not UNSET:
        return box_mask(where.box, height, width)
    if where is not None and where.mask is not UNSET:
        return resize(decode_mask(where.mask, field), height, width)
    return None


def _things(found: Sequence[Sequence[Instance]]) -> list[Thing]:
    """What several queries found, what two of them see as one thing, from left to right."""
    things: list[Thing] = []
    for query, instances in enumerate(found):
        best = max((instance.score for instance in instances), default=0.0)
        for instance in instances:
            share = instance.score / best if best > 0 else 1.0
            # of one query's instances no two are one thing: telling them apart is the detector's
            same = next((thing for thing in things if query not in thing.shares
                         and _overlap(thing.instance, instance) >= SAME_THING), None)
            if same is None:
                things.append(Thing(instance, {query: share}, {query: instance.score}))
            else:
                same.shares[query], same.scores[query] = share, instance.score
    things.sort(key=lambda thing: thing.instance.centre[0])
    for query in range(len(found)):
        for number, thing in enumerate(thing for thing in things if query in thing.shares):
            thing.numbers[query] = number
    return things


def _overlap(one: Instance, other: Instance) -> float:
    """Intersection over union of two masks of one size."""
    return float(np.minimum(one.mask, other.mask).sum() / max(np.maximum(one.mask, other.mask).sum(), 1e-9))


def _values(where: Where | None, query: int, things: Sequence[Thing], weight: float) -> list[float]:
    """What each thing is worth to a concept; 0 is not its."""
    of_query = [thing for thing in things if query in thing.shares]
    values = []
    for thing in things:
        if query not in thing.shares:
            values.append(0.0)
        elif where is None:
            values.append(_FOUND + weight * thing.shares[query])
        else:
            fit = _fit(where, thing, of_query)
            values.append(2 * _FOUND + weight * fit if fit > 0 else 0.0)
    return values


def _fit(where: Where, thing: Thing, of_query: Sequence[Thing]) -> float:
    """How well a thing fits what the request says of the place, above 0 up to 1; 0 is not at all."""
    if where.index is not UNSET:
        return float(where.index < len(of_query) and of_query[where.index] is thing)
    if where.overlap is not UNSET:
        mask = thing.instance.mask
        return _overlap(thing.instance, Instance(box_mask(where.overlap, *mask.shape), 0.0))
    assert where.point is not UNSET
    distance = _distance(thing.instance, *where.point)
    return 1 - distance / (2 * POINT_REACH) if distance <= POINT_REACH else 0.0


def _distance(instance: Instance, x: float, y: float) -> float:
    """From the point to the nearest cell of the mask, in picture widths; 0 inside."""
    height, width = instance.mask.shape
    rows, columns = np.nonzero(instance.mask >= 0.5)
    dx = np.maximum(np.abs(columns + 0.5 - x * width) - 0.5, 0)
    dy = np.maximum(np.abs(rows + 0.5 - y * height) - 0.5, 0)
    return float(np.hypot(dx, dy).min(initial=np.inf)) / width
