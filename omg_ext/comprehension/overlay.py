"""A picture of who is where: the first picture with its things coloured, numbered and named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from .masks import FloatArray, resize
from .phrases import alike
from .places import Finding

# told apart on any picture, and by most who see colours differently (Okabe and Ito)
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
NOBODYS = (160, 160, 160)
REST = "everything else"
_STRENGTH = 0.4
_Colour = tuple[int, int, int]
_Box = tuple[int, int, int, int]


class _Place(NamedTuple):
    """What is shown of one thing; of the rest, in which all others lie, the outline alone."""

    mask: FloatArray
    label: str
    colour: _Colour
    is_rest: bool = False


def overlay(picture: npt.NDArray[np.uint8], findings: Sequence[Finding], masks: Sequence[FloatArray | None],
            names: Sequence[str], rest: int | None = None) -> npt.NDArray[np.uint8]:
    """The picture with a colour and a name for each concept's place, and grey for what nobody was given.

    The place of a concept that is the rest is shown by its outline alone: most of the picture would be of one colour.

    Args:
        picture: the first pass's, uint8 [H, W, 3].
        findings: what the detector saw in it, from left to right; things of one phrase are numbered.
        masks: each concept's, float32 [H, W]; None where it was not found.
        names: the concepts'.
        rest: which of them is the rest, if any.
    """
    shown = Image.fromarray(picture)
    owned = {finding.concept: finding for finding in findings if finding.concept is not None}
    places: list[_Place] = []
    for finding in findings:
        if finding.concept is None:
            mask = resize(finding.instance.mask, *picture.shape[:2])
            label = f"{_number(finding, findings)} {' / '.join(finding.scores)}, not used"
            places.append(_Place(mask, label, NOBODYS))
    for index, (mask_, name) in enumerate(zip(masks, names, strict=True)):
        if mask_ is not None:
            number = f"{_number(owned[index], findings, name)} " if index in owned else ""
            label = f"{number}concept {index + 1}: {name or REST if index == rest else name}"
            places.append(_Place(mask_, label, COLOURS[index % len(COLOURS)], index == rest))
    for place in places:
        shown = _tinted(shown, place)
    taken: list[_Box] = []
    for place in sorted(places, key=lambda place: place.is_rest):  # which has room elsewhere
        _write(shown, place, taken)
    return np.asarray(shown)


def _number(finding: Finding, findings: Sequence[Finding], name: str = "") -> int:
    """Which it is from the left of the things that fit a phrase, as ``where.index`` counts them."""
    phrase = next((phrase for phrase in finding.scores if alike(phrase, name)), next(iter(finding.scores)))
    return 1 + [each for each in findings if phrase in each.scores].index(finding)


def _tinted(picture: Image.Image, place: _Place) -> Image.Image:
    """With the place's area in its colour, and its outline in full."""
    inside = place.mask >= 0.5
    thick = max(1, round(min(inside.shape) / 256))
    edge = inside & ~ndimage.binary_erosion(inside, iterations=thick)
    strength = np.where(edge, 1.0, 0.0 if place.is_rest else _STRENGTH * place.mask)
    pixels = np.asarray(picture, np.float32)
    mixed = pixels + strength[..., None] * (np.array(place.colour, np.float32) - pixels)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _write(picture: Image.Image, place: _Place, taken: list[_Box]) -> None:
    """The label in the middle of the place, within the picture; if another is there already, below or above it."""
    solid = place.mask >= 0.5
    if not solid.any():
        return
    y, x = _deepest(solid) if place.is_rest else ndimage.center_of_mass(solid)
    tag = _tag(place.label, place.colour, max(1, picture.width // 400))
    left, most = round(min(max(x - tag.width / 2, 0), max(picture.width - tag.width, 0))), picture.height - tag.height
    tops = sorted(range(max(most, 0) + 1), key=lambda top: abs(top + tag.height / 2 - y))
    boxes = [(left, top, left + tag.width, top + tag.height) for top in tops]
    box = next((box for box in boxes if not any(_meet(box, other) for other in taken)), boxes[0])
    taken.append(box)
    picture.paste(tag, box[:2])


def _deepest(solid: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the pixel that is farthest from all that is not in it, the picture's border too."""
    depth = ndimage.distance_transform_edt(np.pad(solid, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _tag(label: str, colour: _Colour, scale: int) -> Image.Image:
    """The label on its colour, in letters so many times as large as the font's, which knows Latin ones only."""
    font = ImageFont.load_default()
    label = label.encode("latin-1", "replace").decode("latin-1")
    left, top, right, bottom = font.getbbox(label)
    tag = Image.new("RGB", (int(right - left) + 4, int(bottom - top) + 4), colour)
    ImageDraw.Draw(tag).text((2 - left, 2 - top), label, fill=(0, 0, 0), font=font)
    return tag.resize((tag.width * scale, tag.height * scale), Image.Resampling.NEAREST)
