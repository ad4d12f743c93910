"""img2img and inpainting in a real web UI: a picture that is given takes the place of the first pass.

"Plain" is what the web UI makes of it without the request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from tests.webui.host import DEFAULTS, ApiError, Result, WebUI, distance
from tests.webui.test_api import (
    EVERYWHERE,
    LEFT,
    PROMPT,
    RIGHT,
    assert_close,
    concept,
    png,
    request,
)

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("nothing_left")]

# soft colours, 128 x 192: a result of 128 x 128 is resized
GIVEN = np.rint(255 * np.clip(0.5 + 4 * ndimage.gaussian_filter(
    np.random.default_rng(3).normal(size=(128, 192, 3)), (12, 12, 0)), 0, 1)).astype(np.uint8)
SQUARE = np.ascontiguousarray(GIVEN[:, :128])
MASK = np.zeros((128, 128), np.uint8)
MASK[32:96, 24:104] = 255
INPAINT: dict[str, Any] = {"mask": png(MASK), "mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": False}
ONLY_MASKED: dict[str, Any] = {**INPAINT, "inpaint_full_res": True, "inpaint_full_res_padding": 8}
WAYS = ("separate", "shared", "joint")


def over(webui: WebUI, data: Any, picture: np.ndarray = SQUARE, **payload: Any) -> Result:
    return webui.img2img(picture, alwayson_scripts={"OMG": {"args": [data]}}, **payload)


def assert_is_plain(webui: WebUI, prompt: str = f"{PROMPT} <lora:sdxl-lora:1>", picture: np.ndarray = SQUARE, *,
                    ways: Sequence[str] = ("separate",), least: float = 1, **payload: Any) -> None:
    """*everywhere is plain*: one concept everywhere is the plain picture of its prompt, at its price in steps.

    Args:
        least: how far that of the main prompt is from it.
    """
    before = webui.denoiser_calls()
    plain = webui.img2img(picture, **{**payload, "prompt": prompt})
    calls = webui.denoiser_calls() - before
    for way in ways:
        data = request(concept(prompt, cfg_scale=payload.get("cfg_scale", DEFAULTS["cfg_scale"])), predict=way)
        before = webui.denoiser_calls()
        made = over(webui, data, picture, **payload)
        assert webui.denoiser_calls() - before == calls
        assert len(made.images) == len(plain.images)
        for ours, wanted in zip(made.images, plain.images, strict=True):
            assert_close(ours, wanted)
    assert distance(plain.image, webui.img2img(picture, **payload).image) > least


# *off is off*, *empty second pass*

def test_disabled_request_changes_nothing(webui: WebUI) -> None:
    plain = webui.img2img(SQUARE)
    result = over(webui, {"enabled": False, "concepts": [concept("a red car")]})
    np.testing.assert_array_equal(result.image, plain.image)
    assert result.info["infotexts"] == plain.info["infotexts"]


@pytest.mark.parametrize("payload", [{"sampler_name": name} for name in ("Euler a", "DPM++ SDE", "DDIM", "UniPC")] + [
    {**INPAINT, "inpainting_fill": 0}, {**ONLY_MASKED, "batch_size": 2}], ids=str)
@pytest.mark.parametrize("data", [
    {"concepts": [concept("a red car <lora:sdxl-lora:1>")], "blend_start": 1},
    {"concepts": [{"phrase": "giraffe", "prompt": "a red car <lora:sdxl-lora:1>"}]},
], ids=["never blended", "not found"])
def test_what_draws_no_concept_changes_nothing(webui: WebUI, data: dict[str, Any], payload: dict[str, Any]) -> None:
    plain, made = webui.img2img(SQUARE, **payload), over(webui, data, **payload)
    assert len(made.images) == len(plain.images)
    for ours, wanted in zip(made.images, plain.images, strict=True):
        np.testing.assert_array_equal(ours, wanted)
    assert made.comments == [] or any("no 'giraffe' was found" in said for said in made.comments)


# *everywhere is plain*

# one of each kind: what a sampler does with a concept is tested in txt2img, with all of them
@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M SDE", "DPM++ SDE", "DDIM", "UniPC", "LCM"])
def test_concept_everywhere_with_samplers_of_every_kind(webui: WebUI, sampler: str) -> None:
    assert_is_plain(webui, sampler_name=sampler)


@pytest.mark.parametrize("payload", [
    {"denoising_strength": 0.2, "steps": 20}, {"denoising_strength": 1}, {"denoising_strength": 1, "steps": 3},
    {"denoising_strength": 0.6, "override_settings": {"img2img_fix_steps": True}},
    {"override_settings": {"img2img_extra_noise": 0.1}}, {"initial_noise_multiplier": 0.8},
    {"batch_size": 2}, {"n_iter": 2}, {"override_settings": {"batch_cond_uncond": False}},
    {"negative_prompt": "a portrait in shining armour, " * 12}, {"resize_mode": 1}, {"resize_mode": 2},
    {"resize_mode": 3}, {"width": 192, "height": 64}, {"s_min_uncond": 4},
], ids=str)
def test_concept_everywhere_however_it_is_asked_for(webui: WebUI, payload: dict[str, Any]) -> None:
    assert_is_plain(webui, picture=GIVEN, **payload)
    if payload.keys() & {"batch_size", "n_iter", "denoising_strength", "s_min_uncond"}:
        # without a network, as the others share the picture's unconditional rows
        assert_is_plain(webui, PROMPT, GIVEN, ways=("shared", "joint"), **payload)


@pytest.mark.parametrize("area", [INPAINT, ONLY_MASKED], ids=["whole", "only masked"])
@pytest.mark.parametrize("payload", [
    {}, {"inpainting_fill": 0}, {"inpainting_fill": 2}, {"inpainting_fill": 3}, {"mask_blur": 4},
    {"mask_blur": 4, "mask_round": False}, {"inpainting_mask_invert": 1}, {"batch_size": 2}, {"sampler_name": "DDIM"},
    pytest.param({"alwayson_scripts": {"Soft Inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}}, "mask_blur": 4},
                 marks=pytest.mark.not_in_forge("its Soft Inpainting leaves nothing of what is drawn here")),
], ids=str)
def test_concept_everywhere_within_a_mask(webui: WebUI, area: dict[str, Any], payload: dict[str, Any]) -> None:
    scripts = payload.get("alwayson_scripts", {})
    for sampler in (payload.get("sampler_name", "Euler"),):
        prompt, options = f"{PROMPT} <lora:sdxl-lora:1>", {**area, **payload, "sampler_name": sampler}
        plain = webui.img2img(SQUARE, **{**options, "prompt": prompt})
        own = request(concept(prompt, cfg_scale=DEFAULTS["cfg_scale"]))
        made = webui.img2img(SQUARE, **{**options, "alwayson_scripts": {**scripts, "OMG": own}})
        for ours, wanted in zip(made.images, plain.images, strict=True):
            assert_close(ours, wanted)
        assert distance(plain.image, webui.img2img(SQUARE, **options).image) > 0.5


@pytest.mark.parametrize("checkpoint", ["tiny-sdxl-v", "tiny-sd15"])
@pytest.mark.parametrize("payload", [{}, {"sampler_name": "DDIM"}, ONLY_MASKED], ids=["plain", "DDIM", "only masked"])
def test_concept_everywhere_on_other_models(webui: WebUI, checkpoint: str, payload: dict[str, Any]) -> None:
    webui.set_checkpoint(checkpoint)
    network = "sd15-locon" if checkpoint == "tiny-sd15" else "sdxl-locon"
    assert_is_plain(webui, f"{PROMPT} <lora:{network}:1>", least=0.5, **payload)
    assert_is_plain(webui, f"{PROMPT} <lora:{network}:1>", ways=WAYS, least=0.5, cfg_scale=1, **payload)


# places

@pytest.mark.parametrize(("way", "share"), [("joint", 1.5), ("shared", 2), ("separate", 3)])
def test_work_is_what_the_page_says(webui: WebUI, way: str, share: float) -> None:
    before = webui.denoiser_calls()
    made = over(webui, request(concept("a red car", LEFT), concept("a dog", RIGHT), predict=way))
    spent, = made.info["extra_generation_params"]["OMG run"]
    assert spent["second_pass"]["rows"] == share * 2 * (webui.denoiser_calls() - before)


def test_search_by_attention_is_work_too(webui: WebUI) -> None:
    """One look at the prompt at each of four levels of noise."""
    made = over(webui, {"concepts": [{"phrase": "man", "prompt": "a red car"}], "detector": "attention"})
    spent, = made.info["extra_generation_params"]["OMG run"]
    assert spent["finding"]["rows"] == 4


def test_concept_shows_in_its_box(webui: WebUI) -> None:
    plain = webui.img2img(SQUARE, denoising_strength=0.5, steps=16).image
    made = over(webui, request(concept("a man <lora:sdxl-full:1>", {"box": [0, 0, 0.3, 1]})), denoising_strength=0.5,
                steps=16).image
    inside, outside = (distance(plain[:, columns], made[:, columns]) for columns in (slice(0, 38), slice(96, 128)))
    assert inside > 1.5 * outside


@pytest.mark.parametrize("area", [INPAINT, ONLY_MASKED], ids=["whole", "only masked"])
def test_outside_of_the_inpaint_mask_all_stays(webui: WebUI, area: dict[str, Any]) -> None:
    made = over(webui, request(concept("a red car <lora:sdxl-lora:1>")), **area).image
    np.testing.assert_array_equal(made[MASK == 0], SQUARE[MASK == 0])
    assert distance(made[MASK > 0], SQUARE[MASK > 0]) > 5


@pytest.mark.parametrize(("data", "reason"), [
    (request(concept("a red car", {"box": [0, 0, 1, 0.1]})), r"outside of the inpaint mask"),
    (request(concept("a red car", {"box": [0, 0, 1, 0.1]}), concept("a dog", LEFT)), r"outside of the inpaint mask"),
], ids=["alone", "beside another"])
def test_concept_outside_of_the_inpaint_mask_is_left_out(webui: WebUI, data: dict[str, Any], reason: str) -> None:
    made = over(webui, data, **INPAINT)
    assert any(reason in said for said in made.comments)
    others = data["concepts"][1:]
    wanted = over(webui, request(*others), **INPAINT) if others else webui.img2img(SQUARE, **INPAINT)
    np.testing.assert_array_equal(made.image, wanted.image)
    with pytest.raises(ApiError, match=reason):
        over(webui, {**data, "strict": True}, **INPAINT)


def test_fractions_are_of_the_whole_picture_in_only_masked(webui: WebUI) -> None:
    """A box of all, and a mask painted on all, are the same; half of the whole is half of the whole."""
    white = {"mask": png(np.full((64, 64), 255, np.uint8))}
    made = [over(webui, request(concept("a red car <lora:sdxl-lora:1>", where)), GIVEN, **ONLY_MASKED,
                 ).image for where in (EVERYWHERE, white)]
    np.testing.assert_array_equal(made[0], made[1])
    assert made[0].shape == GIVEN.shape
    result = over(webui, request(concept("a red car", LEFT), concept("a dog", {"box": [0, 0.9, 1, 1]}),
                                 show=["masks", "first_pass", "overlay"]), **ONLY_MASKED)
    # the crop is expanded to a square of 96 pixels; what is beyond is not drawn
    assert any('concepts[1]: its place lies outside of the part that "Only masked" draws' in said
               for said in result.comments)
    first, seen, mask = result.images[1:]
    assert mask.shape == SQUARE.shape
    assert mask[64, 40].min() > 250
    assert mask[64, 90].max() < 5
    assert mask[2, 40].max() < 5  # beyond the crop
    assert first.shape == (128, 128, 3)
    left = np.flatnonzero(mask[:, :, 0].any(0))
    assert abs(left[-1] - 63) <= 1
    np.testing.assert_array_equal(seen[4], SQUARE[4])


def test_mask_of_half_is_the_box_of_half_in_only_masked(webui: WebUI) -> None:
    drawn = np.zeros((128, 128), np.uint8)
    drawn[:, 64:] = 255
    made = [over(webui, request(concept("a red car <lora:sdxl-lora:1>", where), show=["masks"]), **ONLY_MASKED)
            for where in (RIGHT, {"mask": png(drawn)})]
    assert distance(made[0].images[1], made[1].images[1]) < 1
    assert distance(made[0].image, made[1].image) < 1


@pytest.mark.parametrize("detector", ["contrast", "attention"])
@pytest.mark.parametrize("payload", [{}, {"batch_size": 2}, {**INPAINT, "inpainting_fill": 2}, ONLY_MASKED],
                         ids=["plain", "batch", "filled", "only masked"])
def test_detectors_look_at_the_given_picture(webui: WebUI, detector: str, payload: dict[str, Any]) -> None:
    """Whatever the seed, and however much is drawn; the picture is the same to the bit with the mask that was found."""
    data = {"concepts": [{"phrase": "man", "prompt": "a knight <lora:sdxl-lora:1>"}], "detector": detector,
            "show": ["masks", "first_pass"], "mask": {"grow": 0, "feather": 0}}
    made, other = over(webui, data, **payload), over(webui, data, **{**payload, "seed": 8, "denoising_strength": 0.3})
    count = payload.get("batch_size", 1)
    mask = made.images[count + 1]
    assert 0 < mask.mean() < 250
    np.testing.assert_array_equal(mask, other.images[count + 1])
    assert distance(made.image, webui.img2img(SQUARE, **payload).image) > 0.1
    assert '"phrases": {"man":' in made.info["extra_generation_params"]["OMG found"][0]
    if not payload:
        np.testing.assert_array_equal(made.images[1], SQUARE)
        placed = {**data, "concepts": [{"prompt": "a knight <lora:sdxl-lora:1>", "where": {"mask": png(mask)}}]}
        assert_close(over(webui, placed).image, made.image)


def test_painted_finds_nothing_by_itself(webui: WebUI) -> None:
    with pytest.raises(ApiError, match="painted"):
        over(webui, {"concepts": [{"phrase": "man", "prompt": "a knight"}], "detector": "painted"})


def test_attention_needs_the_word(webui: WebUI) -> None:
    made = over(webui, {"concepts": [{"phrase": "giraffe", "prompt": "a giraffe"}], "detector": "attention"})
    assert any("the prompt does not name it" in said for said in made.comments)


# what comes back

def test_infotext_and_extra_pictures(webui: WebUI) -> None:
    data = request(concept("a red car", LEFT), concept("a dog", RIGHT), show=["first_pass", "masks", "overlay"])
    made = over(webui, data, GIVEN, batch_size=2, **{**ONLY_MASKED, "override_settings": {"return_mask": True}})
    # two results with the host's masks between them, and four pictures of each
    assert len(made.images) == 2 * 2 + 2 * 4
    texts = made.info["infotexts"]
    assert len(texts) == 2 + 2 * 4
    assert json.loads(texts[0].partition("OMG: ")[2].partition(", Version")[0].partition(", OMG")[0])
    assert [text.rpartition("OMG picture: ")[2] for text in texts[2:6]] == [
        "first pass", "who is where", "mask of concept 1", "mask of concept 2"]
    for text in texts[2:]:
        assert "Seed: " in text
    assert made.images[4].shape == (128, 128, 3)
    assert [image.shape for image in made.images[5:8]] == [GIVEN.shape] * 3


def test_pasted_infotext_makes_it_again(webui: WebUI) -> None:
    made = over(webui, request(concept("a red car <lora:sdxl-lora:1>", LEFT)))
    again = webui.img2img(SQUARE, infotext=made.info["infotexts"][0])
    np.testing.assert_array_equal(again.image, made.image)


def test_preview_draws_nothing(webui: WebUI) -> None:
    data = {"concepts": [{"phrase": "man", "prompt": ""}, concept("", {"box": [0, 0, 0.2, 1]})], "preview": True}
    before = webui.denoiser_calls()
    made = over(webui, data)
    assert webui.denoiser_calls() == before
    assert len(made.images) == 2
    assert distance(made.images[1], SQUARE) > 2
    assert made.images[1].shape == SQUARE.shape
    assert "OMG picture: who is where" in made.info["infotexts"][1]
    assert '"phrases": {"man":' in made.info["extra_generation_params"]["OMG found"][0]


@pytest.mark.parametrize(("payload", "said"), [
    ({"denoising_strength": 0.1}, "denoising_strength: 0.1 leaves only 1 of the steps"),
    ({"denoising_strength": 0.1, "sampler_name": "DDIM"}, "0.1 leaves none of the steps, so the concepts were not"),
    ({"denoising_strength": 0.75, "steps": 20}, None), ({"denoising_strength": 1, "steps": 3}, None),
], ids=str)
def test_too_little_denoising_is_said(webui: WebUI, payload: dict[str, Any], said: str | None) -> None:
    made = over(webui, {"concepts": [concept("a red car <lora:sdxl-lora:1>")], "blend_start": 0}, **payload)
    assert [said in each for each in made.comments] == [True] if said else made.comments == []


def test_blend_start_is_of_the_whole_trajectory(webui: WebUI) -> None:
    """Half of it lies behind at the first step: the concepts act at once."""
    data = request(concept("a red car <lora:sdxl-lora:1>", LEFT))
    made = [over(webui, {**data, "blend_start": start}, denoising_strength=0.5, steps=16).image
            for start in (0, 0.4, 0.8)]
    np.testing.assert_array_equal(made[0], made[1])
    assert distance(made[0], made[2]) > 0.5


def test_prefix_and_layout_mean_nothing_here(webui: WebUI) -> None:
    data = {"concepts": [{"phrase": "man", "prompt": "a knight <lora:sdxl-lora:1>"}]}
    made = [over(webui, {**data, **fields}).image
            for fields in ({}, {"first_pass": "prefix"}, {"layout": {"cross": 0, "self": 0}})]
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])


# the same processing object for many pictures, and pictures of others

def test_loopback_draws_the_concepts_in_each_loop(webui: WebUI) -> None:
    """Its pictures are each drawn over the one before, with a seed of its own, and concepts of that picture."""
    data = request(concept("a red car <lora:sdxl-lora:1>", LEFT), show=["masks"])
    made = over(webui, data, script_name="Loopback", script_args=[3, 0.5, "Linear", "None"])
    first = over(webui, data).image
    second = over(webui, data, first, seed=DEFAULTS["seed"] + 1, denoising_strength=0.625).image
    for wanted in (first, second):
        assert any(np.array_equal(image, wanted) for image in made.images)
    plain = webui.img2img(SQUARE, script_name="Loopback", script_args=[3, 0.5, "Linear", "None"])
    assert len(made.images) == len(plain.images)
    assert all(distance(ours, wanted) > 1 for ours, wanted in zip(made.images, plain.images, strict=True))
    assert made.comments == []


def test_scripts_that_draw_tiles_are_refused(webui: WebUI) -> None:
    args = [16, 0, 1.5, False] if webui.is_neo else ["", 16, 0, 1.5]
    with pytest.raises(ApiError, match=r"(?i)SD upscale draws a picture in tiles") as refused:
        over(webui, request(concept("a red car")), script_name="SD upscale", script_args=args)
    assert refused.value.status == 422
    assert over(webui, {"enabled": False, **request(concept("a red car"))}, script_name="SD upscale",
                script_args=args).image.shape == SQUARE.shape


# faults

@pytest.mark.parametrize("fault", ["fault 2", "out of memory once 2"])
def test_failed_pass_leaves_the_ordinary_picture(webui: WebUI, fault: str) -> None:
    plain = webui.img2img(SQUARE, sampler_name="Euler a")
    data = request(concept("a red car <lora:sdxl-lora:1>", LEFT))
    webui.doubles("fault 2")
    made = over(webui, data, sampler_name="Euler a")
    np.testing.assert_array_equal(made.image, plain.image)
    assert any("drawing the concepts failed, so this is the ordinary picture: ZeroDivisionError" in said
               for said in made.comments)
    webui.doubles("fault 2")
    with pytest.raises(ApiError, match="ZeroDivisionError"):
        over(webui, {**data, "strict": True}, sampler_name="Euler a")


def test_failed_search_leaves_the_ordinary_picture(webui: WebUI) -> None:
    plain = webui.img2img(SQUARE)
    webui.doubles("fault 1")
    made = over(webui, {"concepts": [{"phrase": "man", "prompt": "a knight"}]})
    np.testing.assert_array_equal(made.image, plain.image)
    assert any("finding the concepts failed" in said for said in made.comments)


def test_skipped_picture_is_what_there_is(webui: WebUI) -> None:
    webui.doubles("skip 4")
    made = over(webui, request(concept("a red car <lora:sdxl-lora:1>", LEFT)))
    assert made.image.shape == SQUARE.shape


@pytest.mark.parametrize(("data", "reason"), [
    ({"concepts": [concept("a red car <lora:no such file:1>")]}, "no such file"),
    ({"concepts": [concept("a red car", {"mask": "AAAA"})]}, r"concepts\[0\].where.mask"),
], ids=["network", "mask"])
def test_bad_requests_are_refused(webui: WebUI, data: dict[str, Any], reason: str) -> None:
    for payload in ({}, ONLY_MASKED):
        with pytest.raises(ApiError, match=reason) as refused:
            over(webui, data, **payload)
        assert refused.value.status == 422
