"""Where figures are: four backgrounds in soft colours, so that the figures' strong ones stand out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from bench.world.attributes import RGB


class Backdrop:
    """An RGB canvas on which scenes are drawn in fractions of its side, from the top left."""

    def __init__(self, side: int, horizon: float, above: tuple[RGB, RGB], below: tuple[RGB, RGB]) -> None:
        """Two vertical gradients, (top, bottom) colours each, that meet at ``horizon``."""
        self.side = side
        self.horizon = horizon
        line = round(horizon * side)
        column = np.concatenate([np.linspace(*above, line), np.linspace(*below, side - line)]).astype(np.uint8)
        self.image = Image.fromarray(column[:, None]).resize((side, side), Image.Resampling.NEAREST)
        self._draw = ImageDraw.Draw(self.image)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        box = [value * self.side for value in (x - rx, y - ry, x + rx, y + ry)]
        self._draw.ellipse((box[0], box[1], box[2], box[3]), fill=colour)

    def bar(self, x0: float, y0: float, x1: float, y1: float, colour: RGB) -> None:
        box = [value * self.side for value in (x0, y0, x1, y1)]
        self._draw.rectangle((box[0], box[1], box[2], box[3]), fill=colour)

    def polygon(self, points: list[tuple[float, float]], colour: RGB) -> None:
        self._draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)


def _tree(sheet: Backdrop, x: float, tall: float) -> None:
    foot = sheet.horizon + 0.03
    sheet.bar(x - 0.03, foot - tall, x + 0.03, foot, (134, 104, 82))
    sheet.ellipse(x, foot - tall, 0.17, 0.15, (112, 164, 106))
    sheet.ellipse(x - 0.05, foot - tall - 0.04, 0.1, 0.08, (134, 182, 122))


def _park(side: int, rng: Random) -> Image.Image:
    sheet = Backdrop(side, rng.uniform(0.5, 0.6),
                     ((168, 212, 242), (228, 242, 246)), ((166, 208, 132), (126, 178, 104)))
    hill = rng.uniform(0.1, 0.9)
    sheet.ellipse(hill, sheet.horizon + 0.02, 0.5, 0.13, (160, 202, 146))
    sheet.bar(0, sheet.horizon + 0.005, 1, sheet.horizon + 0.14, (166, 208, 132))
    cloud = rng.uniform(0.1, 0.9)
    sheet.ellipse(cloud, 0.13, 0.11, 0.045, (248, 251, 252))
    sheet.ellipse(cloud - 0.04, 0.105, 0.06, 0.05, (248, 251, 252))
    first = rng.uniform(0.08, 0.4)
    _tree(sheet, first, rng.uniform(0.24, 0.34))
    _tree(sheet, first + rng.uniform(0.42, 0.54), rng.uniform(0.24, 0.34))
    return sheet.image


def _beach(side: int, rng: Random) -> Image.Image:
    sheet = Backdrop(side, rng.uniform(0.52, 0.62),
                     ((136, 206, 240), (220, 240, 246)), ((246, 228, 182), (230, 200, 150)))
    sheet.bar(0, sheet.horizon - 0.15, 1, sheet.horizon, (88, 164, 206))
    sheet.bar(0, sheet.horizon - 0.02, 1, sheet.horizon + 0.01, (206, 232, 240))
    sheet.ellipse(rng.uniform(0.1, 0.9), rng.uniform(0.12, 0.2), 0.09, 0.09, (255, 240, 160))
    boat, water = rng.uniform(0.12, 0.88), sheet.horizon - 0.1
    keel = water + 0.035
    sheet.polygon([(boat - 0.07, water), (boat + 0.07, water), (boat + 0.04, keel), (boat - 0.04, keel)], (150, 96, 74))
    sheet.polygon([(boat, water - 0.01), (boat, water - 0.15), (boat + 0.065, water - 0.01)], (250, 250, 246))
    return sheet.image


def _room(side: int, rng: Random) -> Image.Image:
    sheet = Backdrop(side, rng.uniform(0.54, 0.62),
                     ((238, 214, 204), (230, 202, 190)), ((186, 142, 112), (156, 114, 88)))
    sheet.bar(0, sheet.horizon - 0.03, 1, sheet.horizon, (250, 240, 230))
    window = rng.uniform(0.2, 0.8)
    sheet.bar(window - 0.16, 0.08, window + 0.16, 0.4, (252, 248, 242))
    for left in (window - 0.135, window + 0.01):
        sheet.bar(left, 0.105, left + 0.125, 0.375, (176, 220, 240))
    frame = window + (0.36 if window < 0.5 else -0.36)
    sheet.bar(frame - 0.09, 0.12, frame + 0.09, 0.32, (176, 132, 92))
    sheet.bar(frame - 0.065, 0.145, frame + 0.065, 0.295, (226, 226, 196))
    sheet.ellipse(rng.uniform(0.4, 0.6), 0.86, 0.42, 0.1, (202, 170, 160))
    return sheet.image


def _night(side: int, rng: Random) -> Image.Image:
    sheet = Backdrop(side, rng.uniform(0.52, 0.6),
                     ((26, 30, 84), (92, 84, 150)), ((88, 92, 136), (60, 64, 104)))
    for _ in range(8):
        sheet.ellipse(rng.random(), rng.uniform(0.02, 0.3), 0.009, 0.009, (236, 234, 214))
    moon = rng.uniform(0.12, 0.88)
    sheet.ellipse(moon, 0.16, 0.09, 0.09, (246, 240, 206))
    left = rng.uniform(-0.12, 0)
    while left < 1:
        right, roof = left + rng.uniform(0.14, 0.22), sheet.horizon - rng.uniform(0.08, 0.24)
        sheet.bar(left, roof, right, sheet.horizon, (58, 56, 112))
        lit = left + 0.03 + rng.random() * (right - left - 0.1)
        sheet.bar(lit, roof + 0.035, lit + 0.04, roof + 0.075, (236, 208, 132))
        left = right + 0.005
    return sheet.image


_DRAW: Mapping[str, Callable[[int, Random], Image.Image]] = {
    "park": _park, "beach": _beach, "room": _room, "night": _night}
SCENES = tuple(_DRAW)


def draw_scene(scene: str, side: int, rng: Random) -> Image.Image:
    """The scene's background, RGB, ``side`` pixels high and wide, its parts at random places.

    Raises:
        ValueError: the scene is unknown.
    """
    if scene not in _DRAW:
        raise ValueError(f"scene: {scene!r} is unknown; choose one of {', '.join(SCENES)}")
    return _DRAW[scene](side, rng)
