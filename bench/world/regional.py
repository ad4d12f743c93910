"""Regionally controllable sampling, as in Mix-of-Show (arXiv 2305.18292, Sec. 3.3).

One model holds all concepts, and in every cross-attention layer the region of a concept attends to the concept's own
prompt. Mix-of-Show fuses the concepts' LoRAs into one by an optimisation (gradient fusion); here they are summed, which
is what can be had without any training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d


@dataclass
class RegionalProcessor:
    """A cross-attention processor whose output is, within each region, that of attention to the region's prompt.

    Attributes:
        inner: the processor that it stands in for.
        contexts: [K, tokens, width], the encoded region prompts.
        weights: [K, B, 1, h, w] on the latent grid, summing to 1 at most.
    """

    inner: Any
    contexts: Tensor
    weights: Tensor

    def __call__(self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor,
                 attention_mask: Tensor | None = None) -> Tensor:
        """Attention of B conditional rows, and after them any number of others, which stay as they are."""
        output = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask)
        batch = self.weights.shape[1]
        mixed = output.clone()
        for context, weight in zip(self.contexts, self._on_tokens(hidden_states.shape[1]), strict=True):
            # networks that act by row ask for all rows in every call
            own = torch.cat([context.expand(batch, -1, -1), encoder_hidden_states[batch:]])
            regional = self.inner(attn, hidden_states, own, attention_mask)
            mixed[:batch] += weight * (regional - output)[:batch]
        return mixed

    def _on_tokens(self, tokens: int) -> Tensor:
        """The weights [K, B, tokens, 1] on this layer's grid, by area."""
        height, width = self.weights.shape[-2:]
        coarser = round((height * width / tokens) ** 0.5)
        grid = adaptive_avg_pool2d(self.weights.flatten(0, 1), (height // coarser, width // coarser))
        return grid.unflatten(0, self.weights.shape[:2]).flatten(2).unsqueeze(-1)


@contextmanager
def regional_attention(unet: Any, contexts: Tensor, weights: Tensor) -> Iterator[None]:
    """Within the block the UNet's cross-attention is regional; see :class:`RegionalProcessor`."""
    before = unet.attn_processors
    unet.set_attn_processor({name: RegionalProcessor(inner, contexts, weights) if ".attn2." in name else inner
                             for name, inner in before.items()})
    try:
        yield
    finally:
        unet.set_attn_processor(before)
