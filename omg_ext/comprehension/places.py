"""From the first pass to blend weights: every concept's place in every picture of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import OMGError
from ..request import Concept, Request
from . import get_detector
from .assign import Thing, find_things, given_mask, of_concepts
from .base import Detector, FirstPicture, Instance, Query
from .masks import FloatArray, blend_weights, is_vanished, left_over, refine, resize, to_latent_grid
from .models import Models, require
from .outlines import find_outlines, outlined, require_segmenter
from .phrases import alike, find, near, words_in

ALL_OFF = "concepts: all of them are switched off, so this is the ordinary picture"
_UNSEEN = ("; the prompt names it, but the picture shows nothing of it: it was not drawn, or it stands behind the last "
           "word that the text encoder takes")


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that was found.

    Attributes:
        instance: itself; its mask is what shows of it, at the detector's resolution.
        scores: by the phrases that see it, as the detector gives them.
        concept: whose it is; None is nobody's.
        phrase: the one of these phrases that it was taken by, or that sees it best.
        number: which of all that this phrase sees, 0 for the leftmost, as ``where.index``; None for a shape in a box.
    """

    instance: Instance
    scores: dict[str, float]
    concept: int | None
    phrase: str = ""
    number: int | None = None

    def data(self) -> dict[str, Any]:
        """In JSON's types: ``phrases`` with their scores, ``box`` [x0, y0, x1, y1] and ``area`` in fractions of the
        picture, the ``concept``'s index or null, the ``score`` by which it was taken, and the number of the
        ``instance`` from the left or null."""
        scores = {phrase: round(score, 4) for phrase, score in self.scores.items()}
        return {"phrases": scores, "box": [round(float(edge), 4) for edge in self.instance.box],
                "area": round(self.instance.area, 4), "concept": self.concept,
                "score": scores.get(self.phrase, max(scores.values(), default=0.0)), "instance": self.number}

    def __str__(self) -> str:
        whose = "nobody's" if self.concept is None else f"concepts[{self.concept}]'s"
        x, y = self.instance.centre
        return f"{' and '.join(filter(None, self.scores)) or 'something'} at ({x:.2f}, {y:.2f}), {whose}"


