"""Key points as InstantID draws them: the published function, written once more, is the reference."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest

from omg_ext.faces.keypoints import draw

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
FACE = np.array([[40, 50], [80, 48], [61, 72], [45, 92], [78, 90]], np.float32)


def drawn(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """InstantID's ``draw_kps`` for one face: floats until it is dimmed, a copy for each stroke."""
    out: Any = np.zeros([height, width, 3])
    for pair in np.array([[0, 2], [1, 2], [3, 2], [4, 2]]):
        x, y = points[pair][:, 0], points[pair][:, 1]
        length = ((x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2) ** 0.5
        angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
        polygon = cv2.ellipse2Poly((int(np.mean(x)), int(np.mean(y))), (int(length / 2), 4), int(angle), 0, 360, 1)
        out = cv2.fillConvexPoly(out.copy(), np.asarray(polygon), COLOURS[pair[0]])
    out = (out * 0.6).astype(np.uint8)
    for number, (x, y) in enumerate(points):
        out = cv2.circle(out.copy(), (int(x), int(y)), 10, COLOURS[number], -1)
    return np.asarray(out.astype(np.uint8))


@pytest.mark.parametrize("seed", range(200))
def test_as_instantid_draws_them(seed: int) -> None:
    """Of any size, turned any way, from the front or side, off centre, over the edge."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(16, 400, 2)
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # from the side, lines lie on each other: then it matters which comes first
    narrow = (FACE - FACE.mean(0)) * [[1, 0.1][seed % 2], 1]
    turned = narrow @ rotation * rng.uniform(0.1, 4)
    points = (turned + rng.uniform(-20, 420, 2) + rng.normal(0, 5, (5, 2))).astype(np.float32)
    np.testing.assert_array_equal(draw(points, (height, width)), drawn(points, height, width))


def test_colours_and_places() -> None:
    picture = draw(FACE, (140, 120))
    assert picture.shape == (140, 120, 3)
    assert picture.dtype == np.uint8
    for (x, y), colour in zip(FACE.astype(int), COLOURS, strict=True):
        assert tuple(picture[y, x]) == colour
    # between the picture's left eye and the nose: the eye's colour, dimmed
    assert tuple(picture[61, 50]) == (153, 0, 0)
    assert picture[:, :20].max() == 0


def test_points_that_fall_together() -> None:
    points = np.full((5, 2), 30, np.float32)
    np.testing.assert_array_equal(draw(points, (60, 60)), drawn(points, 60, 60))
