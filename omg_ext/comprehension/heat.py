"""Heat maps of phrases: how much each place of the first pass attended to the words of the global prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import OMGError
from .masks import resize

Part = tuple[int, int]
"""A conditional row of the global prompt: (picture of the batch, part of its prompt)"""

Positions = Mapping[Part, Sequence[Sequence[int]]]
"""Token positions of each phrase in each part of each picture's prompt; empty where the phrase is absent"""


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """How much each place of the first pass attended to each phrase.

    Attributes:
        phrases: what was looked for.
        positions: see :data:`Positions`.
        sums: by number of image tokens: float32 [parts, tokens, phrases], in the order of ``positions``.
        counts: by number of image tokens, how many maps each part's sum holds, [parts].
        grid: height and width of the latent.
    """

    phrases: tuple[str, ...]
    positions: Positions
    sums: Mapping[int, Tensor]
    counts: Mapping[int, npt.NDArray[np.int64]]
    grid: tuple[int, int]

    def of(self, picture: int, phrase: str) -> npt.NDArray[np.float32] | None:
        """A phrase's heat map in a picture, averaged over the parts of its prompt that hold the phrase.

        Returns:
            float32 ``[h, w]`` in 0..1 on the finest token grid that has cross-attention; None for an absent phrase.

        Raises:
            OMGError: nothing was recorded on a token grid of a latent of this size, e.g. because tokens were merged.
        """
        index = self.phrases.index(phrase)
        rows = [row for row, (part, phrases) in enumerate(self.positions.items())
                if part[0] == picture and phrases[index]]
        return np.mean([self._heat(row, index) for row in rows], axis=0) if rows else None

    def _heat(self, row: int, phrase: int) -> npt.NDArray[np.float32]:
        """The mean attention of a row's image tokens to a phrase's tokens, over heads, layers and steps."""
        grids = token_grids(*self.grid)
        recorded = [tokens for tokens, counts in self.counts.items() if tokens in grids and counts[row]]
        if not recorded:
            raise OMGError("detector", "the attention maps do not have the picture's shape; turn off token merging and "
                                       "tiling, or give where.box or where.mask")
        finest = grids[max(recorded)]
        counts = [int(self.counts[tokens][row]) for tokens in recorded]
        means = [self.sums[tokens][row, :, phrase].reshape(grids[tokens]).cpu().numpy() / count
                 for tokens, count in zip(recorded, counts, strict=True)]
        return np.average([resize(mean, *finest) for mean in means], axis=0, weights=counts).astype(np.float32)


def token_positions(prompt_tokens: Sequence[int], phrase_tokens: Sequence[int]) -> list[int]:
    """The positions in the prompt of every token of every occurrence of the phrase; empty if there is none."""
    prompt, phrase = list(prompt_tokens), list(phrase_tokens)
    starts = (start for start in range(len(prompt)) if phrase and prompt[start:start + len(phrase)] == phrase)
    return sorted({start + offset for start in starts for offset in range(len(phrase))})


def token_grids(height: int, width: int) -> dict[int, tuple[int, int]]:
    """The UNet's token grids for a latent of this size, by number of tokens: each level halves, rounding up."""
    grids = {height * width: (height, width)}
    while height > 1 or width > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
        grids[height * width] = (height, width)
    return grids
