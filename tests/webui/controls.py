"""Tiny random control models for sd-webui-controlnet that fit the tiny checkpoints, in the layouts that users have.

``<model>-cn`` is a ControlNet in the layout of its authors (``control_model.*``: a trained one starts as a copy of its
UNet's encoder, and so does this), ``<model>-cn-diffusers`` one as diffusers saves it, ``<model>-t2i`` and
``<model>-t2i-diffusers`` are T2I-Adapters, ``<model>-lllite`` is a ControlNet-LLLite; ``<model>`` is ``sdxl`` or
``sd15``. ``sd15-ip`` is an IP-Adapter: the extension takes SDXL's by its full width alone. ``sd15-sparse`` is a
SparseCtrl, which is made for SD 1.5 alone. The extension knows the version by the name.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, T2IAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]

UNET = "model.diffusion_model."
ENCODER = ("input_blocks.", "middle_block.", "time_embed.", "label_emb.")
# channels of the hint's convolutions, the last one's follow from the UNet; every other one halves the size
HINT = (3, 16, 16, 32, 32, 96, 96, 256)
SHAPES: dict[str, dict[str, Any]] = {
    "sd15": {"block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 32, "attention_head_dim": 8},
    "sdxl": {"block_out_channels": (32, 64, 128), "cross_attention_dim": 64, "attention_head_dim": (2, 4, 8),
             "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
             "transformer_layers_per_block": 1, "use_linear_projection": True, "addition_embed_type": "text_time",
             "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 1568}}
IMAGE_WIDTH, IMAGE_TOKENS = 16, 4
# the extension's order of SD 1.5's cross-attentions, by the channels that they work on
IMAGE_LAYERS = (32, 32, 64, 64, 128, 128, 128, 128, 128, 64, 64, 64, 32, 32, 32, 128)


def write_controls(checkpoints: Path, folder: Path) -> None:
    """Write all of them.

    Args:
        checkpoints: where ``checkpoints.py`` wrote.
        folder: the extension's model folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(SHAPES):
        generator = torch.Generator().manual_seed(200 + number)
        unet = {key.removeprefix(UNET): value for key, value in load_file(
            checkpoints / f"tiny-{name}.safetensors").items() if key.startswith(UNET)}
        adapter = t2i_adapter(name, generator)
        states = {"cn": controlnet(unet, generator), "cn-diffusers": diffusers_controlnet(SHAPES[name], generator),
                  "t2i": as_authors(adapter), "t2i-diffusers": adapter, "lllite": lllite(unet, generator)}
        for suffix, state in states.items():
            save_file(state, folder / f"{name}-{suffix}.safetensors")
        if name == "sd15":
            save_file(sparsectrl(unet, generator), folder / "sd15-sparse.safetensors")
    save_file(ip_adapter(torch.Generator().manual_seed(300)), folder / "sd15-ip.safetensors")


def controlnet(unet: Mapping[str, Tensor], generator: torch.Generator) -> State:
    """A copy of a UNet's encoder, with hint block and "zero" convolutions that are not zero."""
    state = {name: value.clone() for name, value in unet.items() if name.startswith(ENCODER)}
    width = unet["input_blocks.0.0.weight"].shape[0]
    for number, (before, after) in enumerate(zip(HINT, (*HINT[1:], width), strict=True)):
        state |= layer(f"input_hint_block.{2 * number}", (after, before, 3, 3), generator)
    blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("input_blocks."))
    for block in range(blocks):
        channels = _out_channels(unet, block)
        state |= layer(f"zero_convs.{block}.0", (channels, channels, 1, 1), generator, 0.3)
    channels = _out_channels(unet, blocks - 1)
    state |= layer("middle_block_out.0", (channels, channels, 1, 1), generator, 0.3)
    return {f"control_model.{name}": value for name, value in state.items()}


def sparsectrl(unet: Mapping[str, Tensor], generator: torch.Generator) -> State:
    """A ControlNet that gets its picture encoded, with a mask of where it counts, and looks along a film's pictures."""
    state = {name.removeprefix("control_model."): value for name, value in controlnet(unet, generator).items()
             if "input_hint_block" not in name}
    state |= layer("input_hint_block.0", (unet["input_blocks.0.0.weight"].shape[0], 5, 3, 3), generator)
    for level, width in enumerate(SHAPES["sd15"]["block_out_channels"]):
        for number in range(2):
            name = f"down_blocks.{level}.motion_modules.{number}.temporal_transformer"
            state |= motion_module(name, width, generator)
    return state


