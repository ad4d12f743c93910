"""The X/Y/Z plot over OMG's requests: each cell is the picture of its own request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.webui.host import ApiError, Result, WebUI, distance
from tests.webui.test_api import LEFT, RIGHT, concept, request

pytestmark = pytest.mark.webui

BACKGROUND = "a photo of a street"


@pytest.fixture(scope="module")
def axes(running: WebUI) -> list[str]:
    """The labels of the plot's axes; the API takes their numbers."""
    info = next(each for each in running.get("/sdapi/v1/script-info")
                if each["name"] == "x/y/z plot" and not each["is_img2img"])
    return [str(choice) for choice in info["args"][0]["choices"]]


def how(webui: WebUI) -> list[Any]:
    """No legend, the cells beside the grid, as many rows as it takes (which only Neo asks for), no margin, texts."""
    return [False, True, False, False, False, False, False, *([0] if webui.is_neo else []), 0, True]


def plot(webui: WebUI, axes: list[str], x: tuple[str, str], data: Any, y: tuple[str, str] = ("Nothing", ""),
         **payload: Any) -> Result:
    """The cells of a plot, after the grid."""
    args = [axes.index(x[0]), x[1], [], axes.index(y[0]), y[1], [], 0, "", [], *how(webui)]
    return webui.txt2img(prompt=BACKGROUND, script_name="x/y/z plot", script_args=args, alwayson_scripts={"OMG": data},
                         **payload)


def assert_cells(webui: WebUI, made: Result, requests: list[dict[str, Any]], apart: float = 1, **payload: Any) -> None:
    """Each cell equals the picture of its request, and no two are alike."""
    cells = made.images[-len(requests):]
    for cell, data in zip(cells, requests, strict=True):
        wanted = webui.txt2img(**{"prompt": BACKGROUND, **payload, "alwayson_scripts": {"OMG": {"args": [data]}}})
        np.testing.assert_array_equal(cell, wanted.image)
    assert all(distance(a, b) > apart for i, a in enumerate(cells) for b in cells[:i])


def accordion(prompt: str, negative: str) -> dict[str, Any]:
    """What the page would send: an empty API slot, then the fields of one concept."""
    return {"args": ["", True, 1, "attention", 0, 0, 0, 0, 0, False, [], "", "In a box", "0, 0, 1, 1", None, prompt,
                     negative, 1, 0]}


@pytest.mark.parametrize("form", ["slot", "fields"])
def test_search_and_replace_reaches_concept_prompts(webui: WebUI, axes: list[str], form: str) -> None:
    requests = [request(concept(f"a {colour} car")) for colour in ("red", "green")]
    for each in requests:
        del each["predict"]  # what the page starts with
    given = {"args": requests[:1]} if form == "slot" else accordion("a red car", "")
    made = plot(webui, axes, ("Prompt S/R", "red, green"), given)
    assert_cells(webui, made, requests)
    assert "a green car" in made.info["infotexts"][-1]


def test_search_and_replace_reaches_negative_prompts(webui: WebUI, axes: list[str]) -> None:
    requests = [request(concept("a knight", negative_prompt=words)) for words in ("ugly", "a red car")]
    made = plot(webui, axes, ("Prompt S/R", "ugly, a red car"), {"args": requests[:1]})
    assert_cells(webui, made, requests)


def test_search_and_replace_still_reaches_the_main_prompt(webui: WebUI, axes: list[str]) -> None:
    data = request(concept("a knight", LEFT))
    made = plot(webui, axes, ("Prompt S/R", "street, forest"), data)
    wanted = webui.txt2img(prompt="a photo of a forest", alwayson_scripts={"OMG": data})
    np.testing.assert_array_equal(made.images[-1], wanted.image)
    off = plot(webui, axes, ("Prompt S/R", "street, forest"), {"args": []})
    np.testing.assert_array_equal(off.images[-1], webui.txt2img(prompt="a photo of a forest").image)


def test_words_that_stand_nowhere_are_said(webui: WebUI, axes: list[str]) -> None:
    with pytest.raises(ApiError, match=r"did not find \W*zebra"):
        plot(webui, axes, ("Prompt S/R", "zebra, lion"), request(concept("a knight")))


def test_two_axes_meet(webui: WebUI, axes: list[str]) -> None:
    def data(colour: str, start: float) -> dict[str, Any]:
        return {**request(concept(f"a {colour} car")), "blend_start": start}

    made = plot(webui, axes, ("Prompt S/R", "red, green"), data("red", 0), ("[OMG] Blend start", "0, 0.5"))
    assert_cells(webui, made, [data("red", 0), data("green", 0), data("red", 0.5), data("green", 0.5)])


