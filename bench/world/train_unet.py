"""Trains the small SDXL's UNet: noise prediction on latents of renderings, with their captions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from random import Random

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm

from bench.world import model
from bench.world.captions import random_tokens
from bench.world.diffusion import Conditioning, Task, encode, follow
from bench.world.parallel import Workers
from bench.world.pixels import latents
from bench.world.render import Picture, random_cast, render

PICTURES = 20_000
STEPS = 11_000
BATCH = 32
LEARNING_RATE = 1.2e-3
WARM_UP = 200
# the share of the training with the full learning rate
CONSTANT = 0.55
EMA = 0.999
# of figures with a rare word before their class word
RARE_WORDS = 1 / 3


@dataclass(frozen=True)
class Examples:
    """Latents [B, 4, LATENT, LATENT] of unit variance, and their encoded captions."""

    latents: Tensor
    conditioning: Conditioning

    def batch(self, rows: int) -> Examples:
        """Random examples, drawn with torch's global generator."""
        return self.at(torch.randint(0, len(self.latents), (rows,)))

    def at(self, index: Tensor) -> Examples:
        """The examples of these numbers."""
        return Examples(self.latents[index].float(), Conditioning(
            self.conditioning.context[index].float(), self.conditioning.pooled[index].float()))


def random_picture(seed: int) -> Picture:
    """A rendering of random figures; before some class words stands a rare word, which means nothing."""
    rng = Random(seed)
    cast = random_cast(rng)
    return render(seed, cast, tokens=random_tokens(len(cast), rng, RARE_WORDS))


def prepare(networks: model.Parts, pictures: Iterator[Picture], batch: int = 32) -> Examples:
    """Encodes pictures and captions, in half precision."""
    encoded: list[Tensor] = []
    contexts: list[Tensor] = []
    pooled: list[Tensor] = []
    while part := list(islice(pictures, batch)):
        encoded.append(latents(networks.vae, np.stack([picture.image for picture in part])).half())
        captions = encode(networks, [picture.caption for picture in part])
        contexts.append(captions.context.half())
        pooled.append(captions.pooled.half())
    return Examples(torch.cat(encoded), Conditioning(torch.cat(contexts), torch.cat(pooled)))


def _rate(step: int, steps: int) -> float:
    """The learning rate's factor: warm-up, constant, half a cosine down to nearly nothing."""
    fall = max(0.0, (step / steps - CONSTANT) / (1 - CONSTANT))
    return min(1.0, (step + 1) / WARM_UP) * max(0.02, (1 + math.cos(math.pi * fall)) / 2)


def train(networks: model.Parts, seed: int = 0, pictures: int = PICTURES, steps: int = STEPS,
          watch: Callable[[int, UNet2DConditionModel], None] | None = None) -> UNet2DConditionModel:
    """The trained UNet: the running average of its weights.

    Args:
        networks: with a trained autoencoder. Their UNet is not used.
        pictures: how many renderings to train on.
        steps: of ``BATCH`` examples each.
        watch: called with each step's number and the average of the weights so far.
    """
    examples = prepare(networks, map(random_picture, tqdm(range(pictures), desc="pictures", mininterval=30)))
    torch.manual_seed(seed)
    unet = model.unet().train()
    average = copy.deepcopy(unet).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01,
                                  fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, steps=steps))
    recent = 1.0
    with Workers() as workers:
        for step in (bar := tqdm(range(steps), desc="UNet", mininterval=30)):
            drawn = examples.batch(BATCH)
            task = Task.draw(drawn.latents, drawn.conditioning)
            loss = workers.backward([partial(task[rows].loss, unet) for rows in workers.parts(BATCH)],
                                    unet.parameters())
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            keep = min(EMA, (step + 1) / (step + 10))
            follow(average, unet, 1 - keep)
            recent += (loss - recent) * max(0.002, 1 / (step + 1))
            bar.set_postfix(loss=f"{recent:.4f}", refresh=False)
            if watch is not None:
                watch(step, average)
    return average
