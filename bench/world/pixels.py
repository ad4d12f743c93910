"""Pictures as arrays, as tensors, and as latents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bench.world.model import LATENT_SCALE

Images = npt.NDArray[np.uint8]
"""``[B, H, W, 3]``"""


def scaled(pictures: Tensor) -> Tensor:
    """uint8 to float in -1..1."""
    return pictures.float() / 127.5 - 1


def as_tensor(images: Images) -> Tensor:
    """uint8 ``[B, H, W, 3]`` to float ``[B, 3, H, W]`` in -1..1."""
    return scaled(torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1))


def as_images(pictures: Tensor) -> Images:
    """Float ``[B, 3, H, W]`` in -1..1, clipped, to uint8 ``[B, H, W, 3]``."""
    return (pictures.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).movedim(1, -1).contiguous().numpy()


@torch.no_grad()
def latents(vae: AutoencoderKL, images: Images) -> Tensor:
    """Latents ``[B, 4, h, w]`` of unit variance of uint8 pictures ``[B, H, W, 3]``."""
    # thrice as fast on a CPU as channels first
    pictures = as_tensor(images).contiguous(memory_format=torch.channels_last)
    return (vae.encode(pictures).latent_dist.mode() * LATENT_SCALE).contiguous()
