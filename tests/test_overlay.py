"""The picture of who is where, on drawn arrays, and a preview on a diffusers pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omg_ext.comprehension import Instance
from omg_ext.comprehension.overlay import COLOURS, NOBODYS, overlay
from omg_ext.comprehension.places import Finding
from tests.test_comprehension import disc

GREY = np.full((256, 384, 3), 90, np.uint8)


def finding(x: float, concept: int | None, phrase: str = "man") -> Finding:
    return Finding(Instance(disc(x, 0.5, 0.1, 64, 96).astype(np.float32), 1.0), {phrase: 1.0}, concept)


def mask(x: float) -> np.ndarray:
    return disc(x, 0.5, 0.1, 256, 384).astype(np.float32)


def colours_in(picture: np.ndarray, where: np.ndarray) -> list[tuple[int, ...]]:
    """Of the known colours those that are there in full: outlines and labels."""
    pixels = {tuple(pixel) for pixel in picture[where > 0.5].tolist()}
    return [colour for colour in (*COLOURS, NOBODYS) if colour in pixels]


def test_each_concept_has_its_colour_and_nobodys_things_are_grey() -> None:
    findings = [finding(0.2, 1), finding(0.5, None), finding(0.8, 0)]
    shown = overlay(GREY, findings, [mask(0.8), mask(0.2)], ["man", "man"])
    assert shown.shape == GREY.shape
    assert [colours_in(shown, mask(x)) for x in (0.8, 0.2, 0.5)] == [[COLOURS[0]], [COLOURS[1]], [NOBODYS]]
    outside = ~np.any([disc(x, 0.5, 0.13, 256, 384) for x in (0.2, 0.5, 0.8)], axis=0)
    outside[110:150] = False  # labels are wider than what they name
    np.testing.assert_array_equal(shown[outside], GREY[outside])


def test_a_given_mask_is_shown_and_a_missing_one_is_not() -> None:
    shown = overlay(GREY, [], [mask(0.3), None], ["", "cat"])
    assert colours_in(shown, np.ones_like(mask(0))) == [COLOURS[0]]


@pytest.mark.parametrize("x", [0.0, 1.0])
def test_labels_stay_in_the_picture(x: float) -> None:
    """The label's box is as large as in the middle."""
    sizes = [(np.asarray(overlay(GREY, [], [mask(place)], ["man"])) == COLOURS[0]).all(2).sum(1).max()
             for place in (x, 0.5)]
    assert sizes[0] >= 0.95 * sizes[1]


def test_no_label_hides_another() -> None:
    """Both are as large as each alone."""
    places = [mask(0.45), mask(0.5), mask(0.55)]
    together = overlay(GREY, [], places, ["man"] * 3)
    for number, place in enumerate(places):
        alone = overlay(GREY, [], [None] * number + [place], ["man"] * (number + 1))
        widths = [(picture == COLOURS[number]).all(2).sum(1).max() for picture in (together, alone)]
        assert widths[0] >= 0.9 * widths[1]


def test_any_name_and_any_number_of_concepts() -> None:
    overlay(GREY, [], [mask(0.5)] * 20, ["猫 😀 ü"] * 20)


@pytest.mark.parametrize("place", [0.2, 0.75, None])
def test_of_the_rest_the_outline_alone_is_shown(place: float | None) -> None:
    """Beside the others', and a label where it hides least; else most of the picture would be of its colour."""
    other = np.zeros_like(mask(0)) if place is None else mask(place)
    rest = 1 - other
    names = ["man", ""]
    shown = overlay(GREY, [], [None if place is None else other, rest], names, rest=1)
    expected = overlay(GREY, [], [None if place is None else other, None], names)
    changed = (shown != expected).any(2)
    assert changed[0].all()
    assert changed[:, -1].all()
    assert not changed[other > 0.5].any()
    assert 0.01 < changed.mean() < 0.12
    tinted = overlay(GREY, [], [None if place is None else other, rest], names)
    assert (tinted != expected).any(2).mean() > 0.9


def test_the_label_of_the_rest_gives_way() -> None:
    """To those of things in it; with a phrase it says that."""
    alone = overlay(GREY, [], [np.ones_like(mask(0))], ["park"], rest=0)
    beside = overlay(GREY, [finding(0.5, None)], [np.ones_like(mask(0))], ["park"], rest=0)
    widths = [(picture[4:-4, 4:-4] == COLOURS[0]).all(2).sum(1).max() for picture in (alone, beside)]
    assert widths[0] == widths[1] > 20
    named, unnamed = ((overlay(GREY, [], [np.ones_like(mask(0))], [name], rest=0) != GREY).any(2).sum()
                      for name in ("park", ""))
    assert unnamed > named


def test_preview_on_a_pipeline() -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed in this environment")
    from tests.diffusers_host import generate, pipeline

    pipe = pipeline()
    request = {"concepts": [{"phrase": "man", "prompt": ""}]}
    whole = generate(pipe, {"concepts": [{"phrase": "man", "prompt": "a dog"}], "show": ["overlay"]}, "a man")
    result = generate(pipe, {**request, "preview": True}, "a man")
    assert torch.equal(result.latents, whole.first_pass_latents)
    assert not torch.equal(whole.latents, whole.first_pass_latents)
    np.testing.assert_array_equal(result.masks[0][0], whole.masks[0][0])
    np.testing.assert_array_equal(np.asarray(result.overlay[0]), np.asarray(whole.overlay[0]))
    assert [each.concept for each in result.findings[0]].count(0) == 1


def test_things_are_numbered_by_phrase() -> None:
    """As ``where.index`` counts them: of two men and a woman she is the first."""
    woman = finding(0.85, 0, "woman")
    alone = overlay(GREY, [woman], [mask(0.85)], ["woman"])
    beside = overlay(GREY, [finding(0.15, None), finding(0.4, None), woman], [mask(0.85)], ["woman"])
    np.testing.assert_array_equal(beside[:, 280:], alone[:, 280:])
