"""The small SDXL: its architecture, as diffusers modules, and the pipeline made of them.

It has SDXL's parts, schedule and conditioning, and nothing else of it: a VAE of factor 8, two frozen text encoders, a
UNet of three levels with attention on the lower two, size conditioning. Channels come in steps of 32, which is the
number of norm groups that the web UI's own classes have fixed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench.world.captions import VOCABULARY
from bench.world.tokens import tokenizer
from tests.models.sgm_config import SIZE_EMBEDDING
from tests.models.sgm_config import VOCABULARY as CLIP_WORDS

SIZE = 128
"""Pixels of a picture's side."""
LATENT = SIZE // 8
LATENT_SCALE = 0.13025
"""SDXL's: latents times this have unit variance."""
TEXT_WIDTH = 32
TEXT_LAYERS = 3
TEXT_HEADS = 2
# open_clip's ratio of four is fixed
TEXT_HIDDEN = (64, 4 * TEXT_WIDTH)
ACTIVATIONS = ("quick_gelu", "gelu")
CONTEXT = 2 * TEXT_WIDTH
UNET_CHANNELS = (64, 128, 128)
UNET_LAYERS = 1
HEAD_DIM = 16
VAE_CHANNELS = 64
VAE_LEVELS = 4
# residual blocks per level of the encoder; the decoder has one more
VAE_LAYERS = 0


def autoencoder() -> AutoencoderKL:
    """An untrained AE for pictures [B, 3, H, W] in -1..1."""
    return AutoencoderKL(
        block_out_channels=(VAE_CHANNELS,) * VAE_LEVELS, layers_per_block=VAE_LAYERS, latent_channels=4,
        sample_size=SIZE, scaling_factor=LATENT_SCALE, down_block_types=("DownEncoderBlock2D",) * VAE_LEVELS,
        up_block_types=("UpDecoderBlock2D",) * VAE_LEVELS)


def unet() -> UNet2DConditionModel:
    """An untrained UNet for latents [B, 4, h, w]."""
    return UNet2DConditionModel(
        sample_size=LATENT, block_out_channels=UNET_CHANNELS, layers_per_block=UNET_LAYERS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=1,
        attention_head_dim=tuple(channels // HEAD_DIM for channels in UNET_CHANNELS), use_linear_projection=True,
        cross_attention_dim=CONTEXT, addition_embed_type="text_time", addition_time_embed_dim=SIZE_EMBEDDING,
        projection_class_embeddings_input_dim=6 * SIZE_EMBEDDING + TEXT_WIDTH)


def _text_config(number: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=CLIP_WORDS, hidden_size=TEXT_WIDTH, intermediate_size=TEXT_HIDDEN[number],
        num_hidden_layers=TEXT_LAYERS, num_attention_heads=TEXT_HEADS, max_position_embeddings=77,
        projection_dim=TEXT_WIDTH, hidden_act=ACTIVATIONS[number], bos_token_id=CLIP_WORDS - 2,
        eos_token_id=CLIP_WORDS - 1, pad_token_id=CLIP_WORDS - 1)


def text_encoders(seed: int | None = None) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """SDXL's two text encoders.

    Args:
        seed: of their random weights. They are never trained: what counts is that each word, and each place in the
            prompt, gives a vector of its own. Tokens that no caption has are zero. None leaves everything as made.
    """
    if seed is not None:
        torch.manual_seed(seed)
    encoders = CLIPTextModel(_text_config(0)), CLIPTextModelWithProjection(_text_config(1))
    if seed is not None:
        used = torch.zeros(CLIP_WORDS, 1)
        used[tokenizer()(list(VOCABULARY), add_special_tokens=False, return_tensors="pt").input_ids] = 1
        used[[CLIP_WORDS - 2, CLIP_WORDS - 1, tokenizer("!").pad_token_id]] = 1
        for encoder in encoders:
            for name, weight in encoder.named_parameters():
                if name.endswith("token_embedding.weight"):
                    weight.data = torch.randn(weight.shape) * used
                elif name.endswith("position_embedding.weight"):
                    weight.data = 0.3 * torch.randn(weight.shape)
    return encoders[0].eval().requires_grad_(False), encoders[1].eval().requires_grad_(False)


def schedule() -> DDIMScheduler:
    """SDXL's noise schedule, for DDIM."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1)


@dataclass(frozen=True)
class Parts:
    """The networks of the small SDXL."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection


def parts(seed: int | None = None) -> Parts:
    """Untrained networks; ``seed`` as of :func:`text_encoders`."""
    first, second = text_encoders(seed)
    return Parts(autoencoder().eval(), unet().eval(), first, second)


def pipeline(networks: Parts) -> StableDiffusionXLPipeline:
    """An ordinary diffusers pipeline of the networks, on the device and in the precision they have."""
    pipe = StableDiffusionXLPipeline(
        **vars(networks), scheduler=schedule(), add_watermarker=False,
        # its own, since textual inversions add words to them
        tokenizer=copy.deepcopy(tokenizer()), tokenizer_2=copy.deepcopy(tokenizer("!")))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def encode_captions(networks: Parts, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Contexts [B, 77, CONTEXT] and pooled vectors [B, TEXT_WIDTH], as SDXL makes them of prompts."""
    contexts, pooled = [], None
    for encoder, padding in ((networks.text_encoder, None), (networks.text_encoder_2, "!")):
        words = (tokenizer() if padding is None else tokenizer(padding))(
            list(captions), padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        found = encoder(words.input_ids, output_hidden_states=True)
        contexts.append(found.hidden_states[-2])
        pooled = found[0]
    assert pooled is not None
    return torch.cat(contexts, dim=-1), pooled