@dataclass(frozen=True, eq=False)
class Places:
    """Where the concepts are.

    Attributes:
        weights: blend weights, float32 [K, B, 1, h, w] on the latent grid, zeros where a concept was not found.
        masks: the grown and feathered masks, float32 [H, W] each, by picture and concept; None where not found.
        findings: by picture all that the detector saw, from left to right.
        warnings: a sentence per concept that was left out.
        points: key points of the concepts' faces, by picture and concept, float32 [P, 2]: x and y in fractions of the
            picture; None where none was looked for or found. Empty if nobody asked for any.
    """

    weights: Tensor
    masks: list[list[FloatArray | None]]
    findings: list[list[Finding]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    points: list[list[FloatArray | None]] = field(default_factory=list)

    @property
    def pictures(self) -> list[list[int]]:
        """For each concept the pictures it was found in."""
        return [[picture for picture, masks in enumerate(self.masks) if masks[concept] is not None]
                for concept in range(len(self.weights))]

    def __bool__(self) -> bool:
        """Whether there is anything to draw."""
        return any(self.pictures)


def given_masks(request: Request, size: tuple[int, int], latent_size: tuple[int, int],
                models: Models) -> list[FloatArray | None]:
    """The masks that the request itself gives, grown and feathered, by concept; None is to be found.

    All about finding concepts that can be wrong is said before the first pass, so that nothing is generated in vain.

    Args:
        request: the validated request.
        size: height and width in pixels.
        latent_size: height and width of the latent grid.
        models: of detectors.

    Raises:
        OMGError: see :func:`require_finders`; a mask cannot be read, or vanishes on the latent grid; the request is
            strict, and its masks leave nothing for the concept that is the rest.
    """
    require_finders(request, models)
    masks = []
    for index, concept in enumerate(request.concepts):
        mask = given_mask(concept.place, f"concepts[{index}].where.mask", *size)
        if mask is not None:
            mask = refine(mask, request.mask.grow, request.mask.feather)
            _refuse_vanished(index, to_latent_grid(mask, *latent_size))
        masks.append(mask)
    rest = request.rest
    is_all_known = all(mask is not None or concept.is_rest or not concept.enabled
                       for concept, mask in zip(request.concepts, masks, strict=True))
    if request.strict and rest is not None and is_all_known and (
            _with_rest(request, masks, size, latent_size)[rest] is None):
        raise OMGError("strict", _no_rest(rest))
    return masks


def require_finders(request: Request, models: Models) -> None:
    """Refuse a request whose concepts nothing here can find. Nothing is loaded for the answer.

    Raises:
        OMGError: an unknown detector, or one that lacks something and is needed; an option that it does not go by; or
            there is no segmenter and one is needed.
    """
    detector = get_detector(request.detector)
    if any(concept.needs_detection for concept in request.concepts):
        require(detector.name, detector.needs(request.detect, models), models.remedy)
    _refuse_unread(request, detector)
    require_segmenter(request, models)


def _refuse_unread(request: Request, detector: Detector) -> None:
    """Refuse what is asked of a detector that does not go by it; shapes in boxes go by the segmenter, too."""
    read = {*detector.reads, *(("segmenter",) if outlined(request.concepts) else ())}
    for name in ("threshold", "model", "segmenter"):
        if getattr(request.detect, name) not in (None, "") and name not in read:
            raise OMGError(f"detect.{name}", f"the detector `{detector.name}` does not go by it; leave it out, or name "
                                             "a detector that does")


def find_places(request: Request, given: Sequence[FloatArray | None], pictures: Sequence[FirstPicture],
                size: tuple[int, int], latent_size: tuple[int, int], models: Models) -> Places:
    """Find every concept in every picture of the first pass.

    Args:
        request: the validated request.
        given: see :func:`given_masks`.
        pictures: what the first pass left, one per picture.
        size, latent_size, models: as in :func:`given_masks`.

    Raises:
        OMGError: a concept is not found and the request is strict, or a mask vanishes on the latent grid. One that is
            the rest counts as not found where the others leave nothing.
    """
    detector = get_detector(request.detector)
    findings = _findings(request, detector, pictures, models)
    found = [[_refined(instance, request, size) if mask is None else mask
              for mask, instance in zip(given, of_concepts(of_picture, len(given)), strict=True)]
             for of_picture in findings]
    masks = [_with_rest(request, of_picture, size, latent_size) for of_picture in found]
    warnings = [_not_found(index, concept, detector, pictures, findings, missing)
                for index, concept in enumerate(request.concepts) if concept.enabled
                and (missing := [number for number, of_picture in enumerate(masks) if of_picture[index] is None])]
    if warnings and request.strict:
        raise OMGError("strict", "; ".join(warnings))
    if request.concepts and not request.drawn:
        warnings = [ALL_OFF]
    return Places(latent_weights(request.concepts, masks, latent_size), masks, findings, warnings)


def _findings(request: Request, detector: Detector, pictures: Sequence[FirstPicture],
              models: Models) -> list[list[Finding]]:
    """All that is found in each picture, by phrase and in boxes, from left to right."""
    in_boxes = find_outlines(request, pictures, models)
    return [sorted([*(_finding(thing, queries, request.concepts) for thing in things),
                    *(Finding(shape, {request.concepts[index].phrase: shape.score}, index,
                              request.concepts[index].phrase)
                      for index, shape in shapes.items())], key=lambda finding: finding.instance.centre[0])
            for (queries, things), shapes in zip(_find(request, detector, pictures, models), in_boxes, strict=True)]


def _find(request: Request, detector: Detector, pictures: Sequence[FirstPicture],
          models: Models) -> list[tuple[list[Query], list[Thing]]]:
    """What is sought and found, by picture. The detector is loaded only if it is needed."""
    if not any(concept.needs_detection for concept in request.concepts):
        return [([], [])] * len(pictures)
    with detector.loaded(request.detect, models) as find:
        return [find_things(request.concepts, find, picture) for picture in pictures]


def _refined(instance: Instance | None, request: Request, size: tuple[int, int]) -> FloatArray | None:
    """The grown and feathered mask of what was found for a concept."""
    if instance is None:
        return None
    return refine(resize(instance.mask, *size), request.mask.grow, request.mask.feather)


def _with_rest(request: Request, masks: Sequence[FloatArray | None], size: tuple[int, int],
               latent_size: tuple[int, int]) -> list[FloatArray | None]:
    """One picture's grown and feathered masks, with that of a concept that takes what they leave; None is nothing."""
    masks = list(masks)
    if request.rest is not None:
        rest = left_over([mask for mask in masks if mask is not None], *size)
        masks[request.rest] = None if is_vanished(to_latent_grid(rest, *latent_size)) else rest
    return masks


def _finding(thing: Thing, queries: Sequence[Query], concepts: Sequence[Concept]) -> Finding:
    scores = {queries[number].phrase: score for number, score in thing.scores.items()}
    taken = max(thing.scores, key=thing.scores.__getitem__)
    if thing.concept is not None:
        own = concepts[thing.concept].phrase
        taken = next(number for number in thing.scores if alike(own, queries[number].phrase))
    return Finding(thing.instance, scores, thing.concept, queries[taken].phrase, thing.numbers[taken])


def latent_weights(concepts: Sequence[Concept], masks: Sequence[Sequence[FloatArray | None]],
                   latent_size: tuple[int, int]) -> Tensor:
    """Blend weights [K, B, 1, h, w] from grown and feathered masks [H, W] by picture and concept.

    Raises:
        OMGError: a mask vanishes on the latent grid.
    """
    weights = [_weights(concepts, of_picture, latent_size) for of_picture in masks]
    return torch.stack(weights, dim=1).unsqueeze(2)


def _not_found(index: int, concept: Concept, detector: Detector, pictures: Sequence[FirstPicture],
               findings: Sequence[Sequence[Finding]], missing: Sequence[int]) -> str:
    where = "" if len(pictures) == 1 else f" in picture {', '.join(str(number + 1) for number in missing)}"
    if concept.is_rest:
        return _no_rest(index, where)
    if outlined([concept]):
        return (f"concepts[{index}]: no shape was found in the box of where.outline{where}, so this concept is left "
                "out; give a box that is nearer around the thing, or where.box or where.mask")
    picture = pictures[missing[0]]
    if concept.phrase in picture.hints:
        hint = f"; {picture.hints[concept.phrase]}"
    elif detector.goes_by_prompt and not find(concept.phrase, words_in(picture.prompt)):
        hint = _unnamed(concept.phrase, picture.prompt)
    elif detector.needs_attention and picture.heat(concept.phrase) is None:
        hint = ("; the prompt names it, but this picture did not read it there: it is for other steps, or behind the "
                "last word that the text encoder takes")
    else:
        there = findings[missing[0]]
        is_seen = any(alike(concept.phrase, phrase) for finding in there for phrase in finding.scores)
        hint = _UNSEEN if detector.goes_by_prompt and not is_seen else ""
        hint += f"; what was found: {', '.join(map(str, there))}" if there else ""
    return f"concepts[{index}]: no {concept.phrase!r} was found{where}, so this concept is left out{hint}"


def _no_rest(index: int, where: str = "") -> str:
    return (f"concepts[{index}]: the other concepts take all of the picture{where}, so nothing is left for where.rest, "
            "and this concept is left out; give them smaller places or lower mask.grow")


def _unnamed(phrase: str, prompt: str) -> str:
    """What to say of a phrase that the prompt does not name."""
    word = near(phrase, prompt)
    return "; the prompt does not name it, and this detector goes by the prompt's words" + (
        f", of which {word!r} comes near: write that as the phrase" if word else "")


def _weights(concepts: Sequence[Concept], masks: Sequence[FloatArray | None], latent_size: tuple[int, int]) -> Tensor:
    """[K, h, w] for one picture."""
    grids = torch.zeros(len(masks), *latent_size)
    for index, (concept, mask) in enumerate(zip(concepts, masks, strict=True)):
        if mask is not None:
            grids[index] = to_latent_grid(mask, *latent_size)
            if not concept.is_rest:  # how much of that there is nobody has asked for
                _refuse_vanished(index, grids[index])
    return blend_weights(grids, [concept.strength for concept in concepts])


def _refuse_vanished(index: int, grid: Tensor) -> None:
    if is_vanished(grid):
        raise OMGError(f"concepts[{index}]", "its mask is smaller than half a cell of the latent grid (8x8 pixels), "
                                             "so nothing would be drawn; give a larger mask or raise mask.grow")
