"""What is measured of each picture (paper Sec. 4): see :data:`omg_ext.evaluate.figures.FIGURES`.

Who of several of one class is who, in regions: a method that places its concepts (:data:`.PLACING`) is judged by what
overlaps their places in the first pass most, which it takes from left to right. Nobody told the others who stands
where, so that they are judged by the assignment that flatters them most. Layout is about places, whoever stands there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from .clip import unit
from .means import FloatArray
from .plan import Place
from .regions import Mask, Picture, Seen, background_change, cut, iou
from .spec import PLACING, Spec, Subject

if TYPE_CHECKING:
    from ..faces.base import Analysis

Values = dict[str, float]
"""Figures by name; those that a picture has no value of are not there."""
Find = Callable[[Picture, Sequence[str]], Sequence[Seen]]


class Embeds(Protocol):
    """See :class:`.Clip`."""

    @property
    def about(self) -> Mapping[str, str]: ...

    def pictures(self, pictures: Sequence[Picture]) -> FloatArray: ...

    def texts(self, texts: Sequence[str]) -> FloatArray: ...


@dataclass(frozen=True, eq=False)
class Judges:
    """Who reads the pictures; None leaves out the figures that take it.

    Attributes:
        clip: see :class:`.Clip`.
        faces: finds and reads faces, see :class:`omg_ext.faces.analysis.FaceAnalyser`.
        find: see :class:`.FindRegions`.
    """

    clip: Embeds | None = None
    faces: Analysis | None = None
    find: Find | None = None


@dataclass(frozen=True)
class Measured:
    """Of one picture.

    Attributes:
        picture: figures of all of it.
        concepts: figures of each concept that it is to show, by its number in the cast.
    """

    picture: Values
    concepts: Mapping[int, Values]


class Meter:
    """Measures pictures.

    Args:
        spec: whose pictures they are.
        judges: who reads them.
        references: pictures of each concept, uint8 RGB [H, W, 3], by name.

    Raises:
        OMGError: naming ``concepts.NAME.references``: one of a character shows no face.
    """

    def __init__(self, spec: Spec, judges: Judges, references: Mapping[str, Sequence[Picture]]):
        self._spec = spec
        self._judges = judges
        # by concept: the person [E], or the reference pictures [n, D]
        self._known = {name: known for name, pictures in references.items()
                       if (known := self._reference(name, pictures)) is not None}
        self._texts: dict[str, FloatArray] = {}

    @property
    def read_by(self) -> dict[str, str]:
        """What pictures are read by, with versions, by title."""
        return {} if self._judges.clip is None else dict(self._judges.clip.about)

    def _reference(self, name: str, pictures: Sequence[Picture]) -> FloatArray | None:
        if self._spec.concepts[name].kind == "object":
            return None if self._judges.clip is None else self._judges.clip.pictures(pictures)
        if self._judges.faces is None:
            return None
        from ..faces.reference import reference
        return unit(reference(self._judges.faces, pictures, None, f"concepts.{name}.references"))

    def __call__(self, place: Place, picture: Picture, first: Picture | None) -> Measured:
        """
        Args:
            place: of the picture.
            picture: uint8 RGB [H, W, 3].
            first: the first pass's, if there is one.
        """
        faces = _Faces.of(self._judges.faces, picture)
        embedding = None if self._judges.clip is None else self._judges.clip.pictures([picture])[0]
        figures = self._text(place, embedding)
        concepts: dict[int, Values] = {index: self._whole(place.cast[index], embedding, faces) for index in place.shown}
        if self._judges.find is not None:
            self._in_regions(place, picture, first, faces, figures, concepts)
        return Measured(figures, concepts)

    def _text(self, place: Place, embedding: FloatArray | None) -> Values:
        if embedding is None:
            return {}
        if place.text not in self._texts:
            assert self._judges.clip is not None
            self._texts[place.text] = self._judges.clip.texts([place.text])[0]
        cosine = float(embedding @ self._texts[place.text])
        return {"text": cosine, "clipscore": 2.5 * max(cosine, 0.0)}

    def _whole(self, name: str, embedding: FloatArray | None, faces: _Faces) -> Values:
        """Of a concept, wherever it is in the picture."""
        known = self._known.get(name)
        if known is None:
            return {}
        if self._subject(name).kind == "object":
            assert embedding is not None
            return {"image": float(np.mean(known @ embedding))}
        best = max((float(face @ known) for face in faces.embeddings), default=math.nan)
        return self._identity(best, "identity", "detected")

    def _identity(self, cosine: float, name: str, detected: str) -> Values:
        """``cosine``: NaN where there is no face."""
        seen = {} if math.isnan(cosine) else {name: cosine}
        return {**seen, detected: float(cosine >= self._spec.threshold)}

    def _in_regions(self, place: Place, picture: Picture, first: Picture | None, faces: _Faces, figures: Values,
                    concepts: Mapping[int, Values]) -> None:
        """Adds the figures that go by regions."""
        assert self._judges.find is not None
        classes = [self._subject(name).phrase for name in place.cast]
        seen = list(self._judges.find(picture, classes))
        before = None if first is None else list(self._judges.find(first, classes))
        places = [None] * len(classes) if before is None else [
            before[own].mask if own is not None else None for own in _in_order(classes, before)]
        overlaps = np.array([[iou(was, each.mask) for each in seen] for was in places]).reshape(len(places), len(seen))
        likeness = self._likeness(place.cast, picture, [each.mask for each in seen], faces)
        everyone = range(len(classes))
        if self._spec.variants[place.method].method.kind not in PLACING:
            whose = _matched(classes, place.shown, seen, likeness)
        elif before is not None:
            whose = _matched(classes, everyone, seen, overlaps)
        else:
            whose = {index: own for index, own in enumerate(_in_order(classes, seen)) if own is not None}
        standing = _matched(classes, everyone, seen, overlaps)
        for index, values in concepts.items():
            region = seen[whose[index]].mask if index in whose else None
            values |= self._of_region(place.cast[index], region,
                                      float(likeness[index, whose[index]]) if index in whose else math.nan)
            was = places[index]
            if was is not None:
                values["layout"] = iou(was, seen[standing[index]].mask if index in standing else None)
        if first is not None and before is not None and first.shape == picture.shape:
            change = background_change(picture, first, [each.mask for each in before])
            figures |= {} if math.isnan(change) else {"background": change}

    def _of_region(self, name: str, region: Mask | None, cosine: float) -> Values:
        values: Values = {"found": float(region is not None)}
        if name not in self._known:
            return values
        if self._subject(name).kind == "character":
            return {**values, **self._identity(cosine, "ida", "ida_detected")}
        return values if region is None else {**values, "ima": cosine}

    def _likeness(self, cast: Sequence[str], picture: Picture, regions: Sequence[Mask], faces: _Faces) -> FloatArray:
        """Cosines [concepts, regions] of what is in each region to each concept; NaN where nothing can be told."""
        embedded = {"character": faces.in_masks(regions), "object": self._cut_out(picture, regions)}
        values = np.full((len(cast), len(regions)), np.nan)
        for row, name in enumerate(cast):
            for column, embedding in enumerate(embedded[self._subject(name).kind]):
                if embedding is not None and name in self._known:
                    values[row, column] = np.mean(self._known[name] @ embedding)
        return values

    def _cut_out(self, picture: Picture, regions: Sequence[Mask]) -> list[FloatArray | None]:
        """CLIP's embedding of what is in the box around each region."""
        clip = self._judges.clip
        return [None if clip is None else clip.pictures([cut(picture, region)])[0] for region in regions]

    def _subject(self, name: str) -> Subject:
        return self._spec.concepts[name]