def motion_module(name: str, width: int, generator: torch.Generator) -> State:
    """One of AnimateDiff's: self-attention and feed-forward over the pictures of a film, which may be 32."""
    block = f"{name}.transformer_blocks.0"
    state = {f"{block}.attention_blocks.0.pos_encoder.pe": torch.zeros(1, 32, width)}
    for part, shape in (("proj_in", (width, width)), ("proj_out", (width, width))):
        state |= layer(f"{name}.{part}", shape, generator)
    for part, shape in (("attention_blocks.0.to_out.0", (width, width)), ("ff.net.0.proj", (8 * width, width)),
                        ("ff.net.2", (width, 4 * width))):
        state |= layer(f"{block}.{part}", shape, generator)
    for part in ("to_q", "to_k", "to_v"):
        key = f"{block}.attention_blocks.0.{part}"
        state[f"{key}.weight"] = layer(key, (width, width), generator)[f"{key}.weight"]
    for norm in (f"{name}.norm", f"{block}.norms.0", f"{block}.ff_norm"):
        state |= {f"{norm}.weight": torch.ones(width), f"{norm}.bias": torch.zeros(width)}
    return state


def _out_channels(unet: Mapping[str, Tensor], block: int) -> int:
    names = (f"input_blocks.{block}.0.{part}.weight" for part in ("out_layers.3", "op"))
    last = next((name for name in names if name in unet), f"input_blocks.{block}.0.weight")
    return unet[last].shape[0]


def diffusers_controlnet(shape: Mapping[str, Any], generator: torch.Generator) -> State:
    """As diffusers saves one of this shape."""
    model: Any = ControlNetModel(**shape)
    state = randomised(model.state_dict(), generator)
    for key, value in state.items():
        if key.startswith(("controlnet_down_blocks", "controlnet_mid_block")):
            value.mul_(0.3)
    return state


def t2i_adapter(name: str, generator: torch.Generator) -> State:
    """As diffusers saves it."""
    kinds: dict[str, dict[str, Any]] = {
        "sd15": {"adapter_type": "full_adapter", "downscale_factor": 8},
        "sdxl": {"adapter_type": "full_adapter_xl", "downscale_factor": 16}}
    model: Any = T2IAdapter(in_channels=3, channels=[32, 64, 128, 128], num_res_blocks=2, **kinds[name])
    return randomised(model.state_dict(), generator)


def as_authors(adapter: Mapping[str, Tensor]) -> State:
    """A T2I-Adapter by the names of its authors, who number the blocks of all levels one after the other."""
    renamed: State = {}
    for name, value in adapter.items():
        parts = name.removeprefix("adapter.").split(".")
        if parts[0] == "body":
            block = 2 * int(parts[1])
            is_within = parts[2] == "resnets"
            parts = ["body", str(block + int(parts[3]) if is_within else block), *parts[4 if is_within else 2:]]
        renamed[".".join(parts)] = value
    return renamed


def lllite(unet: Mapping[str, Tensor], generator: torch.Generator) -> State:
    """Modules for all projections of self-attention, and for the queries of cross-attention."""
    state: State = {}
    for name, weight in unet.items():
        if not name.endswith(("attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight", "attn2.to_q.weight")):
            continue
        if name.startswith("output_blocks."):
            continue
        module = "lllite_unet_" + name.removesuffix(".weight").replace(".", "_")
        width = weight.shape[1]
        for part, shape in (("conditioning1.0", (8, 3, 4, 4)), ("conditioning1.2", (16, 8, 2, 2)),
                            ("down.0", (8, width)), ("mid.0", (8, 24)), ("up.0", (width, 8))):
            state |= layer(f"{module}.{part}", shape, generator)
    return state


def ip_adapter(generator: torch.Generator) -> State:
    """An IP-Adapter for SD 1.5 that takes image embeddings of :data:`IMAGE_WIDTH`."""
    context = SHAPES["sd15"]["cross_attention_dim"]
    state = layer("image_proj.proj", (IMAGE_TOKENS * context, IMAGE_WIDTH), generator)
    state |= {"image_proj.norm.weight": torch.ones(context), "image_proj.norm.bias": torch.zeros(context)}
    for number, width in enumerate(IMAGE_LAYERS):
        for part in ("to_k_ip", "to_v_ip"):
            name = f"ip_adapter.{2 * number + 1}.{part}"
            state[f"{name}.weight"] = layer(name, (width, context), generator)[f"{name}.weight"]
    return state


def image_prompt(seed: int) -> str:
    """What an image encoder would give, as the extension's API takes it."""
    file = io.BytesIO()
    torch.save({"image_embeds": torch.randn(1, IMAGE_WIDTH, generator=torch.Generator().manual_seed(seed))}, file)
    return base64.b64encode(file.getvalue()).decode()


def layer(name: str, shape: tuple[int, ...], generator: torch.Generator, gain: float = 1.0) -> State:
    """Random weight and bias of a layer."""
    weight = torch.randn(shape, generator=generator) * gain / math.sqrt(math.prod(shape[1:]))
    return {f"{name}.weight": weight, f"{name}.bias": 0.1 * gain * torch.randn(shape[0], generator=generator)}


def randomised(state: Mapping[str, Tensor], generator: torch.Generator) -> State:
    """Random weights for all of a model, those that start as zero included."""
    made: State = {}
    for name, value in state.items():
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() < 2:
            made[name] = (1.0 if name.endswith("weight") else 0.0) + 0.05 * noise
        else:
            made[name] = noise / math.sqrt(value[0].numel())
    return made
