"""Both passes on a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from ..comprehension.places import check_given
from ..errors import OMGError
from ..request import Layout, Request, parse_request
from ..request.tags import Tag, parse_tags
from ..unet.deltas import Delta, DeltaSum
from ..unet.query_store import QueryStore
from .loras import LoraFiles, Source, scaled
from .prompts import PromptEmbeds, check_embeds, encode, time_ids
from .run import Run, Sampler, decode

Network = dict[nn.Module, Delta]


@dataclass
class OMGOutput:
    """What a call gives back.

    Attributes:
        images: the results (PIL pictures, or None if latents were asked for).
        latents: the final latents, [B, C, h, w].
        first_pass: the first pass's pictures, if ``request.show`` names them.
        first_pass_latents: the first pass's final latents, [B, C, h, w].
        masks: float32 [H, W] by picture and concept; None where a concept was not found.
        warnings: what the user should know.
    """

    images: list[Image.Image] | None
    latents: Tensor
    first_pass_latents: Tensor
    masks: list[list[np.ndarray | None]]
    first_pass: list[Image.Image] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class OMGPipeline:
    """Multi-concept generation on an SDXL or SD 1.5 pipeline.

    Args:
        pipe: the diffusers pipeline; its scheduler is used. It is left as it was after every call.
        loras: the folder of the files that ``<lora:name>`` tags name, or a mapping from names to files. What was read
            stays in memory with this object.
        device_budget, host_budget: bytes for stored attention queries on the UNet's device and in host memory; what
            fits in neither is recomputed.
        rows_per_call: at most so many concept rows in one UNet call; 0 for all.
    """

    def __init__(self, pipe: DiffusionPipeline, loras: Source | None = None, *, device_budget: int = 2 << 30,
                 host_budget: int = 8 << 30, rows_per_call: int = 0):
        self.pipe = pipe
        self._loras = LoraFiles(loras)
        self.device_budget, self.host_budget, self.rows_per_call = device_budget, host_budget, rows_per_call

    @classmethod
    def from_folder(cls, folder: str | Path, loras: Source | None = None, *,
                    dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any) -> OMGPipeline:
        """Load a diffusers pipeline folder; ``options`` are those of the constructor."""
        pipe = DiffusionPipeline.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
        return cls(pipe.to(device), loras, **options)

    @torch.no_grad()
    def __call__(self, request: Request | dict[str, Any], prompt: str | None = None, *,
                 negative_prompt: str | None = None, prompt_embeds: PromptEmbeds | None = None,
                 concept_embeds: Mapping[int, PromptEmbeds] | None = None, steps: int = 50, cfg_scale: float = 7.5,
                 height: int | None = None, width: int | None = None, batch_size: int = 1, seed: int = 0,
                 latents: Tensor | None = None, eta: float = 0.0, output_type: str = "pil") -> OMGOutput:
        """Generate.

        Args:
            request: concepts and options, see :class:`omg_ext.request.Request`; one that is not enabled gives the
                ordinary picture.
            prompt: the global prompt p; its ``<lora:...>`` tags act everywhere (style). May be left out if
                ``prompt_embeds`` are given and no concept is to be found by attention.
            negative_prompt: the global negative prompt.
            prompt_embeds: instead of encoding ``prompt``.
            concept_embeds: by concept index, instead of encoding the concepts' prompts (their tags still count).
            steps: sampling steps.
            cfg_scale: classifier-free guidance scale; 1 evaluates no unconditional rows.
            height, width: in pixels; None takes the pipeline's default.
            batch_size: pictures.
            seed: picture i is seeded with ``seed + i``.
            latents: initial noise of unit variance, [B, C, h, w], instead of noise from the seed; it decides size and
                number of the pictures.
            eta: for schedulers that take it.
            output_type: "pil" or "latent".

        Raises:
            OMGError: anything the user can mend; the pipeline is as it was.
        """
        request = parse_request(request)
        if not request.enabled:
            request = Request(concepts=[], layout=Layout(cross=0, self_=0))
        if prompt is None and prompt_embeds is None:
            raise OMGError("prompt", "give the global prompt or prompt_embeds")
        factor = self.pipe.vae_scale_factor
        if latents is not None:
            batch_size, height, width = len(latents), latents.shape[2] * factor, latents.shape[3] * factor
        height, width = self._side(height, "height"), self._side(width, "width")
        check_given(request, (height, width), (height // factor, width // factor))

        text, style = self._global_networks(prompt)
        embeds = prompt_embeds or encode(self.pipe, text, negative_prompt, [te for _, te in style])
        loaded = [self._concept(index, request, style, negative_prompt, (concept_embeds or {}).get(index))
                  for index in range(len(request.concepts))]
        check_embeds(self.pipe, embeds, "prompt_embeds", cfg_scale > 1)
        for index, (concept, (_, own)) in enumerate(zip(request.concepts, loaded, strict=True)):
            scale = cfg_scale if concept.cfg_scale is None else concept.cfg_scale
            check_embeds(self.pipe, own, f"concept_embeds[{index}]", scale > 1)
        ids = time_ids(height, width, embeds)
        generators = [torch.Generator("cpu").manual_seed(seed + index) for index in range(batch_size)]
        if latents is None:
            shape = (batch_size, self.pipe.unet.config.in_channels, height // factor, width // factor)
            latents = randn_tensor(shape, generators, device=self._device, dtype=self.pipe.unet.dtype)
        run = Run(self.pipe, request, text,
                  Sampler(self.pipe, steps, eta, generators, latents.to(self._device, self.pipe.unet.dtype)), cfg_scale,
                  embeds.conditioning(len(latents), ids), style=_merged([unet for unet, _ in style]),
                  concepts=[concept.conditioning(len(latents), ids) for _, concept in loaded],
                  networks=[network for network, _ in loaded],
                  store=QueryStore(self.device_budget, self.host_budget), rows_per_call=self.rows_per_call)
        first, final, regions = run(height, width)
        shown = decode(self.pipe, first) if "first_pass" in request.show else []
        images = None if output_type == "latent" else decode(self.pipe, final)
        return OMGOutput(images, final, first, regions.masks, shown, regions.warnings)

    @property
    def _device(self) -> torch.device:
        return self.pipe._execution_device

    def _side(self, pixels: int | None, field_name: str) -> int:
        factor: int = self.pipe.vae_scale_factor
        pixels = pixels or self.pipe.unet.config.sample_size * factor
        if pixels % factor:
            raise OMGError(field_name, f"expected a multiple of {factor}, got {pixels}")
        return pixels

    def _global_networks(self, prompt: str | None) -> tuple[str, list[tuple[Network, Network]]]:
        text, tags = parse_tags(prompt or "", "prompt")
        return text, [self._network(tag, "prompt") for tag in tags]

    def _concept(self, index: int, request: Request, style: Sequence[tuple[Network, Network]],
                 negative_prompt: str | None, embeds: PromptEmbeds | None) -> tuple[Network, PromptEmbeds]:
        concept, field_name = request.concepts[index], f"concepts[{index}].prompt"
        text, tags = parse_tags(concept.prompt, field_name)
        networks = [self._network(tag, field_name) for tag in tags]
        if embeds is None:
            negative = negative_prompt if concept.negative_prompt is None else concept.negative_prompt
            embeds = encode(self.pipe, text, negative, [te for _, te in [*style, *networks]])
        return _merged([unet for unet, _ in networks]), embeds

    def _network(self, tag: Tag, field_name: str) -> tuple[Network, Network]:
        """The tag's layers in the UNet and in the text encoders."""
        lora = self._loras.load(self.pipe, tag.name, field_name)
        return scaled(lora.unet, tag.unet, tag.dyn), scaled(lora.text_encoders, tag.te, tag.dyn)


def _merged(networks: Sequence[Network]) -> Network:
    """Several networks on one set of rows as one."""
    by_layer: dict[nn.Module, list[Delta]] = {}
    for network in networks:
        for layer, delta in network.items():
            by_layer.setdefault(layer, []).append(delta)
    return {layer: deltas[0] if len(deltas) == 1 else DeltaSum(deltas) for layer, deltas in by_layer.items()}
