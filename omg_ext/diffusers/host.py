"""A diffusers pipeline as a host of the two passes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from ..comprehension.phrases import Stage
from ..comprehension.places import Places
from ..faces.base import ConceptFace, Face
from ..host import ConceptConditioning, ConceptPrompt, Guided, LoadedConcept, PromptParts, Prompts, Tap
from ..predict.guidance import classifier_free_guidance
from ..request import Concept
from ..unet.calls import Row
from ..unet.deltas import Sources
from ..unet.patches import Patches
from ..unet.regions import Regions
from .concepts import Loader
from .faces import PipelineFaces
from .prompts import words
from .residuals import RowControl, RowControls


@dataclass(frozen=True, eq=False)
class DiffusersHost:
    """One batch on a pipeline: see :class:`omg_ext.host.Host`.

    Attributes:
        pipe: gives the models, the scheduler and the progress bar.
        loader: loads the concepts.
        prompt: the global prompt's text.
        encoded: its conditioning.
        style: its networks.
        steps, eta, cfg_scale: as in diffusers.
        generators: one per picture.
        noise: initial latents of unit variance, [B, C, h, w].
        size: height and width in pixels.
        controls: ControlNets that act while it samples.
        drawing: the models of faces.
    """

    pipe: DiffusionPipeline
    loader: Loader
    prompt: str
    encoded: ConceptConditioning
    style: Sources
    steps: int
    eta: float
    cfg_scale: float
    generators: Sequence[torch.Generator]
    noise: Tensor
    size: tuple[int, int]
    controls: Sequence[RowControl] = ()
    drawing: PipelineFaces | None = None
    stopped = False
    refines = False
    tag_arguments = ()
    context_name = "encoder_hidden_states"

    @property
    def pooled_name(self) -> str | None:
        return "text_embeds" if "text_embeds" in self.encoded.cond else None

    @property
    def unet(self) -> nn.Module:
        return self.pipe.unet

    @property
    def device(self) -> torch.device:
        return self.noise.device

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.noise.shape[2], self.noise.shape[3]

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] * len(self.noise)

    def prompts_of(self, index: int, concept: Concept) -> Prompts:
        """As they stand, for all pictures: diffusers has no styles or wildcards."""
        negative = concept.negative_prompt
        return Prompts([concept.prompt], None if negative is None else [negative])

    def load(self, concept: ConceptPrompt) -> LoadedConcept:
        return self.loader.load(concept, len(self.noise), self.cfg_scale)

    def sample(self, tap: Tap) -> Tensor:
        """A diffusers scheduler's loop. Guidance is left out at scales up to 1, as diffusers does."""
        scheduler = scheduler_of(self.pipe, self.steps, self.device)
        known = inspect.signature(scheduler.step).parameters
        generators = list(self.generators) if len(self.generators) > 1 else self.generators[0]
        options = {name: value for name, value in (("generator", generators), ("eta", self.eta)) if name in known}
        total, batch, scale = scheduler.config.num_train_timesteps, len(self.noise), self.scale(None)
        rows, cond = self._global_rows(scale is not None)
        parts = [[(picture, 1.0)] for picture in range(batch)]
        latents = self.noise * scheduler.init_noise_sigma
        if self.controls:
            RowControls(tap.patches, self.controls)
        with self.pipe.progress_bar(total=len(scheduler.timesteps)) as bar:
            bar.set_description(tap.title)
            # as numbers all at once: each by itself would make a GPU wait
            for step, (t, number) in enumerate(zip(scheduler.timesteps, scheduler.timesteps.tolist(), strict=True)):
                tap.begin((total - 1 - number) / total, step)
                x = scheduler.scale_model_input(latents, t)
                x = x if scale is None else torch.cat([x, x])
                output = tap.unet(self._evaluate, x, t.expand(len(x)), cond, rows)
                uncond = output[-batch:]
                prediction = output if scale is None else classifier_free_guidance(output[:batch], parts, uncond, scale)
                guidance = _Guidance(self, scheduler, x[:batch], number)
                prediction = tap.guided(Guided(prediction, uncond), guidance).prediction
                latents = scheduler.step(prediction, t, latents, **options).prev_sample
                bar.update()
        return latents

    def scale(self, own: float | None) -> float | None:
        scale = self.cfg_scale if own is None else own
        return scale if scale > 1 else None

    def unet_input(self, cond: Mapping[str, Tensor], like: Any, rows: Sequence[Row]) -> Mapping[str, Tensor]:
        return cond

    def prompt_words(self) -> Mapping[tuple[int, int], Sequence[Stage]]:
        stages = [Stage(math.inf, words(self.pipe, self.prompt))]
        return {(picture, 0): stages for picture in range(len(self.noise))}

    def wordings(self, prompt: str) -> Sequence[str]:
        return [prompt]

    def reworded(self, prompts: Sequence[str]) -> ConceptConditioning:
        return self.loader.reworded(prompts)

    def look(self, latents: Tensor, noise: Tensor, at: float, cond: Mapping[str, Tensor]) -> Tensor:
        """See :class:`omg_ext.host.Host`. ControlNets do not act here, whatever the pictures were made with.

        What is looked for is the difference that words make. A ControlNet holds both predictions to the same outlines,
        which makes it smaller; and it too reads the prompts, so a part of the difference would be its own.
        """
        scheduler = self.pipe.scheduler
        t = round((1 - at) * (scheduler.config.num_train_timesteps - 1))
        kept = float(scheduler.alphas_cumprod[t])
        x = latents * math.sqrt(kept) + noise * math.sqrt(1 - kept)
        return self._evaluate(x, torch.full((len(x),), t, device=x.device), cond)

    def decode(self, latents: Tensor, picture: int) -> npt.NDArray[np.uint8]:
        return np.asarray(decode(self.pipe, latents[picture:picture + 1])[0])

    def faces(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> Sequence[Sequence[Face]]:
        assert self.drawing is not None  # it has loaded the concepts' faces
        return self.drawing.find(pictures)

    def pose(self, patches: Patches, faces: Sequence[ConceptFace | None], places: Places,
             regions: Regions | None) -> None:
        assert self.drawing is not None
        RowControls(patches, [self.drawing.control(faces, places, self.size, regions)])

    def _global_rows(self, guided: bool) -> tuple[list[Row], dict[str, Tensor]]:
        """What the global rows are, and their conditioning: conditional ones first."""
        batch = len(self.noise)
        rows = [Row(picture) for picture in range(batch)]
        cond = {name: tensor.expand(batch, *tensor.shape[1:]) for name, tensor in self.encoded.cond.items()}
        if not guided:
            return rows, cond
        return ([*rows, *(row._replace(part=None) for row in rows)],
                {name: torch.cat([tensor, self.encoded.uncond[name]]) for name, tensor in cond.items()})

    def _evaluate(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        added = {name: rows for name, rows in cond.items() if name != "encoder_hidden_states"}
        output: Tensor = self.pipe.unet(x, t, encoder_hidden_states=cond["encoder_hidden_states"],
                                        added_cond_kwargs=added or None, return_dict=False)[0]
        return output


@dataclass(frozen=True, eq=False)
class _Guidance:
    """See :class:`omg_ext.host.Guidance`.

    Attributes:
        scheduler: of the sampling.
        x: the UNet's input for each picture, which is that of a variance-preserving model whatever the scheduler.
        t: the timestep.
    """

    host: DiffusersHost
    scheduler: Any
    x: Tensor
    t: float

    def scale(self, own: float | None) -> float | None:
        return self.host.scale(own)

    def guide(self, cond: Tensor, parts: PromptParts, uncond: Tensor, scale: float, pictures: Sequence[int]) -> Tensor:
        return classifier_free_guidance(cond, parts, uncond, scale)

    def finished(self, prediction: Tensor) -> Tensor:
        # schedulers with sigmas have timesteps between the model's
        kept = np.interp(self.t, np.arange(len(self.scheduler.alphas_cumprod)), self.scheduler.alphas_cumprod.cpu())
        signal, noise = math.sqrt(kept), math.sqrt(1 - kept)
        kind = self.scheduler.config.prediction_type
        if kind == "sample":
            return prediction
        if kind == "v_prediction":
            return signal * self.x - noise * prediction
        return (self.x - noise * prediction) / signal


def scheduler_of(pipe: DiffusionPipeline, steps: int, device: torch.device) -> Any:
    """A new scheduler, as the pipeline's is, at the start of so many steps."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps, device=device)
    return scheduler


def decode(pipe: DiffusionPipeline, latents: Tensor) -> list[Image.Image]:
    """Latents [B, C, h, w] as pictures. SDXL's own autoencoder overflows in half precision and is lifted out."""
    vae, before = pipe.vae, pipe.vae.dtype
    lifted = before == torch.float16 and getattr(vae.config, "force_upcast", False)
    if lifted:
        vae.to(torch.float32)
    try:
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    finally:
        if lifted:
            vae.to(before)
    pictures: list[Image.Image] = pipe.image_processor.postprocess(pixels, output_type="pil")
    return pictures
