"""What the readers learn from: reconstructions of renderings, with all that is known about their figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bench.world.attributes import IDENTITIES, KINDS, Character, random_character
from bench.world.layout import MAX_FIGURES, MAX_OCCLUSION
from bench.world.pixels import Images, as_images, as_tensor
from bench.world.readers import Mask, reconstruct
from bench.world.render import Picture, render
from bench.world.scenes import SCENES

# how often a picture has 1, 2, ... figures
_COUNTS = (0.2, 0.3, 0.25, 0.15, 0.1)
# how often the occlusion of a pair is drawn evenly
_PAIRS_HIDDEN = 0.5
# how often there is a scrap of a figure, and how often a figure lacks a part
_SCRAPS, _HOLES = 0.12, 0.08
# of a whole figure: what a scrap shows, and what remains of one that lacks a part, which shows at least `_WHOLE` before
_SCRAP, _REST, _WHOLE = (0.08, 0.25), (0.6, 0.9), 0.75
# how often latents are disturbed, and at most by how much of their standard deviation: a diffusion model's are never
# quite those of a rendering
_DISTURBED, _DISTURBANCE = 0.5, 0.3
_BATCH = 32

People = Mapping[str, Sequence[Character]]


@dataclass(frozen=True)
class Samples:
    """N pictures of H x W pixels; each has room for :data:`MAX_FIGURES` figures, numbered from 1 on; 0 is no figure.

    Attributes:
        pictures: uint8 ``[N, 3, H, W]``.
        owner: uint8 ``[N, H, W]``: the number of the figure that shows.
        kinds: int64 ``[N, 6]``: 1 + the class of each figure by its number, else 0.
        people: int64 ``[N, 6]``: the number of the individual, -1 where there is none or too little of it shows.
        centres: float ``[N, 6, 2]``: column and row of the middle of each figure's box.
        areas: float ``[N, 6]``: the share of the picture that the whole figure covers; 1 where there is none.
        scenes: int64 ``[N]``.
    """

    pictures: Tensor
    owner: Tensor
    kinds: Tensor
    people: Tensor
    centres: Tensor
    areas: Tensor
    scenes: Tensor

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: Tensor) -> Samples:
        return Samples(*(getattr(self, each.name)[index] for each in fields(self)))

    def mirrored(self) -> Samples:
        """The same pictures with left and right swapped."""
        right = self.owner.shape[2] - 1
        centres = torch.stack([right - self.centres[..., 0], self.centres[..., 1]], dim=2)
        return replace(self, pictures=self.pictures.flip(3), owner=self.owner.flip(2), centres=centres)

    def figures(self, least: float) -> Tensor:
        """int64 ``[F, 3]``: picture, number and individual of each figure that covers at least that share of one."""
        shares = torch.stack([(self.owner == number).float().mean(dim=(1, 2)) for number in range(MAX_FIGURES + 1)], 1)
        known = ((self.people >= 0) & (shares >= least)).nonzero()
        return torch.cat([known, self.people[known[:, 0], known[:, 1], None]], dim=1)


def random_people(rng: Random, each: int, without: Iterable[Character] = ()) -> People:
    """``each`` different individuals of each class, none of them one of ``IDENTITIES`` or of ``without``."""
    strangers = [*(identity.character for identity in IDENTITIES.values()), *without]
    known = {(person.kind, *person.attributes.values()) for person in strangers}
    people: dict[str, list[Character]] = {kind: [] for kind in KINDS}
    for kind, group in people.items():
        while len(group) < each:
            person = random_character(kind, rng)
            if (key := (kind, *person.attributes.values())) not in known:
                known.add(key)
                group.append(person)
    return people


def numbered(people: People) -> list[Character]:
    """The individuals in the order of their numbers."""
    return [person for kind in KINDS for person in people[kind]]


def _turns(group: Sequence[int], rng: Random) -> Iterator[int]:
    """Everyone once in random order, then again."""
    while True:
        yield from rng.sample(group, len(group))


def casts(people: People, rng: Random) -> Iterator[list[int]]:
    """Numbers of 1 to 5 individuals whose classes are independent; each gets into about as many casts."""
    order = numbered(people)
    turns = {kind: _turns([number for number, person in enumerate(order) if person.kind == kind], rng)
             for kind in KINDS}
    while True:
        count = rng.choices(range(1, MAX_FIGURES + 1), _COUNTS)[0]
        yield [next(turns[kind]) for kind in rng.choices(KINDS, k=count)]


def _cut(mask: Mask, share: float, angle: float) -> Mask:
    """That share of a mask's pixels which lies on one side of a straight line at ``angle``."""
    rows, columns = np.nonzero(mask)
    along = np.cos(angle) * rows + np.sin(angle) * columns
    part = np.zeros_like(mask)
    part[rows, columns] = along <= np.quantile(along, share)
    return part


