"""Given pictures: where the part that is drawn lies in the whole, and concepts that have no place in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omg_ext.comprehension.base import Instance
from omg_ext.comprehension.confine import confined
from omg_ext.comprehension.masks import decode_mask, encode_mask
from omg_ext.comprehension.places import Finding, Places
from omg_ext.errors import OMGError
from omg_ext.passes.given import too_little
from omg_ext.request import Request, parse_request
from omg_ext.webui.frame import OUTSIDE, Frame

# of a picture of 200 x 100 the part from (40, 20) on, 80 x 40, drawn as 160 x 80
FRAME = Frame(size=(80, 160), whole=(100, 200), crop=(40, 20, 80, 40))
# a narrow part, at the left border, drawn as a square: it stands in its middle
NARROW = Frame(size=(64, 64), whole=(100, 100), crop=(0, 20, 20, 40))


def asked(frame: Frame, **where: object) -> tuple[Request, dict[int, str]]:
    concept = {"prompt": "a knight", "phrase": "man", "where": where}
    return frame.asked(parse_request({"concepts": [concept], "mask": {"grow": 0.1, "feather": 0.05}}))


@pytest.mark.parametrize(("frame", "where", "wanted"), [
    (FRAME, {"point": [0.4, 0.4]}, (0.5, 0.5)),
    (FRAME, {"point": [0.3, 0.3]}, (0.25, 0.25)),
    (FRAME, {"box": [0.3, 0.3, 0.5, 0.5]}, (0.25, 0.25, 0.75, 0.75)),
    (FRAME, {"outline": [0, 0, 0.4, 0.4]}, (0, 0, 0.5, 0.5)),
    (FRAME, {"overlap": [0, 0, 1, 1]}, (0, 0, 1, 1)),
    (NARROW, {"point": [0.1, 0.4]}, (0.5, 0.5)),
    (NARROW, {"box": [0, 0.3, 0.1, 1]}, (0, 0.25, 0.5, 1)),
], ids=str)
def test_places_are_those_of_the_part(frame: Frame, where: dict[str, list[float]], wanted: tuple[float, ...]) -> None:
    request, outside = asked(frame, **where)
    assert not outside
    made = request.concepts[0].where
    assert made is not None
    assert made.kind == next(iter(where))
    assert getattr(made, made.kind) == pytest.approx(wanted)


def test_masks_edges_stay_as_wide_as_they_are() -> None:
    request, _ = asked(FRAME, index=1)
    assert request.concepts[0].where is not None
    assert request.concepts[0].where.index == 1
    # a tenth of 200 pixels is a quarter of the part's 80
    assert (request.mask.grow, request.mask.feather) == pytest.approx((0.25, 0.125))


@pytest.mark.parametrize("where", [
    {"point": [0.1, 0.1]}, {"box": [0, 0, 0.2, 1]}, {"overlap": [0.6, 0, 1, 1]}, {"outline": [0, 0.6, 1, 1]},
    {"mask": encode_mask(np.pad(np.ones((10, 200), np.float32), ((0, 90), (0, 0))))},
], ids=lambda where: next(iter(where)))
def test_what_lies_outside_has_no_place(where: dict[str, object]) -> None:
    request, outside = asked(FRAME, **where)
    assert outside == {0: OUTSIDE}
    assert not request.concepts[0].needs_detection


@pytest.mark.parametrize("frame", [FRAME, NARROW], ids=["as wide", "narrow"])
def test_a_mask_goes_there_and_back(frame: Frame) -> None:
    assert frame.crop is not None
    left, top = frame.crop[:2]
    mask = np.zeros(frame.whole, np.float32)
    mask[top + 10:top + 30, left + 5:left + 15] = 1
    request, _ = asked(frame, mask=encode_mask(mask))
    where = request.concepts[0].where
    assert where is not None
    here = decode_mask(str(where.mask), "mask")
    assert here.shape == frame.size
    places = Places(torch.zeros(1, 1, 1, 8, 8), [[here]], [[Finding(Instance(here, 1.0), {"man": 1.0}, 0)]])
    shown = frame.shown(places)
    back = shown.masks[0][0]
    assert back is not None
    assert np.abs(back - mask).mean() < 0.01
    assert shown.findings[0][0].instance.mask.shape == frame.whole


def test_a_whole_picture_is_left_as_it_is() -> None:
    frame = Frame((64, 64), (64, 64))
    request, outside = asked(frame, point=[0.2, 0.9])
    assert (request, outside) == (asked(frame, point=[0.2, 0.9])[0], {})
    places = Places(torch.zeros(1, 1, 1, 8, 8), [[None]])
    assert frame.shown(places) is places


def places_of(*masks: np.ndarray) -> tuple[Request, Places]:
    request = parse_request({"concepts": [{"prompt": "a knight", "where": {"box": [0, 0, 1, 1]}} for _ in masks]})
    return request, Places(torch.full((len(masks), 1, 1, 8, 8), 0.5), [list(masks)])


def test_concepts_that_miss_the_inpaint_mask_are_left_out() -> None:
    """What overlapped with them is theirs alone, then."""
    upper, lower, whole = (np.zeros((64, 64), np.float32) for _ in range(3))
    upper[:32], lower[32:], whole[:] = 1, 1, 1
    drawn = np.pad(np.ones((4, 8), np.float32), ((4, 0), (0, 0)))
    request, places = places_of(upper, whole)
    made = confined(places, request, drawn, {}, (8, 8))
    assert made.masks[0][0] is None
    assert made.weights[0].max() == 0
    assert made.weights[1].min() == 1
    assert made.warnings == ["concepts[0]: its place lies outside of the inpaint mask, so this concept is left out"]
    with pytest.raises(OMGError, match=r"concepts\[0\]: its place"):
        confined(places, parse_request({"concepts": [{"prompt": "a", "where": {"box": [0, 0, 1, 1]}}] * 2,
                                        "strict": True}), drawn, {}, (8, 8))
    request, places = places_of(lower, whole)
    assert confined(places, request, drawn, {}, (8, 8)) is places
    assert confined(places, request, None, {1: "gone"}, (8, 8)).masks[0][1] is None


@pytest.mark.parametrize(("strength", "steps", "said"), [
    (0.1, 0, "0.1 leaves none"), (0.1, 3, "0.1 leaves only 3"), (0.1, 4, ""), (1, 3, "")])
def test_few_steps_are_said(strength: float, steps: int, said: str) -> None:
    assert [said in warning for warning in too_little(strength, steps)] == [True] * bool(said)
