"""How much pictures of a personalised model look like the individual that it has learned."""

from __future__ import annotations

import numpy as np
from diffusers import StableDiffusionXLPipeline

from bench.world import prompt_accuracy, weights
from bench.world.attributes import IDENTITIES
from bench.world.captions import PLACES
from bench.world.checkpoint import load
from bench.world.readers import FigureReader, IdentityReader, references

SEEDS = 16
"""Pictures in each scene."""


def likeness(pipe: StableDiffusionXLPipeline, name: str, word: str, seeds: int = SEEDS) -> float:
    """The mean Identity Alignment over pictures of the individual alone; one without a figure of the class counts 0.

    Args:
        pipe: personalised.
        name: of the individual, a key of ``IDENTITIES``.
        word: what stands before the class word in the prompt, or "".
    """
    figures, identity = FigureReader.load(), IdentityReader.load()
    reference = references(load(weights.CHECKPOINT).vae, identity)[name]
    kind, found = IDENTITIES[name].character.kind, []
    for places in PLACES.values():
        pictures = prompt_accuracy.draw(pipe, " ".join(filter(None, ("a", word, kind, places[0]))), range(seeds))
        for picture, reading in zip(pictures, figures(pictures), strict=True):
            masks = [figure.mask for figure in reading.figures if figure.kind == kind]
            largest = max(masks, key=np.count_nonzero, default=None)
            found.append(0.0 if largest is None else float(identity.embed(picture[None], largest[None]) @ reference))
    return float(np.mean(found))
