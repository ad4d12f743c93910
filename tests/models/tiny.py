"""Tiny randomly initialised pipelines with SDXL's and SD 1.5's architecture, made in memory in a second.

Their pictures mean nothing. They are for what does not depend on training: equations, speed and memory.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WORDS = ("a", "man", "woman", "dog", "cat", "robot", "and", "in", "the", "park", "red", "blue", "old", "young", "photo",
         "of", "sks", "wearing", "hat", "forest", "beach", "standing", "left", "right", "painting", "style")


def word_tokenizer(words: Sequence[str] = WORDS) -> CLIPTokenizer:
    """A CLIP tokenizer for which each of ``words`` is one token, and any other text its characters."""
    characters = [chr(code) for code in range(33, 127)]
    vocabulary = [*characters, *(character + "</w>" for character in characters)]
    merges: list[str] = []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append(f"{pieces[0]} {pieces[1]}")
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            vocabulary.append(pieces[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
        Path(folder, "tokenizer_config.json").write_text(json.dumps({
            "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}))
        return CLIPTokenizer.from_pretrained(folder)


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type)


def _text_config(tokenizer: CLIPTokenizer, width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width,
                          num_hidden_layers=2, num_attention_heads=2, projection_dim=width, hidden_act=activation,
                          bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                          pad_token_id=tokenizer.pad_token_id)


def tiny_vae(channels: Sequence[int] = (32, 32, 32, 32), layers: int = 1, groups: int = 32) -> AutoencoderKL:
    """An autoencoder with SDXL's four levels."""
    return AutoencoderKL(block_out_channels=tuple(channels), layers_per_block=layers, latent_channels=4,
                         sample_size=256, norm_num_groups=groups, down_block_types=("DownEncoderBlock2D",) * 4,
                         up_block_types=("UpDecoderBlock2D",) * 4)


def tiny_sdxl(channels: Sequence[int] = (32, 64, 64), *, prediction_type: str = "epsilon", seed: int = 0,
              depth: Sequence[int] = (1, 1, 2), text_widths: Sequence[int] = (32, 32),
              groups: int = 32) -> StableDiffusionXLPipeline:
    """An SDXL pipeline: three levels, attention on the lower two, two text encoders, size conditioning."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=tuple(channels), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=tuple(depth), attention_head_dim=tuple(width // 16 for width in channels),
        use_linear_projection=True, norm_num_groups=groups, cross_attention_dim=sum(text_widths),
        addition_embed_type="text_time", addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + text_widths[1])
    return StableDiffusionXLPipeline(
        vae=tiny_vae(), unet=unet.eval(), scheduler=_scheduler(prediction_type), tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        text_encoder=CLIPTextModel(_text_config(tokenizer, text_widths[0], "quick_gelu")).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, text_widths[1], "gelu")).eval(),
        add_watermarker=False)


def tiny_sd15(channels: Sequence[int] = (32, 32, 64, 64), *, prediction_type: str = "epsilon",
              seed: int = 0) -> StableDiffusionPipeline:
    """An SD 1.5 pipeline: four levels, attention on the upper three and in the middle, one text encoder."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer()
    unet = UNet2DConditionModel(sample_size=32, block_out_channels=tuple(channels), layers_per_block=2,
                                cross_attention_dim=32, attention_head_dim=2)
    return StableDiffusionPipeline(
        vae=tiny_vae(), unet=unet.eval(), scheduler=_scheduler(prediction_type), tokenizer=tokenizer,
        text_encoder=CLIPTextModel(_text_config(tokenizer, 32, "quick_gelu")).eval(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
