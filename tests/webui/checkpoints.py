"""Tiny random checkpoints for a real web UI, written by the web UI's own Python.

    <webui>/venv/bin/python -m tests.webui.checkpoints <webui> <folder>

writes into the folder ``tiny-sdxl``, ``tiny-sdxl-v`` and ``tiny-sd15`` (each ``.safetensors`` with its ``.yaml``), the
tokenizer and text encoder config they name (``clip/``), and the OpenCLIP architecture that the host must be told of
(``openclip/``); for a Forge, which knows models by their sizes, its own configs with these (``forge/``). The weights
are random but shaped so that a sampler behaves as with a trained model: an epsilon prediction is the normalised input
plus a prompt-dependent part, and the decoder normalises what it gets, so pictures neither explode nor go grey. The same
seeds give the same files.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.models import forge_configs, sgm_config
from tests.models.sgm_config import Shape

OPENCLIP_ARCH = "omg-tiny-openclip"
SDXL = Shape(unet_channels=(32, 64, 128), unet_blocks=2, unet_depth=(1, 1, 2), head_channels=16, vae_channels=32,
             vae_blocks=1, text_width=32, text_layers=3, text_heads=2, text_hidden=64)


def sd15_config(clip: Path) -> dict[str, Any]:
    """The model section of an SD 1.5-shaped checkpoint: four levels, attention on the upper three."""
    return {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {
        "linear_start": 0.00085, "linear_end": 0.0120, "num_timesteps_cond": 1, "log_every_t": 200, "timesteps": 1000,
        "first_stage_key": "jpg", "cond_stage_key": "txt", "image_size": 64, "channels": 4,
        "cond_stage_trainable": False, "conditioning_key": "crossattn", "monitor": "val/loss_simple_ema",
        "scale_factor": 0.18215, "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
            "attention_resolutions": [4, 2, 1], "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_heads": 8,
            "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": SDXL.text_width,
            "use_checkpoint": False, "legacy": False}},
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": sgm_config.vae(SDXL)},
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
                              "params": {"version": str(clip)}}}}


# (parameter name, gain): a weight gets the standard deviation gain / sqrt(fan in); the first match counts
GAINS = (
    (r"token_embedding", None), (r"position(al)?_embedding", None),
    (r"attn2\.to_[qk]\.", 1.8),  # sharp enough that each word has its place in the picture
    (r"attn2\.to_out\.", 1.5),
    (r"attn1\.to_out\.|ff\.net\.2\.|proj_out\.", 0.7),
    (r"text_model|resblocks", 0.7),
    (r"decoder\.conv_out", 0.6),  # few clipped pixels, which would hide differences
    (r"", 1.0),
)


def randomise(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Random weights for every parameter, zero-initialised ones included; returns the state dict, float32."""
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        if value.dim() < 2:
            base = 1.0 if name.endswith("weight") else 0.0
            state[name] = base + 0.05 * torch.randn(value.shape, generator=generator)
        else:
            gain = next(gain for pattern, gain in GAINS if re.search(pattern, name))
            std = 0.7 if gain is None else gain / math.sqrt(value[0].numel())
            state[name] = std * torch.randn(value.shape, generator=generator)
    return {name: value.contiguous() for name, value in state.items()}


