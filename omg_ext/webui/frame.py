"""Where the part of a picture that "Only masked" draws lies in the whole: places there, and back. No web UI in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from msgspec import UNSET

from ..comprehension.masks import FloatArray, decode_mask, encode_mask, resize
from ..comprehension.places import Finding, Places
from ..request import Request, Where

OUTSIDE = 'its place lies outside of the part that "Only masked" draws'
# less than this of a mask is nothing
_LEAST = 1 / 16


@dataclass(frozen=True)
class Frame:
    """Where what is sampled lies in the result: it is all of it, or the part that "Only masked" crops and enlarges.

    Attributes:
        size: height and width of what is sampled, in pixels.
        whole: those of the result.
        crop: left, top, width and height of the part in the result; None is all.
    """

    size: tuple[int, int]
    whole: tuple[int, int]
    crop: tuple[int, int, int, int] | None = None

    def asked(self, request: Request) -> tuple[Request, dict[int, str]]:
        """The request with all places as fractions of what is sampled; and by concept why it has none there."""
        if self.crop is None:
            return request, {}
        concepts, outside = [], {}
        for index, concept in enumerate(request.concepts):
            where = None if concept.place is None else self._where(concept.place, f"concepts[{index}].where.mask")
            if concept.place is not None and where is None:
                # anything that needs no search
                where, outside[index] = Where(box=(0.0, 0.0, 1.0, 1.0)), OUTSIDE
            concepts.append(msgspec.structs.replace(concept, where=where))
        larger = self.whole[1] * self._inner[2] / self.crop[2] / self.size[1]
        mask = msgspec.structs.replace(request.mask, grow=request.mask.grow * larger,
                                       feather=request.mask.feather * larger)
        return msgspec.structs.replace(request, concepts=tuple(concepts), mask=mask), outside

    def shown(self, places: Places) -> Places:
        """The places as they lie in the result."""
        if self.crop is None:
            return places
        masks = [[None if mask is None else self._pasted(mask) for mask in of_picture] for of_picture in places.masks]
        findings = [[self._found(finding) for finding in of_picture] for of_picture in places.findings]
        return replace(places, masks=masks, findings=findings)

    @property
    def _inner(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of the crop in what is sampled: as the web UI fits it in (its resize mode 2)."""
        if self.crop is None:
            return 0, 0, self.size[1], self.size[0]
        (height, width), (_, _, crop_width, crop_height) = self.size, self.crop
        ratio, own = width / height, crop_width / crop_height
        inner_width = width if ratio < own else crop_width * height // crop_height
        inner_height = height if ratio >= own else crop_height * width // crop_width
        return width // 2 - inner_width // 2, height // 2 - inner_height // 2, inner_width, inner_height

    def _at(self, fraction: float, axis: int) -> float:
        """A fraction of the result's width (axis 0) or height (1) as one of what is sampled."""
        assert self.crop is not None
        start, length = self.crop[axis], self.crop[axis + 2]
        offset, inner = self._inner[axis], self._inner[axis + 2]
        return (offset + (fraction * self.whole[1 - axis] - start) / length * inner) / self.size[1 - axis]

    def _where(self, where: Where, field: str) -> Where | None:
        """None if it lies outside."""
        if where.kind == "point" and where.point is not UNSET:
            x, y = (self._at(part, axis) for axis, part in enumerate(where.point))
            return Where(point=(x, y)) if 0 <= x <= 1 and 0 <= y <= 1 else None
        if where.kind == "mask":
            return self._mask(decode_mask(str(where.mask), field))
        if where.kind in ("overlap", "box", "outline"):
            box = self._box(getattr(where, where.kind))
            return None if box is None else msgspec.structs.replace(where, **{where.kind: box})
        return where

    def _box(self, box: Sequence[float]) -> tuple[float, float, float, float] | None:
        edges = [self._edge(part, number % 2) for number, part in enumerate(box)]
        x0, y0, x1, y1 = edges
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def _edge(self, fraction: float, axis: int) -> float:
        """At the edge of the crop or beyond it is that of what is sampled, whose rim is more than the crop."""
        assert self.crop is not None
        along = fraction * self.whole[1 - axis] - self.crop[axis]
        if along <= 0 or along >= self.crop[axis + 2]:
            return float(along > 0)
        return self._at(fraction, axis)

    def _mask(self, mask: FloatArray) -> Where | None:
        assert self.crop is not None
        left, top, width, height = self.crop
        part = resize(mask, *self.whole)[top:top + height, left:left + width]
        if part.max() < _LEAST:
            return None
        x, y, inner_width, inner_height = self._inner
        rim = ((y, self.size[0] - y - inner_height), (x, self.size[1] - x - inner_width))
        return Where(mask=encode_mask(np.pad(resize(part, inner_height, inner_width), rim, mode="edge")))

    def _pasted(self, mask: FloatArray) -> FloatArray:
        """A mask of what is sampled, at any resolution, in the result."""
        assert self.crop is not None
        left, top, width, height = self.crop
        x, y, inner_width, inner_height = self._inner
        whole = np.zeros(self.whole, np.float32)
        part = resize(mask, *self.size)[y:y + inner_height, x:x + inner_width]
        whole[top:top + height, left:left + width] = resize(part, height, width)
        return whole

    def _found(self, finding: Finding) -> Finding:
        instance = finding.instance
        return replace(finding, instance=replace(instance, mask=self._pasted(instance.mask)))
