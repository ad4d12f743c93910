"""Concepts that have no place in what is drawn: outside of an inpaint mask, or of the part that is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..errors import OMGError
from ..request import Request
from .masks import FloatArray, to_latent_grid
from .places import Places, latent_weights

# a mask's soft edge reaches farther than anything of it is seen
_SEEN = 0.05


def confined(places: Places, request: Request, drawn: FloatArray | None, outside: Mapping[int, str],
             latent_size: tuple[int, int]) -> Places:
    """The places without those of which nothing would be drawn, and a warning for each.

    Args:
        drawn: how much of each place is drawn, float32 [h, w] in 0..1; None is all of it.
        outside: concepts that have no place at all, each with the reason.
        latent_size: height and width of the latent grid.

    Raises:
        OMGError: there is one, and the request is strict.
    """
    masks = [[None if index in outside else mask for index, mask in enumerate(of_picture)]
             for of_picture in places.masks]
    reasons = dict(outside)
    if drawn is not None:
        for index in range(len(request.concepts)):
            missed = [number for number, of_picture in enumerate(masks) if _misses(of_picture[index], drawn)]
            for number in missed:
                masks[number][index] = None
            if missed:
                which = "" if len(masks) == 1 else f" in picture {', '.join(str(number + 1) for number in missed)}"
                reasons[index] = f"its place{which} lies outside of the inpaint mask"
    if not reasons:
        return places
    warnings = [f"concepts[{index}]: {reason}, so this concept is left out" for index, reason in
                sorted(reasons.items())]
    if request.strict:
        raise OMGError("strict", "; ".join(warnings))
    return replace(places, weights=latent_weights(request.concepts, masks, latent_size), masks=masks,
                   warnings=[*places.warnings, *warnings])


def _misses(mask: FloatArray | None, drawn: FloatArray) -> bool:
    return mask is not None and float((to_latent_grid(mask, *drawn.shape).numpy() * drawn).max()) < _SEEN
