"""A picture of who is where: the first picture with its things coloured, numbered and named."""

from __future__ import annotations

from collections.abc import Sequence

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
_STRENGTH = 0.4
_Box = tuple[int, int, int, int]


def overlay(picture: npt.NDArray[np.uint8], findings: Sequence[Finding], masks: Sequence[FloatArray | None],
            names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The picture with a colour and a name for each concept's place, and grey for what nobody was given.

    Args:
        picture: the first pass's, uint8 [H, W, 3].
        findings: what the detector saw in it, from left to right; things of one phrase are numbered.
        masks: each concept's, float32 [H, W]; None where it was not found.
        names: the concepts'.
    """
    shown = Image.fromarray(picture)
    owned = {finding.concept: finding for finding in findings if finding.concept is not None}
    labels: list[tuple[FloatArray, str, tuple[int, int, int]]] = []
    for finding in findings:
        if finding.concept is None:
            mask = resize(finding.instance.mask, *picture.shape[:2])
            labels.append((mask, f"{_number(finding, findings)} {' / '.join(finding.scores)}, not used", NOBODYS))
    for index, (mask_, name) in enumerate(zip(masks, names, strict=True)):
        if mask_ is not None:
            number = f"{_number(owned[index], findings, name)} " if index in owned else ""
            labels.append((mask_, f"{number}concept {index + 1}: {name}", COLOURS[index % len(COLOURS)]))
    for mask, _, colour in labels:
        shown = _tinted(shown, mask, colour)
    taken: list[_Box] = []
    for mask, label, colour in labels:
        _write(shown, mask, label, colour, taken)
    return np.asarray(shown)


def _number(finding: Finding, findings: Sequence[Finding], name: str = "") -> int:
    """Which it is from the left of the things that fit a phrase, as ``where.index`` counts them."""
    phrase = next((phrase for phrase in finding.scores if alike(phrase, name)), next(iter(finding.scores)))
    return 1 + [each for each in findings if phrase in each.scores].index(finding)


def _tinted(picture: Image.Image, mask: FloatArray, colour: tuple[int, int, int]) -> Image.Image:
    """With the mask's area in a colour, and its outline in full."""
    inside = mask >= 0.5
    thick = max(1, round(min(mask.shape) / 256))
    edge = inside & ~ndimage.binary_erosion(inside, iterations=thick)
    strength = np.where(edge, 1.0, _STRENGTH * mask)
    pixels = np.asarray(picture, np.float32)
    mixed = pixels + strength[..., None] * (np.array(colour, np.float32) - pixels)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _write(picture: Image.Image, mask: FloatArray, label: str, colour: tuple[int, int, int], taken: list[_Box]) -> None:
    """The label in the middle of the mask, within the picture; if another is there already, below or above it."""
    solid = mask >= 0.5
    if not solid.any():
        return
    y, x = ndimage.center_of_mass(solid)
    tag = _tag(label, colour, max(1, picture.width // 400))
    left, most = round(min(max(x - tag.width / 2, 0), max(picture.width - tag.width, 0))), picture.height - tag.height
    tops = sorted(range(max(most, 0) + 1), key=lambda top: abs(top + tag.height / 2 - y))
    boxes = [(left, top, left + tag.width, top + tag.height) for top in tops]
    box = next((box for box in boxes if not any(_meet(box, other) for other in taken)), boxes[0])
    taken.append(box)
    picture.paste(tag, box[:2])


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _tag(label: str, colour: tuple[int, int, int], scale: int) -> Image.Image:
    """The label on its colour, in letters so many times as large as the font's, which knows Latin ones only."""
    font = ImageFont.load_default()
    label = label.encode("latin-1", "replace").decode("latin-1")
    left, top, right, bottom = font.getbbox(label)
    tag = Image.new("RGB", (int(right - left) + 4, int(bottom - top) + 4), colour)
    ImageDraw.Draw(tag).text((2 - left, 2 - top), label, fill=(0, 0, 0), font=font)
    return tag.resize((tag.width * scale, tag.height * scale), Image.Resampling.NEAREST)
