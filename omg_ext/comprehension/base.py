"""What every detector takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..request import Detect
from .models import Models, Need


@dataclass(frozen=True)
class Query:
    """What is sought.

    Attributes:
        phrase: unlike the others of one search.
        count: how many instances there should be; a detector that cannot count by itself tells so many apart.
    """

    phrase: str
    count: int = 1


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
    def area(self) -> float:
        """The share of the picture that is its."""
        return float(self.mask.mean(dtype=np.float64))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box (x0, y0, x1, y1) around the mask from a half up, in fractions of the picture's width and height."""
        height, width = self.mask.shape
        solid = self.mask >= 0.5
        columns, rows = np.flatnonzero(solid.any(0)), np.flatnonzero(solid.any(1))
        if not len(columns):
            return 0.0, 0.0, 0.0, 0.0
        return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height

    @property
    def centre(self) -> tuple[float, float]:
        """The mask's centre of mass (x, y) in fractions of the picture's width and height."""
        height, width = self.mask.shape
        total = self.mask.sum(dtype=np.float64)
        x = self.mask.sum(0, dtype=np.float64) @ (np.arange(width) + 0.5) / (total * width)
        y = self.mask.sum(1, dtype=np.float64) @ (np.arange(height) + 0.5) / (total * height)
        return float(x), float(y)


Contrasts = Callable[[Sequence[tuple[str, str]], Sequence[float], int], npt.NDArray[np.float32]]
"""``(pairs of prompts, times, noises) -> float32 [pairs, h, w]``: see :class:`omg_ext.passes.contrast.Contrast`"""


def no_contrasts(pairs: Sequence[tuple[str, str]], times: Sequence[float], noises: int) -> npt.NDArray[np.float32]:
    """Of a picture that no model has drawn: flat."""
    return np.zeros((len(pairs), 1, 1), np.float32)


@dataclass(frozen=True, eq=False)
class FirstPicture:
    """What the first pass leaves for one picture. The callables are asked only by detectors that need them.

    Attributes:
        prompt: the global prompt.
        picture: the decoded picture, uint8 ``[H, W, 3]``.
        heat: a phrase's cross-attention heat map ``[h, w]``, the same size for every phrase, or None if the phrase is
            not in the prompt.
        contrasts: where the model's predictions for the picture differ between two prompts.
        wordings: how the prompt reads in the course of sampling, as it reads last first; empty if it never changes.
        hints: by phrase, what a detector has to say of one that it cannot find; for messages.
    """

    prompt: str
    picture: Callable[[], npt.NDArray[np.uint8]]
    heat: Callable[[str], npt.NDArray[np.floating] | None]
    contrasts: Contrasts = no_contrasts
    wordings: Sequence[str] = ()
    hints: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, picture: npt.NDArray[np.uint8]) -> FirstPicture:
        """A picture alone, uint8 [H, W, 3], for detectors that do not go by a prompt."""
        return cls("", lambda: picture, lambda phrase: None)


Find = Callable[[FirstPicture, Sequence[Query]], list[list[Instance]]]
"""``(picture, queries) -> the instances of each query, best first``. Masks may overlap: see :mod:`.occlusion`."""


class Detector(Protocol):
    """Visual comprehension (paper Sec. 3.3): finds the concepts' places in the first-pass picture.

    Attributes:
        name: what the request's field ``detector`` calls it.
        goes_by_prompt: whether it finds only what the main prompt names, in a picture that the model has just drawn.
        reads: which fields of ``detect`` it goes by.
        needs_attention: whether the first pass has to record cross-attention for ``FirstPicture.heat``.
    """

    @property
    def name(self) -> str: ...

    @property
    def goes_by_prompt(self) -> bool: ...

    @property
    def needs_attention(self) -> bool: ...

    @property
    def reads(self) -> Collection[str]: ...

    def needs(self, options: Detect, models: Models) -> Sequence[Need]:
        """What it takes, packages and files, there or not. Nothing is imported, loaded or downloaded for the answer."""
        ...

    def loaded(self, options: Detect, models: Models) -> AbstractContextManager[Find]:
        """The detector, ready to find within the block. After it its memory is free, unless ``models`` keeps it.

        Raises:
            OMGError: something it needs is missing or broken.
        """
        ...


class AtHand(ABC):
    """The part of a detector that needs nothing and is always loaded."""

    reads = ()

    def needs(self, options: Detect, models: Models) -> Sequence[Need]:
        """Nothing."""
        return ()

    @contextmanager
    def loaded(self, options: Detect, models: Models) -> Iterator[Find]:
        """See :meth:`find`."""
        yield self.find

    @abstractmethod
    def find(self, picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        """See :data:`Find`."""
