"""An image prompt on whole pictures, as in IP-Adapter (arXiv 2308.06721): how it is trained, and InstantID without OMG.

OMG's own, :mod:`omg_ext.unet.image_prompts`, acts on concepts' rows alone and knows no gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omg_ext.faces.adapter import FaceAdapter
from omg_ext.unet.image_prompts import file_order
from omg_ext.unet.patches import split_heads


@dataclass(frozen=True, eq=False)
class ImagePromptProcessor:
    """A cross-attention processor: ``Attn(q, K, V) + w Attn(q, K_ip F, V_ip F)``.

    Attributes:
        key, value: K_ip and V_ip [inner, width].
        scale: w.
    """

    key: Tensor
    value: Tensor
    scale: float

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor,
                 attention_mask: Tensor | None = None, ip_hidden_states: Tensor | None = None) -> Tensor:
        """Attention of B rows to their prompts, and to their tokens F [B, tokens, width], which the call must bring."""
        assert ip_hidden_states is not None
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        attended = _attend(query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states), attention_mask)
        shown = _attend(query, F.linear(ip_hidden_states, self.key), F.linear(ip_hidden_states, self.value))
        return attn.to_out[0]((attended + self.scale * shown).transpose(1, 2).flatten(2))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B, heads, n, d] of queries likewise, keys and values [B, m, heads * d]."""
    heads = query.shape[1]
    return F.scaled_dot_product_attention(query, split_heads(key, heads), split_heads(value, heads), mask)


def arguments(tokens: Tensor) -> Mapping[str, Any]:
    """What a call of an :func:`attached` UNet is given besides, so that its rows attend to tokens [B, n, width]."""
    return {"cross_attention_kwargs": {"ip_hidden_states": tokens}}


@contextmanager
def attached(unet: Any, adapter: FaceAdapter, scale: float = 1.0) -> Iterator[None]:
    """Within the block the UNet's cross-attention is that of :class:`ImagePromptProcessor`."""
    before = unet.attn_processors
    layers = dict(zip(file_order(unet), adapter.projections, strict=True))
    own: dict[str, Any] = {}
    for name, module in unet.named_modules():
        if module in layers:
            key, value = layers[module]  # in half precision, as files have them
            own[f"{name}.processor"] = ImagePromptProcessor(key.to(unet.dtype), value.to(unet.dtype), scale)
    unet.set_attn_processor({**before, **own})
    try:
        yield
    finally:
        unet.set_attn_processor(before)


@contextmanager
def image_prompted(unet: Any, adapter: FaceAdapter, tokens: Tensor, scale: float = 1.0) -> Iterator[None]:
    """Within the block the rows of each call of the UNet attend to ``tokens`` [B, n, width], whoever calls it."""
    def add(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, **arguments(tokens)}

    with attached(unet, adapter, scale):
        handle = unet.register_forward_pre_hook(add, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def tokens_of(adapter: FaceAdapter, embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What conditional and unconditional rows attend to, [n tokens, width]: several faces' tokens follow each other.

    As diffusers has several pictures of one IP-Adapter.

    Args:
        embeddings: e of each face, [E].
    """
    cond, uncond = torch.cat([adapter.tokens(each, "embeddings") for each in embeddings], dim=1)
    return cond, uncond
