"""One batch of pictures, end to end: check, first pass, visual comprehension, second pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from modules import devices, processing, sd_unet, shared
from PIL import Image
from torch import Tensor

from ..comprehension import FirstPass as ComprehendedPicture
from ..comprehension.places import HeatOf, Regions, check_given, class_token_attention, find_regions, latent_weights
from ..errors import OMGError
from ..passes.noise import NoiseSnapshot
from ..passes.taps import FirstPass, SecondPass
from ..request import Layout, Request
from ..request.tags import parse_tags
from ..unet.layout import LayoutPreservation
from ..unet.networks import ConceptPredictor, Networks, RowNetworks
from ..unet.query_store import QueryStore
from . import settings
from .conditioning import EncodedPrompts, encode, phrase_positions
from .denoiser import Concepts, first_pass, second_pass
from .networks import activated, add_hashes, refuse_unknown, unet_deltas

Sample = Callable[[], Tensor]


@dataclass
class Picture:
    """An extra picture for the user."""

    title: str
    image: Image.Image


@dataclass
class Result:
    """What a run gives back: latents [B, C, h, w], extra pictures, and what the user should know."""

    latents: Tensor
    pictures: list[Picture] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run_two_passes(p: Any, request: Request, sample: Sample) -> Result:
    """Both passes of one batch.

    Args:
        p: the web UI's processing object.
        request: the validated request.
        sample: runs the host's sampler once, from the start.

    Raises:
        OMGError: anything the user can mend; nothing was generated and nothing stays hooked.
    """
    _check_host(p)
    latent_size = (p.rng.shape[1], p.rng.shape[2])
    check_given(request, (p.height, p.width), latent_size)
    unet = shared.sd_model.model.diffusion_model
    with ExitStack() as stack:
        noise = NoiseSnapshot(p.rng.generators)
        prompts, networks = _concept_models(request, p)
        noise.restore()  # loading a LoRA draws random numbers
        rows = stack.enter_context(RowNetworks(networks))
        store = QueryStore(settings.device_budget(), settings.host_budget())
        layout = stack.enter_context(LayoutPreservation(unet, request.layout, store))
        stage = FirstPass(request.blend_start, layout)

        _expect_two_passes(p)
        with class_token_attention(request, unet, stage, partial(phrase_positions, p), latent_size) as heat_of:
            with first_pass(p.sampler.model_wrap_cfg, stage):
                latents = sample()
            if shared.state.interrupted or shared.state.skipped:
                return Result(latents)
            regions = find_regions(request, _comprehended(p, latents, heat_of), (p.height, p.width), latent_size)
        p.omg_regions = regions
        pictures = _shown(p, request, latents, regions)
        if not any(regions.pictures()):
            return Result(latents, pictures, regions.warnings)

        shared.state.nextjob()
        noise.restore()
        second = SecondPass(stage, regions.weights)
        with second_pass(p.sampler.model_wrap_cfg, second, _concepts(request, rows, prompts, regions)):
            latents = sample()
        return Result(latents, pictures, regions.warnings + second.warnings())


def run_hires_pass(p: Any, request: Request, sample: Sample) -> Result:
    """The hires pass of one batch: one pass, with the concepts where the first pass had them.

    The picture's layout is there already, so nothing is replayed. Arguments and errors as :func:`run_two_passes`.
    """
    _check_host(p)
    if not hasattr(p, "omg_regions"):
        warning = ("a finished picture was upscaled, without the concepts: their places are known only while OMG draws "
                   "it; use Hires. fix in the same run")
        return Result(sample(), warnings=[warning])
    regions = p.omg_regions
    if not any(regions.pictures()):
        return Result(sample())
    with ExitStack() as stack:
        noise = NoiseSnapshot(p.rng.generators)
        prompts, networks = _concept_models(request, p)
        noise.restore()
        rows = stack.enter_context(RowNetworks(networks))
        nothing = LayoutPreservation(shared.sd_model.model.diffusion_model, Layout(cross=0.0, self_=0.0),
                                     QueryStore(0, 0))
        stage = SecondPass(FirstPass(request.blend_start, nothing),
                           latent_weights(request, regions.masks, (p.rng.shape[1], p.rng.shape[2])))
        stack.enter_context(second_pass(p.sampler.model_wrap_cfg, stage, _concepts(request, rows, prompts, regions)))
        return Result(sample())


def _concepts(request: Request, rows: RowNetworks, prompts: list[EncodedPrompts], regions: Regions) -> Concepts:
    return Concepts(ConceptPredictor(rows, regions.pictures(), settings.rows_per_call()), prompts,
                    [concept.cfg_scale for concept in request.concepts])


def _check_host(p: Any) -> None:
    """Refuse what the second pass could not repeat or whose UNet it could not reach."""
    model = shared.sd_model
    if getattr(model, "is_sd3", False) or model.model.conditioning_key == "crossattn-adm":
        raise OMGError("checkpoint", f"{model.sd_checkpoint_info.name} has no UNet that OMG knows; "
                                     "load an SD 1.x, SD 2.x or SDXL checkpoint")
    if sd_unet.current_unet is not None:
        raise OMGError("SD Unet", "OMG cannot reach into a compiled UNet; set SD Unet to None")
    refiner, switch_at = p.refiner_checkpoint_info, p.refiner_switch_at
    if refiner not in (None, model.sd_checkpoint_info) and (switch_at is None or switch_at < 1):
        raise OMGError("refiner", "a refiner replaces the model in the middle of a pass, and the concepts' networks "
                                  "with it; turn the refiner off to use OMG")


def _concept_models(request: Request, p: Any) -> tuple[list[EncodedPrompts], list[Networks]]:
    """Every concept's encoded prompts (with its networks in the text encoder) and its networks in the UNet."""
    prompts, loaded = [], []
    for index, concept in enumerate(request.concepts):
        field_name = f"concepts[{index}].prompt"
        text, tags = parse_tags(concept.prompt, field_name)
        refuse_unknown(tags, field_name)
        with activated(tags, field_name) as nets:
            prompts.append(encode(p, text, concept.negative_prompt))
        add_hashes(p, nets)
        loaded.append((nets, field_name))
    # only now are the active networks those of the global prompt for good, which the UNet's weights will have
    return prompts, [unet_deltas(nets, field_name) for nets, field_name in loaded]


