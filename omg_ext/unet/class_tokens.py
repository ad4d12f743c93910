"""Class-token cross-attention maps, summed up while the UNet runs.

Aggregated over heads, layers and steps as in DAAM (Tang et al. 2023, arXiv 2210.04885).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..comprehension.heat import HeatMaps, Positions, stage_at
from .calls import UNetCall, is_global_cond
from .patches import Patches, split_heads


class ClassTokenAttention:
    """Sums up how much each image token of the global conditional rows attends to the tokens of each phrase.

    The UNet's outputs stay as they are.

    Args:
        patches: the UNet's; its cross-attention modules are those named ``attn2`` with ``to_q``, ``to_k``, ``heads``.
        phrases: what to look for.
        positions: see :data:`omg_ext.comprehension.heat.Positions`; every stage names all phrases.
    """

    def __init__(self, patches: Patches, phrases: Sequence[str], positions: Positions):
        self._phrases, self._positions = tuple(phrases), positions
        self._stages = [stage.phrases for stages in positions.values() for stage in stages]
        starts = accumulate((len(stages) for stages in positions.values()), initial=0)
        self._starts = dict(zip(positions, starts, strict=False))  # of each part among all stages
        self._query: Tensor | None = None
        self._is_done = False
        self._columns: dict[tuple[Any, ...], Tensor] = {}
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, npt.NDArray[np.int64]] = {}
        for name, module in patches.network.named_modules():
            if name.rpartition(".")[2] == "attn2" and all(hasattr(module, part) for part in ("to_q", "to_k", "heads")):
                patches.on_output(module.to_q, self._keep_query)
                patches.on_output(module.to_k, partial(self._add_map, module.heads))

    def maps(self, grid: tuple[int, int]) -> HeatMaps:
        """What was summed up. Nothing is added from now on.

        Args:
            grid: height and width of the latent.
        """
        self._is_done = True
        return HeatMaps(self._phrases, self._positions, self._sums, self._counts, grid)

    def _keep_query(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], query: Tensor) -> None:
        # a layer that sees other rows than the call, in tiles, shows no map of the picture
        self._query = query if len(query) == len(call.rows) and not self._is_done else None

    @torch.no_grad()
    def _add_map(self, heads: int, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], key: Tensor) -> None:
        """Add softmax(q k^T / sqrt(d)), of the phrases' tokens only: it is attention with their indicator as values.

        So the host's fused attention kernel does the work, and no attention matrix is materialised.
        """
        query, self._query = self._query, None
        if query is None or len(query) != len(key):
            return
        for run in call.runs(is_global_cond):
            numbers = self._numbers_of(call, run)
            queries, keys = split_heads(query[run], heads), split_heads(key[run], heads)
            value = self._phrase_columns(keys)[numbers, None].expand(-1, heads, -1, -1)
            maps = scaled_dot_product_attention(queries, keys, value)[..., :len(self._phrases)]
            self._add(numbers, maps.mean(1, dtype=torch.float32))

    def _numbers_of(self, call: UNetCall, run: slice) -> slice | list[int]:
        """The stages of a run of rows; a slice if they are in order and side by side, for which no GPU waits."""
        parts = [(row.picture, row.part or 0) for row in call.rows[run]]
        numbers = [self._starts[part] + stage_at(self._positions, part, call.step) for part in parts]
        whole = slice(numbers[0], numbers[0] + len(numbers))
        return whole if numbers == list(range(whole.start, whole.stop)) else numbers

    def _add(self, numbers: slice | list[int], maps: Tensor) -> None:
        tokens = maps.shape[1]
        if tokens not in self._sums:
            self._sums[tokens] = maps.new_zeros(len(self._stages), *maps.shape[1:])
            self._counts[tokens] = np.zeros(len(self._stages), dtype=np.int64)
        self._sums[tokens][numbers] += maps.to(self._sums[tokens].device)
        self._counts[tokens][numbers] += 1

    def _phrase_columns(self, key: Tensor) -> Tensor:
        """``[stages, prompt tokens, phrases]``: 1/n at the n tokens of a phrase; made once per prompt length."""
        tokens, width = key.shape[-2:]
        name = (tokens, width, key.dtype, key.device)
        if name not in self._columns:
            # as wide as a head's keys where that is enough: some fused kernels ask for it
            columns = torch.zeros(len(self._stages), tokens, max(width, len(self._phrases)))
            for number, phrases in enumerate(self._stages):
                for phrase, positions in enumerate(phrases):
                    # a position beyond belongs to a row with a longer prompt, which is not in this call
                    columns[number, [p for p in positions if p < tokens], phrase] = 1 / max(len(positions), 1)
            self._columns[name] = columns.to(key)
        return self._columns[name]