def _add_scrap(image: Images, owner: Images, other: Picture, rng: Random) -> None:
    """Puts a part of another picture's first figure, too little to count, behind the figures of an image."""
    figure = other.figures[0]
    share = rng.uniform(*_SCRAP) * figure.full.sum() / figure.visible.sum()
    part = _cut(figure.visible, share, rng.uniform(0, 2 * np.pi)) & (owner == 0)
    image[part] = other.image[part]


def _take_away(image: Images, owner: Images, other: Picture, number: int, rng: Random) -> None:
    """Puts another picture's background over a part of the figure ``number`` of an image, which still counts."""
    share = rng.uniform(*_REST)
    missing = (owner == number) & ~_cut(owner == number, share, rng.uniform(0, 2 * np.pi))
    missing &= ~np.any([figure.full for figure in other.figures], axis=0)
    image[missing] = other.image[missing]
    owner[missing] = 0


def _sample(seed: int, numbers: Sequence[int], people: Sequence[Character], rng: Random) -> tuple[Any, ...]:
    """A rendering as numpy arrays in the order of :class:`Samples`, still with its image ``[H, W, 3]``."""
    occlusion = rng.uniform(0, MAX_OCCLUSION) if len(numbers) == 2 and rng.random() < _PAIRS_HIDDEN else None
    picture = render(seed, [people[number] for number in numbers], rng.choice(SCENES), occlusion=occlusion)
    owner = np.zeros(picture.image.shape[:2], np.uint8)
    for number, figure in enumerate(picture.figures, 1):
        owner[figure.visible] = number
    kinds, persons = np.zeros(MAX_FIGURES + 1, np.int64), np.full(MAX_FIGURES + 1, -1)
    centres, areas = np.zeros((MAX_FIGURES + 1, 2), np.float32), np.ones(MAX_FIGURES + 1, np.float32)
    for number, (person, figure) in enumerate(zip(numbers, picture.figures, strict=True), 1):
        left, top, right, bottom = figure.box
        kinds[number] = KINDS.index(figure.character.kind) + 1
        persons[number] = person
        centres[number] = (left + right - 1) / 2, (top + bottom - 1) / 2
        areas[number] = figure.full.mean()
    image = picture.image.copy()
    chance = rng.random()
    if chance < _SCRAPS + _HOLES:
        other = render(rng.randrange(2**32), scene=picture.scene)
        # not of a figure that is half hidden, of which too little would be left
        whole = [number for number, figure in enumerate(picture.figures, 1) if figure.visible_share > _WHOLE]
        if chance < _SCRAPS:
            _add_scrap(image, owner, other, rng)
        elif whole:
            _take_away(image, owner, other, rng.choice(whole), rng)
    return image, owner, kinds, persons, centres, areas, SCENES.index(picture.scene)


def make_samples(vae: AutoencoderKL, people: People, count: int, seed: int) -> Samples:
    """Reconstructions by ``vae`` of ``count`` renderings in which each of the people comes about equally often.

    In some a figure lacks a part, in some there is a scrap of one more, which counts as background, and in some the
    latents are disturbed.
    """
    rng = Random(seed)
    generator = torch.Generator().manual_seed(seed)
    order = numbered(people)
    columns = list(zip(*(_sample(rng.randrange(2**32), cast, order, rng)
                         for cast in islice(casts(people, rng), count)), strict=True))
    images = torch.empty(count, 3, *columns[0][0].shape[:2], dtype=torch.uint8)
    for start in range(0, count, _BATCH):
        batch = as_tensor(np.stack(columns[0][start:start + _BATCH]))
        chance, size = torch.rand(2, len(batch), 1, 1, 1, generator=generator)
        disturbed = reconstruct(vae, batch, _DISTURBANCE * size * (chance < _DISTURBED), generator)
        images[start:start + _BATCH] = torch.from_numpy(as_images(disturbed)).movedim(-1, 1)
    return Samples(images, *(torch.from_numpy(np.stack(column)) for column in columns[1:]))
