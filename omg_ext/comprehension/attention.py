"""The detector that needs no download: it goes by class-token cross-attention maps of the first pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from .base import AtHand, FirstPicture, Instance, Query
from .occlusion import fill_holes, parts

# standard deviation of the smoothing before the threshold, in picture widths: one cell of a 64 x 64 grid
SMOOTHING = 1 / 64


class AttentionDetector(AtHand):
    """Instances are the connected hot places of a phrase's heat map.

    It can tell apart two instances of one phrase only if they do not touch.
    """

    name = "attention"
    goes_by_prompt = needs_attention = True

    def find(self, picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        """Per query its instances, best first; none if the phrase is not in the prompt or its heat map is flat.

        A cell belongs to the phrase with the most heat there, each phrase's heat taken between its least and its most
        (0..1), if it is over Otsu's threshold of that phrase.
        """
        maps = [picture.heat(query.phrase) for query in queries]
        heats = {index: heat for index, raw in enumerate(maps) if raw is not None
                 for heat in [_normalised(raw)] if heat is not None}
        instances: list[list[Instance]] = [[] for _ in queries]
        if heats:
            stack = np.stack(list(heats.values()))
            hot = [(heat > threshold_otsu(heat)) & (stack.argmax(0) == layer) for layer, heat in enumerate(stack)]
            owned = [(index, heat, part) for index, heat, area in zip(heats, stack, hot, strict=True)
                     for part in parts(area)]
            filled = fill_holes([part for _, _, part in owned])
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


def _score(part: npt.NDArray[np.bool_], heat: npt.NDArray[np.float64]) -> float:
    """How well a part of a heat map shows the phrase: by heat and, less, by size."""
    return float(heat[part].mean() * np.sqrt(part.mean()))
