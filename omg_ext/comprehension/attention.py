"""The detector that needs no download: it goes by class-token cross-attention maps of the first pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from .base import FirstPicture, Instance

# components of a thresholded heat map smaller than these are specks
MIN_SHARE_OF_LARGEST = 0.1
MIN_SHARE_OF_PICTURE = 0.005
# standard deviation of the smoothing before the threshold, in picture widths: one cell of a 64 x 64 grid
SMOOTHING = 1 / 64


class AttentionDetector:
    """Instances are the connected hot places of a phrase's heat map.

    It can tell apart two instances of one phrase only if they do not touch.
    """

    name = "attention"
    needs_attention = True

    def find(self, picture: FirstPicture, phrases: Sequence[str]) -> list[list[Instance]]:
        """Per phrase its instances, best first; none if the phrase is not in the prompt or its heat map is flat.

        A cell belongs to the phrase with the most heat there, each phrase's heat taken between its least and its most
        (0..1), if it is over Otsu's threshold of that phrase.
        """
        maps = [picture.heat(phrase) for phrase in phrases]
        heats = {index: heat for index, raw in enumerate(maps) if raw is not None
                 for heat in [_normalised(raw)] if heat is not None}
        instances: list[list[Instance]] = [[] for _ in phrases]
        if heats:
            stack = np.stack(list(heats.values()))
            hot = [(heat > threshold_otsu(heat)) & (stack.argmax(0) == layer) for layer, heat in enumerate(stack)]
            owned = [(index, heat, part) for index, heat, area in zip(heats, stack, hot, strict=True)
                     for part in _components(area)]
            filled = _fill_holes([part for _, _, part in owned])
            for (index, heat, _), part in zip(owned, filled, strict=True):
                instances[index].append(Instance(part.astype(np.float32), _score(part, heat)))
        for found in instances:
            found.sort(key=lambda instance: -instance.score)
        return instances


def _normalised(heat: npt.NDArray[np.floating]) -> npt.NDArray[np.float64] | None:
    """The heat map, smoothed a little, in 0..1; None if it is flat but for rounding."""
    smooth = ndimage.gaussian_filter(heat.astype(np.float64), SMOOTHING * heat.shape[1], mode="nearest")
    least, most = smooth.min(), smooth.max()
    return None if most - least <= 1e-4 * most else (smooth - least) / (most - least)


def _components(area: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """The connected parts of an area ``[h, w]``, without specks."""
    labels, count = ndimage.label(area)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    least = max(MIN_SHARE_OF_LARGEST * sizes.max(initial=0), MIN_SHARE_OF_PICTURE * area.size)
    return [labels == label for label, size in enumerate(sizes, 1) if size >= least]


def _fill_holes(parts: list[npt.NDArray[np.bool_]]) -> list[npt.NDArray[np.bool_]]:
    """Disjoint parts ``[h, w]`` with their holes filled, save for what another part holds: they stay disjoint."""
    taken = np.any(parts, axis=0)
    whole = [ndimage.binary_fill_holes(part) for part in parts]
    filled = list(parts)
    # the innermost first: its hole lies in the holes of those around it
    for index in sorted(range(len(parts)), key=lambda index: whole[index].sum()):
        filled[index] = parts[index] | (whole[index] & ~taken)
        taken |= filled[index]
    return filled


def _score(part: npt.NDArray[np.bool_], heat: npt.NDArray[np.float64]) -> float:
    """How well a part of a heat map shows the phrase: by heat and, less, by size."""
    return float(heat[part].mean() * np.sqrt(part.mean()))
