"""From the pictures that a request brings to who it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..comprehension.pictures import read_picture
from ..errors import OMGError
from ..request import Concept
from .base import Analysis, Face, FloatArray, Picture


def embedding_of(concept: Concept, field: str, analysis: Analysis) -> FloatArray:
    """The embedding [E] of a concept's face, of several pictures their mean: see :func:`mean_embedding`.

    Args:
        concept: one with a face.
        field: what errors call the concept.

    Raises:
        OMGError: a picture cannot be read, or has no such face.
    """
    several = not isinstance(concept.face, str)
    fields = [f"{field}.face[{number}]" if several else f"{field}.face" for number in range(len(concept.faces))]
    pictures = [decode_picture(text, name) for text, name in zip(concept.faces, fields, strict=True)]
    return mean_embedding([chosen(analysis.faces(picture), concept.face_index, name, f"{field}.face_index").embedding
                           for picture, name in zip(pictures, fields, strict=True)])


def decode_picture(text: str, field: str) -> Picture:
    """A picture [H, W, 3] from base64.

    Raises:
        OMGError: see :func:`omg_ext.comprehension.pictures.read_picture`.
    """
    return read_picture(text, field, _rgb)


def chosen(faces: Sequence[Face], index: int | None, field: str, index_field: str) -> Face:
    """One of the faces in a picture: from the left by its number, or the largest.

    Args:
        field, index_field: what errors call the picture and the number.

    Raises:
        OMGError: there is none, or none of this number.
    """
    if not faces:
        raise OMGError(field, "no face was found in this picture; take one that shows it larger, upright and from the "
                              "front")
    if index is None:
        return max(faces, key=_area)
    if index >= len(faces):
        raise OMGError(index_field, f"counted from 0 there is no face {index}: {len(faces)} found in {field}; give a "
                                    "smaller number, or leave it out for the largest")
    return sorted(faces, key=lambda face: face.box[0] + face.box[2])[index]


def mean_embedding(embeddings: Sequence[FloatArray]) -> FloatArray:
    """Of several pictures of one person: the mean direction, as long as they are on average.

    Each counts alike, whatever its length; the adapter reads embeddings that are not normalised.
    """
    if len(embeddings) == 1:
        return embeddings[0]
    lengths = [float(np.linalg.norm(each)) for each in embeddings]
    mean = np.mean([each / max(length, 1e-9) for each, length in zip(embeddings, lengths, strict=True)], axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9) * np.mean(lengths), dtype=np.float32)


def _area(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return float((x1 - x0) * (y1 - y0))


def _rgb(picture: Image.Image) -> Picture:
    return np.asarray(picture.convert("RGB"))
