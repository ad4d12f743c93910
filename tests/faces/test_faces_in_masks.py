"""Which face is in whose place."""

from __future__ import annotations

import numpy as np
import pytest

from omg_ext.faces.analysis import Face
from omg_ext.faces.places import NO_FACE, in_masks
from tests.models.tiny_faces import box, points

SIZE = 400


def face(x: float, y: float, half: float = 40) -> Face:
    return Face(np.array(box(x, y, half), np.float32), points(x, y, half).astype(np.float32), 0.9)


def mask(left: float, right: float, top: float = 0, bottom: float = SIZE) -> np.ndarray:
    made = np.zeros((SIZE, SIZE), np.float32)
    made[int(top):int(bottom), int(left):int(right)] = 1
    return made


LEFT, RIGHT = face(100, 100), face(300, 100)


def test_each_in_its_own() -> None:
    assert in_masks([LEFT, RIGHT], [mask(0, 200), mask(200, 400)]) == [LEFT, RIGHT]
    assert in_masks([LEFT, RIGHT], [mask(200, 400), mask(0, 200)]) == [RIGHT, LEFT]


def test_a_shape_leaves_out_the_boxs_corners() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    shape = (np.hypot((x - 100) / 36, (y - 100) / 40) <= 1).astype(np.float32)
    assert in_masks([LEFT], [shape]) == [LEFT]


@pytest.mark.parametrize(("edge", "is_in"), [(100 + 12, True), (100 - 20, False)])
def test_most_of_it_has_to_be_inside(edge: float, is_in: bool) -> None:
    assert in_masks([LEFT], [mask(0, edge)]) == [LEFT if is_in else NO_FACE]


def test_soft_masks_count_by_weight() -> None:
    assert in_masks([LEFT], [mask(0, 200) * np.float32(0.4)]) == [NO_FACE]
    assert in_masks([LEFT], [mask(0, 200) * np.float32(0.8)]) == [LEFT]


def test_two_masks_around_one_face() -> None:
    """Who holds more of it takes it; if both hold all of it, who is smaller."""
    assert in_masks([LEFT], [mask(0, 120), mask(0, 400)]) == [NO_FACE, LEFT]
    assert in_masks([LEFT], [mask(0, 400), mask(0, 200)]) == [NO_FACE, LEFT]
    assert in_masks([LEFT], [mask(0, 200), mask(0, 400)]) == [LEFT, NO_FACE]


def test_two_masks_around_two_faces() -> None:
    """Nobody goes without because somebody else could take either."""
    assert in_masks([LEFT, RIGHT], [mask(0, 400), mask(0, 200)]) == [RIGHT, LEFT]


def test_several_faces_in_one_mask() -> None:
    """The larger; not a neighbour's that reaches in, be it larger."""
    shirt = face(100, 220, 20)
    assert in_masks([shirt, LEFT], [mask(0, 200)]) == [LEFT]
    neighbour = face(200, 100, 60)
    assert in_masks([LEFT, neighbour], [mask(0, 215)]) == [LEFT]


def test_too_small() -> None:
    small = face(100, 100, 15)
    [reason] = in_masks([small], [mask(0, 200)])
    assert reason == "the face in its place is too small: 30 x 30 pixels, and at least 40 x 40 are needed"
    assert in_masks([small], [mask(0, 200)], least_side=30) == [small]


def test_over_the_pictures_edge() -> None:
    half_out = face(10, 100)
    assert in_masks([half_out], [mask(0, 200)]) == [half_out]
    assert in_masks([face(-60, 100)], [mask(0, 200)]) == [NO_FACE]
    # nor is it on the other side
    assert in_masks([face(-60, 100)], [mask(200, 400)]) == [NO_FACE]


def test_nobody_there() -> None:
    assert in_masks([], [mask(0, 200), None]) == [NO_FACE, NO_FACE]
    assert in_masks([LEFT], []) == []
    assert in_masks([LEFT], [None, np.zeros((SIZE, SIZE), np.float32)]) == [NO_FACE, NO_FACE]
