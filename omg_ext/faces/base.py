"""What reads faces, what draws their key points, and a concept's face as the passes take it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..unet.image_prompts import ImagePrompt

Picture = npt.NDArray[np.uint8]
"""``[H, W, 3]``, red first"""
FloatArray = npt.NDArray[np.float32]


class Face(Protocol):
    """One face in a picture.

    Attributes:
        box: float32 [4], left, top, right and bottom in pixels; it may reach over the picture's edge.
        points: its key points, float32 [P, 2]: x and y in pixels.
    """

    @property
    def box(self) -> FloatArray: ...

    @property
    def points(self) -> FloatArray: ...


def sides(face: Face) -> tuple[float, float]:
    """Width and height of a face's box, in pixels."""
    left, top, right, bottom = map(float, face.box)
    return right - left, bottom - top


class Analysis(Protocol):
    """Finds faces and reads whose they are."""

    def faces(self, picture: Picture) -> Sequence[Any]:
        """All faces in a picture (:class:`Face`), from left to right."""
        ...

    def embedding(self, picture: Picture, face: Any) -> FloatArray:
        """Whose face it is, one of those found in the picture: float32 [E], not normalised."""
        ...


DrawPoints = Callable[[FloatArray, tuple[int, int]], Picture]
"""``(key points [P, 2] in pixels, (height, width)) -> the picture [H, W, 3] that an IdentityNet is shown``"""


@dataclass(frozen=True, eq=False)
class ConceptFace:
    """A concept's face, ready to be drawn.

    Attributes:
        tokens: image_proj(e) for conditional rows and image_proj(0) for unconditional ones, float32 [2, tokens, width].
        prompt: what cross-attention takes of it; None if that is off.
        scales: of IdentityNet's residuals, one for each of the host's steps; at 0 it is not asked.
    """

    tokens: Tensor
    prompt: ImagePrompt | None
    scales: Sequence[float] = ()

    @property
    def is_posed(self) -> bool:
        """Whether IdentityNet acts, which goes by where the face is."""
        return any(self.scales)

    def scale(self, step: int) -> float:
        """Of IdentityNet's residuals at a step. Samplers that choose their steps as they go end with the last one's."""
        return self.scales[min(step, len(self.scales) - 1)] if self.scales else 0.0


def steps_between(steps: int, start: float, end: float, scale: float) -> list[float]:
    """A scale for each of so many steps, 0 in those that do not lie wholly between two fractions of them."""
    return [0.0 if step / steps < start or (step + 1) / steps > end else scale for step in range(steps)]
