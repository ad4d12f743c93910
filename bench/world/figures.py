"""How a figure looks: flat shapes, each in the colour of an attribute or in a fixed one.

Coordinates of a figure are units: x to the right from its middle, y upwards from the ground. A man is 105 units
high. The four silhouettes differ on purpose: a man stands with arms and legs apart, a woman is a bell with long hair, a
dog is seen from the side on four legs, a robot tapers down to one wheel and raises its arms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from bench.world.attributes import RGB, SCHEMA, Character

# Samples per pixel and axis. Odd: the middle sample of a pixel says which figure the pixel belongs to.
SAMPLES = 3

# units to either side, and of height, that hold any figure of the class
_REACH: Mapping[str, float] = {"man": 39, "woman": 35, "dog": 48, "robot": 40}
UNIT_HEIGHT: Mapping[str, float] = {"man": 121, "woman": 106, "dog": 66, "robot": 101}

INK: RGB = (30, 26, 38)
STEEL: RGB = (92, 98, 112)
LIPS: RGB = (190, 44, 70)
CLEAR: RGB = (250, 252, 255)

Point = tuple[float, float]


@dataclass(frozen=True)
class Sprite:
    """A drawn figure, before it stands in a picture.

    Attributes:
        index: uint8 ``[3 h, 3 w]``, :data:`SAMPLES` per pixel: the number of the ink of each sample, 0 outside.
        inks: uint8 ``[inks + 1, 3]``: the colour of each ink.
        parts: uint8 ``[inks + 1]``: 1 + the number of the attribute (in the order of ``SCHEMA``) that an ink shows
            undimmed, or 0.
        mask: bool ``[h, w]``: the pixels whose middle the figure covers.
    """

    index: npt.NDArray[np.uint8]
    inks: npt.NDArray[np.uint8]
    parts: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]


class Pen:
    """Draws shapes given in units; an ink is the name of an attribute or a fixed colour.

    A shape in the ink of an absent attribute is not drawn. ``shade`` below 1 darkens.
    """

    def __init__(self, character: Character, unit: float, mirrored: bool) -> None:
        """``unit``: pixels per unit."""
        self.character = character
        self.unit = unit * SAMPLES
        width = 2 * math.ceil(_REACH[character.kind] * unit) + 1
        height = math.ceil(UNIT_HEIGHT[character.kind] * unit) + 1
        self.canvas = Image.new("L", (width * SAMPLES, height * SAMPLES))
        self._draw = ImageDraw.Draw(self.canvas)
        self._side = -1 if mirrored else 1
        self._inks: dict[tuple[str | RGB, float], int] = {}
        self.colours: list[RGB] = [(0, 0, 0)]
        self.parts = [0]

    def _ink(self, ink: str | RGB, shade: float) -> int:
        key = (ink, shade)
        if key not in self._inks:
            colour = self.character.colour(ink) if isinstance(ink, str) else ink
            if colour is None:
                return 0
            names = list(SCHEMA[self.character.kind])
            self._inks[key] = len(self.colours)
            self.colours.append((int(colour[0] * shade), int(colour[1] * shade), int(colour[2] * shade)))
            self.parts.append(names.index(ink) + 1 if isinstance(ink, str) and shade == 1 else 0)
        return self._inks[key]

    def _at(self, x: float, y: float) -> Point:
        return self.canvas.width / 2 + self._side * x * self.unit, self.canvas.height - 1 - y * self.unit

    def _corners(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        (left, bottom), (right, top) = self._at(x0, y0), self._at(x1, y1)
        return min(left, right), top, max(left, right), bottom

    def polygon(self, points: Sequence[Point], ink: str | RGB, shade: float = 1) -> None:
        if number := self._ink(ink, shade):
            self._draw.polygon([self._at(*point) for point in points], fill=number)

    def bar(self, x0: float, y0: float, x1: float, y1: float, ink: str | RGB, radius: float = 0,
            shade: float = 1) -> None:
        """A rectangle, x0 <= x1 and y0 <= y1, with round corners."""
        if number := self._ink(ink, shade):
            corners = self._corners(x0, y0, x1, y1)
            # older Pillows refuse corners that leave no straight side
            largest = max(min(corners[2] - corners[0], corners[3] - corners[1]) / 2 - 2, 0)
            self._draw.rounded_rectangle(corners, min(radius * self.unit, largest), fill=number)

    def ellipse(self, x: float, y: float, rx: float, ry: float, ink: str | RGB, shade: float = 1) -> None:
        if number := self._ink(ink, shade):
            self._draw.ellipse(self._corners(x - rx, y - ry, x + rx, y + ry), fill=number)

    def upper_half(self, x: float, y: float, rx: float, ry: float, ink: str | RGB) -> None:
        """The half above y of an ellipse."""
        if number := self._ink(ink, 1):
            self._draw.pieslice(self._corners(x - rx, y - ry, x + rx, y + ry), 180, 360, fill=number)

    def lower_part(self, x: float, y: float, rx: float, ry: float, ink: str | RGB) -> None:
        """What a level chord, a quarter of ry below y, cuts off the bottom of an ellipse."""
        if number := self._ink(ink, 1):
            self._draw.chord(self._corners(x - rx, y - ry, x + rx, y + ry), 14, 166, fill=number)

    def limb(self, points: Sequence[Point], width: float, ink: str | RGB, shade: float = 1) -> None:
        """A line with round ends and joints."""
        if number := self._ink(ink, shade):
            path = [self._at(*point) for point in points]
            self._draw.line(path, fill=number, width=max(1, round(width * self.unit)))
            radius = width * self.unit / 2
            for x, y in path:
                self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=number)

    def sprite(self) -> Sprite:
        index = np.asarray(self.canvas)
        middle = index[SAMPLES // 2::SAMPLES, SAMPLES // 2::SAMPLES]
        return Sprite(index, np.array(self.colours, np.uint8), np.array(self.parts, np.uint8), middle > 0)


def _eyes(pen: Pen, y: float, apart: float) -> None:
    for x in (-apart, apart):
        pen.ellipse(x, y, 2.1, 2.7, INK)


def _man(pen: Pen) -> None:
    for side in (-1, 1):
        pen.polygon([(0, 44), (side * 15, 44), (side * 27, 3), (side * 14, 3), (side * 1, 34)], "trousers")
        pen.bar(min(side * 12, side * 31), 0, max(side * 12, side * 31), 6, INK, 2.5)
        pen.limb([(side * 19, 68), (side * 31, 46)], 10.5, "shirt", 0.8)
        pen.ellipse(side * 32, 42, 6, 6, "skin")
    pen.polygon([(-22, 75), (22, 75), (16, 40), (-16, 40)], "shirt")
    pen.polygon([(-20.5, 66.5), (20.5, 66.5), (18, 52.5), (-18, 52.5)], "stripe")
    pen.bar(-6, 70, 6, 78, "skin", shade=0.88)
    pen.bar(-16, 78, 16, 105, "skin", 9)
    pen.lower_part(0, 88, 17, 18, "beard")
    pen.upper_half(0, 94, 18, 15, "hair")
    for side in (-1, 1):
        pen.bar(min(side * 13, side * 18), 86, max(side * 13, side * 18), 95, "hair", 2)
    _eyes(pen, 90, 6.5)
    pen.bar(-5, 80, 5, 82.5, LIPS)
    pen.bar(-13, 103, 13, 120, "hat", 2)
    pen.bar(-22, 100, 22, 106, "hat", 2)
    if pen.character.colour("hat"):
        pen.bar(-13, 106, 13, 109, INK)


def _woman(pen: Pen) -> None:
    pen.bar(-24, 30, 24, 84, "hair", 11)
    pen.bar(-11, 0, -2, 4, INK, 1.5)
    pen.bar(2, 0, 11, 4, INK, 1.5)
    pen.polygon([(-10, 56), (10, 56), (10, 40), (33, 3), (-33, 3), (-10, 40)], "dress")
    pen.polygon([(-25.6, 15), (25.6, 15), (33, 3), (-33, 3)], "hem")
    for side in (-1, 1):
        pen.limb([(side * 13, 52), (side * 19, 35)], 6, "skin", 0.9)
    pen.bar(-5, 52, 5, 62, "skin", shade=0.88)
    pen.polygon([(-9, 58), (9, 58), (18, 45), (12, 39), (-12, 39), (-18, 45)], "shawl")
    pen.ellipse(0, 74, 16, 17, "skin")
    pen.upper_half(0, 78, 22, 17, "hair")
    for side in (-1, 1):
        pen.polygon([(side * 23, 80), (side * 13, 82), (side * 17, 56), (side * 23, 56)], "hair")
        pen.polygon([(side * 2, 93), (side * 21, 104), (side * 21, 83)], "bow")
    pen.ellipse(0, 93, 5, 5, "bow", 0.75)
    _eyes(pen, 73, 6)
    pen.ellipse(0, 64, 4, 2, LIPS)


def _dog(pen: Pen) -> None:
    pen.limb([(-28, 36), (-38, 44), (-42, 57)], 8, "coat")
    for x, shade in ((-20, 0.82), (10, 0.82), (-29, 1.0), (19, 1.0)):
        pen.bar(x - 5, 0, x + 5, 26, "coat", 3, shade)
        pen.bar(x - 5, 0, x + 5, 11, "socks", 3, shade)
    pen.bar(-35, 18, 25, 44, "coat", 12)
    pen.polygon([(8, 40), (25, 30), (34, 50), (16, 56)], "coat")
    pen.polygon([(-26, 45.5), (8, 45.5), (11, 20), (-27, 20)], "jacket")
    pen.bar(22, 37, 46, 50, "coat", 6)
    pen.ellipse(25, 50, 14.5, 14, "coat")
    pen.polygon([(8, 38), (20, 26), (33, 39), (27, 43), (12, 46)], "scarf")
    pen.polygon([(12, 31), (24, 31), (19, 18)], "scarf")
    pen.ellipse(16, 50, 7.5, 14, "ears")
    pen.ellipse(45, 47, 3.5, 3.5, INK)
    pen.ellipse(30, 54, 4, 4.4, CLEAR)
    pen.ellipse(31, 54, 2.4, 3, INK)


def _robot(pen: Pen) -> None:
    pen.bar(-2, 80, 2, 90, STEEL)
    pen.ellipse(0, 92, 8, 8, "lamp")
    for side in (-1, 1):
        pen.limb([(side * 24, 52), (side * 34, 48), (side * 34, 66)], 7, STEEL)
        pen.polygon([(side * 28, 64), (side * 39, 64), (side * 39, 78), (side * 34, 71), (side * 28, 78)], STEEL)
    pen.polygon([(-10, 28), (10, 28), (5, 12), (-5, 12)], STEEL)
    pen.ellipse(0, 14, 14, 14, "wheel")
    pen.ellipse(0, 14, 4.5, 4.5, STEEL)
    pen.polygon([(-28, 58), (28, 58), (15, 24), (-15, 24)], "body")
    pen.polygon([(-17, 53), (17, 53), (11, 31), (-11, 31)], "panel")
    pen.bar(-7, 57, 7, 62, STEEL)
    pen.bar(-23, 61, 23, 86, "head", 3)
    pen.bar(-18, 66, 18, 80, "visor", 2)
    for x in (-8, 8):
        pen.ellipse(x, 73, 2.6, 3.4, CLEAR)


_DRAW: Mapping[str, Callable[[Pen], None]] = {"man": _man, "woman": _woman, "dog": _dog, "robot": _robot}


def draw_figure(character: Character, unit: float, mirrored: bool = False) -> Sprite:
    """The figure on its own.

    Args:
        unit: pixels per unit: the figure is :data:`UNIT_HEIGHT` times that high at most.
        mirrored: a dog looks to the left instead of to the right.
    """
    pen = Pen(character, unit, mirrored)
    _DRAW[character.kind](pen)
    return pen.sprite()
