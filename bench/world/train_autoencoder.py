"""Trains the small SDXL's autoencoder on renderings.

The latents are regularised to unit variance without correlation instead of by a KL term, and the decoder sees them with
a little noise, so that it forgives a diffusion model's errors. What then is left of mean and scale goes into the two
convolutions beside the latents, so that SDXL's one scale factor holds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm import tqdm

from bench.world import model
from bench.world.diffusion import follow
from bench.world.parallel import Workers
from bench.world.pixels import as_tensor
from bench.world.render import render

STEPS = 3600
# Crops of many pictures teach more than as many pixels of one; only the end of the training sees whole pictures, over
# which the group norms have other statistics.
CROP = 64
CROPS_PER_STEP = 4
WHOLE = 0.25
LEARNING_RATE = 2e-3
WARM_UP = 100
EMA = 0.997
LATENT_NOISE = 0.05
"""Standard deviation of the noise on the latents, and of the distribution that the finished encoder gives."""
REGULARISATION = 0.02
# the first seeds of what is never trained on
HELD_OUT = 10_000_000


def pictures(seeds: Iterable[int]) -> Tensor:
    """Renderings [B, 3, H, W] in -1..1."""
    found = as_tensor(np.stack([render(seed).image for seed in seeds]))
    return found.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor, batch: int = 8) -> Tensor:
    """Pictures [B, 3, H, W] in -1..1 through encoder and decoder."""
    return torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample.clamp(-1, 1)
                      for part in images.split(batch)])


def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Peak signal-to-noise ratio of the reconstructions, dB, over all pixels of all pictures."""
    return 10 * math.log10(4 / mse_loss(reconstruct(vae, images), images).item())


def _batch(step: int, steps: int) -> Tensor:
    """Training pictures: crops, or towards the end a whole picture."""
    if step >= (1 - WHOLE) * steps:
        return pictures([CROPS_PER_STEP * steps + step])
    crops = []
    for picture in pictures(range(step * CROPS_PER_STEP, (step + 1) * CROPS_PER_STEP)):
        top, left = torch.randint(0, model.SIZE - CROP + 1, (2,)).tolist()
        crops.append(picture[:, top:top + CROP, left:left + CROP])
    return torch.stack(crops).contiguous(memory_format=torch.channels_last)


def _rate(step: int, steps: int) -> float:
    """The learning rate's factor: warm-up, then a quarter of a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / WARM_UP) * max(0.02, math.cos(math.pi / 2 * step / steps))


def _loss(vae: AutoencoderKL, images: Tensor, noise: Tensor) -> Tensor:
    """Of pictures [B, 3, H, W], and of unit noise [B, 4, h, w] that comes to their latents."""
    means = vae.encode(images).latent_dist.mode()
    error = vae.decode(means + LATENT_NOISE * noise).sample - images
    flat = means.transpose(0, 1).flatten(1)
    covariance = flat @ flat.T / flat.shape[1]
    irregular = (covariance - torch.eye(len(flat))).pow(2).mean()
    return error.abs().mean() + 2 * error.pow(2).mean() + REGULARISATION * irregular


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: Tensor) -> None:
    """Gives the latents, times the scale factor, mean 0 and variance 1 on ``images``, and their distribution the
    standard deviation that the decoder was trained for. Reconstructions stay the same."""
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in images.split(8)])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    gain = 1 / (std * model.LATENT_SCALE)
    out, back = vae.quant_conv, vae.post_quant_conv
    out.bias[:4] = (out.bias[:4] - mean) * gain
    out.weight[:4] *= gain[:, None, None, None]
    back.bias += torch.einsum("oihw,i->o", back.weight, mean)
    back.weight /= gain[None, :, None, None]
    out.weight[4:] = 0
    out.bias[4:] = 2 * torch.log(LATENT_NOISE * gain)


def train(seed: int = 0, steps: int = STEPS) -> tuple[AutoencoderKL, float]:
    """The trained autoencoder, and its PSNR in dB on 128 held-out renderings."""
    torch.manual_seed(seed)
    vae = model.autoencoder().to(memory_format=torch.channels_last)
    average = copy.deepcopy(vae).requires_grad_(False)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, steps=steps))
    held_out = pictures(range(HELD_OUT, HELD_OUT + 128))
    with Workers() as workers:
        for step in (bar := tqdm(range(steps), desc="autoencoder", mininterval=30)):
            images = _batch(step, steps)
            noise = torch.randn(len(images), 4, images.shape[2] // 8, images.shape[3] // 8)
            workers.backward([partial(_loss, vae, images[rows], noise[rows]) for rows in workers.parts(len(images))],
                             vae.parameters())
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            follow(average, vae, max(1 - EMA, 1 / (step + 1)))
            if (step + 1) % 500 == 0:
                bar.write(f"step {step + 1}: PSNR {psnr(average, held_out):.2f} dB")
    average = average.to(memory_format=torch.contiguous_format).eval()
    standardise(average, pictures(range(2 * HELD_OUT, 2 * HELD_OUT + 256)))
    return average, psnr(average, held_out)
