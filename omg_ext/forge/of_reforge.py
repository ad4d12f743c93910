"""reForge's: see :class:`.backend.Backend`. Its patcher is ComfyUI's, its text encoders are read as by the web UI."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ldm_patched.modules import model_management
from ldm_patched.modules.lora import calculate_weight, load_lora, model_lora_keys_clip, model_lora_keys_unet
from ldm_patched.modules.lora_convert import convert_lora
from ldm_patched.modules.ops import cast_bias_weight
from ldm_patched.modules.weight_adapter import WeightAdapterBase
from modules import sd_hijack, shared
from modules_forge.forge_sampler import sampling_cleanup, sampling_prepare
from torch import Tensor, nn

from .backend import Patches

READS = "reForge reads LoRA, LoHa, LoKr, OFT, BOFT, GLora, full and norm networks, with DoRA, but no IA3"
LEAVES_MODELS_WHOLE = False
DRAWS_FACES = False


def prepare(patcher: Any, x: Tensor) -> None:
    sampling_prepare(patcher, x)


def cleanup(patcher: Any) -> None:
    sampling_cleanup(patcher)


def sigmas(model: Any) -> Tensor:
    found: Tensor = model.model_sampling.sigmas
    return found


def control(first: Any, x: Tensor, sigma: Tensor, inputs: dict[str, Any], count: int) -> dict[str, Any]:
    return {"control": first.get_control(x, sigma, inputs, count, inputs["transformer_options"])}


def read(state: Mapping[str, Tensor], unet: Any, clip: Any) -> tuple[Patches, Patches, str | None]:
    on_unet, on_clip = (load_lora(convert_lora(state), keys, log_missing=False)
                        for keys in (model_lora_keys_unet(unet, {}), model_lora_keys_clip(clip, {})))
    return on_unet, on_clip, None if on_unet or on_clip else next(iter(state), "")


def parts(patch: Any) -> tuple[str, Sequence[Any]]:
    if not isinstance(patch, WeightAdapterBase):
        kind, values = patch
        return kind, values
    if patch.name == "lora" and patch.weights[5] is not None:  # a weight of another shape in its place
        return "reshaped", patch.weights
    return patch.name, patch.weights[:5] if patch.name == "lora" else patch.weights


def on_meta(patch: Any) -> Any:
    if not isinstance(patch, WeightAdapterBase):
        kind, values = patch
        return kind, tuple(_meta(value) for value in values)
    moved = copy.copy(patch)
    moved.weights = tuple(_meta(value) for value in patch.weights)
    return moved


def _meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def merged(patch: Any, strength: float, parameter: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # in inference mode tensors do not count their changes
        changed = parameter.clone()
        before = changed._version
        result: Tensor = calculate_weight([(strength, patch, 1.0, None, None)], changed, "OMG")
        if result is changed and changed._version == before:  # what it cannot merge it only logs
            raise RuntimeError("its tensors do not fit the layer's")
    return result


def weight_and_bias(layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
    weight, bias = cast_bias_weight(layer, dtype=torch.float32, device=like.device, bias_dtype=torch.float32)
    return weight, bias


def with_networks(clip: Any, networks: Sequence[tuple[str, Patches, float]]) -> Any:
    changed = clip.clone()
    added = [changed.add_patches(patches, strength) for _, patches, strength in networks if patches]
    return changed if any(added) else None


def identitynets() -> Any:
    return _NoIdentityNets()


class _NoIdentityNets:
    """None can be read: faces are refused before one is asked for."""

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = shared.sd_model.forge_objects.unet.model.diffusion_model
        return unet


def unload_models() -> None:
    model_management.unload_all_models()


def load(clip: Any) -> None:
    model_management.load_model_gpu(clip.patcher)


def reader(model: Any) -> Any:
    conditioner = model.cond_stage_model
    encoders = getattr(conditioner, "embedders", [conditioner])
    return next(each for each in encoders if hasattr(each, "process_texts"))


def embeddings(model: Any) -> list[Any]:
    known = sd_hijack.model_hijack.embedding_db.word_embeddings
    return sorted((name, each.shorthash) for name, each in known.items())
