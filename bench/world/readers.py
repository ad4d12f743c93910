"""Who stands where in a picture of the world, and who it is: two small networks and how they are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from bench.world import weights
from bench.world.attributes import IDENTITIES, KINDS, Character
from bench.world.model import LATENT_SCALE
from bench.world.pixels import Images, as_images, as_tensor
from bench.world.reader_nets import OFFSET, FigureNet, IdentityNet, crops
from bench.world.render import Picture, render
from bench.world.scenes import SCENES

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]

MIN_SHARE = 0.3
"""Less than this share of a figure, hidden or missing, does not count as one; renderings show at least 0.4."""
MIN_AREA = 200
"""Nor do fewer pixels; renderings of 128x128 show at least 480."""
# of a figure: as many pixels with votes near to one place show where a centre may be
_GATHERED = 0.15
# near is this much of the square root of the figure's area
_REACH = 0.13
# two places nearer than this much of it, and with less of a figure together, are one figure that was read unsurely
_CLOSE, _ONE = 0.6, 1.2
# pixels by which votes are spread to find where they gather
_SPREAD = 2.0
_BATCH = 32
_REFERENCE_SEED = 2**31
_PORTRAIT_SEED = 2**31 + 2**20


@dataclass(frozen=True)
class ReadFigure:
    """A figure that was found: its class, one of ``KINDS``, and where it shows, bool ``[H, W]``."""

    kind: str
    mask: Mask


@dataclass(frozen=True)
class Reading:
    """What a picture shows: the scene, one of ``SCENES``, and its figures, in the order of ``KINDS``."""

    scene: str
    figures: tuple[ReadFigure, ...]


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: Tensor, disturbance: Tensor | float = 0,
                generator: torch.Generator | None = None) -> Tensor:
    """The pictures ``[B, 3, H, W]`` in -1..1 after the autoencoder, which every generated one goes through.

    Args:
        disturbance: standard deviation of the noise added to the latents, which have unit variance; one value or
            ``[B, 1, 1, 1]``.
        generator: of the noise.
    """
    latents = vae.encode(pictures).latent_dist.mode()
    noise = torch.randn(latents.shape, generator=generator) * disturbance / LATENT_SCALE
    return vae.decode(latents + noise).sample.clamp(-1, 1)


def full_size(maps: Tensor) -> Tensor:
    """Maps ``[B, C, h, w]`` of every other pixel to ``[B, C, 2 h, 2 w]``."""
    size = [2 * side - 1 for side in maps.shape[2:]]
    between = F.interpolate(maps, size, mode="bilinear", align_corners=True)
    return F.pad(between, (0, 1, 0, 1), mode="replicate")


def _gatherings(votes: Floats, shares: Floats, reach: Floats, shape: tuple[int, int]) -> Floats:
    """Where pixels of one class gather their votes, ``[C, 2]``, the heaviest place first.

    Args:
        votes: ``[N, 2]``, row and column of the centre of the figure that each pixel belongs to, as the pixel sees it.
        shares: ``[N]``, the pixel's share of its figure.
        reach: ``[N]``, how many pixels a vote may be off.
        shape: of the picture.
    """
    cells = np.clip(votes.round().astype(int), 0, np.array(shape) - 1)
    places = []
    left = np.ones(len(votes), np.bool_)
    while shares[left].sum() >= _GATHERED:
        density = np.bincount(np.ravel_multi_index(cells[left].T, shape), shares[left], shape[0] * shape[1])
        peak = np.unravel_index(ndimage.gaussian_filter(density.reshape(shape), _SPREAD).argmax(), shape)
        near = left & (np.hypot(*(votes - peak).T) < reach)
        if shares[near].sum() < _GATHERED:
            break
        places.append(np.average(votes[near], axis=0, weights=shares[near]))
        left &= ~near
    return np.reshape(places, (-1, 2))


def _nearest(votes: Floats, places: Floats) -> npt.NDArray[np.integer]:
    """For each of the votes ``[N, 2]`` the number of the place nearest to it, of at least one ``[C, 2]``."""
    return np.hypot(*(votes[:, None] - places).T).argmin(axis=0)


def _distinct(votes: Floats, shares: Floats, places: Floats) -> Floats:
    """Those of the places ``[C, 2]``, heaviest first, that are figures of their own.

    One is not if too little of it shows, or if it and one nearby are together no more than one figure: of two that are
    so close, the nearer shows wholly.
    """
    if not len(places):
        return places
    nearest = _nearest(votes, places)
    totals, pixels = np.bincount(nearest, shares, len(places)), np.bincount(nearest, minlength=len(places))
    kept: list[int] = []
    for number in np.flatnonzero(totals >= MIN_SHARE).tolist():
        near = _CLOSE * np.sqrt(pixels[number] / totals[number])
        if not any(np.hypot(*(places[other] - places[number])) < near and totals[other] + totals[number] < _ONE
                   for other in kept):
            kept.append(number)
    return places[kept]


def figures_of(maps: Floats) -> tuple[ReadFigure, ...]:
    """The figures that the network's maps, brought to the picture's size ``[8, H, W]``, tell of.

    Each pixel of a class votes for a centre, with the share that it is of its figure. Where votes gather there may be a
    figure: it gets the pixels whose votes are nearest.
    """
    logits, (right, down), area = maps[:-3], maps[-3:-1], np.exp2(maps[-1]) * maps[-1].size
    kinds = logits.argmax(axis=0)
    found = []
    for number, kind in enumerate(KINDS, 1):
        pixels = np.nonzero(kinds == number)
        votes = np.stack(pixels, axis=1) + OFFSET * np.stack([down[pixels], right[pixels]], axis=1)
        shares = 1 / area[pixels]
        places = _gatherings(votes, shares, _REACH * np.sqrt(area[pixels]), kinds.shape)
        places = _distinct(votes, shares, places)
        for index in range(len(places)):
            mask = np.zeros(kinds.shape, np.bool_)
            mask[pixels] = _nearest(votes, places) == index
            if mask.sum() >= MIN_AREA * mask.size / 128**2:
                found.append(ReadFigure(kind, mask))
    return tuple(found)


def save(net: nn.Module, path: Path) -> None:
    """Writes a network's weights in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.half().contiguous() for name, weight in net.state_dict().items()}, path)


