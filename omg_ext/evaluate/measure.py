"""What is measured of each picture (paper Sec. 4): see :data:`.FIGURES`.

Who of several of one class is who, in regions: a method of the kind ``omg`` puts its concepts from left to right, and
is judged so. Nobody told the others, so that they are judged by the assignment that flatters them most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from .clip import unit
from .figures import CLIP, DETECTOR, FACES, FIGURES
from .means import FloatArray
from .plan import Place
from .regions import Mask, Picture, background_change, cut, iou
from .spec import PLACING, Spec, Subject

if TYPE_CHECKING:
    from ..faces.base import Analysis

Values = dict[str, float]
"""Figures by name; those that a picture has no value of are not there."""
Find = Callable[[Picture, Sequence[str]], Sequence[Mask | None]]


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

    @property
    def figures(self) -> list[str]:
        """The names of what can be measured."""
        there = {CLIP: self.clip, FACES: self.faces, DETECTOR: self.find}
        return [name for name, figure in FIGURES.items() if all(there[need] is not None for need in figure.needs)]


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
        regions = list(self._judges.find(picture, classes))
        likeness = self._likeness(place.cast, picture, regions, faces)
        was = None if first is None else list(self._judges.find(first, classes))
        if self._spec.variants[place.method].method.kind not in PLACING:
            order = _most_alike(classes, place.shown, regions, likeness)
            regions, likeness = [regions[part] for part in order], likeness[:, order]
            # whoever stands there, it is the same place in their order
            was = None if was is None else [was[part] for part in order]
        for index, values in concepts.items():
            values |= self._of_region(place.cast[index], regions[index], float(likeness[index, index]))
            if was is not None and was[index] is not None:
                values["layout"] = iou(was[index], regions[index])
        if first is not None and was is not None and first.shape == picture.shape:
            change = background_change(picture, first, [mask for mask in was if mask is not None])
            figures |= {} if math.isnan(change) else {"background": change}

    def _of_region(self, name: str, region: Mask | None, cosine: float) -> Values:
        values: Values = {"found": float(region is not None)}
        if name not in self._known:
            return values
        if self._subject(name).kind == "character":
            return {**values, **self._identity(cosine, "ida", "ida_detected")}
        return values if region is None else {**values, "ima": cosine}

    def _likeness(self, cast: Sequence[str], picture: Picture, regions: Sequence[Mask | None],
                  faces: _Faces) -> FloatArray:
        """Cosines [concepts, regions] of what is in each region to each concept; NaN where nothing can be told."""
        embedded = {"character": faces.in_masks(regions), "object": self._cut_out(picture, regions)}
        values = np.full((len(cast), len(regions)), np.nan)
        for row, name in enumerate(cast):
            for column, embedding in enumerate(embedded[self._subject(name).kind]):
                if embedding is not None and name in self._known:
                    values[row, column] = np.mean(self._known[name] @ embedding)
        return values

    def _cut_out(self, picture: Picture, regions: Sequence[Mask | None]) -> list[FloatArray | None]:
        """CLIP's embedding of what is in the box around each region."""
        clip = self._judges.clip
        return [None if clip is None or region is None else clip.pictures([cut(picture, region)])[0]
                for region in regions]

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

    def in_masks(self, masks: Sequence[Mask | None]) -> list[FloatArray | None]:
        """The embedding of the face in each mask, however small."""
        if not self.found:
            return [None] * len(masks)
        from ..faces.places import in_masks
        chosen = in_masks(self.found, [None if mask is None else mask.astype(np.float32) for mask in masks], 0.0)
        numbers = [next((number for number, face in enumerate(self.found) if face is each), None) for each in chosen]
        return [None if number is None else self.embeddings[number] for number in numbers]


def _most_alike(classes: Sequence[str], shown: Sequence[int], regions: Sequence[Mask | None],
                likeness: FloatArray) -> list[int]:
    """Which region each concept takes: of those of its class the assignment in which the shown are most alike."""
    order = list(range(len(classes)))
    for phrase in dict.fromkeys(classes):
        group = [index for index in order if classes[index] == phrase]
        rows, columns = ([index for index in group if index in shown],
                         [index for index in group if regions[index] is not None])
        # what cannot be told is less alike than anything
        values = np.nan_to_num(likeness[np.ix_(rows, columns)], nan=-2.0)
        chosen = {rows[row]: columns[column]
                  for row, column in zip(*linear_sum_assignment(values, maximize=True), strict=True)}
        left = iter([index for index in group if index not in chosen.values()])
        for index in group:
            order[index] = chosen[index] if index in chosen else next(left)
    return order
