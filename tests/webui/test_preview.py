"""A preview: the first pass alone, with what was found in it; the Generate after it goes on from there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from tests.webui.host import DEFAULTS, ApiError, Result, WebUI, distance
from tests.webui.test_api import concept, omg, request

pytestmark = pytest.mark.webui

REUSED = "is that of the preview"


def data(prompt: str = "a knight <lora:sdxl-lora:1>", **fields: Any) -> dict[str, Any]:
    """A request whose concepts are found, with all of the layout kept."""
    return {"concepts": [{"phrase": "man", "prompt": prompt},
                         concept("a dog", {"box": [0.5, 0, 1, 1]})], "blend_start": 0.3, **fields}


def preview(webui: WebUI, given: dict[str, Any] | None = None, **payload: Any) -> Result:
    return omg(webui, {**(given or data()), "preview": True}, **payload)


def calls_of(webui: WebUI, draw: Callable[[], Result]) -> tuple[Result, int]:
    """A result, and how many predictions it took."""
    before = webui.denoiser_calls()
    return draw(), webui.denoiser_calls() - before


def told_while(webui: WebUI, draw: Callable[[WebUI], object]) -> list[str]:
    """What the progress line says, in turn, while something is drawn."""
    seen: list[str] = []
    is_done = threading.Event()

    def look() -> None:
        while not is_done.is_set():
            seen.append(webui.progress()["textinfo"])

    looking = threading.Thread(target=look)
    looking.start()
    draw(webui)
    is_done.set()
    looking.join()
    return [text for text, _ in groupby(text for text in seen if text)]


def is_reused(result: Result) -> bool:
    return any(REUSED in comment for comment in result.comments)


@pytest.fixture(autouse=True)
def nothing_kept(webui: WebUI) -> Iterator[None]:
    """Another picture with OMG gives up the first pass that was kept."""
    yield
    omg(webui, request(concept("a dog")), seed=99, steps=1)


def test_is_the_first_picture_and_who_is_where(webui: WebUI) -> None:
    plain = webui.txt2img()
    result = preview(webui)
    np.testing.assert_array_equal(result.image, plain.image)
    shown = result.images[1]
    assert shown.shape == plain.image.shape
    assert distance(shown, plain.image) > 5
    assert "OMG picture: who is where" in result.info["infotexts"][1]
    assert '"preview"' not in result.info["infotexts"][0]
    found = result.info["extra_generation_params"]["OMG found"]
    assert '"phrases": {"man":' in found[0]


@pytest.mark.parametrize("payload", [
    {}, {"sampler_name": "Euler a"}, {"sampler_name": "DPM++ SDE"}, {"batch_size": 2},
    {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}, {"n_iter": 2},
], ids=["plain", "ancestral", "sde", "batch", "hires", "batches"])
def test_generate_goes_on_from_it_to_the_bit(webui: WebUI, payload: dict[str, Any]) -> None:
    plain = calls_of(webui, lambda: webui.txt2img(**payload))[1]
    wanted, both = calls_of(webui, lambda: omg(webui, data(), **payload))
    assert not is_reused(wanted)
    preview(webui, **payload)
    result, calls = calls_of(webui, lambda: omg(webui, data(), **payload))
    assert is_reused(result)
    assert len(result.images) == len(wanted.images)
    for made, expected in zip(result.images, wanted.images, strict=True):
        np.testing.assert_array_equal(made, expected)
    assert result.info["infotexts"] == wanted.info["infotexts"]
    # only the first pass of the first batch is left out
    passes = payload.get("n_iter", 1) * (2 if payload.get("enable_hr") else 1)
    assert both - calls == plain / passes


@pytest.mark.parametrize("changed", [
    data("a king <lora:sdxl-loha:1>"), data("a knight"), data(mask={"grow": 0.1}), data(strict=True),
    {**data(), "concepts": [{"phrase": "man", "prompt": "a knight", "strength": 0.5, "cfg_scale": 9,
                             "negative_prompt": "ugly"}]},
    {**data(), "concepts": [concept("a knight", {"box": [0, 0, 0.5, 1]})]},
], ids=["LoRA", "prompt", "mask edges", "strict", "strength and guidance", "place"])
def test_what_only_the_second_pass_reads_may_change(webui: WebUI, changed: dict[str, Any]) -> None:
    wanted = omg(webui, changed, steps=4)
    preview(webui, steps=4)
    for _ in range(2):  # and change again
        result = omg(webui, changed, steps=4)
        assert is_reused(result)
        np.testing.assert_array_equal(result.image, wanted.image)


@pytest.mark.parametrize(("changed", "payload"), [
    (data(), {"seed": 8}), (data(), {"prompt": "a photo of a man and a cat"}), (data(), {"negative_prompt": "dark"}),
    (data(), {"steps": 5}), (data(), {"cfg_scale": 6}), (data(), {"sampler_name": "Heun"}),
    (data(), {"scheduler": "Karras"}), (data(), {"width": 192}), (data(), {"batch_size": 2}),
    (data(), {"subseed": 3, "subseed_strength": 0.2}), (data(), {"tiling": True}),
    (data(), {"prompt": "a photo of a man and a woman <lora:sdxl-style:0.5>"}), (data(), {"styles": ["words"]}),
    (data(), {"override_settings": {"CLIP_stop_at_last_layers": 2}}),
    (data(), {"override_settings": {"token_merging_ratio": 0.3}}),
    (data(blend_start=0.5), {}), (data(layout={"cross": 0.5}), {}),
    (data(detector="attention"), {}),
], ids=str)
def test_what_the_first_pass_depends_on_must_not(webui: WebUI, changed: dict[str, Any],
                                                 payload: dict[str, Any]) -> None:
    payload = {"steps": 4, **payload}
    preview(webui, steps=4)
    result = omg(webui, changed, **payload)
    assert not is_reused(result)
    np.testing.assert_array_equal(result.image, omg(webui, changed, **payload).image)


def test_another_picture_frees_it(webui: WebUI) -> None:
    omg(webui, data(), seed=8)
    before = webui.tensors()
    preview(webui)
    assert webui.tensors()["bytes"] > before["bytes"]
    omg(webui, data(), seed=8)
    assert webui.tensors() == before


def test_what_the_api_looks_at_is_no_preview(webui: WebUI) -> None:
    """Neither does it take the place of one, nor is it kept."""
    preview(webui)
    body = {"phrases": ["dog"], "txt2img": {**DEFAULTS, "prompt": "a dog", "seed": 9}}
    assert len(webui.post("/omg/v1/detect", body)["pictures"]) == 1
    assert is_reused(omg(webui, data()))


def test_needs_no_prompts_of_concepts(webui: WebUI) -> None:
    result = preview(webui, {"concepts": [{"phrase": "man", "prompt": ""}]})
    assert len(result.images) == 2
    with pytest.raises(ApiError, match=r"concepts\[0\].prompt"):
        omg(webui, {"concepts": [{"phrase": "man", "prompt": ""}]})


def test_says_what_was_not_found(webui: WebUI) -> None:
    result = preview(webui, {"concepts": [{"phrase": "giraffe", "prompt": ""}], "strict": True})
    assert any("no 'giraffe' was found" in comment for comment in result.comments)
    np.testing.assert_array_equal(result.image, webui.txt2img().image)


def test_overlay_of_a_whole_generation(webui: WebUI) -> None:
    plain = webui.txt2img().image
    result = omg(webui, data(show=["overlay"]))
    assert len(result.images) == 2
    assert distance(result.images[1], plain) < distance(result.images[1], result.image)


def test_progress_names_the_stage(webui: WebUI) -> None:
    """In the web UI's own progress line."""
    # a preview, and what goes on from it
    told = [text for draw in (preview, lambda webui: omg(webui, data())) for text in told_while(webui, draw)]
    assert told[0] == "OMG: first picture"
    assert told[-1] == "OMG: drawing the concepts"
    assert set(told) <= {"OMG: first picture", "OMG: finding the concepts", "OMG: drawing the concepts"}
    omg(webui, data())
    assert webui.progress()["textinfo"] is None


def test_a_random_seed_may_be_filled_in(webui: WebUI) -> None:
    seed = preview(webui, seed=-1).info["seed"]
    result = omg(webui, data(), seed=seed)
    assert is_reused(result)
    np.testing.assert_array_equal(result.image, omg(webui, data(show=["overlay"]), seed=seed).image)
