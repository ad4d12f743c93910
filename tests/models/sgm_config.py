"""What a web UI must be told of an SDXL-shaped checkpoint that is smaller than SDXL.

That is a yaml with its classes and sizes, a folder with tokenizer and config of the first text encoder, and an OpenCLIP
architecture for the second. This module needs the standard library alone, since it also runs in the web UI's Python.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = 49408
"""Tokens of CLIP's vocabulary."""
SIZE_EMBEDDING = 256
MERGES = "bpe_simple_vocab_16e6.txt.gz"
"""The file in open_clip's folder that CLIP's vocabulary follows from."""
START, END = "<|startoftext|>", "<|endoftext|>"
BYTES = 256


@dataclass(frozen=True)
class Shape:
    """The sizes of a model. Its UNet has attention on all levels but the first, its autoencoder has four levels.

    Attributes:
        unet_channels: by level, multiples of the first.
        unet_blocks: residual blocks per level.
        unet_depth: transformer blocks by level.
        head_channels: of an attention head.
        vae_channels: on every level.
        vae_blocks: residual blocks per level of the encoder; the decoder has one more.
        text_width, text_layers, text_heads: of both text encoders.
        text_hidden: of the first one; in the second it is four times the width.
    """

    unet_channels: Sequence[int]
    unet_blocks: int
    unet_depth: Sequence[int]
    head_channels: int
    vae_channels: int
    vae_blocks: int
    text_width: int
    text_layers: int
    text_heads: int
    text_hidden: int


def sdxl(shape: Shape, clip: Path, architecture: str, scaling: str = "Eps") -> dict[str, Any]:
    """The ``model`` section of the checkpoint's yaml.

    Args:
        clip: the folder that :func:`write_clip` wrote.
        architecture: the name that :func:`write_openclip` gave.
        scaling: ``Eps`` or ``V``.
    """
    sgm = "sgm.modules"
    size_embedder = {"is_trainable": False, "target": f"{sgm}.encoders.modules.ConcatTimestepEmbedderND",
                     "params": {"outdim": SIZE_EMBEDDING}}
    return {"target": "sgm.models.diffusion.DiffusionEngine", "params": {
        "scale_factor": 0.13025, "disable_first_stage_autocast": True,
        "denoiser_config": {"target": f"{sgm}.diffusionmodules.denoiser.DiscreteDenoiser", "params": {
            "num_idx": 1000,
            "weighting_config": {"target": f"{sgm}.diffusionmodules.denoiser_weighting.EpsWeighting"},
            "scaling_config": {"target": f"{sgm}.diffusionmodules.denoiser_scaling.{scaling}Scaling"},
            "discretization_config": {"target": f"{sgm}.diffusionmodules.discretizer.LegacyDDPMDiscretization"}}},
        "network_config": {"target": f"{sgm}.diffusionmodules.openaimodel.UNetModel", "params": {
            "adm_in_channels": shape.text_width + 6 * SIZE_EMBEDDING, "num_classes": "sequential",
            "use_checkpoint": False, "in_channels": 4, "out_channels": 4, "model_channels": shape.unet_channels[0],
            "attention_resolutions": [2 ** level for level in range(len(shape.unet_channels) - 1, 0, -1)],
            "num_res_blocks": shape.unet_blocks,
            "channel_mult": [channels // shape.unet_channels[0] for channels in shape.unet_channels],
            "num_head_channels": shape.head_channels, "use_spatial_transformer": True,
            "use_linear_in_transformer": True, "transformer_depth": list(shape.unet_depth),
            "context_dim": 2 * shape.text_width, "spatial_transformer_attn_type": "softmax-xformers",
            "legacy": False}},
        "conditioner_config": {"target": f"{sgm}.GeneralConditioner", "params": {"emb_models": [
            {"is_trainable": False, "input_key": "txt", "target": f"{sgm}.encoders.modules.FrozenCLIPEmbedder",
             "params": {"version": str(clip), "layer": "hidden", "layer_idx": shape.text_layers - 1}},
            {"is_trainable": False, "input_key": "txt", "target": f"{sgm}.encoders.modules.FrozenOpenCLIPEmbedder2",
             "params": {"arch": architecture, "version": None, "freeze": True, "layer": "penultimate",
                        "always_return_pooled": True, "legacy": False}},
            {**size_embedder, "input_key": "original_size_as_tuple"},
            {**size_embedder, "input_key": "crop_coords_top_left"},
            {**size_embedder, "input_key": "target_size_as_tuple"}]}},
        "first_stage_config": {"target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper",
                               "params": vae(shape)}}}


def vae(shape: Shape) -> dict[str, Any]:
    """The parameters of the autoencoder's class."""
    return {"embed_dim": 4, "monitor": "val/rec_loss", "lossconfig": {"target": "torch.nn.Identity"}, "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": shape.vae_channels,
        "ch_mult": [1, 1, 1, 1], "num_res_blocks": shape.vae_blocks, "attn_resolutions": [], "dropout": 0.0}}


def clip(shape: Shape) -> dict[str, Any]:
    """The first text encoder's config, as transformers has it."""
    return {
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": VOCABULARY,
        "hidden_size": shape.text_width, "intermediate_size": shape.text_hidden,
        "num_hidden_layers": shape.text_layers, "num_attention_heads": shape.text_heads,
        "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": shape.text_width,
        "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1}


def write_yaml(path: Path, model: Mapping[str, Any]) -> None:
    """The file beside a checkpoint (JSON is YAML)."""
    path.write_text(json.dumps({"model": model}, indent=1) + "\n")


def write_clip(folder: Path, shape: Shape, merges: Path) -> None:
    """Tokenizer and config of the first text encoder, as ``from_pretrained`` reads them.

    Args:
        merges: the file :data:`MERGES`.
    """
    pairs = gzip.decompress(merges.read_bytes()).decode().split("\n")[1:VOCABULARY - 2 * BYTES - 2 + 1]
    words = [*byte_tokens(), *("".join(pair.split()) for pair in pairs), START, END]
    write_tokenizer(folder, {word: index for index, word in enumerate(words)}, pairs)
    (folder / "config.json").write_text(json.dumps(clip(shape)))


def write_tokenizer(folder: Path, ids: Mapping[str, int], merges: Sequence[str], padding: str = END) -> None:
    """A CLIP tokenizer as ``from_pretrained`` reads it.

    Args:
        ids: by token.
        merges: pairs of tokens, the first to be applied first.
        padding: the token that fills up to 77.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "bos_token": START,
        "eos_token": END, "unk_token": END, "pad_token": padding}))


def byte_tokens() -> list[str]:
    """CLIP's first tokens: a printable character for each byte, as in GPT-2, then each as the end of a word."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [*map(chr, printable), *(chr(BYTES + index) for index in range(BYTES - len(printable)))]
    return [*letters, *(letter + "</w>" for letter in letters)]


def write_openclip(folder: Path, shape: Shape, architecture: str) -> None:
    """The second text encoder, for ``open_clip.add_model_config(folder)``; its visual half is never used."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{architecture}.json").write_text(json.dumps({
        "embed_dim": shape.text_width,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": shape.text_width,
                     "heads": shape.text_heads, "layers": shape.text_layers}}))
