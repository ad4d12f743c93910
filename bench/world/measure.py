"""What is measured on the bench's pictures, all of it read off the pixels by the trained readers.

Where a concept stands is decided on the ordinary picture (the first pass) as OMG decides it there: see :func:`places`.
In a result the concept's figure is one of its class:

- of several of the class, a method that places its concepts gets each judged by the figure that overlaps its place
  most; a method that does not is judged by the assignment that flatters it most, since nobody said who stands where;
- layout is about places, whoever stands there: each place has the figure of its class that overlaps it most;
- if the result has no figure of the class left for a concept, what stands at the concept's place is read instead: a
  figure that was lost or turned into another class counts, and lowers the identity;
- if there is neither a figure nor a place, the picture has no value for this concept and does not count.

Numbers are one per picture, the mean over its concepts; :func:`omg_ext.evaluate.means.summary` gives their mean over
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bench.world.casts import Cast
from bench.world.detector import ReadFigures, instances
from bench.world.methods import Shot, Take
from bench.world.pixels import Images
from bench.world.readers import Mask, Reading
from omg_ext.comprehension.assign import assign, of_concepts, queries_of
from omg_ext.evaluate.means import FloatArray, mean_of
from omg_ext.evaluate.regions import background_change, iou
from omg_ext.request import parse_request

Values = dict[str, FloatArray]
"""Figures by name, each [B], NaN where a picture has none"""
Places = Sequence[Mask | None]
"""Each concept's place in one picture, bool [H, W]; None where there is none"""

FIGURES: Mapping[str, str] = {
    "identity": "Identity Alignment: cosine to the concept's own reference",
    "bleed": "largest cosine to another concept's reference",
    "text": "share of pictures with the right scene and just the right classes",
    "layout": "IoU of each figure with its place in the first pass; 0 if it is gone",
    "background": "mean change of the first pass away from its figures, grey levels of 255",
    "masks": "IoU of the mask that the method was given with the concept's place",
    "conflict": "share of pictures with a figure missing, merged with another, or elsewhere than asked for",
    "start": "IoU of each place in the first pass with that in the rendering it started from",
    "rows": "UNet rows per picture",
    "seconds": "seconds per picture",
}
# a figure that overlaps its place less is elsewhere
LEAST_OVERLAP = 0.5


class EmbedsIdentity(Protocol):
    """An identity reader, see :class:`bench.world.readers.IdentityReader`."""

    def embed(self, images: Images, masks: Mask) -> Tensor: ...


@dataclass(frozen=True)
class Judges:
    """Who reads the pictures.

    Attributes:
        figures: the figure reader.
        identity: the identity reader.
        references: each identity's reference vector [D], of unit length.
    """

    figures: ReadFigures
    identity: EmbedsIdentity
    references: Mapping[str, Tensor]

    def similarities(self, images: Images, masks: Sequence[Mask], names: Sequence[str]) -> FloatArray:
        """Cosines [n, names] of the figures at n masks, one in each of the n images, to references."""
        references = np.stack([self.references[name].numpy() for name in names], axis=1)
        return self.identity.embed(images, np.stack(masks)).numpy().astype(np.float64) @ references


@dataclass(frozen=True)
class Reference:
    """The ordinary pictures of a shot, as they are read.

    Attributes:
        take: the pictures.
        readings: one each.
        places: of each concept in each.
        wanted: where the rendering that each started from has the concepts; None where it started from noise.
    """

    take: Take
    readings: Sequence[Reading]
    places: Sequence[Places]
    wanted: Sequence[Places] | None = None

    @classmethod
    def of(cls, shot: Shot, take: Take, judges: Judges, wanted: Sequence[Places] | None = None) -> Reference:
        """Reads the ordinary pictures."""
        readings = judges.figures(take.pictures)
        return cls(take, readings, [places(shot, reading) for reading in readings], wanted)


def places(shot: Shot, reading: Reading) -> Places:
    """Where OMG with the reader's masks would put each concept in a picture that is read so."""
    concepts = parse_request(shot.request).concepts
    queries = queries_of(concepts)
    chosen = of_concepts(assign(concepts, queries, instances(reading, [query.phrase for query in queries])),
                         len(concepts))
    return [None if instance is None else instance.mask > 0.5 for instance in chosen]


def measure(shot: Shot, takes: Sequence[Take], reference: Reference, judges: Judges, placed: bool) -> Values:
    """All figures of what one method made of a shot.

    Args:
        takes: several if the method makes a picture for each concept: their values are averaged.
        reference: the ordinary pictures.
        placed: see :class:`bench.world.methods.Method`.
    """
    found = [_of_take(shot, take, reference, judges, placed) for take in takes]
    values = {name: mean_of([each[name] for each in found]) for name in found[0]}
    if reference.wanted is not None:
        values["start"] = np.array([mean_of([iou(place, aim) for place, aim in zip(*both, strict=True)])
                                    for both in zip(reference.places, reference.wanted, strict=True)])
    return values


