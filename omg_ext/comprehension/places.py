"""From the first pass to blend weights: every concept's mask in every picture of the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import OMGError
from ..passes import taps as two_stage
from ..request import Concept, Request
from . import AttentionRecorder, FirstPass, get_detector
from .assign import find_masks, given_mask
from .masks import blend_weights, is_vanished, refine, to_latent_grid

HeatOf = Callable[[int, str], np.ndarray | None]
"""``(picture of the batch, phrase) -> attention heat map [h, w]``, or None if the phrase is not in the prompt"""

PhrasePositions = Callable[[Sequence[str]], tuple[list[list[list[int]]], list[list[int]]]]
"""Where phrases lie in the global prompt: token positions by conditional row and phrase; the rows of each picture"""


@contextmanager
def class_token_attention(request: Request, unet: nn.Module, stage: two_stage.FirstPass, positions_of: PhrasePositions,
                          latent_size: tuple[int, int]) -> Iterator[HeatOf]:
    """Within the block the first pass records class-token attention, if a concept is to be found that way."""
    phrases = sorted({concept.phrase for concept in request.concepts if concept.needs_detection})
    if not phrases or not get_detector(request.detector).needs_attention:
        yield lambda picture, phrase: None
        return
    positions, rows_of_picture = positions_of(phrases)
    with AttentionRecorder(unet, positions) as recorder:
        stage.observer = recorder

        def heat(picture: int, phrase: str) -> np.ndarray | None:
            index = phrases.index(phrase)
            rows = [row for row in rows_of_picture[picture] if positions[row][index]]
            return np.mean([recorder.heat(row, index, *latent_size) for row in rows], axis=0) if rows else None

        yield heat
        stage.observer = None


@dataclass
class Regions:
    """Where the concepts are.

    Attributes:
        weights: blend weights, float32 [K, B, 1, h, w] on the latent grid, zeros where a concept was not found.
        masks: the grown and feathered masks, float32 [H, W] each, by picture and concept; None where not found.
        warnings: a sentence per concept that was left out.
    """

    weights: Tensor
    masks: list[list[np.ndarray | None]]
    warnings: list[str] = field(default_factory=list)

    def pictures(self) -> list[list[int]]:
        """For each concept the pictures it was found in."""
        count = len(self.masks[0])
        return [[picture for picture, masks in enumerate(self.masks) if masks[concept] is not None]
                for concept in range(count)]


def check_given(request: Request, size: tuple[int, int], latent_size: tuple[int, int]) -> None:
    """Everything about the masks that can be wrong before the first pass, so that nothing is generated in vain.

    Raises:
        OMGError: an unknown detector, a mask that cannot be read, a given mask that vanishes on the latent grid.
    """
    get_detector(request.detector)
    for index, concept in enumerate(request.concepts):
        mask = given_mask(concept.where, f"concepts[{index}].where.mask", *size)
        if mask is not None:
            _latent_mask(index, refine(mask, request.mask.grow, request.mask.feather), latent_size)


def find_regions(request: Request, pictures: Sequence[FirstPass], size: tuple[int, int],
                 latent_size: tuple[int, int]) -> Regions:
    """Find every concept in every picture of the first pass.

    Args:
        request: the validated request.
        pictures: what the first pass left, one per picture.
        size: height and width in pixels.
        latent_size: height and width of the latent grid.

    Raises:
        OMGError: a concept is not found and the request is strict, or a mask vanishes on the latent grid.
    """
    detector = get_detector(request.detector)
    found = [find_masks(request.concepts, detector, picture, *size) for picture in pictures]
    warnings = []
    for index, concept in enumerate(request.concepts):
        missing = [number for number, masks in enumerate(found) if masks[index] is None]
        if missing:
            where = "" if len(pictures) == 1 else f" in picture {', '.join(str(number + 1) for number in missing)}"
            by_prompt = detector.needs_attention and pictures[missing[0]].heat(concept.phrase) is None
            hint = "; the prompt does not name it, and this detector goes by the prompt's words" if by_prompt else ""
            warnings.append(f"concepts[{index}]: no {concept.phrase!r} was found{where}, "
                            f"so this concept is left out{hint}")
    if warnings and request.strict:
        raise OMGError("strict", "; ".join(warnings))
    refined = [[None if mask is None else refine(mask, request.mask.grow, request.mask.feather) for mask in masks]
               for masks in found]
    return Regions(latent_weights(request, refined, latent_size), refined, warnings)


def latent_weights(request: Request, masks: Sequence[Sequence[np.ndarray | None]],
                   latent_size: tuple[int, int]) -> Tensor:
    """Blend weights [K, B, 1, h, w] from grown and feathered masks [H, W] by picture and concept.

    Raises:
        OMGError: a mask vanishes on the latent grid.
    """
    weights = [_weights(request.concepts, of_picture, latent_size) for of_picture in masks]
    return torch.stack(weights, dim=1).unsqueeze(2)


def _weights(concepts: Sequence[Concept], masks: Sequence[np.ndarray | None],
             latent_size: tuple[int, int]) -> Tensor:
    """[K, h, w] for one picture."""
    grids = torch.zeros(len(masks), *latent_size)
    for index, mask in enumerate(masks):
        if mask is not None:
            grids[index] = _latent_mask(index, mask, latent_size)
    return blend_weights(grids, [concept.strength for concept in concepts])


def _latent_mask(index: int, mask: np.ndarray, latent_size: tuple[int, int]) -> Tensor:
    grid = to_latent_grid(mask, *latent_size)
    if is_vanished(grid):
        raise OMGError(f"concepts[{index}]", "its mask is smaller than half a cell of the latent grid (8x8 pixels), "
                                             "so nothing would be drawn; give a larger mask or raise mask.grow")
    return grid
