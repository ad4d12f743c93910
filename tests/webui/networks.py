"""Test networks for the tiny checkpoints, made by LyCORIS: every type that the web UI's bundled Lora extension loads.

Key names are kohya's: compvis module names for SDXL's UNet, diffusers' for SD 1.5. The weights are random, of a size
that shows: the change of a layer's weight has a fixed share of the weight's norm.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.webui.host import forge_is_tested, reads_oft

logging.getLogger("LyCORIS").setLevel(logging.ERROR)  # it tells of every size it chooses

State = dict[str, Tensor]
Layers = dict[str, nn.Module]

CHANGE = 0.3  # norm of a weight's change over the weight's norm
RANK = 4

NORMS = (nn.GroupNorm, nn.LayerNorm)
ATTENTION = re.compile(r"transformer_blocks|proj_in|proj_out|self_attn|mlp")
BLOCKS = re.compile(
    ATTENTION.pattern + r"|in_layers|out_layers|emb_layers|skip_connection|\.op$|\.conv$|resnets|samplers")


def attention(name: str, layer: nn.Module) -> bool:
    """What a plain LoRA trains: attention and feed-forward layers, SD 1.5's 1x1 convolutions around them included."""
    return not isinstance(layer, NORMS) and bool(ATTENTION.search(name))


def linear(name: str, layer: nn.Module) -> bool:
    """The linear ones of these: all that the web UI can do with GLora and IA3."""
    return isinstance(layer, nn.Linear) and attention(name, layer)


def blocks(name: str, layer: nn.Module) -> bool:
    """What a LoCon trains: convolutions, up- and downsamplers and time projections too."""
    return not isinstance(layer, NORMS) and bool(BLOCKS.search(name))


def everything(name: str, layer: nn.Module) -> bool:
    """Every layer with a weight but the norms: also time embedding, first and last convolution."""
    return not isinstance(layer, NORMS)


def norms(name: str, layer: nn.Module) -> bool:
    """The norms, but the last one and those of the second text encoder, whose names the web UI does not know."""
    return isinstance(layer, NORMS) and not name.startswith(("out.", "conv_norm_out", "te2"))


@dataclass(frozen=True)
class Kind:
    """A network type.

    Attributes:
        module: the LyCORIS class.
        layers: which layers of a model get one.
        options: passed to the class.
        convert: from LyCORIS' names of one layer's weights to those the web UI reads, where they differ.
        prefix: of the UNet's key names.
    """

    module: type[nn.Module]
    layers: Callable[[str, nn.Module], bool]
    options: Mapping[str, Any] = field(default_factory=dict)
    convert: Callable[[State], State] = dict
    prefix: str = "lora_unet"


def old_glora(state: State) -> State:
    """The web UI reads GLora files of the first LyCORIS releases, where 1 named the inner and 2 the outer matrix."""
    swap = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}
    return {".".join([swap.get(name.split(".")[0], name.split(".")[0]), *name.split(".")[1:]]): value
            for name, value in state.items()}


def old_oft(state: State) -> State:
    """OFT files of LyCORIS before 2.0 hold the rotations themselves, not the skew-symmetric blocks they come from."""
    skew = state["oft_blocks"] - state["oft_blocks"].transpose(1, 2)
    eye = torch.eye(skew.shape[1])
    return {"oft_diag": (eye + skew) @ torch.linalg.inv(eye - skew)}


DORA = {"weight_decompose": True, "wd_on_out": False}  # the web UI scales input channels

