"""The models that the bench measures, both random: a narrow SDXL-shaped one for CPUs, one of SDXL's size for GPUs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor

from bench.scene import PROMPT, PROMPTS, request, write_loras
from omg_ext.diffusers import OMGPipeline
from tests.models.tiny import tiny_sdxl, tiny_vae

# of 50 DDIM steps, 16 lie before this part of the trajectory
BLEND_START = 0.33

SDXL_UNET = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
    "cross_attention_dim": 2048, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 1280,
}
SDXL_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 1024,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.13025, "force_upcast": False,
}


def quarter_width() -> StableDiffusionXLPipeline:
    """UNet, autoencoder and text embeddings a quarter as wide as SDXL's, with fewer layers; float32, on the CPU.

    Not narrower: a layer's work grows with the square of its width, that of a LoRA, of the detector and of the layout
    with the width itself, so that these look dearer the narrower the model is.
    """
    pipe = tiny_sdxl((80, 160, 320), groups=8, text_widths=(192, 320))
    pipe.register_modules(vae=tiny_vae((32, 64, 128, 128), layers=2, groups=8).eval())
    return pipe


def full_size() -> StableDiffusionXLPipeline:
    """SDXL's UNet and autoencoder at full size, float16, on the GPU; the text encoders are tiny but as wide."""
    pipe = tiny_sdxl(text_widths=(768, 1280))
    with torch.device("cuda"):
        pipe.register_modules(unet=UNet2DConditionModel(**SDXL_UNET).half().eval(),
                              vae=AutoencoderKL(**SDXL_VAE).half().eval())
    return pipe.to("cuda", torch.float16)


@dataclass
class Subject:
    """A model, the size of its pictures, and LoRAs for the two concepts.

    Attributes:
        pipe: the diffusers pipeline, silent.
        size: height and width in pixels.
        folder: for LoRA files, which all subjects of one rank share.
        rank: of the LoRAs.
    """

    pipe: StableDiffusionXLPipeline
    size: int
    folder: Path
    rank: int

    def __post_init__(self) -> None:
        self.pipe.set_progress_bar_config(disable=True)
        # as a web UI has them: else torch's Linears copy some of their inputs on a CPU
        self.pipe.unet.requires_grad_(False)
        files = self.folder / f"rank-{self.rank}"
        self.loras = {name: files / f"{name}.safetensors" for name in PROMPTS}
        # never written twice: a pipeline reads a file again that has changed, and that would be timed
        if not files.exists():
            files.mkdir()
            write_loras(self.pipe.unet, self.loras.values(), self.rank, 0.1)
        self.pipeline = OMGPipeline(self.pipe, self.loras)

    def twin(self) -> Subject:
        """The same model with a UNet of its own to hang hooks on; the parameters are shared."""
        unet = self.pipe.unet
        shared: dict[int, Any] = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
        pipe = StableDiffusionXLPipeline(**{
            **self.pipe.components, "unet": copy.deepcopy(unet, shared), "add_watermarker": False,
            "scheduler": type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)})
        return replace(self, pipe=pipe)

    def plain(self, steps: int) -> None:
        """Ordinary txt2img, by diffusers."""
        self.pipe(PROMPT, num_inference_steps=steps, guidance_scale=7.5, height=self.size, width=self.size)

    def omg(self, steps: int, given: bool = True, tags: bool = True, options: Mapping[str, Any] | None = None,
            **fields: Any) -> None:
        """Both passes with both concepts.

        Args:
            given: masks are given; else the detector finds them.
            tags: the concepts have their LoRAs.
            options: of the pipeline.
            fields: of the request.
        """
        wanted = request(self.size if given else 0, tags, **{
            "blend_start": BLEND_START, "strict": True, "predict": "separate", **fields})
        pipeline = OMGPipeline(self.pipe, self.loras, **options) if options else self.pipeline
        pipeline(
            wanted, PROMPT, steps=steps, cfg_scale=7.5, height=self.size, width=self.size)

    @torch.no_grad()
    def inputs(self, rows: int) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        """Arguments of a UNet call of so many rows."""
        unet, size = self.pipe.unet, self.size // self.pipe.vae_scale_factor
        states, _, pooled, _ = self.pipe.encode_prompt(PROMPT, device=unet.device)
        ids = torch.tensor([[self.size, self.size, 0, 0, self.size, self.size]]).to(states)
        x = torch.randn(rows, 4, size, size).to(states)
        t = torch.full((rows,), 500, device=unet.device)
        added = {"text_embeds": pooled.expand(rows, -1), "time_ids": ids.expand(rows, -1)}
        return (x, t), {"encoder_hidden_states": states.expand(rows, -1, -1), "added_cond_kwargs": added}

    @property
    def parameters(self) -> int:
        """Of the UNet."""
        return sum(parameter.numel() for parameter in self.pipe.unet.parameters())
