"""How reForge does it. Its patcher is ComfyUI's, its text encoders are read as by the web UI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ldm_patched.modules import model_management
from ldm_patched.modules.lora import calculate_weight, load_lora, model_lora_keys_clip, model_lora_keys_unet
from ldm_patched.modules.lora_convert import convert_lora
from ldm_patched.modules.ops import cast_bias_weight
from modules import sd_hijack, shared
from modules_forge.forge_sampler import sampling_cleanup, sampling_prepare
from torch import Tensor, nn

from .adapters import Adapters
from .backend import Patches, Unread


class ReForge(Adapters):
    """See :class:`.backend.Backend`."""

    READS = "reForge reads LoRA, LoHa, LoKr, OFT, BOFT, GLora, full and norm networks, with DoRA, but no IA3"
    LEAVES_MODELS_WHOLE = False
    DRAWS_FACES = False

    def prepare(self, patcher: Any, x: Tensor) -> None:
        sampling_prepare(patcher, x)

    def cleanup(self, patcher: Any) -> None:
        sampling_cleanup(patcher)

    def sigmas(self, model: Any) -> Tensor:
        found: Tensor = model.model_sampling.sigmas
        return found

    def control(self, first: Any, x: Tensor, sigma: Tensor, inputs: dict[str, Any], count: int) -> dict[str, Any]:
        return {"control": first.get_control(x, sigma, inputs, count, inputs["transformer_options"])}

    def read(self, state: Mapping[str, Tensor], unet: Any, clip: Any) -> tuple[Patches, Patches, Unread]:
        on_unet, on_clip = (load_lora(convert_lora(state), keys, log_missing=False)
                            for keys in (model_lora_keys_unet(unet, {}), model_lora_keys_clip(clip, {})))
        # which of them are read it tells in its log alone
        return on_unet, on_clip, Unread([], False) if on_unet or on_clip else Unread([*state], True)

    def _calculated(self, patches: Any, parameter: Tensor) -> Tensor:
        result: Tensor = calculate_weight(patches, parameter, "OMG")
        return result

    def weight_and_bias(self, layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
        weight, bias = cast_bias_weight(layer, dtype=torch.float32, device=like.device, bias_dtype=torch.float32)
        return weight, bias

    def identitynets(self) -> Any:
        return _NoIdentityNets()

    def unload_models(self) -> None:
        model_management.unload_all_models()

    def load(self, clip: Any) -> None:
        model_management.load_model_gpu(clip.patcher)

    def reader(self, model: Any) -> Any:
        conditioner = model.cond_stage_model
        encoders = getattr(conditioner, "embedders", [conditioner])
        return next(each for each in encoders if hasattr(each, "process_texts"))

    def embeddings(self, model: Any) -> list[Any]:
        known = sd_hijack.model_hijack.embedding_db.word_embeddings
        return sorted((name, each.shorthash) for name, each in known.items())


class _NoIdentityNets:
    """None can be read: faces are refused before one is asked for."""

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = shared.sd_model.forge_objects.unet.model.diffusion_model
        return unet