def _loaded(net: nn.Module, path: Path) -> nn.Module:
    net.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return net


class FigureReader:
    """Finds scene and figures."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval()

    @classmethod
    def load(cls, path: Path = weights.FIGURES) -> FigureReader:
        return cls(_loaded(FigureNet(), path))

    @torch.no_grad()
    def __call__(self, images: Images) -> list[Reading]:
        """A reading of each of the pictures, uint8 ``[B, H, W, 3]``, H and W multiples of 16; trained for 128."""
        readings = []
        for batch in as_tensor(images).split(_BATCH):
            maps, scenes = self.net(batch)
            readings += [Reading(SCENES[scene], figures_of(each)) for each, scene
                         in zip(full_size(maps).numpy(), scenes.argmax(dim=1).tolist(), strict=True)]
        return readings


class IdentityReader:
    """Tells individuals apart, as ArcFace does faces (arXiv 1801.07698)."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval()

    @classmethod
    def load(cls, path: Path = weights.IDENTITY) -> IdentityReader:
        return cls(_loaded(IdentityNet(), path))

    @torch.no_grad()
    def embed(self, images: Images, masks: Mask) -> Tensor:
        """Vectors ``[B, EMBEDDING]`` of unit length of the figures at ``masks``, bool ``[B, H, W]``.

        Args:
            images: uint8 ``[B, H, W, 3]``, one for each mask.

        Raises:
            ValueError: a mask is empty.
        """
        return self.net(crops(as_tensor(images), torch.from_numpy(np.ascontiguousarray(masks))))

    def of_picture(self, picture: Picture) -> Tensor:
        """The vector ``[EMBEDDING]`` of a rendering's first figure, as if the rendering were a photo."""
        return self.embed(np.stack([picture.image]), np.stack([picture.figures[0].visible]))[0]


def reference(vae: AutoencoderKL, reader: IdentityReader, character: Character, seed: int, count: int = 24) -> Tensor:
    """The mean vector ``[EMBEDDING]``, of unit length, of ``count`` reconstructions; ``seed`` is the first's."""
    pictures = [render(seed + turn, [character], SCENES[turn % len(SCENES)]) for turn in range(count)]
    images = as_images(reconstruct(vae, as_tensor(np.stack([picture.image for picture in pictures]))))
    vectors = reader.embed(images, np.stack([picture.figures[0].visible for picture in pictures]))
    return F.normalize(vectors.mean(dim=0), dim=0)


def references(vae: AutoencoderKL, reader: IdentityReader, count: int = 24,
               names: Collection[str] = tuple(IDENTITIES)) -> Mapping[str, Tensor]:
    """For each of ``IDENTITIES`` its :func:`reference`.

    Args:
        names: only of these.
    """
    return {name: reference(vae, reader, identity.character, _REFERENCE_SEED + number * count, count)
            for number, (name, identity) in enumerate(IDENTITIES.items()) if name in names}


def portraits(reader: IdentityReader) -> Mapping[str, Tensor]:
    """For each of ``IDENTITIES`` the vector ``[EMBEDDING]`` of one picture: all that a face's adapter is told of it."""
    return {name: reader.of_picture(render(_PORTRAIT_SEED + number, [identity.character]))
            for number, (name, identity) in enumerate(IDENTITIES.items())}