def predict(unet: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Give the UNet's output the form of a sensible prediction.

    ``Eps``: the input, normalised, plus a smaller part of the network's own. It travels as channels 0..3 and, negated,
    4..7, since silu(a) - silu(-a) = a. ``V``: the network's own part alone, which is what a model of unit-variance data
    predicts besides its mean.
    """
    last = max(int(name.split(".")[1]) for name in unet if name.startswith("output_blocks."))
    skip = unet[f"output_blocks.{last}.0.skip_connection.weight"]
    entry, exit_ = unet["input_blocks.0.0.weight"], unet["out.2.weight"]
    exit_.mul_(0.25 if kind == "Eps" else 1.0)
    if kind == "Eps":
        offset = skip.shape[1] - entry.shape[0]
        entry[:4], skip[:8], exit_[:, :8] = 0.0, 0.0, 0.0
        for channel in range(4):
            entry[channel, channel, 1, 1] = 1.0
            skip[channel, offset + channel] = 1.0
            skip[4 + channel, offset + channel] = -1.0
            exit_[channel, channel, 1, 1] = 1.0
            exit_[channel, 4 + channel, 1, 1] = -1.0
        unet[f"output_blocks.{last}.0.out_layers.3.weight"][:8] *= 0.2
    return unet


def build(config: dict[str, Any]) -> torch.nn.Module:
    """The object that a config with ``target`` and ``params`` stands for. In Forge other classes have these names."""
    if find_spec("backend") is not None:
        return forge_configs.build(config)
    module, name = config["target"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**config["params"])


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def clip_weights(seed: int) -> dict[str, torch.Tensor]:
    """Weights of a transformers CLIP text model."""
    transformers = importlib.import_module("transformers")
    return randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**sgm_config.clip(SDXL))), seed)


def openclip_weights(seed: int) -> dict[str, torch.Tensor]:
    """Weights of the text half of an OpenCLIP model."""
    open_clip = importlib.import_module("open_clip")
    model = open_clip.create_model(OPENCLIP_ARCH, pretrained=None)
    del model.visual
    return randomise(model, seed)


def write_checkpoints(folder: Path) -> None:
    """Write all checkpoints and what they need into ``folder``."""
    open_clip = importlib.import_module("open_clip")
    clip, openclip = folder / "clip", folder / "openclip"
    sgm_config.write_clip(clip, SDXL, Path(str(open_clip.__file__)).with_name(sgm_config.MERGES))
    sgm_config.write_openclip(openclip, SDXL, OPENCLIP_ARCH)
    open_clip.add_model_config(openclip)

    for name, kind in (("tiny-sdxl", "Eps"), ("tiny-sdxl-v", "V")):
        config = sgm_config.sdxl(SDXL, clip, OPENCLIP_ARCH, kind)
        params = config["params"]
        save(folder / name, config, {
            **prefixed("model.diffusion_model.", predict(randomise(build(params["network_config"]), 1), kind)),
            **prefixed("first_stage_model.", randomise(build(params["first_stage_config"]), 2)),
            **prefixed("conditioner.embedders.0.transformer.", clip_weights(3)),
            **prefixed("conditioner.embedders.1.model.", openclip_weights(4))})

    config = sd15_config(clip)
    params = config["params"]
    save(folder / "tiny-sd15", config, {
        **prefixed("model.diffusion_model.", predict(randomise(build(params["unet_config"]), 5), "Eps")),
        **prefixed("first_stage_model.", randomise(build(params["first_stage_config"]), 6)),
        **prefixed("cond_stage_model.transformer.", clip_weights(7))})


def save(path: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Write one checkpoint and, beside it, its architecture."""
    save_file(weights, path.with_suffix(".safetensors"))
    sgm_config.write_yaml(path.with_suffix(".yaml"), config)


if __name__ == "__main__":
    root, target = Path(sys.argv[1]), Path(sys.argv[2]).absolute()
    is_forge, is_reforge = (root / "backend").is_dir(), (root / "ldm_patched").is_dir()
    # the host's own modules read the command line
    is_neo = (root / "modules_forge" / "packages").is_dir()
    sys.argv = [str(root), *(["--cpu"] if is_neo else ["--always-cpu"] if is_forge or is_reforge else [])]
    sys.path.insert(0, str(root))
    target.mkdir(parents=True, exist_ok=True)
    if is_forge:
        sys.path.append(str(root / "modules_forge" / "packages" if is_neo else root / "packages_3rdparty"))
        forge_configs.write(root, target / "forge", SDXL)
    else:
        importlib.import_module("modules.paths")  # makes ldm and sgm importable
        if is_reforge:
            forge_configs.write_for_reforge(target / "forge", SDXL)
    write_checkpoints(target)
