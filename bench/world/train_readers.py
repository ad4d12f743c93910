"""Trains the readers on what the autoencoder makes of renderings: ``python -m bench.world.train_readers``.

Writes ``weights.FIGURES`` and ``weights.IDENTITY``, and prints as JSON how well they read pictures that they have not
seen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from bench.world import checkpoint, readers, weights
from bench.world.attributes import KINDS
from bench.world.pixels import scaled
from bench.world.reader_accuracy import accuracy
from bench.world.reader_data import People, Samples, make_samples, numbered, random_people
from bench.world.reader_nets import EMBEDDING, OFFSET, FigureNet, IdentityNet, crops
from bench.world.readers import FigureReader, IdentityReader

PICTURES = 6000
PEOPLE = 500
"""Individuals of each class that the identity reader learns from."""
# small batches: for so few pictures the number of steps counts
FIGURE_STEPS, FIGURE_BATCH = 2800, 8
IDENTITY_STEPS, IDENTITY_BATCH = 1000, 64
_RATE = 3e-3
# of the picture; figures that show less teach no identity
_LEAST_SHOWN = 0.02
# the largest change of colour: figures keep their class in any, but identity is colour
_FIGURE_TINT, _IDENTITY_TINT = 0.15, 0.04
_NOISE = 0.06
# the loss of classes against that of centres
_KIND_WEIGHT = 4.0


def fit(parameters: Sequence[nn.Parameter], steps: int, loss: Callable[[float], Tensor]) -> None:
    """Minimises ``loss``, which is told how much of the training is done, 0 to 1."""
    optimizer = torch.optim.AdamW(parameters, weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        # where the processor has it, half precision is faster
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(step / steps)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        rates.step()


def batches(count: int, size: int) -> Callable[[], Tensor]:
    """Gives ``size`` different numbers below ``count`` at a time, each equally often."""
    left = torch.empty(0, dtype=torch.long)

    def following() -> Tensor:
        nonlocal left
        if len(left) < size:
            left = torch.randperm(count)
        batch, left = left[:size], left[size:]
        return batch

    return following


def degraded(pictures: Tensor, tint: float) -> Tensor:
    """Pictures ``[B, 3, H, W]`` in -1..1 with other colours, blur and noise, each of random strength."""
    rows = len(pictures)
    gain, shift = tint * (2 * torch.rand(2, rows, 3, 1, 1) - 1)
    blurred = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
    blended = torch.lerp(pictures, blurred, torch.rand(rows, 1, 1, 1))
    return blended * (1 + gain) + shift + _NOISE * torch.rand(rows, 1, 1, 1) * torch.randn_like(pictures)


def figure_targets(samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
    """What ``FigureNet`` is to say of B pictures of H x W pixels, at every other one.

    Returns:
        Class int64 ``[B, H / 2, W / 2]``, offsets ``[B, 2, H / 2, W / 2]`` and log2 of the area ``[B, H / 2, W / 2]``
        as the network's maps have them.
    """
    owner = samples.owner[:, ::2, ::2].long()
    places = torch.stack(torch.meshgrid(*(2 * torch.arange(side) for side in owner.shape[:0:-1]), indexing="xy"))

    def of_owners(values: Tensor) -> Tensor:
        return values.gather(1, owner.flatten(1)).view(owner.shape)

    centres = torch.stack([of_owners(samples.centres[..., axis]) for axis in (0, 1)], dim=1)
    return of_owners(samples.kinds), (centres - places) / OFFSET, of_owners(samples.areas).log2()


def figure_loss(net: nn.Module, samples: Samples) -> Tensor:
    """Cross-entropies of classes and scene; distance of centres and sizes where figures show."""
    maps, scenes = (each.float() for each in net(degraded(scaled(samples.pictures), _FIGURE_TINT)))
    kinds, offsets, areas = figure_targets(samples)
    shown = (kinds > 0).float()
    wrong = F.smooth_l1_loss(maps[:, -3:-1], offsets, reduction="none", beta=0.1).sum(dim=1)
    wrong = wrong + 0.3 * F.smooth_l1_loss(maps[:, -1], areas, reduction="none", beta=0.1)
    return (_KIND_WEIGHT * F.cross_entropy(maps[:, :-3], kinds) + (wrong * shown).sum() / shown.sum()
            + 0.1 * F.cross_entropy(scenes, samples.scenes))


def train_figures(samples: Samples, steps: int = FIGURE_STEPS) -> FigureReader:
    """Draws from torch's global generator."""
    net = FigureNet()
    following = batches(len(samples), min(FIGURE_BATCH, len(samples)))

    def loss(_: float) -> Tensor:
        batch = samples[following()]
        return figure_loss(net, batch.mirrored() if torch.rand(()) < 0.5 else batch)

    fit([*net.parameters()], steps, loss)
    return FigureReader(net)


