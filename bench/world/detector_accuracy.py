"""How well the small world's YOLO finds figures, in reconstructions of renderings that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
from diffusers import AutoencoderKL

from bench.world import weights
from bench.world.attributes import KINDS
from bench.world.reader_accuracy import overlap, reconstructions
from bench.world.render import Picture, random_cast, render
from omg_ext.comprehension import DETECTORS, Find, FirstPicture, Models, Query
from omg_ext.request import Detect

PICTURES = 60
# far from the training's seed, and from those of the readers' pictures
_SEED = 2**29
# masks that share so much of their union are of one figure
_MET = 0.5


def models() -> Models:
    """With the small world's own detector."""
    return Models(folders=[weights.DETECTOR.parent])


def detector_report(vae: AutoencoderKL, count: int = PICTURES) -> dict[str, dict[str, float]]:
    """By the number of figures in a picture, see :func:`accuracy`."""
    report = {}
    with DETECTORS["yolo"].loaded(Detect(model=weights.DETECTOR.name), models()) as find:
        for number, name in enumerate(("single", "pair", "triple"), 1):
            pictures = [render(seed, random_cast(Random(seed), number))
                        for seed in range(_SEED + number * count, _SEED + (number + 1) * count)]
            report[name] = accuracy(find, vae, pictures)
    return report


def accuracy(find: Find, vae: AutoencoderKL, pictures: Sequence[Picture]) -> dict[str, float]:
    """How well a detector finds figures in reconstructions of pictures.

    Returns:
        ``mask_iou``: the mean overlap of each figure's visible mask with the best instance of its class; 0 where none
        is found. ``found``: the share of figures with an instance that overlaps by half. ``wrong``: instances that lie
        on no figure of their class, per picture.
    """
    overlaps: list[float] = []
    wrong = 0
    for picture, image in zip(pictures, reconstructions(vae, pictures), strict=True):
        found = dict(zip(KINDS, find(FirstPicture.of(image), [Query(kind) for kind in KINDS]), strict=True))
        for kind in KINDS:
            figures = [figure.visible for figure in picture.figures if figure.character.kind == kind]
            met = np.array([[overlap(figure, instance.mask >= 0.5) for instance in found[kind]] for figure in figures])
            met = met.reshape(len(figures), len(found[kind]))
            overlaps += [float(row.max(initial=0)) for row in met]
            wrong += int((met.max(0, initial=0) < _MET).sum())
    return {"mask_iou": round(float(np.mean(overlaps)), 3),
            "found": round(float(np.mean(np.array(overlaps) >= _MET)), 3), "wrong": round(wrong / len(pictures), 3)}