def test_fields_of_concepts_are_axes(webui: WebUI, axes: list[str]) -> None:
    def data(strength: float) -> dict[str, Any]:
        return request(concept("a man", LEFT, strength=strength), concept("a dog", RIGHT, strength=strength))

    made = plot(webui, axes, ("[OMG] Strength of all concepts", "0.2, 1"), data(0.7))
    assert_cells(webui, made, [data(0.2), data(1)])


def test_one_concepts_fields_are_axes(webui: WebUI, axes: list[str]) -> None:
    """The other concept's stay what they are."""
    def data(strength: float, scale: float | None) -> dict[str, Any]:
        scaled = {} if scale is None else {"cfg_scale": scale}
        return request(concept("a man <lora:sdxl-lora:1>", LEFT, cfg_scale=4, strength=0.9),
                       concept("a dog", RIGHT, strength=strength, **scaled))

    made = plot(webui, axes, ("[OMG] Strength of concept 2", "0.2, 1"), data(0.5, 6),
                ("[OMG] CFG scale of concept 2", "0, 9"))
    assert_cells(webui, made, [data(strength, scale) for scale in (None, 9) for strength in (0.2, 1)], apart=0.2)


def test_one_concepts_lora_weight_is_an_axis(webui: WebUI, axes: list[str]) -> None:
    def data(left: str, right: str) -> dict[str, Any]:
        return request(concept(f"a man <lora:sdxl-lora:{left}>", LEFT),
                       concept(f"a dog <lora:sdxl-locon:{right}>", RIGHT))

    made = plot(webui, axes, ("[OMG] LoRA weight of concept 1", "0, 1.5"), data("0.3:0.8", "1"),
                ("[OMG] LoRA weight of concept 2", "0.2, -1"))
    assert_cells(webui, made, [data(left, right) for right in ("0.2", "-1") for left in ("0", "1.5")], apart=0.2)
    assert "<lora:sdxl-lora:1.5>" in made.info["infotexts"][-1]


def test_whether_one_concept_is_drawn_is_an_axis(webui: WebUI, axes: list[str]) -> None:
    def data(left: bool, right: bool) -> dict[str, Any]:
        return request(concept("a man <lora:sdxl-lora:1>", LEFT, enabled=left),
                       concept("a dog <lora:sdxl-locon:1>", RIGHT, enabled=right))

    made = plot(webui, axes, ("[OMG] Draw concept 1", "on, off"), data(True, True),
                ("[OMG] Draw concept 2", "off, on"))
    assert_cells(webui, made, [data(left, right) for right in (False, True) for left in (True, False)], apart=0.2)


def test_layout_and_masks_are_axes(webui: WebUI, axes: list[str]) -> None:
    """How much of the layout is kept hardly shows in so small a model: see infotexts."""
    def data(grow: float, cross: float, own: float) -> dict[str, Any]:
        return request(concept("a man <lora:sdxl-lora:1>", {"box": [0.2, 0.2, 0.6, 0.6]}), blend_start=0.3,
                       mask={"grow": grow, "feather": 0}, layout={"cross": cross, "self": own})

    made = plot(webui, axes, ("[OMG] Grow masks", "0, 0.3"), data(0.1, 1, 0.4))
    assert_cells(webui, made, [data(grow, 1, 0.4) for grow in (0, 0.3)])
    made = plot(webui, axes, ("[OMG] Keep layout until", "0, 1"), data(0, 0.5, 0.4),
                ("[OMG] Keep outlines until", "0, 0.9"))
    assert_cells(webui, made, [data(0, cross, own) for own in (0, 0.9) for cross in (0, 1)], apart=0)


def test_detectors_are_an_axis(webui: WebUI, axes: list[str]) -> None:
    def data(detector: str) -> dict[str, Any]:
        return {"concepts": [{"phrase": "street", "prompt": "a red car <lora:sdxl-lora:1>"}], "detector": detector,
                "blend_start": 0}

    made = plot(webui, axes, ("[OMG] Detector", "attention, contrast"), data("attention"))
    assert_cells(webui, made, [data("attention"), data("contrast")], apart=0)


def test_ways_are_axes(webui: WebUI, axes: list[str]) -> None:
    """By the page's words, or the request's. Keeping the layout hardly shows in so small a model: see infotexts."""
    def data(predict: str, first_pass: str) -> dict[str, Any]:
        return {"concepts": [concept("a man <lora:sdxl-lora:1>", LEFT), concept("a dog <lora:sdxl-loha:1>", RIGHT)],
                "predict": predict, "first_pass": first_pass, "blend_start": 0}

    made = plot(webui, axes, ("[OMG] How to draw them", "Fastest: all in one go, separate"), data("shared", "whole"),
                ("[OMG] First picture", "Whole, prefix"))
    assert_cells(webui, made, [data(predict, first) for first in ("whole", "prefix")
                               for predict in ("joint", "separate")], apart=-1)
    cells = made.images[-4:]
    assert min(distance(cells[0], cells[1]), distance(cells[2], cells[3])) > 0
    assert ["prefix" in text for text in made.info["infotexts"][-4:]] == [False, False, True, True]


