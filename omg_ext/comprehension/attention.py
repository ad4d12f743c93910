"""The detector that needs no download: class-token cross-attention maps of the first pass.

Aggregated over heads, layers and steps as in DAAM (Tang et al. 2023, arXiv 2210.04885).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..errors import OMGError
from ..unet.patches import Hooks
from .base import FirstPass, Instance
from .masks import resize

# components of a thresholded heat map smaller than these are specks
MIN_SHARE_OF_LARGEST = 0.1
MIN_SHARE_OF_PICTURE = 0.005
# standard deviation of the smoothing before the threshold, in picture widths: one cell of a 64 x 64 grid
SMOOTHING = 1 / 64


def token_positions(prompt_tokens: Sequence[int], phrase_tokens: Sequence[int]) -> list[int]:
    """The positions in the prompt of every token of every occurrence of the phrase; empty if there is none."""
    prompt, phrase = list(prompt_tokens), list(phrase_tokens)
    starts = (start for start in range(len(prompt)) if phrase and prompt[start:start + len(phrase)] == phrase)
    return sorted({start + offset for start in starts for offset in range(len(phrase))})


class AttentionRecorder:
    """Sums up, while the UNet runs, how much each image token attends to the tokens of each phrase.

    A context manager: the hooks live as long as the ``with`` block, the sums as long as the object. The UNet's outputs
    stay as they are.

    Args:
        unet: its cross-attention modules are those named ``attn2`` with ``to_q``, ``to_k`` and ``heads``.
        positions: ``positions[row][phrase]`` are the token positions of a phrase in the prompt of a conditional row of
            the first pass, counted over the whole first pass; empty where the phrase is absent. Every row names the
            same number of phrases.

    Attributes:
        rows: set it before each UNet call: (the call's conditional rows, which of the first pass's conditional rows
            those are), of equal length; None records nothing.
    """

    def __init__(self, unet: nn.Module, positions: Sequence[Sequence[Sequence[int]]]) -> None:
        self.rows: tuple[slice, slice] | None = None
        self._positions = positions
        self._layers = [module for name, module in unet.named_modules() if name.rpartition(".")[2] == "attn2"
                        and all(hasattr(module, part) for part in ("to_q", "to_k", "heads"))]
        self._hooks = Hooks()
        self._query: Tensor | None = None
        self._columns: dict[tuple[Any, ...], Tensor] = {}
        # by number of image tokens: [rows, tokens, phrases], and how many maps each row's sum holds
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, npt.NDArray[np.int64]] = {}

    def __enter__(self) -> AttentionRecorder:
        for layer in self._layers:
            self._hooks.on_output(layer.to_q, self._keep_query)
            self._hooks.on_output(layer.to_k, partial(self._add_map, layer.heads))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._hooks.__exit__(*exc_info)
        self._query = None
        self._columns.clear()

    def heat(self, row: int, phrase: int, height: int, width: int) -> npt.NDArray[np.float32]:
        """The mean attention of a row's image tokens to a phrase's tokens, over heads, layers and steps.

        Args:
            row: the conditional row, counted as in ``positions``.
            phrase: the phrase's index in ``positions``.
            height, width: the latent's size.

        Returns:
            float32 ``[h, w]`` in 0..1 on the finest token grid that has cross-attention; all zero for an absent phrase.

        Raises:
            OMGError: nothing was recorded on a token grid of a latent of this size, e.g. because tokens were merged.
        """
        grids = _token_grids(height, width)
        recorded = [tokens for tokens, counts in self._counts.items() if tokens in grids and counts[row]]
        if not recorded:
            raise OMGError("detector", "the attention maps do not have the picture's shape; turn off token merging and "
                                       "tiling, or give where.box or where.mask")
        finest = grids[max(recorded)]
        counts = [int(self._counts[tokens][row]) for tokens in recorded]
        means = [self._sums[tokens][row, :, phrase].reshape(grids[tokens]).cpu().numpy() / count
                 for tokens, count in zip(recorded, counts, strict=True)]
        return np.average([resize(mean, *finest) for mean in means], axis=0, weights=counts).astype(np.float32)

    def _keep_query(self, module: nn.Module, args: tuple[Any, ...], query: Tensor) -> None:
        self._query = query if self.rows else None

    @torch.no_grad()
    def _add_map(self, heads: int, module: nn.Module, args: tuple[Any, ...], key: Tensor) -> None:
        """Add softmax(q k^T / sqrt(d)), of the phrases' tokens only: it is attention with their indicator as values.

        So the host's fused attention kernel does the work, and no attention matrix is materialised.
        """
        query, self._query = self._query, None
        if self.rows is None or query is None:
            return
        local, absolute = self.rows
        query, key = _split_heads(query[local], heads), _split_heads(key[local], heads)
        value = self._phrase_columns(key)[absolute, None].expand(-1, heads, -1, -1)
        rows, phrases, tokens = len(self._positions), len(self._positions[0]), query.shape[-2]
        maps = scaled_dot_product_attention(query, key, value)[..., :phrases].mean(1, dtype=torch.float32)
        if tokens not in self._sums:
            self._sums[tokens] = maps.new_zeros(rows, tokens, phrases)
            self._counts[tokens] = np.zeros(rows, dtype=np.int64)
        self._sums[tokens][absolute] += maps.to(self._sums[tokens].device)
        self._counts[tokens][absolute] += 1

    def _phrase_columns(self, key: Tensor) -> Tensor:
        """``[rows, prompt tokens, phrases]``: 1/n at the n tokens of a phrase; made once per prompt length."""
        tokens, width = key.shape[-2:]
        name = (tokens, width, key.dtype, key.device)
        if name not in self._columns:
            # as wide as the keys where that is enough: some fused kernels ask for it
            columns = torch.zeros(len(self._positions), tokens, max(width, len(self._positions[0])))
            for row, phrases in enumerate(self._positions):
                for phrase, positions in enumerate(phrases):
                    # a position beyond belongs to a row with a longer prompt, which is not in this call
                    columns[row, [p for p in positions if p < tokens], phrase] = 1 / max(len(positions), 1)
            self._columns[name] = columns.to(key)
        return self._columns[name]


class AttentionDetector:
    """Instances are the connected hot places of a phrase's heat map.

    It can tell apart two instances of one phrase only if they do not touch.
    """

    name = "attention"
    needs_attention = True

    def find(self, first_pass: FirstPass, phrases: Sequence[str]) -> list[list[Instance]]:
        """Per phrase its instances, best first; none if the phrase is not in the prompt or its heat map is flat.

        A cell belongs to the phrase with the most heat there, each phrase's heat taken between its least and its most
        (0..1), if it is over Otsu's threshold of that phrase.
        """
        maps = [first_pass.heat(phrase) for phrase in phrases]
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


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """``[rows, tokens, heads * d]`` as ``[rows, heads, tokens, d]``."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _token_grids(height: int, width: int) -> dict[int, tuple[int, int]]:
    """The UNet's token grids for a latent of this size, by number of tokens: each level halves, rounding up."""
    grids = {height * width: (height, width)}
    while height > 1 or width > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
        grids[height * width] = (height, width)
    return grids


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
