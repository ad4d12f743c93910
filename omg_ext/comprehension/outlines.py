"""Places that the request gives as boxes, in which a segmenter finds the shape of the thing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import UNSET

from ..errors import OMGError
from ..request import Concept, Request
from . import segmenters
from .base import FirstPicture, Instance
from .boxes import Segment
from .models import Models, require

Box = tuple[float, float, float, float]


def outlined(concepts: Sequence[Concept]) -> dict[int, Box]:
    """The boxes of the concepts that have one to be filled, by the concept's number; in fractions of the picture."""
    return {index: concept.place.outline for index, concept in enumerate(concepts)
            if concept.place is not None and concept.place.outline is not UNSET}


def require_segmenter(request: Request, models: Models) -> None:
    """Refuse a request that needs a segmenter where there is none.

    Raises:
        OMGError: naming the first concept that needs one, and what to get; or a segmenter that the request names in
            vain.
    """
    for index in outlined(request.concepts):
        needs = segmenters.needs(request.detect, models)
        try:
            require("where.outline", needs, models.remedy)
        except OMGError as error:
            raise OMGError(f"concepts[{index}].where.outline", error.message) from None


def find_outlines(request: Request, pictures: Sequence[FirstPicture], models: Models) -> list[dict[int, Instance]]:
    """By picture the shapes in the concepts' boxes; boxes in which there is none are left out.

    The segmenter is loaded only if it is needed. As of what detectors find, what is more there than not counts fully.
    """
    boxes = outlined(request.concepts)
    segmenter = segmenters.find(request.detect, models) if boxes else None
    if segmenter is None:
        return [{} for _ in pictures]
    with segmenter.loaded(models) as segment:
        return [_shapes(picture, boxes, segment) for picture in pictures]


def _shapes(picture: FirstPicture, boxes: dict[int, Box], segment: Segment) -> dict[int, Instance]:
    image = picture.picture()
    height, width = image.shape[:2]
    corners = np.array(list(boxes.values()), np.float32) * np.array([width, height] * 2, np.float32)
    masks = segment(image, corners) >= 0.5
    return {index: Instance(mask.astype(np.float32), 1.0) for index, mask in zip(boxes, masks, strict=True)
            if mask.any()}