def jittered(masks: Tensor) -> Tensor:
    """Masks bool ``[B, H, W]``, each grown, shrunk or left, by as much as a figure reader may be wrong."""
    soft = masks[:, None].float()
    grown, shrunk = F.max_pool2d(soft, 3, 1, 1), 1 - F.max_pool2d(1 - soft, 3, 1, 1)
    choice = torch.randint(0, 3, (len(masks), 1, 1, 1))
    return torch.where(choice == 0, grown, torch.where(choice == 1, shrunk, soft))[:, 0] > 0.5


def arcface_loss(vectors: Tensor, centres: Tensor, people: Tensor, margin: float, scale: float = 24.0) -> Tensor:
    """Additive angular margin loss (arXiv 1801.07698, Eq. 3).

    Args:
        vectors: ``[B, D]`` of unit length.
        centres: ``[P, D]``, one for each individual, of any length.
        people: int64 ``[B]``, whom the vectors show.
        margin: radians by which the angle to the own centre counts as larger than it is.
        scale: s of the equation.
    """
    cosines = (vectors @ F.normalize(centres, dim=1).T).clamp(-1 + 1e-4, 1 - 1e-4)
    own = F.one_hot(people, len(centres)).bool()
    return F.cross_entropy(scale * torch.where(own, (cosines.arccos() + margin).cos(), cosines), people)


def train_identity(samples: Samples, people: int, steps: int = IDENTITY_STEPS, margin: float = 0.4) -> IdentityReader:
    """Draws from torch's global generator; ``people``: how many individuals the samples show at most."""
    net, centres = IdentityNet(), nn.Parameter(0.1 * torch.randn(people, EMBEDDING))
    figures = samples.figures(_LEAST_SHOWN)
    following = batches(len(figures), min(IDENTITY_BATCH, len(figures)))

    def loss(done: float) -> Tensor:
        picture, number, person = figures[following()].T
        masks = jittered(samples.owner[picture] == number[:, None, None])
        colours, inside = crops(scaled(samples.pictures[picture]), masks).split((3, 1), dim=1)
        inputs = torch.cat([degraded(colours, _IDENTITY_TINT) * (inside + 1) / 2, inside], dim=1)
        vectors = net(inputs.flip(3) if torch.rand(()) < 0.5 else inputs)
        # from the start, the full margin keeps a small network from learning anything
        return arcface_loss(vectors.float(), centres, person, margin * min(2 * done, 1))

    fit([*net.parameters(), centres], steps, loss)
    return IdentityReader(net)


def train(vae: AutoencoderKL, seed: int = 0, pictures: int = PICTURES, people: int = PEOPLE,
          figure_steps: int = FIGURE_STEPS, identity_steps: int = IDENTITY_STEPS,
          ) -> tuple[FigureReader, IdentityReader, People]:
    """Both readers, and the individuals that they have seen, ``people`` of each class."""
    torch.manual_seed(seed)
    seen = random_people(Random(seed), people)
    samples = make_samples(vae, seen, pictures, seed)
    return (train_figures(samples, figure_steps), train_identity(samples, len(numbered(seen)), identity_steps), seen)


def make(vae: AutoencoderKL, seed: int = 0) -> dict[str, Any]:
    """Trains both readers, writes their files, and returns what the model card says of them."""
    started = time.monotonic()
    figure_reader, identity_reader, seen = train(vae, seed)
    seconds = round(time.monotonic() - started)
    readers.save(figure_reader.net, weights.FIGURES)
    readers.save(identity_reader.net, weights.IDENTITY)
    # what the files hold, which is half as precise
    found = accuracy(vae, FigureReader.load(), IdentityReader.load(), seen)
    return {"seed": seed, "pictures": PICTURES, "people": len(KINDS) * PEOPLE, "training_seconds": seconds, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the readers of the small world.")
    parser.add_argument("--checkpoint", type=Path, default=weights.CHECKPOINT, help="whose autoencoder to use")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(make(checkpoint.load(arguments.checkpoint).vae, arguments.seed), indent=1))


if __name__ == "__main__":
    main()
