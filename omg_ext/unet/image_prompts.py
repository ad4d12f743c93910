"""Decoupled cross-attention (IP-Adapter, Ye et al. 2023, arXiv 2308.06721): rows that attend to a picture, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .calls import PlacesCall, Row, UNetCall, Which
from .networks import of_concept
from .patches import Patches, cross_attentions, split_heads

COND, UNCOND = 0, 1
# how diffusers' UNet and the original one call what files count first, second and third
_ORDER = (("down_blocks", "input_blocks"), ("up_blocks", "output_blocks"), ("mid_block", "middle_block"))


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """What a concept's rows attend to besides their prompts.

    Attributes:
        tokens: F of conditional rows and of unconditional ones, [2, tokens, width].
        layers: K_ip and V_ip of each cross-attention module, [inner, width] each, on any device.
        scale: w.
    """

    tokens: Tensor
    layers: Mapping[nn.Module, tuple[Tensor, Tensor]]
    scale: float


def file_order(unet: nn.Module) -> list[nn.Module]:
    """The cross-attention modules as IP-Adapter files count them: the way down, the way up, the middle."""
    own = set(cross_attentions(unet))
    parts: list[list[nn.Module]] = [[], [], []]
    for name, module in unet.named_modules():
        if module in own:
            parts[next(number for number, names in enumerate(_ORDER) if not set(names).isdisjoint(name.split(".")))
                  ].append(module)
    return [module for part in parts for module in part]


class ImagePrompts:
    """``Attn(q, K, V) + w Attn(q, K_ip F, V_ip F)`` in concepts' rows: F is what their image prompts say.

    In a row of all concepts (:class:`omg_ext.unet.calls.RegionalCall`) each concept's acts on its place. Rows without
    networks have none. K_ip F and V_ip F are made once for each layer, and kept.

    Args:
        patches: the UNet's. Hooks change outputs in place, so whatever acts on a query is in the one that is kept.
        prompts: of each concept; None if it has none.
    """

    def __init__(self, patches: Patches, prompts: Sequence[ImagePrompt | None]):
        self._prompts = {concept: prompt for concept, prompt in enumerate(prompts) if prompt is not None}
        self._rows = [(_of_part(concept, part), (concept, part))
                      for concept in self._prompts for part in (COND, UNCOND)]
        self._queries: dict[nn.Module, Tensor] = {}
        self._kept: dict[tuple[nn.Module, int], tuple[Tensor, Tensor]] = {}
        for attention in cross_attentions(patches.network) if self._prompts else ():
            module: Any = attention
            patches.on_output(module.to_q, partial(self._keep_query, module))
            patches.on_input(module.to_out[0], partial(self._attend, module))

    def _keep_query(self, attention: Any, call: UNetCall, layer: nn.Module, args: Any, query: Tensor) -> None:
        self._queries[attention] = query

    def _attend(self, attention: Any, call: UNetCall, layer: nn.Module, args: tuple[Any, ...]) -> None:
        query, y = self._queries.pop(attention), args[0]
        for rows, concept, part in self._places(call, len(y)):
            keys, values = (each[part].expand(rows.stop - rows.start, -1, -1, -1)
                            for each in self._keys_and_values(attention, concept, query))
            attended = F.scaled_dot_product_attention(split_heads(query[rows], attention.heads), keys, values)
            y[rows] += attended.transpose(1, 2).flatten(2).to(y.dtype)

    def _places(self, call: UNetCall, batch: int) -> Iterator[tuple[slice, int, int]]:
        """Rows that a layer sees, whose they are, and which tokens they attend to."""
        if isinstance(call, PlacesCall):  # these are all conditional, or bare
            start = 0
            for concept, group in groupby(call.acting):
                stop = start + len(list(group))
                if concept in self._prompts:
                    yield slice(start, stop), concept, COND
                start = stop
            return
        for which, (concept, part) in self._rows:
            for rows in call.runs(which, batch):
                yield rows, concept, part

    def _keys_and_values(self, attention: Any, concept: int, query: Tensor) -> tuple[Tensor, Tensor]:
        """K_ip F and w V_ip F for queries like these, [2, heads, tokens, d] each."""
        kept = self._kept.get((attention, concept))
        if kept is None or (kept[0].dtype, kept[0].device) != (query.dtype, query.device):
            prompt = self._prompts[concept]
            tokens = prompt.tokens.to(query.device, torch.float32)
            keys, values = (split_heads(F.linear(tokens, weight.to(tokens)), attention.heads)
                            for weight in prompt.layers[attention])
            kept = self._kept[attention, concept] = keys.to(query), (prompt.scale * values).to(query)
        return kept


def _of_part(concept: int, part: int) -> Which:
    """Picks a concept's conditional rows, or its unconditional ones, on which its networks act."""
    is_mine = of_concept(concept)

    def is_of_part(row: Row) -> bool:
        return is_mine(row) and (row.part is None) == (part == UNCOND)

    return is_of_part
