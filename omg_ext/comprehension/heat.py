"""Heat maps of phrases: how much each place of the first pass attended to the words of the global prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import OMGError
from .masks import resize

Part = tuple[int, int]
"""A conditional row of the global prompt: (picture of the batch, part of its prompt)"""


class StagePositions(NamedTuple):
    """Where the phrases stand in a prompt for some steps, if prompt editing changes it.

    Attributes:
        until: the last step, by the host's numbers.
        phrases: token positions of each phrase; empty where it is absent.
    """

    until: float
    phrases: Sequence[Sequence[int]]


Positions = Mapping[Part, Sequence[StagePositions]]
"""The phrases' token positions in each part of each picture's prompt, by stages in order"""


def stage_at(positions: Positions, part: Part, step: int) -> int:
    """The number of a part's stage at a step; the first if all have ended, as the web UI counts."""
    return next((number for number, stage in enumerate(positions[part]) if step <= stage.until), 0)


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """How much each place of the first pass attended to each phrase.

    Attributes:
        phrases: what was looked for.
        positions: see :data:`Positions`. Its stages, one part's after the other, are the rows of what was recorded.
        sums: by number of image tokens: float32 [stages, tokens, phrases].
        counts: by number of image tokens, how many maps each stage's sum holds, [stages].
        grid: height and width of the latent.
    """

    phrases: tuple[str, ...]
    positions: Positions
    sums: Mapping[int, Tensor]
    counts: Mapping[int, npt.NDArray[np.int64]]
    grid: tuple[int, int]

    def of(self, picture: int, phrase: str) -> npt.NDArray[np.float32] | None:
        """A phrase's heat map in a picture: the mean over heads, layers, steps and parts of its prompt that have it.

        Returns:
            float32 ``[h, w]`` in 0..1 on the finest token grid that has cross-attention; None for an absent phrase.

        Raises:
            OMGError: nothing was recorded on a token grid of a latent of this size, e.g. because tokens were merged.
        """
        index = self.phrases.index(phrase)
        stages = [(part, stage) for part, stages in self.positions.items() for stage in stages]
        rows = [row for row, (part, stage) in enumerate(stages) if part[0] == picture and stage.phrases[index]]
        if not rows:
            return None
        grids = token_grids(*self.grid)
        recorded = [tokens for tokens, counts in self.counts.items() if tokens in grids and counts.any()]
        if not recorded:
            raise OMGError("detector", "the attention maps do not have the picture's shape; turn off token merging and "
                                       "tiling, or give where.box or where.mask")
        finest = grids[max(recorded)]
        counts = [int(self.counts[tokens][rows].sum()) for tokens in recorded]
        if not any(counts):
            return None  # the steps that name the phrase were not drawn
        means = [self.sums[tokens][rows, :, index].sum(0).reshape(grids[tokens]).cpu().numpy() / max(count, 1)
                 for tokens, count in zip(recorded, counts, strict=True)]
        return np.average([resize(mean, *finest) for mean in means], axis=0, weights=counts).astype(np.float32)


def token_grids(height: int, width: int) -> dict[int, tuple[int, int]]:
    """The UNet's token grids for a latent of this size, by number of tokens: each level halves, rounding up."""
    grids = {height * width: (height, width)}
    while height > 1 or width > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
        grids[height * width] = (height, width)
    return grids
