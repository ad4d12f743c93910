"""A refiner takes over in the middle of a sampling: the concepts are drawn up to there, and the picture is finished."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.webui.host import CHECKPOINTS, WebUI, distance, neo_is_tested, reforge_is_tested
from tests.webui.test_api import LEFT, PROMPT, assert_close, concept, omg, request
from tests.webui.test_img2img import SQUARE

pytestmark = [pytest.mark.webui, pytest.mark.host, pytest.mark.usefixtures("nothing_left"),
              pytest.mark.skipif(reforge_is_tested() or neo_is_tested(), reason="refused there: see test_forge.py")]

REFINER: dict[str, Any] = {"refiner_checkpoint": "tiny-sdxl-v", "refiner_switch_at": 0.5, "steps": 4}
ANOTHER_KIND = {**REFINER, "refiner_checkpoint": "tiny-sd15"}
HIRES: dict[str, Any] = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7,
                         "hr_upscaler": "Nearest"}
EMPTY = {"concepts": [concept("a red car <lora:sdxl-lora:1>")], "blend_start": 1}
RED = request(concept("a red car <lora:sdxl-lora:1>", LEFT))
NOTE = "from there on the concepts are not drawn"


@pytest.fixture(params=[10, 1])
def limit(webui: WebUI, request: pytest.FixtureRequest) -> Iterator[int]:
    """How many checkpoints stay loaded: with one the refiner takes the other model's place."""
    if webui.is_forge and request.param > 1:
        pytest.skip("not in Forge: it keeps one checkpoint loaded, whatever the setting")
    webui.options(sd_checkpoints_limit=request.param)
    yield request.param
    webui.set_checkpoint("tiny-sd15")
    webui.options(sd_checkpoints_limit=10)
    # all loaded again, this one last: the web UI takes embeddings of the size of the checkpoint that it read last
    for name in sorted(webui.checkpoints(), key=CHECKPOINTS[0].__eq__):
        webui.set_checkpoint(name)


def settings(**values: Any) -> dict[str, Any]:
    return {"override_settings": values}


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("payload", [
    {**REFINER, "sampler_name": "Euler a"}, {**ANOTHER_KIND, "batch_size": 2, "n_iter": 2},
    {**REFINER, "sampler_name": "DDIM", **settings(refiner_switch_by_sample_steps=True)},
], ids=str)
def test_empty_second_pass_is_the_picture_with_its_refiner(webui: WebUI, payload: dict[str, Any]) -> None:
    """*empty second pass*, bit for bit; the infotext names the refiner as the web UI does."""
    plain = webui.txt2img(**payload)
    result = omg(webui, EMPTY, **payload)
    assert distance(plain.image, webui.txt2img(**{**payload, "refiner_switch_at": 1}).image) > 1
    for made, wanted in zip(result.images, plain.images, strict=True):
        np.testing.assert_array_equal(made, wanted)
    assert all("Refiner: tiny-" in text for text in result.info["infotexts"])


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("refiner", [REFINER, ANOTHER_KIND], ids=["fits", "another kind"])
def test_concepts_are_drawn_until_it_takes_over(webui: WebUI, refiner: dict[str, Any]) -> None:
    """*everywhere is plain*: as a prompt that changes where the refiner begins. That blending ends is told."""
    payload = {**refiner, **settings(refiner_switch_by_sample_steps=True)}
    main = "a photo of a man and a woman"
    plain = webui.txt2img(prompt=f"[{PROMPT}:{main}:1]", **payload)  # the web UI counts steps from 0, the last included
    result = omg(webui, request(concept(PROMPT)), prompt=main, n_iter=2, **payload)
    assert_close(result.images[0], plain.image)
    assert distance(plain.image, webui.txt2img(prompt=main, **payload).image) > 2
    assert any(NOTE in comment for comment in result.comments)
    assert all(NOTE in text for text in result.info["infotexts"])


def test_concepts_that_would_begin_after_it(webui: WebUI) -> None:
    plain = webui.txt2img(**REFINER)
    result = omg(webui, {**RED, "blend_start": 0.8}, **REFINER)
    np.testing.assert_array_equal(result.image, plain.image)
    assert any("none of the sampler's steps comes after 0.8" in comment for comment in result.comments)
    assert any(NOTE in comment for comment in result.comments)


