"""How well the readers read reconstructions of renderings that they have not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, islice
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bench.world.attributes import KINDS, Character, random_character
from bench.world.pixels import Images, as_images, as_tensor
from bench.world.reader_data import People, casts, numbered, random_people
from bench.world.readers import FigureReader, IdentityReader, Mask, ReadFigure, Reading, reconstruct
from bench.world.render import Picture, random_cast, render

# pictures of each kind
PICTURES = 100
# individuals of each class, and pictures of them
STRANGERS, STRANGER_PICTURES = 40, 300
# far from the training's seed
_SEED = 2**30
_BATCH = 32
GROUPS = ("single", "pair", "triple", "four", "five")


def reconstructions(vae: AutoencoderKL, pictures: Sequence[Picture]) -> Images:
    """What the autoencoder makes of renderings, uint8 ``[B, H, W, 3]``."""
    batches = as_tensor(np.stack([picture.image for picture in pictures])).split(_BATCH)
    return np.concatenate([as_images(reconstruct(vae, batch)) for batch in batches])


def overlap(first: Mask, second: Mask) -> float:
    """Intersection over union of two masks that are not both empty."""
    return float((first & second).sum() / (first | second).sum())


def found_in(reading: Reading, kind: str, mask: Mask) -> tuple[ReadFigure | None, float]:
    """The figure of the class that lies best on the mask, None where none touches it, and their overlap."""
    candidates = [(overlap(figure.mask, mask), figure) for figure in reading.figures if figure.kind == kind]
    best, figure = max(candidates, key=lambda pair: pair[0], default=(0.0, None))
    return (figure, best) if best > 0 else (None, 0.0)


def figure_accuracy(reader: FigureReader, vae: AutoencoderKL, pictures: Sequence[Picture]) -> dict[str, float]:
    """Shares of reconstructions whose scene and whose classes, with their numbers, are read right, and the masks' IoU.

    The IoU is averaged over all figures; one that is not found counts 0.
    """
    readings = reader(reconstructions(vae, pictures))
    pairs = list(zip(readings, pictures, strict=True))
    right = [Counter(figure.kind for figure in reading.figures)
             == Counter(figure.character.kind for figure in picture.figures) for reading, picture in pairs]
    overlaps = [found_in(reading, figure.character.kind, figure.visible)[1]
                for reading, picture in pairs for figure in picture.figures]
    return {"scene": float(np.mean([reading.scene == picture.scene for reading, picture in pairs])),
            "classes": float(np.mean(right)), "mask_iou": float(np.mean(overlaps))}


def figure_report(reader: FigureReader, vae: AutoencoderKL, count: int = PICTURES) -> dict[str, dict[str, float]]:
    """:func:`figure_accuracy` on ``count`` pictures for each number of figures, and of two of one class that touch."""
    report = {}
    for number, name in enumerate(GROUPS, 1):
        seeds = range(_SEED + number * count, _SEED + (number + 1) * count)
        report[name] = figure_accuracy(reader, vae, [render(seed, random_cast(Random(seed), number))
                                                     for seed in seeds])
    twins = [[random_character(KINDS[seed % len(KINDS)], Random(2 * seed + turn)) for turn in (0, 1)]
             for seed in range(_SEED, _SEED + count)]
    pictures = [render(seed, cast, occlusion=0.05 + 0.35 * seed / count) for seed, cast in enumerate(twins)]
    return {**report, "two of one class": figure_accuracy(reader, vae, pictures)}


def verification_accuracy(vectors: Tensor, people: Sequence[int], kinds: Sequence[str]) -> dict[str, float]:
    """How often one threshold on the cosine tells whether two figures of one class show one individual.

    As many pairs of one individual as of two; the threshold is the best one for every other individual, the accuracy
    that on the rest.

    Args:
        vectors: ``[N, D]`` of unit length.
        people: whom each vector shows.
        kinds: and their classes.
    """
    rng = Random(0)
    halves = []
    for half in (0, 1):
        pairs = [pair for pair in combinations(range(len(people)), 2)
                 if kinds[pair[0]] == kinds[pair[1]] and all(people[each] % 2 == half for each in pair)]
        same = [pair for pair in pairs if people[pair[0]] == people[pair[1]]]
        others = rng.sample([pair for pair in pairs if people[pair[0]] != people[pair[1]]], len(same))
        halves.append([_cosines(vectors, same), _cosines(vectors, others)])
    (same_first, other_first), (same_second, other_second) = halves
    candidates = np.concatenate(halves[0])
    threshold = max(candidates, key=lambda value: _balanced(value, same_first, other_first))
    return {"accuracy": _balanced(threshold, same_second, other_second), "threshold": float(threshold),
            "same": float(same_second.mean()), "different": float(other_second.mean())}


def _cosines(vectors: Tensor, pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.floating]:
    first, second = torch.tensor(pairs).T
    return (vectors[first] * vectors[second]).sum(dim=1).numpy()


def _balanced(threshold: float, same: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> float:
    return float(((same >= threshold).mean() + (other < threshold).mean()) / 2)


def strangers_read(figure_reader: FigureReader, identity_reader: IdentityReader, vae: AutoencoderKL,
                   strangers: Sequence[Character], numbers: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Vectors ``[N, D]`` of the figures that the figure reader finds in reconstructions, and whom they show.

    Args:
        numbers: for each picture, which of the strangers it shows.
    """
    pictures = [render(_SEED + seed, [strangers[number] for number in cast]) for seed, cast in enumerate(numbers)]
    images = reconstructions(vae, pictures)
    rows, masks, people = [], [], []
    for row, (reading, picture, cast) in enumerate(zip(figure_reader(images), pictures, numbers, strict=True)):
        for number, figure in zip(cast, picture.figures, strict=True):
            found, share = found_in(reading, figure.character.kind, figure.visible)
            if found and share > 0.5:
                rows.append(row)
                masks.append(found.mask)
                people.append(number)
    return identity_reader.embed(images[rows], np.stack(masks)), people


def identity_report(figure_reader: FigureReader, identity_reader: IdentityReader, vae: AutoencoderKL, seen: People,
                    each: int = STRANGERS, pictures: int = STRANGER_PICTURES) -> dict[str, float]:
    """:func:`verification_accuracy` on ``each`` individuals of each class that are not among those ``seen``."""
    people = random_people(Random(_SEED), each, without=numbered(seen))
    strangers = numbered(people)
    numbers = list(islice(casts(people, Random(_SEED)), pictures))
    vectors, shown = strangers_read(figure_reader, identity_reader, vae, strangers, numbers)
    return verification_accuracy(vectors, shown, [strangers[number].kind for number in shown])


def accuracy(vae: AutoencoderKL, figure_reader: FigureReader, identity_reader: IdentityReader,
             seen: People) -> Mapping[str, Any]:
    """Both reports, for the model card."""
    return {"figures": figure_report(figure_reader, vae),
            "identity": identity_report(figure_reader, identity_reader, vae, seen)}
