"""Tiny random checkpoints for a real web UI, written by the web UI's own Python.

    <webui>/venv/bin/python checkpoints.py <webui> <folder>

writes into the folder ``tiny-sdxl``, ``tiny-sdxl-v`` and ``tiny-sd15`` (each ``.safetensors`` with its ``.yaml``), the
tokenizer and text encoder config they name (``clip/``), and the OpenCLIP architecture that the host must be told of
(``openclip/``). The weights are random but shaped so that a sampler behaves as with a trained model: an epsilon
prediction is the normalised input plus a prompt-dependent part, and the decoder normalises what it gets, so pictures
neither explode nor go grey. The same seeds give the same files.
"""

from __future__ import annotations

import gzip
import importlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

OPENCLIP_ARCH = "omg-tiny-openclip"
TEXT_WIDTH = 32
VOCABULARY = 49408
ADM_CHANNELS = TEXT_WIDTH + 6 * 256

OPENCLIP_CONFIG = {
    "embed_dim": TEXT_WIDTH,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": TEXT_WIDTH, "heads": 2, "layers": 3},
}
CLIP_CONFIG = {
    "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": VOCABULARY,
    "hidden_size": TEXT_WIDTH, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": TEXT_WIDTH,
    "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1,
}
VAE_PARAMS = {
    "embed_dim": 4, "monitor": "val/rec_loss", "lossconfig": {"target": "torch.nn.Identity"},
    "ddconfig": {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
                 "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
}


def sdxl_config(clip: Path, scaling: str) -> dict[str, Any]:
    """The model section of an SDXL-shaped checkpoint: three levels, attention on the lower two.

    Args:
        clip: the folder with tokenizer and config of the first text encoder.
        scaling: ``Eps`` or ``V``.
    """
    sgm = "sgm.modules"
    size_embedder = {"is_trainable": False, "target": f"{sgm}.encoders.modules.ConcatTimestepEmbedderND",
                     "params": {"outdim": 256}}
    return {"target": "sgm.models.diffusion.DiffusionEngine", "params": {
        "scale_factor": 0.13025, "disable_first_stage_autocast": True,
        "denoiser_config": {"target": f"{sgm}.diffusionmodules.denoiser.DiscreteDenoiser", "params": {
            "num_idx": 1000,
            "weighting_config": {"target": f"{sgm}.diffusionmodules.denoiser_weighting.EpsWeighting"},
            "scaling_config": {"target": f"{sgm}.diffusionmodules.denoiser_scaling.{scaling}Scaling"},
            "discretization_config": {"target": f"{sgm}.diffusionmodules.discretizer.LegacyDDPMDiscretization"}}},
        "network_config": {"target": f"{sgm}.diffusionmodules.openaimodel.UNetModel", "params": {
            "adm_in_channels": ADM_CHANNELS, "num_classes": "sequential", "use_checkpoint": False, "in_channels": 4,
            "out_channels": 4, "model_channels": 32, "attention_resolutions": [4, 2], "num_res_blocks": 2,
            "channel_mult": [1, 2, 4], "num_head_channels": 16, "use_spatial_transformer": True,
            "use_linear_in_transformer": True, "transformer_depth": [1, 1, 2], "context_dim": 2 * TEXT_WIDTH,
            "spatial_transformer_attn_type": "softmax-xformers", "legacy": False}},
        "conditioner_config": {"target": f"{sgm}.GeneralConditioner", "params": {"emb_models": [
            {"is_trainable": False, "input_key": "txt", "target": f"{sgm}.encoders.modules.FrozenCLIPEmbedder",
             "params": {"version": str(clip), "layer": "hidden", "layer_idx": 2}},
            {"is_trainable": False, "input_key": "txt", "target": f"{sgm}.encoders.modules.FrozenOpenCLIPEmbedder2",
             "params": {"arch": OPENCLIP_ARCH, "version": None, "freeze": True, "layer": "penultimate",
                        "always_return_pooled": True, "legacy": False}},
            {**size_embedder, "input_key": "original_size_as_tuple"},
            {**size_embedder, "input_key": "crop_coords_top_left"},
            {**size_embedder, "input_key": "target_size_as_tuple"}]}},
        "first_stage_config": {"target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper",
                               "params": VAE_PARAMS}}}


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
            "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": TEXT_WIDTH,
            "use_checkpoint": False, "legacy": False}},
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": VAE_PARAMS},
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
                              "params": {"version": str(clip)}}}}


def write_clip(folder: Path, bpe: Path) -> None:
    """Tokenizer and config of the CLIP text encoder, as ``from_pretrained`` reads them.

    Args:
        bpe: the gzipped list of merges that open_clip ships; CLIP's vocabulary follows from it.
    """
    open_clip_tokenizer = importlib.import_module("open_clip.tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    merges = gzip.decompress(bpe.read_bytes()).decode().split("\n")[1:VOCABULARY - 512 - 2 + 1]
    letters = list(open_clip_tokenizer.bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges),
             "<|startoftext|>", "<|endoftext|>"]
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True,
                 "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
                 "pad_token": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(CLIP_CONFIG))


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
    """The object that a config with ``target`` and ``params`` stands for."""
    module, name = config["target"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**config["params"])


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def clip_weights(seed: int) -> dict[str, torch.Tensor]:
    """Weights of a transformers CLIP text model."""
    transformers = importlib.import_module("transformers")
    return randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP_CONFIG)), seed)


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
    write_clip(clip, Path(str(open_clip.__file__)).with_name("bpe_simple_vocab_16e6.txt.gz"))
    openclip.mkdir(exist_ok=True)
    (openclip / f"{OPENCLIP_ARCH}.json").write_text(json.dumps(OPENCLIP_CONFIG))
    open_clip.add_model_config(openclip)

    for name, kind in (("tiny-sdxl", "Eps"), ("tiny-sdxl-v", "V")):
        config = sdxl_config(clip, kind)
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
    """Write one checkpoint and, beside it, its architecture (JSON is YAML)."""
    save_file(weights, path.with_suffix(".safetensors"))
    path.with_suffix(".yaml").write_text(json.dumps({"model": config}, indent=1))


if __name__ == "__main__":
    root, target = sys.argv[1], Path(sys.argv[2]).absolute()
    sys.argv = [root]  # the host's own modules read the command line
    sys.path.insert(0, root)
    importlib.import_module("modules.paths")  # makes ldm and sgm importable
    target.mkdir(parents=True, exist_ok=True)
    write_checkpoints(target)