def _of_take(shot: Shot, take: Take, reference: Reference, judges: Judges, placed: bool) -> Values:
    count = len(take.pictures)
    cast, readings = shot.cast, judges.figures(take.pictures)
    regions = [[*(figure.mask for figure in reading.figures), *(place for place in of_picture if place is not None)]
               for reading, of_picture in zip(readings, reference.places, strict=True)]
    owners = [picture for picture, of_picture in enumerate(regions) for _ in of_picture]
    flat = [mask for of_picture in regions for mask in of_picture]
    cosines = (judges.similarities(take.pictures[owners], flat, cast.names) if flat
               else np.empty((0, len(cast.names))))
    values = {name: np.full(count, np.nan) for name in ("identity", "bleed", "layout", "masks")}
    start = 0
    for picture, (reading, own) in enumerate(zip(readings, reference.places, strict=True)):
        stop = start + len(regions[picture])
        one = _OnePicture(cast, reading, own, cosines[start:stop], placed)
        start = stop
        given = None if take.masks is None else take.masks[picture]
        for name, value in one.values(take.shown, given).items():
            values[name][picture] = value
    values["text"] = np.array([reading.scene == shot.scene and _classes(reading) == sorted(cast.kinds)
                               for reading in readings], dtype=np.float64)
    if reference.wanted is not None:
        values["conflict"] = np.array([conflicts(reading, cast.kinds, wanted) for reading, wanted in
                                       zip(readings, reference.wanted, strict=True)], dtype=np.float64)
    values["background"] = _background_change(take.pictures, reference)
    values["rows"] = np.full(count, take.rows / count)
    values["seconds"] = np.full(count, take.seconds / count)
    return values


@dataclass(frozen=True)
class _OnePicture:
    """One picture of a method.

    Attributes:
        reading: of it.
        places: of the concepts.
        cosines: [figures of the reading, then places that there are; concepts].
    """

    cast: Cast
    reading: Reading
    places: Places
    cosines: FloatArray
    placed: bool

    def values(self, shown: Sequence[int], given: Sequence[npt.NDArray[np.float32] | None] | None) -> dict[str, float]:
        """Each figure's mean over the concepts that are to be seen."""
        identity, bleed, layout, masks = [], [], [], []
        matched, standing = self._matched(shown, self.placed), self._matched(shown, True)
        for concept in shown:
            figure, place = matched.get(concept), self.places[concept]
            row = figure if figure is not None else self._row_of_place(concept)
            others = [index for index in range(len(self.cast.names)) if index != concept]
            identity.append(np.nan if row is None else self.cosines[row, concept])
            bleed.append(np.nan if row is None or not others else self.cosines[row, others].max())
            there = standing.get(concept)
            layout.append(iou(place, None if there is None else self.reading.figures[there].mask))
            mask = None if given is None else given[concept]
            masks.append(np.nan if given is None else iou(place, None if mask is None else mask > 0.5))
        named = {"identity": identity, "bleed": bleed, "layout": layout, "masks": masks}
        return {name: float(mean_of(values)) for name, values in named.items()}

    def _matched(self, shown: Sequence[int], placed: bool) -> dict[int, int]:
        """Which figure of the reading each concept is, by place (``placed``) or by likeness."""
        found: dict[int, int] = {}
        for kind in {self.cast.kinds[concept] for concept in shown}:
            concepts = [concept for concept in shown if self.cast.kinds[concept] == kind]
            figures = [index for index, figure in enumerate(self.reading.figures) if figure.kind == kind]
            fit = self._overlap if placed or self.cast.kinds.count(kind) == 1 else self._likeness
            fits = np.array([[fit(concept, figure) for figure in figures] for concept in concepts])
            if figures:
                rows, columns = linear_sum_assignment(fits, maximize=True)
                found |= {concepts[row]: figures[column] for row, column in zip(rows, columns, strict=True)}
        return found

    def _overlap(self, concept: int, figure: int) -> float:
        place = self.places[concept]
        return 0.0 if place is None else iou(place, self.reading.figures[figure].mask)

    def _likeness(self, concept: int, figure: int) -> float:
        return float(self.cosines[figure, concept])

    def _row_of_place(self, concept: int) -> int | None:
        if self.places[concept] is None:
            return None
        return len(self.reading.figures) + sum(place is not None for place in self.places[:concept])


def conflicts(reading: Reading, kinds: Sequence[str], wanted: Places) -> bool:
    """Whether a picture's layout is not what was asked for.

    Args:
        kinds: classes of the figures that were asked for.
        wanted: where.
    """
    fits = np.array([[iou(place, figure.mask) if figure.kind == kind else 0.0 for figure in reading.figures]
                     for kind, place in zip(kinds, wanted, strict=True)])
    rows, columns = linear_sum_assignment(fits, maximize=True)
    return len(rows) < len(kinds) or bool((fits[rows, columns] < LEAST_OVERLAP).any())


def _classes(reading: Reading) -> list[str]:
    return sorted(figure.kind for figure in reading.figures)


def _background_change(pictures: Images, reference: Reference) -> FloatArray:
    """See :func:`omg_ext.evaluate.regions.background_change`, of each picture."""
    return np.array([background_change(picture, first, [figure.mask for figure in reading.figures])
                     for picture, first, reading in zip(pictures, reference.take.pictures, reference.readings,
                                                        strict=True)])
