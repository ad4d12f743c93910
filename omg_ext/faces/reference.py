"""The identity that a concept's reference pictures show, as one embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import OMGError
from ..request import Concept
from ..request.pictures import decode_picture, rgb
from .base import Analysis, Face, FloatArray, Picture, sides


def embedding_of(concept: Concept, field: str, analysis: Analysis) -> FloatArray:
    """The embedding [E] of a concept's face.

    Args:
        concept: one with a face.
        field: what errors call the concept.

    Raises:
        OMGError: a picture cannot be read, or has no such face.
    """
    name = f"{field}.face"
    return reference(analysis, decoded(concept.faces, name), concept.face_index, name)


def decoded(texts: Sequence[str], field: str) -> list[Picture]:
    """A request's pictures: uint8 RGB ``[H, W, 3]`` each, upright, on white where they are transparent.

    Args:
        texts: base64 PNG, JPEG or WebP, with or without a ``data:`` prefix.
        field: of the request, see :func:`reference`.

    Raises:
        OMGError: see :func:`..request.pictures.decode_picture`.
    """
    return [rgb(decode_picture(text, name)) for text, name in zip(texts, _names(field, len(texts)), strict=True)]


def reference(analysis: Analysis, pictures: Sequence[Picture], index: int | None, field: str) -> FloatArray:
    """The embedding ``[E]`` of the person in one or several pictures, see :func:`mean_embedding`.

    Args:
        pictures: uint8 RGB ``[H, W, 3]`` each, one or more.
        index: which face of each picture, see :func:`choose`.
        field: of the request, such as ``concepts[0].face``; of several pictures errors name the one:
            ``concepts[0].face[1]``.

    Raises:
        OMGError: a picture shows no face, or not so many.
    """
    return mean_embedding([analysis.embedding(picture, choose(analysis.faces(picture), index, name))
                           for picture, name in zip(pictures, _names(field, len(pictures)), strict=True)])


def choose(faces: Sequence[Face], index: int | None, field: str) -> Face:
    """The face of a picture that is meant.

    Args:
        faces: all of the picture's, from left to right.
        index: 0 for the leftmost, 1 for the next to its right, ...; None for the largest.
        field: of the request, for the error.

    Raises:
        OMGError: there is none, or there are not so many.
    """
    if not faces:
        raise OMGError(field, "no face was found in the picture; take one that shows the face from the front, sharp, "
                              "and not cut off")
    if index is None:
        return max(faces, key=lambda face: math.prod(sides(face)))
    if index >= len(faces):
        shown = "1 face, whose index is 0" if len(faces) == 1 else \
            f"{len(faces)} faces, with the indices 0 to {len(faces) - 1} from left to right"
        raise OMGError(f"{field}_index" if field.endswith(".face") else field,
                       f"there is no face {index}: the picture shows {shown}")
    return faces[index]


def _names(field: str, count: int) -> list[str]:
    return [field] if count == 1 else [f"{field}[{number}]" for number in range(count)]


def mean_embedding(embeddings: Sequence[FloatArray]) -> FloatArray:
    """The mean of some embeddings ``[E]``, as if they were one picture's.

    The OMG paper (Sec. 4.1) gives InstantID "the average mean of ID embeddings". Embeddings are compared by their
    direction, and a sharp picture's is longer than a blurred one's; so directions are averaged, each counting alike.
    InstantID's projection has learnt from embeddings of their own length, and the mean of directions is shorter than
    one: it is brought to the mean length. One embedding alone stays as it is, to the bit.
    """
    if len(embeddings) == 1:
        return embeddings[0]
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    mean = (np.asarray(embeddings) / lengths).mean(0)
    return np.asarray(mean / np.linalg.norm(mean) * lengths.mean(), dtype=np.float32)