KINDS: dict[str, Kind] = {
    "lora": Kind(LoConModule, attention),
    "locon": Kind(LoConModule, blocks),
    "locon-cp": Kind(LoConModule, blocks, {"use_tucker": True}),
    "loha": Kind(LohaModule, blocks),
    "loha-cp": Kind(LohaModule, blocks, {"use_tucker": True}),
    "lokr": Kind(LokrModule, blocks, {"factor": 4}),
    "lokr-cp": Kind(LokrModule, blocks, {"factor": 4, "use_tucker": True}),
    "lokr-both": Kind(LokrModule, blocks, {"factor": 8, "decompose_both": True, "lora_dim": 2}),
    "lokr-full": Kind(LokrModule, blocks, {"factor": 4, "full_matrix": True}),
    "ia3": Kind(IA3Module, linear),
    "ia3-input": Kind(IA3Module, linear, {"train_on_input": True}),
    "oft": Kind(DiagOFTModule, blocks, {"lora_dim": 8}),
    "oft-rescaled": Kind(DiagOFTModule, blocks, {"lora_dim": 8, "rescaled": True}),
    "oft-kohya": Kind(DiagOFTModule, attention, {"lora_dim": 8, "constraint": 0.02}, prefix="oft_unet"),
    "oft-old": Kind(DiagOFTModule, attention, {"lora_dim": 8}, convert=old_oft),
    "boft": Kind(ButterflyOFTModule, blocks, {"lora_dim": 8}),
    "boft-rescaled": Kind(ButterflyOFTModule, blocks, {"lora_dim": 8, "rescaled": True}),
    "glora": Kind(GLoRAModule, linear, convert=old_glora),
    "full": Kind(FullModule, everything),
    "norm": Kind(NormModule, norms),
    "dora": Kind(LoConModule, attention, DORA),
    "dora-conv": Kind(LoConModule, blocks, DORA),
    "dora-loha": Kind(LohaModule, blocks, DORA),
    "dora-lokr": Kind(LokrModule, blocks, {**DORA, "factor": 4}),
}
# the web UI knows these only by compvis names, which SD 1.5 files do not use
SDXL_ONLY = ("oft-kohya",)
# Forges leave these out without a word, and fail on the last
_UNREAD = ("ia3", "oft-kohya", "oft-old") if reads_oft() else ("ia3", "oft", "boft")
NOT_IN_FORGE = (*(kind for kind in KINDS if kind.startswith(_UNREAD)), "lokr-cp")


def kinds_for(architecture: str) -> tuple[str, ...]:
    """The types to test on ``sdxl`` or ``sd15`` in the web UI that the tests run in."""
    others = NOT_IN_FORGE if forge_is_tested() else ()
    return tuple(kind for kind in KINDS if kind not in others and (architecture == "sdxl" or kind not in SDXL_ONLY))


def make_network(models: Mapping[str, Layers], kind: str, seed: int) -> State:
    """A network of one type for the given parts of a model.

    Args:
        models: key prefix (``lora_unet``, ``lora_te1``, ...) to the part's layers by name.
    """
    chosen = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for prefix, layers in models.items():
        prefix = chosen.prefix if prefix == "lora_unet" else prefix
        if prefix != "oft_unet" and chosen.prefix == "oft_unet":
            continue  # kohya's OFT files train the UNet alone
        for name, layer in layers.items():
            if not chosen.layers(f"te2.{name}" if prefix == "lora_te2" else name, layer):
                continue
            key = f"{prefix}_{name}".replace(".", "_")
            module = chosen.module(key, layer, **{"lora_dim": RANK, "alpha": RANK / 2, **chosen.options})
            randomise(module, layer, generator)
            weights = chosen.convert({part: value.detach() for part, value in module.state_dict().items()})
            state |= {f"{key}.{part}": value.contiguous().clone() for part, value in weights.items()}
    return state


@torch.no_grad()
def randomise(module: Any, layer: Any, generator: torch.Generator) -> None:
    """Random weights for one layer's module, scaled so that they change the layer's weight by :data:`CHANGE`."""
    scaled = []
    for name, value in module.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if name in ("dora_scale", "rescale"):
            value.mul_(1 + 0.2 * noise)
        elif name == "oft_blocks":
            value.copy_(0.15 * noise)
        elif name in ("bias", "b_norm"):
            value.copy_(0.1 * noise)
        else:
            value.copy_(noise)
            scaled.append(value)
    if scaled:
        # the change is homogeneous in the factors: of degree 2 for GLora's two products, else of their number
        degree = 2 if isinstance(module, GLoRAModule) else len(scaled)
        ratio = module.get_diff_weight()[0].norm() / layer.weight.norm()
        for value in scaled:
            value.mul_((CHANGE / ratio) ** (1 / degree))
    if isinstance(module, FullModule):  # it saves the difference between its own weights and the layer's
        module.weight.add_(layer.weight)
        if layer.bias is not None:
            module.bias.add_(layer.bias)


