"""Which class of a detector a phrase means."""

from __future__ import annotations

import pytest

from omg_ext.comprehension.people import class_for

WORLD = ("man", "woman", "dog", "robot")
COCO = ("person", "bicycle", "car", "bear", "teddy bear", "dog", "fire_hydrant")


@pytest.mark.parametrize(("phrase", "names", "expected"), [
    ("man", WORLD, "man"), ("woman", WORLD, "woman"), ("Men", WORLD, "man"), ("two old men", WORLD, "man"),
    ("1girl", COCO, "person"), ("an old man with a dog", WORLD, "man"), ("robot dog", WORLD, "dog"),
    ("dog robot", WORLD, "robot"), ("teddy bear", COCO, "teddy bear"), ("brown bears", COCO, "bear"),
    ("fire hydrant", COCO, "fire_hydrant"), ("person", COCO, "person"), ("people", COCO, "person"),
    ("woman in a red dress", COCO, "person"), ("knight", COCO, "person"), ("young prince", COCO, "person"),
    ("castle", COCO, None), ("dogma", WORLD, None), ("person", WORLD, None), ("girl", WORLD, None),
    ("man", ("Man", "person"), "Man"), ("boy", ("face",), None)])
def test_class_for(phrase, names, expected):
    number = class_for(phrase, dict(enumerate(names)))
    assert (None if number is None else names[number]) == expected
