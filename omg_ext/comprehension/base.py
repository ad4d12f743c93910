"""What every detector takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Instance:
    """One thing found in the first-pass picture.

    Attributes:
        mask: float32 ``[h, w]`` in 0..1 over the whole picture, at any resolution.
        score: the higher the better; comparable within one phrase only.
    """

    mask: npt.NDArray[np.float32]
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """The mask's centre of mass (x, y) in fractions of the picture's width and height."""
        height, width = self.mask.shape
        total = self.mask.sum(dtype=np.float64)
        x = self.mask.sum(0, dtype=np.float64) @ (np.arange(width) + 0.5) / (total * width)
        y = self.mask.sum(1, dtype=np.float64) @ (np.arange(height) + 0.5) / (total * height)
        return float(x), float(y)


@dataclass(frozen=True, eq=False)
class FirstPicture:
    """What the first pass leaves for one picture. Both callables are asked only by detectors that need them.

    Attributes:
        prompt: the global prompt.
        picture: the decoded picture, uint8 ``[H, W, 3]``.
        heat: a phrase's cross-attention heat map ``[h, w]``, the same size for every phrase, or None if the phrase is
            not in the prompt.
    """

    prompt: str
    picture: Callable[[], npt.NDArray[np.uint8]]
    heat: Callable[[str], npt.NDArray[np.floating] | None]


class Detector(Protocol):
    """Visual comprehension (paper Sec. 3.3): finds the concepts' places in the first-pass picture.

    Attributes:
        name: what the request's field ``detector`` calls it.
        needs_attention: whether the first pass has to record cross-attention for ``FirstPicture.heat``.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_attention(self) -> bool: ...

    def find(self, picture: FirstPicture, phrases: Sequence[str]) -> list[list[Instance]]:
        """The instances of each of the distinct ``phrases``, best first; no place belongs to two of them."""
        ...