def layers_from(weights: Mapping[str, Tensor], prefix: str, pattern: str = "") -> Layers:
    """The linear, convolutional and norm layers that the weights under a prefix belong to."""
    layers: Layers = {}
    for key, weight in weights.items():
        name = key[len(prefix):-len(".weight")]
        if not (key.startswith(prefix) and key.endswith(".weight") and re.search(pattern, name)):
            continue
        layer: nn.Module
        if weight.dim() == 1 and re.search(r"transformer_blocks|layer_norm", name):
            layer = nn.LayerNorm(len(weight))
        elif weight.dim() == 1:
            layer = nn.GroupNorm(32, len(weight))
        elif weight.dim() == 2:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=f"{prefix}{name}.bias" in weights)
        else:
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2)
        layer.weight.data.copy_(weight)
        layers[name] = layer
    return layers


def as_transformers(weights: Mapping[str, Tensor], prefix: str) -> State:
    """OpenCLIP's text encoder with the layer names of transformers' CLIP, which kohya's files use."""
    renamed: State = {}
    for key, value in weights.items():
        match = re.fullmatch(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.(.*)", key)
        if not match:
            continue
        block, part = f"text_model.encoder.layers.{match[1]}", match[2]
        if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
            for name, third in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{block}.self_attn.{name}_proj.{part.removeprefix('attn.in_proj_')}"] = third
        else:
            for old, new in (("attn.", "self_attn."), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
                             ("ln_", "layer_norm")):
                part = part.replace(old, new)
            renamed[f"{block}.{part}"] = value
    return renamed


def sdxl_models(checkpoint: Path) -> dict[str, Layers]:
    """The parts of the tiny SDXL checkpoint that networks train."""
    weights = load_file(checkpoint)
    te2 = as_transformers(weights, "conditioner.embedders.1.model.")
    return {"lora_unet": layers_from(weights, "model.diffusion_model."),
            "lora_te1": layers_from(weights, "conditioner.embedders.0.transformer.", r"encoder\.layers"),
            "lora_te2": layers_from(te2, "")}


def sd15_models(checkpoint: Path) -> dict[str, Layers]:
    """The parts of the tiny SD 1.5 checkpoint that networks train; the UNet's as diffusers names them."""
    return {"lora_unet": sd15_unet(),
            "lora_te": layers_from(load_file(checkpoint), "cond_stage_model.transformer.", r"encoder\.layers")}


def sd15_unet() -> Layers:
    """Its UNet's layers, as diffusers names them."""
    shape = {"block_out_channels": (32, 64, 128, 128), "attention_head_dim": 8, "cross_attention_dim": 32}
    unet: Any = UNet2DConditionModel(**shape)
    return {name: layer for name, layer in unet.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d, *NORMS))}


def write_networks(checkpoints: Path, folder: Path, kinds: Iterable[str] = KINDS) -> None:
    """Write ``sdxl-<type>`` and ``sd15-<type>`` for every type, and a second and third LoRA for SDXL.

    Args:
        checkpoints: where ``checkpoints.py`` wrote.
        folder: the web UI's Lora folder.
    """
    sdxl, sd15 = sdxl_models(checkpoints / "tiny-sdxl.safetensors"), sd15_models(checkpoints / "tiny-sd15.safetensors")
    for seed, kind in enumerate(kinds):
        save(make_network(sdxl, kind, seed), folder / f"sdxl-{kind}.safetensors", "sdxl_base_v1-0")
        if kind in kinds_for("sd15"):
            save(make_network(sd15, kind, seed), folder / f"sd15-{kind}.safetensors", "sd_v1")
    for seed, name in ((101, "sdxl-other"), (102, "sdxl-style")):
        save(make_network(sdxl, "lora", seed), folder / f"{name}.safetensors", "sdxl_base_v1-0")


def save(state: State, path: Path, base: str) -> None:
    """Write a network with the metadata by which the web UI tells architectures."""
    metadata = {"ss_base_model_version": base, "ss_network_module": "lycoris.kohya"}
    save_file(state, path, {**metadata, "ss_v2": "False"} if base == "sd_v1" else metadata)


def as_diffusers(state: State) -> State:
    """A file with kohya's keys by the names that diffusers gives them. They stand for the same layers, but for SDXL's
    UNet, whose blocks kohya names as its original code does: good enough for a file that is to be recognised."""
    parts = {"lora_unet_": "unet.", "lora_te1_": "text_encoder.", "lora_te2_": "text_encoder_2."}
    renamed: State = {}
    for key, value in state.items():
        prefix = next(prefix for prefix in parts if key.startswith(prefix))
        layer, _, weight = key.removeprefix(prefix).partition(".")
        if weight != "alpha":
            kind = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}[weight]
            renamed[f"{parts[prefix]}{layer.replace('_', '.')}.{kind}"] = value
    return renamed
