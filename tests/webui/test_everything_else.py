"""A concept that takes all that no other one takes, in a real web UI."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.webui.host import WebUI, distance
from tests.webui.test_api import (
    LEFT,
    LONG,
    PROMPT,
    RIGHT,
    assert_close,
    assert_is_plain,
    concept,
    omg,
    request,
)
from tests.webui.test_ways import HIRES, UNGUIDED

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("nothing_left")]

WAYS = ("separate", "shared", "joint")
REST = {"rest": True}
SOFT = {"grow": 0.02, "feather": 0.05}


# --- *everywhere is plain*, *partition of unity* ---

@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "sampler_name": "DPM++ SDE"}, HIRES,
                                     {"negative_prompt": LONG, "override_settings": {"batch_cond_uncond": False}}],
                         ids=str)
def test_alone_it_is_the_plain_picture_of_its_prompt(webui: WebUI, payload: dict[str, Any]) -> None:
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-locon:1>", fields={"where": REST}, **payload)
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-full:1>", fields={"where": REST}, ways=WAYS, **{**UNGUIDED, **payload})


@pytest.mark.parametrize("payload", [{"batch_size": 2}, HIRES, {**HIRES, "hr_scale": 0.5, "width": 256}], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_beside_a_box_of_the_same_prompt_too(webui: WebUI, way: str, payload: dict[str, Any]) -> None:
    """Whatever the size: of a smaller one in the second sampling of Hires. fix, too."""
    prompt, payload = f"{PROMPT} <lora:sdxl-locon:1>", {**UNGUIDED, **payload}
    plain = webui.txt2img(prompt=prompt, **payload)
    boxes = concept(prompt, {"box": [0.1, 0.2, 0.6, 1]}), concept(prompt, {"box": [0.3, 0, 0.7, 0.8]})
    result = omg(webui, request(*boxes, concept(prompt, REST), predict=way, mask=SOFT), **payload)
    assert result.comments == []
    for made, wanted in zip(result.images, plain.images, strict=True):
        assert_close(made, wanted)


# --- what it is, and what is shown of it ---

@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_box_that_another_leaves(webui: WebUI, way: str) -> None:
    man, style = "a man <lora:sdxl-lora:1>", "a beach <lora:sdxl-style:1>"
    fields: dict[str, Any] = {"predict": way, "blend_start": 0.3, "show": ["masks", "overlay"]}
    rest, box = (omg(webui, request(concept(man, LEFT), concept(style, where), **fields)) for where in (REST, RIGHT))
    titles = [text.rpartition("OMG picture: ")[2] for text in rest.info["infotexts"]]
    for title, made, wanted in zip(titles, rest.images, box.images, strict=True):
        if title != "who is where":
            np.testing.assert_array_equal(made, wanted)
    first = webui.txt2img().image
    shown = rest.images[titles.index("who is where")]
    assert 0 < (shown != first).any(2)[:, 64:].mean() < 0.5
    alone = omg(webui, request(concept(man, LEFT), **{**fields, "show": []})).image
    assert distance(alone[:, 64:], rest.image[:, 64:]) > 2
    if not webui.is_forge:  # whose API fails on every infotext
        again = webui.generate({"infotext": rest.info["infotexts"][0]})
        np.testing.assert_array_equal(again.image, rest.image)


@pytest.mark.parametrize("fields", [{}, {"first_pass": "prefix", "blend_start": 0.4}], ids=str)
def test_beside_what_is_found(webui: WebUI, fields: dict[str, Any]) -> None:
    data = {"concepts": [concept("a beach <lora:sdxl-style:1>", REST), {"phrase": "man", "prompt": "a red car"}],
            "mask": SOFT, "show": ["masks"], **fields}
    result = omg(webui, data, batch_size=2, steps=6)
    assert not [comment for comment in result.comments if "blend_start" not in comment]
    assert len(result.images) == 6
    for rest, man in (result.images[2:4], result.images[4:]):
        total = rest.astype(int) + man
        assert total.min() >= 253
        assert total.max() <= 255
        assert 0 < rest.mean() < 255


def test_what_is_not_found_leaves_its_part_to_it(webui: WebUI) -> None:
    data = request({"phrase": "giraffe", "prompt": "a giraffe"}, concept(PROMPT, REST))
    result = omg(webui, data)
    assert_close(result.image, webui.txt2img(prompt=PROMPT).image)
    assert ["giraffe" in comment for comment in result.comments] == [True]


def test_where_nothing_is_left_it_is_left_out_with_a_warning(webui: WebUI) -> None:
    result = omg(webui, request(concept(PROMPT), concept("a beach", REST)))
    assert_close(result.image, webui.txt2img(prompt=PROMPT).image)
    assert ["nothing is left for where.rest" in comment for comment in result.comments] == [True]


def test_generate_goes_on_from_its_preview(webui: WebUI) -> None:
    data = request(concept("a man <lora:sdxl-lora:1>", LEFT), concept("a beach", REST), blend_start=0.3)
    fresh = omg(webui, data)
    seen = omg(webui, {**data, "preview": True})
    np.testing.assert_array_equal(seen.image, webui.txt2img().image)
    omg(webui, {**data, "preview": True})
    result = omg(webui, data)
    np.testing.assert_array_equal(result.image, fresh.image)
    assert any("is that of the preview" in comment for comment in result.comments)
    omg(webui, request(concept("a dog")), seed=99, steps=1)  # gives up what is kept
