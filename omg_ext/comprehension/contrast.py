"""Where a phrase acts on a finished picture: finding things with nothing but the model that drew them.

The picture's latent is noised to a few timesteps, and the model predicts it with the prompt and with the prompt less a
phrase. Where these differ, the phrase is to be seen (DiffEdit, Couairon et al. 2022, arXiv 2210.11427). Here is what
comes before and after the model: which prompts, timesteps and noises; and from maps of differences to instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from .base import Instance
from .instances import nearest
from .masks import resize
from .occlusion import fill_holes, without_specks
from .walker import walk
from .without import single, without

FloatArray = npt.NDArray[np.float64]

SIDE = 128
"""The longer side of the grid on which outlines are sought: that of the latent at SDXL's sizes."""
POWER = 0.6
"""Of the squared difference. With 1 one loud part drowns the rest of a thing, with 0.5 the ground becomes loud."""
SMOOTHING = 1 / 64
"""Standard deviation of the smoothing of maps, as a share of their width."""
AROUND = 0.16
"""Maps are taken relative to their mean around each place, within about this share of their width: of two things of a
kind, or parts of one, the model may need words for one far more than for the other."""
OVERALL = 1.5
"""How much the mean of the whole map counts beside that: without it, ground with nothing in it would be loud."""
OWN = 2.0
"""Each of several instances has a threshold of its own, within this factor of that of all: some show less."""
SPECK = 0.25
"""Parts of an instance with less than this share of its largest are not of it."""
MIN_AREA = 0.004
"""An instance smaller than this share of the picture is none."""
# a map whose values differ by less than this share of the largest shows nothing but rounding
_FLAT = 1e-4


@dataclass(frozen=True)
class Plan:
    """Which predictions are compared. Words act on shapes in the middle of the trajectory (measured on a small SDXL).

    Attributes:
        times: to which shares of the model's timesteps the picture is noised (0 is the picture, 1 is noise).
        noises: at each time; every second one is the negative of that before, so that what is odd in noise cancels.
            All prompts share them: else noise is all that differs.
    """

    times: tuple[float, ...] = (0.45, 0.55, 0.65, 0.75)
    noises: int = 2


PLAN = Plan()


class Comparison(NamedTuple):
    """Two prompts whose predictions differ where a phrase is to be seen."""

    named: str
    unnamed: str


def comparisons(prompt: str, phrase: str) -> list[Comparison]:
    """What to compare for a phrase; nothing if the prompt does not name it.

    If it asks for several things of the kind, a prompt for one of them is compared too: it acts on all of them about
    alike, where the words for all, beside what the model sees in the noised picture, act on one of them for the most.
    """
    unnamed = without(prompt, phrase)
    named = dict.fromkeys((prompt, single(prompt, phrase)))
    return [] if unnamed == prompt else [Comparison(each, unnamed) for each in named]


def combined(maps: Sequence[FloatArray]) -> FloatArray | None:
    """One map of a phrase from those of its comparisons ``[h, w]``, of the same weight each; None if there is none."""
    known = [each / each.mean() for each in maps if each.mean() > 0]
    return np.mean(known, axis=0) if known else None


def instances(maps: Sequence[npt.NDArray[np.floating] | None], counts: Sequence[int],
              picture: npt.NDArray[np.uint8]) -> list[list[Instance]]:
    """The things of each phrase.

    A place is a phrase's if its map there is over its threshold (Otsu 1979), as far as the picture's outlines agree
    (:mod:`.walker`), and more so than any other's. No scale of a map matters.

    Args:
        maps: per phrase its :func:`combined` map ``[h, w]``; None for one that the prompt does not name.
        counts: per phrase how many instances to tell apart, at least 1.
        picture: the decoded picture, uint8 ``[H, W, 3]``.

    Returns:
        Per phrase at most as many instances as are asked for, best first. Masks are 0 and 1, disjoint, on a grid of
        :data:`SIDE` cells on the longer side; a score is the mean probability of its mask.
    """
    size = tuple(max(round(side * SIDE / max(picture.shape[:2])), 1) for side in picture.shape[:2])
    layers: list[FloatArray] = []
    owners: list[int] = []
    for phrase, (raw, count) in enumerate(zip(maps, counts, strict=True)):
        evidence = None if raw is None else _evidence(raw, (size[0], size[1]))
        if evidence is not None:
            layers += _odds(evidence, count)
            owners += [phrase] * (len(layers) - len(owners))
    found: list[list[Instance]] = [[] for _ in maps]
    if layers:
        odds = np.stack([np.ones(size), *layers])
        small = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BOX))
        chances = walk(odds / odds.sum(0), small)
        best = chances.argmax(0)
        masks = fill_holes([without_specks(best == number, SPECK) for number in range(1, len(odds))])
        for phrase, mask, chance in zip(owners, masks, chances[1:], strict=True):
            if mask.mean() >= MIN_AREA:
                found[phrase].append(Instance(mask.astype(np.float32), float(np.clip(chance[mask].mean(), 0, 1))))
    for of_phrase in found:
        of_phrase.sort(key=lambda instance: -instance.score)
    return found


def _evidence(raw: npt.NDArray[np.floating], size: tuple[int, int]) -> FloatArray | None:
    """A phrase's map on the grid of outlines; None if it is flat."""
    smooth = _blurred(np.maximum(raw.astype(np.float64), 0), SMOOTHING)
    if np.ptp(smooth) <= _FLAT * smooth.max():
        return None
    level = smooth / (_blurred(smooth, AROUND) + OVERALL * smooth.mean())
    return resize((level / level.max()) ** POWER, *size).astype(np.float64)


def _blurred(values: FloatArray, share: float) -> FloatArray:
    """``[h, w]`` under a Gaussian with a standard deviation of this share of the width."""
    return np.asarray(ndimage.gaussian_filter(values, share * values.shape[1], mode="nearest"))


def _odds(evidence: FloatArray, count: int) -> list[FloatArray]:
    """What speaks for each instance against the ground, ``[h, w]`` each; 1 is undecided."""
    common = threshold_otsu(evidence)
    if count == 1:
        return [evidence / common]
    nearer = nearest(evidence > common, count)
    return [np.where(nearer == number, evidence / _threshold(evidence[nearer == number], common), 0)
            for number in range(count)]


def _threshold(values: FloatArray, common: float) -> float:
    """That of one instance's surroundings."""
    own = threshold_otsu(values) if values.size and np.ptp(values) > 0 else common
    return float(np.clip(own, common / OWN, common * OWN))
