"""The figure reader as a detector: masks as good as a trained reader of this world finds them in the first pass.

It is to OMG here what the paper's SAM with Grounding DINO is to it on photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bench.world.pixels import Images
from bench.world.readers import Reading
from omg_ext.comprehension import DETECTORS, FirstPicture, Instance, Query
from omg_ext.comprehension.base import AtHand

ReadFigures = Callable[[Images], Sequence[Reading]]
"""``pictures uint8 [B, H, W, 3] -> what is in each``"""
NAME = "reader"


@dataclass(frozen=True)
class ReaderDetector(AtHand):
    """Instances of a phrase are the figures that the reader takes for that class, the largest first.

    Attributes:
        read: the figure reader.
    """

    read: ReadFigures
    name: str = NAME
    goes_by_prompt: bool = False
    needs_attention: bool = False

    def find(self, picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        """Per query, whose phrase is a class of the world, its figures' visible masks."""
        return instances(self.read(np.stack([picture.picture()]))[0], [query.phrase for query in queries])


def instances(reading: Reading, phrases: Sequence[str]) -> list[list[Instance]]:
    """Per phrase the figures of that class, the largest first."""
    found = [[Instance(figure.mask.astype(np.float32), float(figure.mask.mean())) for figure in reading.figures
              if figure.kind == phrase] for phrase in phrases]
    return [sorted(of_phrase, key=lambda instance: -instance.score) for of_phrase in found]


@contextmanager
def reader_masks(read: ReadFigures) -> Iterator[None]:
    """Within the block requests can name the detector ``reader``."""
    before = dict(DETECTORS)
    DETECTORS[NAME] = ReaderDetector(read)
    try:
        yield
    finally:
        del DETECTORS[NAME]
        DETECTORS.update(before)
