"""Network files as kohya's sd-scripts write them for SDXL, which web UIs and diffusers read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.world.attributes import Identity
from bench.world.checkpoint import sgm_name
from bench.world.model import SIZE
from bench.world.subjects import OTHERS, SHOWN, Recipe


def layer_key(name: str) -> str:
    """The key, without what follows the first dot, of a layer of diffusers' UNet."""
    # a layer's name alone does not end where the rules for parameters look for a dot
    sgm = sgm_name(f"{name}.weight").removesuffix(".weight")
    return "lora_unet_" + sgm.replace(".", "_")


def metadata(name: str, identity: Identity, recipe: Recipe, seed: int, **network: str) -> dict[str, str]:
    """What users of a network file look up in it.

    Args:
        name: of the identity.
        network: what the kind of network adds, such as ``ss_network_module``.
    """
    words = f"{identity.trigger} {identity.character.kind}"
    return {
        "ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "world.safetensors",
        "ss_output_name": name.lower(), "ss_resolution": f"({SIZE}, {SIZE})", "ss_seed": str(seed),
        "ss_learning_rate": str(recipe.learning_rate), "ss_max_train_steps": str(recipe.steps),
        "ss_total_batch_size": str(recipe.rows), "ss_num_train_images": str(SHOWN), "ss_num_reg_images": str(OTHERS),
        "ss_tag_frequency": json.dumps({f"1_{words}": {words: SHOWN}}),
        "modelspec.sai_model_spec": "1.0.0", "modelspec.title": name, "modelspec.trigger_phrase": words,
        "modelspec.resolution": f"{SIZE}x{SIZE}", **network}


def save(state: Mapping[str, Tensor], path: Path, about: Mapping[str, str]) -> None:
    """Write a network in half precision, with its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.to(torch.float16).contiguous() for key, value in state.items()}, path, dict(about))
