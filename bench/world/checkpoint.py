"""One checkpoint file for both hosts: in the layout of Stability's `sgm`, which web UIs load, and read by diffusers.

Reading is diffusers' own conversion. Writing is its inverse, which diffusers does not bring as a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers.loaders import single_file_utils as diffusers_layout
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.world import model

State = dict[str, Tensor]
Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = ("conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model.")
_PER_LEVEL = model.UNET_LAYERS + 1


def _up_sampler(found: re.Match[str]) -> str:
    """The upsampler follows the level's last residual block, and the transformer where there is one."""
    level = int(found[1])
    return f"output_blocks.{level * _PER_LEVEL + model.UNET_LAYERS}.{2 if level < 2 else 1}.conv"


# not the norms of the transformers
_RESIDUAL = r"(middle_block\.\d\.|put_blocks\.\d+\.\d\.)"
_UNET_RULES: Rules = (
    (r"conv_in\.", "input_blocks.0.0."), (r"conv_norm_out\.", "out.0."), (r"conv_out\.", "out.2."),
    (r"time_embedding\.linear_1", "time_embed.0"), (r"time_embedding\.linear_2", "time_embed.2"),
    (r"add_embedding\.linear_1", "label_emb.0.0"), (r"add_embedding\.linear_2", "label_emb.0.2"),
    (r"down_blocks\.(\d)\.downsamplers\.0\.conv",
     lambda found: f"input_blocks.{int(found[1]) * _PER_LEVEL + _PER_LEVEL}.0.op"),
    (r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)",
     lambda found: f"input_blocks.{1 + int(found[1]) * _PER_LEVEL + int(found[3])}.{int(found[2] == 'attentions')}"),
    (r"mid_block\.resnets\.0", "middle_block.0"), (r"mid_block\.attentions\.0", "middle_block.1"),
    (r"mid_block\.resnets\.1", "middle_block.2"), (r"up_blocks\.(\d)\.upsamplers\.0\.conv", _up_sampler),
    (r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)",
     lambda found: f"output_blocks.{int(found[1]) * _PER_LEVEL + int(found[3])}.{int(found[2] == 'attentions')}"),
    (_RESIDUAL + r"norm1\.", r"\1in_layers.0."), (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."), (_RESIDUAL + r"norm2\.", r"\1out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."), (r"\.conv_shortcut\.", ".skip_connection."))
_VAE_RULES: Rules = (
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block"),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0",
     lambda found: f"decoder.up.{model.VAE_LEVELS - 1 - int(found[1])}.upsample"),
    (r"decoder\.up_blocks\.(\d)\.resnets", lambda found: f"decoder.up.{model.VAE_LEVELS - 1 - int(found[1])}.block"),
    (r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
    (r"mid_block\.attentions\.0", "mid.attn_1"), (r"conv_norm_out", "norm_out"), (r"conv_shortcut", "nin_shortcut"),
    (r"\.group_norm\.", ".norm."), (r"\.to_([qkv])\.", r".\1."), (r"\.to_out\.0\.", ".proj_out."))
_OPEN_CLIP_RULES: Rules = (
    (r"^text_model\.", ""), (r"^embeddings\.token_embedding", "token_embedding"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^encoder\.layers\.(\d)", r"transformer.resblocks.\1"), (r"final_layer_norm", "ln_final"),
    (r"layer_norm(\d)", r"ln_\1"), (r"self_attn\.out_proj", "attn.out_proj"), (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"))


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def sgm_name(name: str) -> str:
    """What a parameter of diffusers' UNet is called in sgm's, without the prefix that it has in a checkpoint."""
    return _renamed(name, _UNET_RULES)


def _unet_state(unet: nn.Module) -> State:
    return {UNET + sgm_name(name): weight for name, weight in unet.state_dict().items()}


def _vae_state(vae: nn.Module) -> State:
    state = {}
    for name, weight in vae.state_dict().items():
        new = _renamed(name, _VAE_RULES)
        # diffusers has linear layers where ldm has convolutions of size one
        state[VAE + new] = weight[..., None, None] if ".attn_1." in new and weight.ndim == 2 else weight
    return state


def _clip_state(encoder: nn.Module) -> State:
    return {TEXT[0] + name.removeprefix("text_model."): weight for name, weight in encoder.state_dict().items()
            if "position_ids" not in name}


def _open_clip_state(encoder: nn.Module) -> State:
    state: State = {TEXT[1] + "logit_scale": torch.zeros(())}
    merged: dict[str, dict[str, Tensor]] = {}
    for name, weight in encoder.state_dict().items():
        new = TEXT[1] + _renamed(name, _OPEN_CLIP_RULES)
        found = re.search(r"\.self_attn\.([qkv])_proj\.", new)
        if found:
            merged.setdefault(new.replace(found[0], ".attn.in_proj_"), {})[found[1]] = weight
        elif "text_projection" in new:
            state[TEXT[1] + "text_projection"] = weight.T
        elif "position_ids" not in new:
            state[new] = weight
    return {**state, **{name: torch.cat([part["q"], part["k"], part["v"]]) for name, part in merged.items()}}


def to_sgm(networks: model.Parts) -> State:
    """The networks' weights under the names of a checkpoint file, in the precision they have."""
    state = {**_unet_state(networks.unet), **_vae_state(networks.vae), **_clip_state(networks.text_encoder),
             **_open_clip_state(networks.text_encoder_2)}
    return {name: weight.detach().contiguous() for name, weight in state.items()}


def save(networks: model.Parts, path: Path) -> None:
    """Writes the checkpoint in half precision."""
    save_file({name: weight.half() for name, weight in to_sgm(networks).items()}, path)


def _load_text(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Newer transformers have no ``text_model.`` in the names of the first text encoder."""
    own = {name.removeprefix("text_model."): name for name in encoder.state_dict()}
    encoder.load_state_dict({own[name.removeprefix("text_model.")]: weight for name, weight in state.items()
                             if name.removeprefix("text_model.") in own})


def load(path: Path) -> model.Parts:
    """The networks of a checkpoint file, in single precision.

    Raises:
        RuntimeError: weights are missing or have other shapes.
    """
    state = {name: weight.float() for name, weight in load_file(path).items()}
    networks = model.parts()
    networks.unet.load_state_dict(diffusers_layout.convert_ldm_unet_checkpoint(dict(state), networks.unet.config))
    networks.vae.load_state_dict(diffusers_layout.convert_ldm_vae_checkpoint(dict(state), networks.vae.config))
    _load_text(networks.text_encoder, diffusers_layout.convert_ldm_clip_checkpoint(dict(state)))
    _load_text(networks.text_encoder_2, diffusers_layout.convert_open_clip_checkpoint(
        networks.text_encoder_2, dict(state), TEXT[1]))
    for network in vars(networks).values():
        network.eval().requires_grad_(False)
    return networks
