"""InstantID's image projection: one embedding of a face as some tokens of the cross-attention's width.

A perceiver resampler (Alayrac et al. 2022, arXiv 2204.14198) as in IP-Adapter Plus. Its modules have the names of the
published files' keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..unet.patches import split_heads

HEAD = 64
_LAYER = re.compile(r"layers\.(\d+)\.")


# On some devices the web UI replaces `forward` of torch's own classes by one that casts to half precision, with which
# CPUs do not calculate.

class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class PerceiverAttention(nn.Module):
    """Queries attend to the embedding and to themselves.

    Args:
        dim: of the queries.
        inner: of all heads together: heads of 64 as in the published files, or one head if 64 does not divide it.
    """

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.heads = inner // HEAD if inner % HEAD == 0 else 1
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.to_q = Linear(dim, inner, bias=False)
        self.to_kv = Linear(dim, 2 * inner, bias=False)
        self.to_out = Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """[n, queries, dim] of the embedding's tokens ``x`` [n, 1, dim] and the queries ``latents``."""
        latents = self.norm2(latents)
        keys, values = self.to_kv(torch.cat([self.norm1(x), latents], dim=1)).chunk(2, dim=-1)
        query, key, value = (split_heads(each, self.heads) for each in (self.to_q(latents), keys, values))
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """image_proj. All sizes are read from a file's tensors.

    Args:
        state: by the names of the file's ``image_proj``.

    Raises:
        KeyError: a tensor is missing.
        RuntimeError: one is too many, or has another shape than the others say.
    """

    def __init__(self, state: Mapping[str, Tensor]):
        super().__init__()
        dim, embedding = state["proj_in.weight"].shape
        inner, hidden = state["layers.0.0.to_q.weight"].shape[0], state["layers.0.1.1.weight"].shape[0]
        depth = 1 + max(int(match[1]) for match in map(_LAYER.match, state) if match)
        with torch.device("meta"):
            self.latents = nn.Parameter(torch.empty(state["latents"].shape))
            self.proj_in = Linear(embedding, dim)
            self.layers = nn.ModuleList(nn.ModuleList([PerceiverAttention(dim, inner), _feed_forward(dim, hidden)])
                                        for _ in range(depth))
            width = state["proj_out.weight"].shape[0]
            self.proj_out, self.norm_out = Linear(dim, width), LayerNorm(width)
        self.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
        self.requires_grad_(False)

    @property
    def embedding_width(self) -> int:
        """Numbers of an embedding."""
        return self.proj_in.in_features

    def forward(self, embeddings: Tensor) -> Tensor:
        """Tokens [n, tokens, width] of embeddings [n, E]."""
        x, latents = self.proj_in(embeddings.unsqueeze(1)), self.latents.expand(len(embeddings), -1, -1)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            latents = attention(x, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


def _feed_forward(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(LayerNorm(dim), Linear(dim, hidden, bias=False), nn.GELU(),
                         Linear(hidden, dim, bias=False))
