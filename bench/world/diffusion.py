"""What every training of the small SDXL shares: its loss, and captions as the UNet gets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bench.world import model

TIMESTEPS = 1000
MIN_SNR_GAMMA = 5.0
CAPTION_DROPOUT = 0.1
# pixels; SDXL's size conditioning is drawn from these, so that it tells nothing and any size can be asked for
_SIZES = (64, 257)


@dataclass(frozen=True)
class Conditioning:
    """Encoded captions: ``context`` [B, 77, CONTEXT] and ``pooled`` [B, TEXT_WIDTH]."""

    context: Tensor
    pooled: Tensor

    def __getitem__(self, index: Tensor | slice) -> Conditioning:
        return Conditioning(self.context[index], self.pooled[index])

    def dropped(self, share: float) -> Conditioning:
        """With each row empty, which is all zeros as in SDXL, with probability ``share``."""
        kept = (torch.rand(len(self.pooled)) >= share).to(self.pooled)
        return Conditioning(self.context * kept[:, None, None], self.pooled * kept[:, None])

    def unet_arguments(self, size_ids: Tensor) -> Mapping[str, Any]:
        """Keyword arguments for a diffusers UNet; ``size_ids`` [B, 6]: heights, widths and crops in pixels."""
        return {"encoder_hidden_states": self.context,
                "added_cond_kwargs": {"text_embeds": self.pooled, "time_ids": size_ids}}


def encode(networks: model.Parts, captions: Sequence[str]) -> Conditioning:
    """The captions as the UNet gets them."""
    return Conditioning(*model.encode_captions(networks, captions))


@cache
def alphas_cumprod() -> Tensor:
    """The schedule's cumulative signal power by timestep, [TIMESTEPS]."""
    return model.schedule().alphas_cumprod


def random_size_ids(rows: int) -> Tensor:
    """SDXL's size conditioning [rows, 6] at random: original size, no crop, target size."""
    original, target = torch.randint(*_SIZES, (2, rows, 2))
    return torch.cat([original, torch.zeros(rows, 2, dtype=torch.long), target], dim=1).float()


@dataclass(frozen=True)
class Task:
    """Noise to predict: all that the loss of some rows depends on, besides the UNet.

    Attributes:
        noisy: latents with noise [B, 4, h, w].
        noise: what to predict, likewise.
        timesteps, weights: of the rows [B].
        conditioning: of the rows.
        size_ids: SDXL's size conditioning [B, 6].
    """

    noisy: Tensor
    noise: Tensor
    timesteps: Tensor
    weights: Tensor
    conditioning: Conditioning
    size_ids: Tensor

    @classmethod
    def draw(cls, latents: Tensor, conditioning: Conditioning, caption_dropout: float = CAPTION_DROPOUT,
             lowest: int = 0) -> Task:
        """Random timesteps and noise, from torch's global generator, with min-SNR weights (arXiv 2303.09556).

        Args:
            latents: [B, 4, h, w], of unit variance.
            conditioning: of B rows.
            caption_dropout: the share of captions replaced by the empty one, for classifier-free guidance.
            lowest: of the timesteps.
        """
        rows = len(latents)
        timesteps = torch.randint(lowest, TIMESTEPS, (rows,))
        noise = torch.randn_like(latents)
        alphas = alphas_cumprod()[timesteps]
        signal, sigma = alphas.sqrt()[:, None, None, None], (1 - alphas).sqrt()[:, None, None, None]
        snr = alphas / (1 - alphas)
        return cls(signal * latents + sigma * noise, noise, timesteps, snr.clamp(max=MIN_SNR_GAMMA) / snr,
                   conditioning.dropped(caption_dropout), random_size_ids(rows))

    def __getitem__(self, rows: slice) -> Task:
        return Task(self.noisy[rows], self.noise[rows], self.timesteps[rows], self.weights[rows],
                    self.conditioning[rows], self.size_ids[rows])

    def loss(self, unet: Callable[..., Any]) -> Tensor:
        """Weighted mean squared error of the predicted noise.

        Args:
            unet: a diffusers SDXL UNet.
        """
        return (self.errors(unet).mean(dim=(1, 2, 3)) * self.weights).mean()

    def errors(self, unet: Callable[..., Any]) -> Tensor:
        """Squared errors of the predicted noise [B, 4, h, w]."""
        arguments = self.conditioning.unet_arguments(self.size_ids)
        predicted: Tensor = unet(self.noisy, self.timesteps, **arguments).sample
        return (predicted - self.noise).pow(2)


def denoising_loss(unet: nn.Module, latents: Tensor, conditioning: Conditioning,
                   caption_dropout: float = CAPTION_DROPOUT) -> Tensor:
    """The loss of a random :class:`Task`."""
    return Task.draw(latents, conditioning, caption_dropout).loss(unet)


@torch.no_grad()
def follow(average: nn.Module, trained: nn.Module, share: float) -> None:
    """Moves a running average of weights this share of the way to the trained ones."""
    torch._foreach_lerp_(list(average.parameters()), list(trained.parameters()), share)
