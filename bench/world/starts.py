"""What the sampling of a bench picture starts from: plain noise, or the noise of a rendering with known occlusion.

How much of a figure is hidden cannot be told from a picture that shows it hidden, and a prompt cannot ask for it. So
the occlusion sweep starts from noise that the model itself maps to a known layout: DDIM inversion (arXiv 2010.02502,
Sec. 4.3) of a rendering, whose figures are strangers of the right classes. The pipeline then runs as always, from these
latents. Nothing but the start is special, and all methods share it. The inversion has no guidance and sampling has, so
the first pass keeps the rendering's layout nearly, not exactly; how well is measured beside (the figure ``start``).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DDIMInverseScheduler, StableDiffusionXLPipeline
from torch import Tensor

from bench.world.attributes import random_character
from bench.world.casts import Cast
from bench.world.model import LATENT, SIZE
from bench.world.pixels import latents as latents_of
from bench.world.render import Picture, render
from omg_ext.diffusers.prompts import encode, time_ids

# beyond the seeds of the trainings' renderings
FIRST_RENDERING = 900_000_000


def noise(seeds: Sequence[int], size: int = LATENT) -> Tensor:
    """Each seed's own noise, [B, 4, size, size]; the same that a pipeline draws for that seed."""
    return torch.cat([torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def strangers(cast: Cast, scene: str, occlusion: float, seed: int) -> Picture:
    """A rendering of others of the cast's classes, one of two hiding the share ``occlusion`` of the other."""
    rng = Random(seed)
    return render(FIRST_RENDERING + seed, [random_character(kind, rng) for kind in cast.kinds], scene,
                  occlusion=occlusion, size=SIZE)


@torch.no_grad()
def inverted(pipe: StableDiffusionXLPipeline, images: npt.NDArray[np.uint8], prompt: str, steps: int) -> Tensor:
    """Latents [B, 4, h, w] of unit variance from which DDIM without guidance returns to the pictures, nearly.

    Args:
        pipe: its VAE, UNet and schedule.
        images: uint8 [B, H, W, 3].
        prompt: of all of them.
        steps: of the sampling that is to return.
    """
    latents = latents_of(pipe.vae, images)
    embeds = encode(pipe, prompt, None, {})
    ids = time_ids(images.shape[1], images.shape[2], embeds)
    rows = embeds.conditioning(len(images), ids).cond
    states, *added = (tensor.expand(len(images), *tensor.shape[1:]) for tensor in rows.values())
    arguments = {"encoder_hidden_states": states,
                 "added_cond_kwargs": dict(zip(("text_embeds", "time_ids"), added, strict=True))}
    scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        latents = scheduler.step(pipe.unet(latents, t, **arguments).sample, t, latents).prev_sample
    return latents
