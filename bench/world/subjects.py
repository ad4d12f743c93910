"""What personalisations learn from, and how.

As in DreamBooth (arXiv 2208.12242), half of what is shown is one individual and half are others without the trigger, so
that it is the trigger, and not the class word, that comes to mean the individual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import Tensor, nn

from bench.world import model
from bench.world.attributes import KINDS, Identity, random_character
from bench.world.captions import random_tokens
from bench.world.diffusion import CAPTION_DROPOUT, Conditioning, denoising_loss
from bench.world.render import Picture, random_cast, render
from bench.world.scenes import SCENES
from bench.world.train_unet import Examples, prepare

SHOWN = 30
"""Pictures of the individual: as many as a user could collect."""
OTHERS = 240
"""Pictures of others."""
# every so many pictures the individual has company, so that it is known behind and before others
_COMPANY_EVERY = 3
_MOST_COMPANY = 2
# of the others have a rare word before their class: it is not any word there that means the individual
_RARE_WORDS = 0.5
_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Recipe:
    """How a personalisation is trained.

    Attributes:
        steps: of the optimiser.
        rows: pictures per step.
        learning_rate: of AdamW, reached after ``warmup`` steps, from which it falls to zero along a cosine.
    """

    steps: int
    rows: int
    learning_rate: float
    warmup: int = 20


def own_pictures(identity: Identity, seed: int, count: int = SHOWN) -> list[Picture]:
    """Pictures of the individual, alone or in company, with the trigger in the caption; all scenes equally often."""
    pictures = []
    for number in range(count):
        rng = Random(f"{seed} own {number}")
        company = 0 if (number + 1) % _COMPANY_EVERY else rng.randint(1, _MOST_COMPANY)
        cast = [identity.character, *(random_character(rng.choice(KINDS), rng) for _ in range(company))]
        pictures.append(render(rng.getrandbits(32), cast, SCENES[number % len(SCENES)],
                               tokens=(identity.trigger, *[""] * company)))
    return pictures


def other_pictures(kind: str, seed: int, count: int = OTHERS) -> list[Picture]:
    """Pictures of random individuals: in turn one of the class alone, and anyone in any number."""
    pictures = []
    for number in range(count):
        rng = Random(f"{seed} others {number}")
        cast = random_cast(rng) if number % 2 else [random_character(kind, rng)]
        pictures.append(render(rng.getrandbits(32), cast, tokens=random_tokens(len(cast), rng, _RARE_WORDS)))
    return pictures


def lessons(networks: model.Parts, identity: Identity, seed: int) -> tuple[Examples, Examples]:
    """Encoded pictures of the individual, and of others."""
    return (prepare(networks, iter(own_pictures(identity, seed))),
            prepare(networks, iter(other_pictures(identity.character.kind, seed))))


def preserving_loss(unet: nn.Module, own: Examples, others: Examples, rows: int) -> Tensor:
    """DreamBooth's loss (its Eq. 2, with equal weights): half the rows show the individual, half show others.

    Only captions of others are dropped: the unconditional prediction is to stay that of anyone.
    """
    shown, kept = own.batch(rows // 2), others.batch(rows - rows // 2)
    dropped = kept.conditioning.dropped(CAPTION_DROPOUT)
    conditioning = Conditioning(torch.cat([shown.conditioning.context, dropped.context]),
                                torch.cat([shown.conditioning.pooled, dropped.pooled]))
    return denoising_loss(unet, torch.cat([shown.latents, kept.latents]), conditioning, caption_dropout=0)


def fit(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], recipe: Recipe, seed: int) -> list[float]:
    """Train the parameters in place; torch's global random state is as before afterwards.

    Args:
        loss: draws a batch from torch's global generator.

    Returns:
        The loss of each step.
    """
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, recipe.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.warmup, recipe.steps)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(recipe.steps):
            value = loss()
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(trained, _GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            losses.append(value.item())
    return losses


def report(path: Path, losses: Sequence[float], seconds: float) -> str:
    """A line on a training: its file or folder, and the mean loss of its first and last tenth."""
    tenth = max(len(losses) // 10, 1)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    return f"{path}: loss {first:.4f} -> {last:.4f}, {size / 1e6:.2f} MB, {seconds:.0f} s"
