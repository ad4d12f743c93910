"""How Forge Neo does it: it samples as Forge, and has ComfyUI's networks, as reForge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from backend.patcher.lora import merge_lora_to_weight
from backend.quant_ops import QuantizedTensor
from torch import Tensor, nn

from .adapters import Adapters
from .backend import Patches, Unread
from .of_forge import Forge, dequantised


class Neo(Adapters, Forge):
    """See :class:`.backend.Backend`."""

    READS = "Forge Neo reads LoRA, LoHa, LoKr, OFT, BOFT, GLora, full and norm networks, with DoRA, but no IA3"
    LEAVES_MODELS_WHOLE = False

    def read(self, state: Mapping[str, Tensor], unet: Any, clip: Any) -> tuple[Patches, Patches, Unread]:
        return super().read({key.replace("lora_unet__", "lora_unet_", 1): value for key, value in state.items()}, unet,
                            clip)

    def _leaves_out(self, unknown: int, keys: int) -> bool:
        return unknown > keys / 2

    def _calculated(self, patches: Sequence[Any], parameter: Tensor) -> Tensor:
        result: Tensor = merge_lora_to_weight(patches, parameter, "OMG")
        return result

    def weight_and_bias(self, layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
        weight, bias = (_calculated_with(getattr(layer, name), getattr(layer, f"{name}_function"), like)
                        for name in ("weight", "bias"))
        assert weight is not None
        return weight, bias


def _calculated_with(stored: Any, changes: Sequence[Any], like: Tensor) -> Tensor | None:
    """A parameter as a layer calculates with it.

    Args:
        changes: what Neo does to it at each call, in place.
        like: gives the device.
    """
    if stored is None:
        return None
    there = stored.to(like.device)
    plain = there.dequantize() if isinstance(there, QuantizedTensor) else dequantised(there)
    value: Tensor = plain.to(torch.float32, copy=True)
    for change in changes:
        value = change(value)
    return value
