"""The detector `painted`: places are given, and a concept without one is refused before anything is drawn."""

from __future__ import annotations

import pytest

from omg_ext.comprehension import Models
from omg_ext.comprehension.places import given_masks
from omg_ext.errors import OMGError
from omg_ext.request import Concept, Request, Where

BOX = Concept(prompt="p", phrase="man", where=Where(box=(0, 0, 0.5, 1)))


def test_given_places_are_enough():
    request = Request(concepts=(BOX,), detector="painted")
    mask, = given_masks(request, (64, 64), (8, 8), Models())
    assert mask is not None


def test_the_shape_in_a_box_is_a_place_that_needs_a_segmenter(tmp_path):
    outline = Concept(prompt="p", where=Where(outline=(0, 0, 0.5, 1)))
    needed = r"concepts\[1\]\.where\.outline: `where\.outline` needs the file sam-vit-base/model\.safetensors .*Get it"
    with pytest.raises(OMGError, match=needed):
        given_masks(Request(concepts=(BOX, outline), detector="painted"), (64, 64), (8, 8),
                    Models(folders=[tmp_path], remedy="Get it"))


def test_a_concept_without_a_place_is_refused():
    request = Request(concepts=(BOX, Concept(prompt="p", phrase="dog")), detector="painted")
    with pytest.raises(OMGError, match=r"`painted` needs a box or a mask for every concept.*finds nothing by itself"):
        given_masks(request, (64, 64), (8, 8), Models())