def test_both_ends_of_the_cfg_scale_are_axes(webui: WebUI, axes: list[str]) -> None:
    def data(scale: Any) -> dict[str, Any]:
        return request(concept("a man <lora:sdxl-lora:1>", LEFT, cfg_scale=scale), concept("a dog", cfg_scale=scale))

    made = plot(webui, axes, ("[OMG] CFG scale of all concepts", "4, 9"), data([6, 8]),
                ("[OMG] Final CFG scale of all concepts", "0, 1"))
    assert_cells(webui, made, [data(4), data(9), data([4, 1]), data([9, 1])])


def test_zero_of_an_axis_is_what_it_is_on_the_page(webui: WebUI, axes: list[str]) -> None:
    def data(**fields: Any) -> dict[str, Any]:
        return request(concept("a man <lora:sdxl-lora:1>", LEFT, **fields))

    made = plot(webui, axes, ("[OMG] CFG scale of all concepts", "0, 9"), data(cfg_scale=7))
    assert_cells(webui, made, [data(), data(cfg_scale=9)])
    made = plot(webui, axes, ("[OMG] LoRA guidance of all concepts", "0, 3"), data(lora_guidance=1))
    assert_cells(webui, made, [data(), data(lora_guidance=3)])


@pytest.mark.parametrize(("axis", "data", "reason"), [
    (("[OMG] How to draw them", "joint, quickly"), request(concept("a knight")), "predict: 'quickly' is unknown"),
    (("[OMG] Final CFG scale of all concepts", "0, 3"), request(concept("a knight")),
     r"concepts\[0\].cfg_scale: Concept 1: Final CFG scale is set, and CFG scale is not"),
    (("[OMG] Blend start", "0, 2"), request(concept("a knight")), "blend_start: .*at most 1"),
    (("[OMG] Blend start", "0, 1"), {"args": []}, "OMG is off"),
    (("[OMG] Strength of concept 2", "0, 1"), request(concept("a knight")), "no concept 2 for the axis, only 1"),
    (("[OMG] Strength of concept 1", "0, 2"), request(concept("a knight")), r"concepts\[0\].strength"),
    (("[OMG] LoRA weight of concept 1", "0, 1"), request(concept("a knight")), r"prompt: Concept 1 has no LoRAs"),
    (("[OMG] LoRA weight of concept 1", "0, 1"), request(concept("a <lora:sdxl-lora:1> <lora:sdxl-loha:1>")),
     r"prompt: Concept 1 has 2 LoRAs"),
    (("Prompt S/R", "knight, king"), request(concept("")), r"concepts\[0\].prompt"),
], ids=["unknown", "end alone", "out of range", "off", "no such concept", "out of one's range", "no LoRA",
        "two LoRAs", "refused request"])
def test_values_that_cannot_be_are_refused_before_the_first_cell(
        webui: WebUI, axes: list[str], axis: tuple[str, str], data: Any, reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as refused:
        plot(webui, axes, axis, data)
    assert refused.value.status == 422


def test_img2img_has_the_same_axes(webui: WebUI, axes: list[str]) -> None:
    info = next(each for each in webui.get("/sdapi/v1/script-info")
                if each["name"] == "x/y/z plot" and each["is_img2img"])
    there = [str(choice) for choice in info["args"][0]["choices"]]
    assert [axis for axis in there if "OMG" in axis] == [axis for axis in axes if "OMG" in axis]
    assert len(set(axes)) == len(axes)  # the host's labels are unique, too
    picture = webui.txt2img().image
    requests = [request(concept(f"a {colour} car", LEFT)) for colour in ("red", "green")]
    args = [there.index("Prompt S/R"), "red, green", [], 0, "", [], 0, "", [], *how(webui)]
    made = webui.img2img(picture, prompt=BACKGROUND, script_name="x/y/z plot", script_args=args,
                         alwayson_scripts={"OMG": requests[0]})
    for cell, data in zip(made.images[-2:], requests, strict=True):
        wanted = webui.img2img(picture, prompt=BACKGROUND, alwayson_scripts={"OMG": data})
        np.testing.assert_array_equal(cell, wanted.image)
    assert distance(*made.images[-2:]) > 1