def _expect_two_passes(p: Any) -> None:
    """The progress bar counts twice the steps, as the web UI does for hires fix."""
    if not getattr(p, "omg_counted", False):
        p.omg_counted = True
        shared.state.job_count += p.n_iter
    shared.total_tqdm.updateTotal(shared.state.job_count * p.steps)


def _comprehended(p: Any, latents: Tensor, heat_of: HeatOf) -> list[ComprehendedPicture]:
    return [ComprehendedPicture(p.prompts[picture], partial(_decode, latents, picture), partial(heat_of, picture))
            for picture in range(len(latents))]


def _decode(latents: Tensor, picture: int) -> np.ndarray:
    """uint8 [H, W, 3]"""
    decoded = processing.decode_latent_batch(shared.sd_model, latents[picture:picture + 1], target_device=devices.cpu,
                                             check_for_nans=True)[0]
    pixels = ((decoded.float() + 1.0) / 2.0).clamp(0.0, 1.0)
    return (255.0 * pixels.permute(1, 2, 0).numpy()).astype(np.uint8)


def _shown(p: Any, request: Request, latents: Tensor, regions: Regions) -> list[Picture]:
    pictures = []
    for index, masks in enumerate(regions.masks):
        if "first_pass" in request.show:
            pictures.append(Picture("first pass", Image.fromarray(_decode(latents, index))))
        if "masks" in request.show:
            pictures += [Picture(f"mask of concept {number}: {concept.phrase or concept.prompt}",
                                 Image.fromarray((255 * mask).astype(np.uint8)))
                         for number, (concept, mask) in enumerate(zip(request.concepts, masks, strict=True), 1)
                         if mask is not None]
    return pictures
