"""How much pictures look like the individual that a personalised model has learned, or that an adapter is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from bench.world import prompt_accuracy, weights
from bench.world.attributes import IDENTITIES, Character
from bench.world.captions import PLACES
from bench.world.checkpoint import load
from bench.world.image_prompt import image_prompted, tokens_of
from bench.world.pixels import Images
from bench.world.reader_data import numbered, random_people
from bench.world.readers import FigureReader, IdentityReader, reference, references
from bench.world.render import render
from omg_ext.faces.adapter import FaceAdapter

SEEDS = 16
"""Pictures in each scene."""
FACE_SEEDS = 4
"""The same, of each of many."""
STRANGERS = 8
"""Individuals of each class whom no training has shown."""
# far from the seeds of other renderings
_STRANGER_SEED = 2**31 + 2**21


@dataclass(frozen=True)
class _Judges:
    """Who reads the pictures."""

    figures: FigureReader
    identity: IdentityReader

    def alignments(self, pictures: Images, kind: str, wanted: Tensor) -> list[float]:
        """The Identity Alignment of each picture's largest figure of the class; 0 where there is none."""
        found = []
        for picture, reading in zip(pictures, self.figures(pictures), strict=True):
            masks = [figure.mask for figure in reading.figures if figure.kind == kind]
            largest = max(masks, key=np.count_nonzero, default=None)
            found.append(0.0 if largest is None else float(self.identity.embed(picture[None], largest[None]) @ wanted))
        return found


def likeness(pipe: StableDiffusionXLPipeline, name: str, word: str, seeds: int = SEEDS) -> float:
    """The mean Identity Alignment over pictures of the individual alone; one without a figure of the class counts 0.

    Args:
        pipe: personalised.
        name: of the individual, a key of ``IDENTITIES``.
        word: what stands before the class word in the prompt, or "".
    """
    judges = _Judges(FigureReader.load(), IdentityReader.load())
    wanted = references(load(weights.CHECKPOINT).vae, judges.identity, names=[name])[name]
    kind = IDENTITIES[name].character.kind
    return float(np.mean([judges.alignments(pictures, kind, wanted) for pictures in _drawn(pipe, word, kind, seeds)]))


def _drawn(pipe: StableDiffusionXLPipeline, word: str, kind: str, seeds: int) -> list[Images]:
    """Pictures of one alone, of each scene."""
    return [prompt_accuracy.draw(pipe, " ".join(filter(None, ("a", word, kind, places[0]))), range(seeds))
            for places in PLACES.values()]


def likeness_by_face(pipe: StableDiffusionXLPipeline, adapter: FaceAdapter, known: Sequence[Character],
                     each: int = STRANGERS, seeds: int = FACE_SEEDS) -> dict[str, float]:
    """The mean Identity Alignment over pictures of strangers alone, of whom the adapter is shown one picture each.

    Args:
        known: the individuals of the adapter's training, none of whom is a stranger.
        each: strangers of each class.

    Returns:
        That ``with_face``; that of the same pictures ``without``; and that of further renderings with the picture
        that is shown, ``renderings``, which is as much as can be hoped for.
    """
    judges = _Judges(FigureReader.load(), IdentityReader.load())
    found: dict[str, list[float]] = {"with_face": [], "without": [], "renderings": []}
    plain: dict[str, list[Images]] = {}
    strangers = numbered(random_people(Random(_STRANGER_SEED), each, without=known))
    for number, stranger in enumerate(strangers):
        kind, seed = stranger.kind, _STRANGER_SEED + 100 * number
        wanted = reference(pipe.vae, judges.identity, stranger, seed + 1)
        shown = judges.identity.of_picture(render(seed, [stranger]))
        cond, uncond = tokens_of(adapter, [shown])
        # the rows of diffusers' own pipeline: unconditional ones first
        tokens = torch.cat([uncond.expand(seeds, -1, -1), cond.expand(seeds, -1, -1)])
        with image_prompted(pipe.unet, adapter, tokens):
            faced = _drawn(pipe, "", kind, seeds)
        if kind not in plain:
            plain[kind] = _drawn(pipe, "", kind, seeds)
        for name, drawn in (("with_face", faced), ("without", plain[kind])):
            found[name] += [value for pictures in drawn for value in judges.alignments(pictures, kind, wanted)]
        found["renderings"].append(float(shown @ wanted))
    return {name: float(np.mean(values)) for name, values in found.items()}