@dataclass(frozen=True, eq=False)
class _Faces:
    """A picture's faces, with embeddings [E] of unit length."""

    found: Sequence[Any]
    embeddings: Sequence[FloatArray]

    @classmethod
    def of(cls, analysis: Analysis | None, picture: Picture) -> _Faces:
        found = [] if analysis is None else list(analysis.faces(picture))
        return cls(found, [] if analysis is None else [unit(analysis.embedding(picture, face)) for face in found])

    def in_masks(self, masks: Sequence[Mask]) -> list[FloatArray | None]:
        """The embedding of the face in each mask, however small."""
        if not self.found:
            return [None] * len(masks)
        from ..faces.places import in_masks
        chosen = in_masks(self.found, [mask.astype(np.float32) for mask in masks], 0.0)
        numbers = [next((number for number, face in enumerate(self.found) if face is each), None) for each in chosen]
        return [None if number is None else self.embeddings[number] for number in numbers]


def _in_order(classes: Sequence[str], seen: Sequence[Seen]) -> list[int | None]:
    """For each concept the number of its thing: of several of a class they take what is seen from left to right."""
    left = list(range(len(seen)))
    found: list[int | None] = []
    for phrase in classes:
        found.append(next((number for number in left if phrase in seen[number].classes), None))
        left = [number for number in left if number != found[-1]]
    return found


def _matched(classes: Sequence[str], rows: Sequence[int], seen: Sequence[Seen], values: FloatArray) -> dict[int, int]:
    """What each of some concepts is, by their numbers: of things of their classes as many as can be, the most in sum.

    Args:
        values: [concepts, things], -1 to 1; NaN, what cannot be told, is less than any.
    """
    fits = np.array([[classes[row] in each.classes for each in seen] for row in rows]).reshape(len(rows), len(seen))
    worth = np.where(fits, np.nan_to_num(values[list(rows)], nan=-2.0), -10.0 * (len(rows) + 1))
    return {rows[row]: int(column) for row, column in zip(*linear_sum_assignment(worth, maximize=True), strict=True)
            if fits[row, column]}
