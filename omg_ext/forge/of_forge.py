"""How Forge does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from backend import memory_management
from backend.operations import get_weight_and_bias
from backend.patcher.lora import load_lora, merge_lora_to_weight, model_lora_keys_clip, model_lora_keys_unet
from backend.sampling.sampling_function import sampling_cleanup, sampling_prepare
from torch import Tensor, nn

from ..webui.identitynet import IdentityNets
from .backend import Patches, Unread
from .identitynets import ForgeIdentityNets


class Forge:
    """See :class:`.backend.Backend`."""

    READS = "Forge reads LoRA, LoHa, LoKr, GLora, full and norm networks, with DoRA, but no OFT and IA3"
    LEAVES_MODELS_WHOLE = True
    DRAWS_FACES = True

    def prepare(self, patcher: Any, x: Tensor) -> None:
        sampling_prepare(patcher, x)

    def cleanup(self, patcher: Any) -> None:
        sampling_cleanup(patcher)

    def sigmas(self, model: Any) -> Tensor:
        found: Tensor = model.predictor.sigmas
        return found

    def control(self, first: Any, x: Tensor, sigma: Tensor, inputs: dict[str, Any], count: int) -> dict[str, Any]:
        return {"control": first.get_control(x, sigma, inputs, count), "control_model": first}

    def read(self, state: Mapping[str, Tensor], unet: Any, clip: Any) -> tuple[Patches, Patches, Unread]:
        # both fill the dict they are given, and by default one that they share
        on_unet, left = load_lora(state, model_lora_keys_unet(unet, {}))
        on_clip, left = load_lora(left, model_lora_keys_clip(clip, {}))
        is_left_out = self._leaves_out(len(left), len(state)) or not (on_unet or on_clip)
        return on_unet, on_clip, Unread([*left], is_left_out)

    def _leaves_out(self, unknown: int, keys: int) -> bool:
        """Whether a whole file is left out, of whose keys so many are unknown."""
        return unknown > 12

    def parts(self, patch: Any) -> tuple[str, Sequence[Any]]:
        kind, values = patch
        return kind, values

    def on_meta(self, patch: Any) -> Any:
        kind, values = patch
        return kind, tuple(value.to("meta") if isinstance(value, Tensor) else value for value in values)

    def merged(self, patch: Any, strength: float, parameter: Tensor) -> Tensor:
        result: Tensor = merge_lora_to_weight([(strength, patch, 1.0, None, None)], parameter)
        return result

    def weight_and_bias(self, layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
        to = {"device": like.device, "dtype": torch.float32}
        weight, bias = get_weight_and_bias(layer, to, to, weight_fn=dequantised, bias_fn=dequantised)
        return weight, bias

    def with_networks(self, clip: Any, networks: Sequence[tuple[str, Patches, float]]) -> Any:
        changed = clip.clone()
        for number, (file, patches, strength) in enumerate(networks):
            # Forge takes networks of one name and weight for the same one; this is added to the global prompt's
            changed.add_patches(filename=f"{file} of OMG, {number}", patches=patches, strength_patch=strength)
        return changed if changed.patcher.lora_patches.keys() - clip.patcher.lora_patches.keys() else None

    def identitynets(self) -> IdentityNets:
        return ForgeIdentityNets()

    def unload_models(self) -> None:
        memory_management.unload_all_models()

    def load(self, clip: Any) -> None:
        memory_management.load_model_gpu(clip.patcher)

    def reader(self, model: Any) -> Any:
        return getattr(model, "text_processing_engine_l", None) or model.text_processing_engine

    def embeddings(self, model: Any) -> list[Any]:
        """Forge reads them with a checkpoint, and not again."""
        return sorted(self.reader(model).embeddings.word_embeddings)


def dequantised(weight: Any) -> Tensor:
    """As Forge's layers read weights that are kept in few bits."""
    if hasattr(weight, "bnb_quantized"):
        from backend.operations_bnb import functional_dequantize_4bit
        return functional_dequantize_4bit(weight)
    if getattr(weight, "gguf_cls", None) is not None:
        from backend.operations_gguf import dequantize_tensor
        return dequantize_tensor(weight)
    return weight
