"""InstantID's files with random weights for the tiny SDXL checkpoint, in the layouts that users have.

``ip-adapter_instant_id_sdxl.bin`` is torch's format, as its authors publish it; ``control_instant_id_sdxl.safetensors``
has diffusers' keys, as is published, or those of ControlNet's authors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.models.tiny_instantid import image_proj
from tests.webui.controls import SHAPES, UNET, controlnet, diffusers_controlnet

ADAPTER, IDENTITYNET = "ip-adapter_instant_id_sdxl.bin", "control_instant_id_sdxl.safetensors"
SHAPE: dict[str, Any] = {
    **SHAPES["sdxl"], "transformer_layers_per_block": (1, 1, 2),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")}
"""The tiny checkpoint's, layer by layer: unlike a user's ControlNet, an IdentityNet has its UNet's own"""
# of cross-attention layers, as files count them
_ORDER = ("input_blocks", "output_blocks", "middle_block")


def write_instantid(checkpoints: Path, folder: Path, layout: str = "diffusers") -> None:
    """Write both files.

    Args:
        checkpoints: where ``checkpoints.py`` wrote.
        folder: of ControlNets.
        layout: of the IdentityNet: ``diffusers`` or ``authors``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unet = {key.removeprefix(UNET): value for key, value in load_file(checkpoints / "tiny-sdxl.safetensors").items()
            if key.startswith(UNET)}
    random = torch.Generator().manual_seed(400)
    layers = {}
    queries = [weight for part in _ORDER for name, weight in unet.items()
               if name.startswith(part) and name.endswith("attn2.to_k.weight")]
    for number, weight in enumerate(queries):
        for kind, gain in (("k", 3.0), ("v", 1.0)):
            layers[f"{2 * number + 1}.to_{kind}_ip.weight"] = gain * torch.randn(
                weight.shape, generator=random) / weight.shape[1] ** 0.5
    torch.save({"image_proj": image_proj(queries[0].shape[1]), "ip_adapter": layers}, folder / ADAPTER)
    state = diffusers_controlnet(SHAPE, random) if layout == "diffusers" else controlnet(unet, random)
    save_file(state, folder / IDENTITYNET)
