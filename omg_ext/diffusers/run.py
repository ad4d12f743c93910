"""One batch of pictures, end to end: first pass, visual comprehension, second pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ..comprehension import FirstPass as ComprehendedPicture
from ..comprehension.places import Regions, class_token_attention, find_regions
from ..passes.noise import NoiseSnapshot
from ..passes.taps import FirstPass, Pass, SecondPass
from ..request import Request
from ..unet.layout import LayoutPreservation
from ..unet.networks import ConceptConditioning, ConceptPredictor, Networks, RowNetworks
from ..unet.query_store import QueryStore
from .prompts import phrase_positions

Denoise = Callable[[Tensor, Tensor], Tensor]
"""``(model input [B, C, h, w], timestep []) -> prediction [B, C, h, w]``"""


@dataclass
class Sampler:
    """A diffusers scheduler's loop, restartable from the same noise.

    Attributes:
        pipe: gives the scheduler and the progress bar.
        steps, eta: as in diffusers.
        generators: one per picture; where they stand when the sampler is made is where every run starts.
        noise: initial latents of unit variance, [B, C, h, w].
    """

    pipe: DiffusionPipeline
    steps: int
    eta: float
    generators: Sequence[torch.Generator]
    noise: Tensor

    def __post_init__(self) -> None:
        self._snapshot = NoiseSnapshot(self.generators)

    def __call__(self, denoise: Denoise, title: str) -> Tensor:
        """Sample once; the random numbers are the same each time."""
        self._snapshot.restore()
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        scheduler.set_timesteps(self.steps, device=self.noise.device)
        known = inspect.signature(scheduler.step).parameters
        generators = list(self.generators) if len(self.generators) > 1 else self.generators[0]
        options = {name: value for name, value in (("generator", generators), ("eta", self.eta)) if name in known}
        latents = self.noise * scheduler.init_noise_sigma
        with self.pipe.progress_bar(total=len(scheduler.timesteps)) as bar:
            bar.set_description(title)
            for t in scheduler.timesteps:
                prediction = denoise(scheduler.scale_model_input(latents, t), t)
                latents = scheduler.step(prediction, t, latents, **options).prev_sample
                bar.update()
        return latents


@dataclass
class Run:
    """Everything one batch needs.

    Attributes:
        pipe: the pipeline.
        request: the validated request.
        prompt: the global prompt's text.
        sampler: see :class:`Sampler`.
        cfg_scale: the global guidance scale.
        conditioning: the global prompt's.
        style: networks of the global prompt, on every row.
        concepts, networks: conditioning and networks of each concept.
        store: for stored attention queries.
        rows_per_call: see :class:`omg_ext.rows.ConceptPredictor`.
    """

    pipe: DiffusionPipeline
    request: Request
    prompt: str
    sampler: Sampler
    cfg_scale: float
    conditioning: ConceptConditioning
    style: Networks
    concepts: Sequence[ConceptConditioning]
    networks: Sequence[Networks]
    store: QueryStore
    rows_per_call: int

    def __call__(self, height: int, width: int) -> tuple[Tensor, Tensor, Regions]:
        """Both passes.

        Returns:
            The first pass's and the final latents, [B, C, h, w], and where the concepts are.
        """
        noise = self.sampler.noise
        with ExitStack() as stack:
            # style first: what the layout records and replays must include it
            self._style_rows = stack.enter_context(RowNetworks([self.style]))
            rows = stack.enter_context(RowNetworks(self.networks))
            layout = stack.enter_context(LayoutPreservation(self.pipe.unet, self.request.layout, self.store))
            first = FirstPass(self.request.blend_start, layout)
            latent_size = (noise.shape[2], noise.shape[3])
            with class_token_attention(self.request, self.pipe.unet, first, self._positions, latent_size) as heat_of:
                plain = self.sampler(partial(self._global, first), "first pass")
                pictures = [ComprehendedPicture(self.prompt, partial(self._picture, plain, picture),
                                                partial(heat_of, picture)) for picture in range(len(noise))]
                regions = find_regions(self.request, pictures, (height, width), latent_size)
            if not any(regions.pictures()):
                return plain, plain, regions
            second = SecondPass(first, regions.weights)
            predictor = ConceptPredictor(rows, regions.pictures(), self.rows_per_call)
            final = self.sampler(partial(self._blended, second, predictor), "second pass")
            regions.warnings += second.warnings()
            return plain, final, regions

    def _blended(self, stage: SecondPass, predictor: ConceptPredictor, x: Tensor, t: Tensor) -> Tensor:
        prediction = self._global(stage, x, t)
        if not stage.blends:
            return prediction
        scales = [self.cfg_scale if concept.cfg_scale is None else concept.cfg_scale
                  for concept in self.request.concepts]
        guided = [scale if scale > 1 else None for scale in scales]
        predictions = predictor(self._rows, x, t.expand(len(x)), self.concepts, guided)
        return stage.blend(prediction, predictions.guided)

    def _global(self, stage: Pass, x: Tensor, t: Tensor) -> Tensor:
        """The global prediction with classifier-free guidance, which diffusers leaves out at scales up to 1."""
        batch, total = len(x), self.pipe.scheduler.config.num_train_timesteps
        cond = {name: rows.expand(batch, *rows.shape[1:]) for name, rows in self.conditioning.cond.items()}
        stage.begin_denoiser_call((total - 1 - float(t)) / total, batch)
        if self.cfg_scale <= 1:
            return stage.unet_call(self._unet, x, t.expand(batch), cond)
        both = {name: torch.cat([rows, self.conditioning.uncond[name]]) for name, rows in cond.items()}
        output = stage.unet_call(self._unet, torch.cat([x, x]), t.expand(2 * batch), both)
        conditional, unconditional = output.chunk(2)
        return unconditional + self.cfg_scale * (conditional - unconditional)

    def _positions(self, phrases: Sequence[str]) -> tuple[list[list[list[int]]], list[list[int]]]:
        batch = len(self.sampler.noise)
        positions = phrase_positions(self.pipe, self.prompt, phrases)
        return [positions] * batch, [[picture] for picture in range(batch)]

    def _unet(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        added = {name: rows for name, rows in cond.items() if name != "encoder_hidden_states"}
        with self._style_rows.acting([(0, slice(0, len(x)))], len(x)):
            return self.pipe.unet(x, t, encoder_hidden_states=cond["encoder_hidden_states"],
                                  added_cond_kwargs=added or None, return_dict=False)[0]

    def _rows(self, x: Tensor, t: Tensor, cond: dict[str, Tensor], pictures: Sequence[int]) -> Tensor:
        return self._unet(x, t, cond)

    def _picture(self, latents: Tensor, index: int) -> np.ndarray:
        """uint8 [H, W, 3]"""
        return np.asarray(decode(self.pipe, latents[index:index + 1])[0])


def decode(pipe: DiffusionPipeline, latents: Tensor) -> list[Any]:
    """Latents [B, C, h, w] as PIL pictures. SDXL's own autoencoder overflows in half precision and is lifted out."""
    vae, before = pipe.vae, pipe.vae.dtype
    lifted = before == torch.float16 and getattr(vae.config, "force_upcast", False)
    if lifted:
        vae.to(torch.float32)
    try:
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    finally:
        if lifted:
            vae.to(before)
    return pipe.image_processor.postprocess(pixels, output_type="pil")
