"""What reads faces, what draws their key points, and a concept's face as the passes take it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

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
        embedding: who it is, float32 [E], not normalised.
        points: its key points, float32 [P, 2]: x and y in pixels.
        box: around it, x0, y0, x1, y1 in pixels.
    """

    @property
    def embedding(self) -> FloatArray: ...

    @property
    def points(self) -> FloatArray: ...

    @property
    def box(self) -> Sequence[float] | FloatArray: ...


class Analysis(Protocol):
    """Finds faces and reads whose they are."""

    def faces(self, picture: Picture) -> Sequence[Face]:
        """All faces in a picture, in any order."""
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
