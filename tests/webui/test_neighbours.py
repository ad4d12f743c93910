"""Beside other extensions: they act on concepts as on any picture, or are refused; theirs is left as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.webui.host import ApiError, WebUI, distance
from tests.webui.test_api import LEFT, LONG, PROMPT, RIGHT, WHOLE, assert_close, assert_is_plain, concept, omg, request

pytestmark = pytest.mark.webui


COMBINES = pytest.mark.not_in_forge("it has no such place; see test_forge.py")


@pytest.fixture(autouse=True)
def alone_again(webui: WebUI) -> Iterator[None]:
    """Whatever a test switches on is off after it."""
    yield
    webui.doubles()


@pytest.mark.parametrize("sampler", ["Euler a", "DDIM", "DDIM CFG++"])
@pytest.mark.parametrize("double", [pytest.param("threshold", marks=COMBINES), "rescale", "forward"])
def test_guidance_of_others_acts_on_concepts(webui: WebUI, double: str, sampler: str) -> None:
    """*everywhere is plain*"""
    without = webui.txt2img(prompt=PROMPT, sampler_name=sampler).image
    webui.doubles(double)
    assert distance(webui.txt2img(prompt=PROMPT, sampler_name=sampler).image, without) > 1
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-lora:1>", sampler_name=sampler, batch_size=2)


@pytest.mark.parametrize("double", ["threshold", "rescale", "forward"])
def test_guidance_of_others_and_an_empty_second_pass(webui: WebUI, double: str) -> None:
    """*empty second pass*"""
    webui.doubles(double)
    plain = webui.txt2img().image
    data = {"concepts": [concept("a red car <lora:sdxl-lora:1>")], "blend_start": 1}
    np.testing.assert_array_equal(omg(webui, data).image, plain)


def test_what_others_have_put_on_the_sampler_is_put_back(webui: WebUI) -> None:
    """*nothing remains*, and nothing of theirs is taken away."""
    webui.doubles("forward")
    omg(webui, request(concept("a red car", LEFT)))
    assert webui.doubles_saw()["forward stays"] is True


def test_extension_that_changes_the_batch_is_refused(webui: WebUI) -> None:
    webui.doubles("split")
    with pytest.raises(ApiError, match="another extension or setting changes the batch") as caught:
        omg(webui, {"concepts": [concept("a red car", LEFT)], "blend_start": 0})
    assert caught.value.status == 422


@pytest.mark.not_in_forge("it finds the layers that it merges into by their names")
def test_what_others_have_put_into_the_unet_is_out_again(webui: WebUI) -> None:
    """*everywhere is plain*: the second pass begins with the blocks that the first began with."""
    without = webui.txt2img(prompt=PROMPT).image
    webui.doubles("wraps")
    assert distance(webui.txt2img(prompt=PROMPT).image, without) > 1
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-lora:1>", n_iter=2)


def test_hooks_of_others_on_attention_are_refused_by_name(webui: WebUI) -> None:
    webui.doubles("hooks attention")
    with pytest.raises(ApiError, match=r"omg-test-support changes attention layers.*turn it off") as caught:
        omg(webui, request(concept("a red car")))
    assert caught.value.status == 422


def test_what_samples_in_a_way_of_its_own_is_told(webui: WebUI) -> None:
    """The sampler that OMG waits for is never asked."""
    webui.doubles("samples itself")
    assert "the concepts were not drawn" in omg(webui, request(concept("a red car"))).info["infotexts"][0]
    webui.doubles()
    assert "not drawn" not in omg(webui, request(concept("a red car"))).info["infotexts"][0]


@pytest.mark.parametrize("double", ["counts", "once"])
@pytest.mark.parametrize("blend_start", [0, 0.3])
def test_what_counts_steps_sees_the_first_pass_again(webui: WebUI, double: str, blend_start: float) -> None:
    """*empty second pass*, *everywhere is plain*"""
    without = webui.txt2img(prompt=PROMPT).image
    webui.doubles(double)
    plain = webui.txt2img(prompt=PROMPT).image
    assert distance(plain, without) > 1
    data = {"concepts": [concept(PROMPT)], "blend_start": blend_start, "predict": "separate"}
    assert_close(omg(webui, data, prompt=PROMPT).image, plain)
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-lora:1>", n_iter=2)


@pytest.mark.parametrize(("double", "deed"), [
    pytest.param("own guidance", "evaluates the model for guidance of its own", marks=COMBINES),
    ("noisy prompt", "changes the prompts or the predictions")])
def test_what_does_not_reach_concepts_is_refused_by_name(webui: WebUI, double: str, deed: str) -> None:
    without = webui.txt2img(prompt=PROMPT).image
    webui.doubles(double)
    assert distance(webui.txt2img(prompt=PROMPT).image, without) > 1
    with pytest.raises(ApiError, match=rf"other extensions: omg-test-support {deed}.*turn it off") as caught:
        omg(webui, request(concept("a red car")))
    assert caught.value.status == 422


@pytest.mark.parametrize("payload", [
    {"s_min_uncond": 4}, {"override_settings": {"skip_early_cond": 0.4}},
    {"s_min_uncond": 4, "override_settings": {"s_min_uncond_all": True}}], ids=str)
def test_steps_without_unconditional_rows(webui: WebUI, payload: dict[str, Any]) -> None:
    """*everywhere is plain*, where the host itself leaves guidance out."""
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-lora:1>", sampler_name="Euler a", **payload)


NEGPIP: dict[str, Any] = {"NegPiP": {"args": [True]}}


@pytest.mark.parametrize(("main", "own", "message"), [
    ("a street, (cars:-1)", PROMPT, "NegPiP: it puts the main prompt's words"),
    ("a street", f"{PROMPT}, (red:-1.2)", "NegPiP reads \\(red:-1.2\\) in the main prompts only")])
def test_negpip_is_refused_where_it_acts(webui: WebUI, main: str, own: str, message: str) -> None:
    webui.doubles("negpip")
    scripts = {"OMG": {"args": [request(concept(own))]}, **NEGPIP}
    with pytest.raises(ApiError, match=message) as caught:
        webui.txt2img(prompt=main, alwayson_scripts=scripts)
    assert caught.value.status == 422


def test_negpip_is_let_be_where_it_does_nothing(webui: WebUI) -> None:
    """It is on at every start for many. Without it the web UI gives a negative weight a meaning of its own."""
    webui.doubles("negpip")
    plain = webui.txt2img(prompt=PROMPT).image
    scripts = {"OMG": {"args": [request(concept(PROMPT))]}, **NEGPIP}
    assert_close(webui.txt2img(prompt="a street", alwayson_scripts=scripts).image, plain)
    assert_is_plain(webui, f"{PROMPT}, (red:-1.2)")


@pytest.mark.not_in_forge("its ControlNet is another one")
@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "negative_prompt": LONG}, {"sampler_name": "DDIM"},
                                     {"override_settings": {"batch_cond_uncond": False}}], ids=str)
@pytest.mark.parametrize("checkpoint", ["tiny-sdxl", "tiny-sd15"])
def test_marked_rows_are_controlled_as_the_pictures(webui: WebUI, checkpoint: str, payload: dict[str, Any]) -> None:
    """*everywhere is plain*, with a unit that acts on conditional rows alone ("ControlNet is more important")."""
    webui.set_checkpoint(checkpoint)
    without = webui.txt2img(prompt=PROMPT, **payload).image
    webui.doubles("marks")
    assert distance(webui.txt2img(prompt=PROMPT, **payload).image, without) > 1
    assert_is_plain(webui, PROMPT, **payload)


@pytest.mark.not_in_forge("its ControlNet is another one")
@pytest.mark.parametrize(("unit", "name"), [
    ("ControlNet inpaint_only+lama", "inpaint_only+lama"), ("InstantID instant_id_face_keypoints", "InstantID"),
    ("ReVision revision_clipvision", "ReVision"), ("T2I_StyleAdapter clip_vision", "T2I_StyleAdapter")])
def test_units_that_do_not_reach_concepts_are_refused(webui: WebUI, unit: str, name: str) -> None:
    webui.doubles(f"marks {unit}")
    with pytest.raises(ApiError, match=rf"ControlNet: a unit with {re.escape(name)} .*turn this unit off"):
        omg(webui, request(concept("a red car", LEFT), concept("a dog", RIGHT)))


# --- broken off ---

def test_hires_of_a_skipped_picture_does_not_use_another_batchs_places(webui: WebUI) -> None:
    """The second batch is skipped in its first pass, so that nobody knows where its concepts are."""
    steps, hires = 6, {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.7}
    found = request({"phrase": "man", "prompt": f"{PROMPT} <lora:sdxl-lora:1>"})
    pictures = []
    for draw in (webui.txt2img, partial(omg, webui, found)):
        webui.doubles()
        draw(steps=steps, **hires)
        webui.doubles(f"skip {webui.doubles_saw()['UNet calls'] + 3}")
        pictures.append(draw(steps=steps, n_iter=2, **hires))
    plain, made = pictures
    assert len(made.images) == len(plain.images) == 2
    assert distance(made.images[0], plain.images[0]) > 1
    np.testing.assert_array_equal(made.images[1], plain.images[1])
    assert "OMG found" in made.info["infotexts"][0]
    assert "OMG found" not in made.info["infotexts"][1]


# --- networks ---

@pytest.mark.not_in_forge("it merges networks before it samples")
def test_weights_are_merged_in_forward_calls_alone(webui: WebUI) -> None:
    """Under --medvram the UNet lies on the CPU before, where half precision has no arithmetic."""
    webui.doubles()
    data = request(*[concept(f"{PROMPT} <lora:sdxl-{kind}:1>", where)
                     for kind, where in (("loha", LEFT), ("dora", RIGHT))])
    omg(webui, data, prompt="a street <lora:sdxl-style:0.7>")
    assert webui.doubles_saw()["applied outside"] == []


@pytest.mark.not_in_forge("it merges networks before it samples")
def test_files_are_read_once(webui: WebUI) -> None:
    """However many batches and hires passes there are."""
    webui.doubles()
    data = request(concept(f"{PROMPT} <lora:sdxl-lora:1>", LEFT), concept("a dog <lora:sdxl-other:1>", RIGHT))
    omg(webui, data, n_iter=2, steps=3, enable_hr=True, hr_upscaler="Latent", hr_scale=1.5, denoising_strength=0.6)
    assert webui.doubles_saw()["files read"] == 2


def test_full_weights_beyond_their_memory(webui: WebUI) -> None:
    """They are made anew in every call, and the picture is the same."""
    data = request(concept(f"{PROMPT} <lora:sdxl-{WHOLE}:1>", LEFT), concept("a dog <lora:sdxl-full:1>", RIGHT))
    kept = omg(webui, data, steps=3).image
    made_anew = omg(webui, data, steps=3, override_settings={"omg_full_budget_mb": 0}).image
    np.testing.assert_array_equal(made_anew, kept)


# --- failures ---

DATA = {"concepts": [concept("a red car", LEFT)], "blend_start": 0}


@pytest.mark.parametrize(("double", "reason"), [
    ("out of memory 8", "does not fit into graphics memory"), ("fault 9", "ZeroDivisionError: a stand-in for a fault")])
def test_failed_second_pass_leaves_the_first_picture(webui: WebUI, double: str, reason: str) -> None:
    plain = webui.txt2img().image
    webui.doubles(double)
    result = omg(webui, DATA)
    np.testing.assert_array_equal(result.image, plain)
    assert any(reason in comment for comment in result.comments)
    assert reason in result.info["infotexts"][0]


def test_failed_second_pass_is_an_error_if_strict(webui: WebUI) -> None:
    webui.doubles("out of memory 8")
    with pytest.raises(ApiError, match="graphics memory") as caught:
        omg(webui, {**DATA, "strict": True})
    assert caught.value.status == 422


def test_first_pass_that_does_not_fit_while_it_records(webui: WebUI) -> None:
    """It goes on without what it kept, which is computed again later."""
    usual = omg(webui, DATA).image
    webui.doubles("out of memory once 3")
    result = omg(webui, DATA)
    assert_close(result.image, usual)
    assert result.comments == []


def test_failed_hires_pass_is_drawn_without_concepts(webui: WebUI) -> None:
    hires = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.6}
    webui.doubles("fault 25")  # calls 0 to 7 are the first pass, 8 to 23 the second
    result = omg(webui, DATA, **hires)
    assert result.image.shape == (192, 192, 3)
    assert result.image.std() > 5
    assert any("upscaled without them: ZeroDivisionError" in comment for comment in result.comments)


def test_warnings_are_those_of_their_own_picture(webui: WebUI) -> None:
    """Of two batches the second draws its concept."""
    webui.doubles("fault 9")
    result = omg(webui, DATA, n_iter=2)
    failed = ["OMG warnings" in text for text in result.info["infotexts"]]
    assert failed == [True, False]


def test_batch_in_which_one_row_fits(webui: WebUI) -> None:
    """Rows are halved until they fit, for the picture's own and the concepts'."""
    usual = omg(webui, DATA, batch_size=2).images
    webui.doubles("rows 1")
    for made, wanted in zip(omg(webui, DATA, batch_size=2).images, usual, strict=True):
        assert_close(made, wanted)