def test_where_nothing_is_found_the_picture_is_finished(webui: WebUI) -> None:
    plain = webui.txt2img(**ANOTHER_KIND)
    result = omg(webui, request({"phrase": "giraffe", "prompt": "a giraffe"}), **ANOTHER_KIND)
    np.testing.assert_array_equal(result.image, plain.image)
    assert not any(NOTE in comment for comment in result.comments)


@pytest.mark.usefixtures("limit")
def test_first_picture_is_shown_as_its_own_model_decodes_it(webui: WebUI) -> None:
    plain = webui.txt2img(**ANOTHER_KIND)
    shown = omg(webui, {**EMPTY, "show": ["first_pass", "masks"]}, **ANOTHER_KIND)
    assert len(shown.images) == 3
    np.testing.assert_array_equal(shown.images[0], plain.image)
    np.testing.assert_array_equal(shown.images[1], webui.txt2img(steps=4).image)


@pytest.mark.parametrize(("double", "said"), [("fault 5", "ZeroDivisionError"), ("skip 5", "it was broken off")])
def test_what_ends_before_it_leaves_the_first_picture(webui: WebUI, double: str, said: str) -> None:
    """Of the model that drew it, to its end."""
    plain = webui.txt2img(steps=4).image
    webui.doubles(double)
    result = omg(webui, RED, **ANOTHER_KIND)
    np.testing.assert_array_equal(result.image, plain)
    assert any(said in comment for comment in result.comments)


@pytest.mark.usefixtures("limit")
def test_what_ends_after_it_leaves_the_first_picture(webui: WebUI) -> None:
    """Its model is loaded again, whose autoencoder it needs, and the next picture is drawn as any."""
    plain = webui.txt2img(steps=4).image
    whole = omg(webui, RED, **ANOTHER_KIND, seed=8).image
    webui.doubles("skip denoiser 6")  # the first pass asks four times, the second twice before the refiner
    result = omg(webui, RED, **ANOTHER_KIND, n_iter=2)
    np.testing.assert_array_equal(result.images[0], plain)
    np.testing.assert_array_equal(result.images[1], whole)
    assert ["it was broken off" in text for text in result.info["infotexts"]] == [True, False]


@pytest.mark.parametrize("setting", ["second pass", "first pass", "both passes"])
def test_with_hires_fix(webui: WebUI, setting: str) -> None:
    """*empty second pass*, in whichever sampling the settings put it; the hires pass's concepts end there, too."""
    payload = {**HIRES, **REFINER, **settings(hires_fix_refiner_pass=setting)}
    plain = webui.txt2img(**payload)
    np.testing.assert_array_equal(omg(webui, EMPTY, **payload).image, plain.image)
    result = omg(webui, RED, **payload)
    assert distance(result.image, plain.image) > 1
    assert any(NOTE in comment for comment in result.comments)


@pytest.mark.parametrize(("start", "drawn"), [(0.2, True), (0.8, False)])
def test_with_both_passes_in_one(webui: WebUI, start: float, drawn: bool) -> None:
    plain = webui.txt2img(**REFINER)
    data = {**RED, "first_pass": "prefix", "blend_start": start}
    result = omg(webui, data, **REFINER)
    assert (distance(result.image, plain.image) > 1) is drawn
    assert any((NOTE if drawn else "another model took over before it") in comment for comment in result.comments)


def test_preview_is_the_picture_before_it(webui: WebUI) -> None:
    result = omg(webui, {**RED, "preview": True}, **REFINER)
    np.testing.assert_array_equal(result.images[0], webui.txt2img(steps=4).image)
    assert any("before the refiner" in comment for comment in result.comments)


def test_in_img2img(webui: WebUI) -> None:
    payload = {**REFINER, "steps": 8, "denoising_strength": 0.9}
    plain = webui.img2img(SQUARE, **payload)
    empty = webui.img2img(SQUARE, **payload, alwayson_scripts={"OMG": {"args": [EMPTY]}})
    np.testing.assert_array_equal(empty.image, plain.image)
    made = webui.img2img(SQUARE, **payload, alwayson_scripts={"OMG": {"args": [RED]}})
    assert distance(made.image, plain.image) > 1
    assert any(NOTE in comment for comment in made.comments)
