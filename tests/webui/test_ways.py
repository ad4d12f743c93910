"""Ways to predict the concepts, and both passes in one, in a real web UI.

Without guidance, at a scale of 1, every way draws the plain picture of one concept that is everywhere. With guidance it
does where there is no network, which the plain picture has in its unconditional row too. Concepts of one prompt that
share the picture out between them are one that is everywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.webui.host import DEFAULTS, ApiError, Result, WebUI, distance
from tests.webui.networks import SDXL_ONLY, kinds_for
from tests.webui.test_api import (
    EVERYWHERE,
    LEFT,
    LONG,
    NO_DYN,
    NO_OFT,
    NO_REPLAY,
    PROMPT,
    RIGHT,
    WHOLE,
    assert_close,
    assert_is_plain,
    concept,
    omg,
    png,
    request,
    stop_in,
)
from tests.webui.test_preview import calls_of, told_while

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("nothing_left")]

WAYS = ("shared", "joint")
BARE_AND = pytest.mark.not_in_forge("without guidance it multiplies the prediction by the sum of the weights")
# weights that sum up to 1 leave nothing of the unconditional row
AND = "a red car :0.6 AND a blue car :0.4"
UNGUIDED: dict[str, Any] = {"cfg_scale": 1, "steps": 3}
OVERLAPPING = ({"box": [0, 0, 0.6, 0.8]}, {"box": [0.3, 0.2, 1, 1]})
HIRES: dict[str, Any] = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.7}
PREFIX: dict[str, Any] = {"predict": "joint", "first_pass": "prefix", "blend_start": 0.4}


def two(**fields: Any) -> dict[str, Any]:
    """Two concepts that overlap, with networks that change every layer with a weight."""
    data = request(concept("a red car <lora:sdxl-full:0.6>", OVERLAPPING[0]),
                   concept("a dog <lora:sdxl-locon:1>", OVERLAPPING[1]), predict="joint")
    return {**data, **fields}


def sought(**fields: Any) -> dict[str, Any]:
    """A concept that has to be found, and one that has not."""
    return {"concepts": [{"phrase": "man", "prompt": "a red car <lora:sdxl-locon:1>"}, concept("a dog", RIGHT)],
            "mask": {"grow": 0, "feather": 0}, **PREFIX, **fields}


def assert_shared_out(webui: WebUI, prompt: str, *boxes: dict[str, Any], **payload: Any) -> None:
    """Concepts of one prompt that cover the picture together, in one row, are the plain picture of it."""
    plain = webui.txt2img(**payload, prompt=prompt)
    scale = payload.get("cfg_scale", DEFAULTS["cfg_scale"])
    result = omg(webui, request(*[concept(prompt, box, cfg_scale=scale) for box in boxes], predict="joint"), **payload)
    assert len(result.images) == len(plain.images)
    for made, wanted in zip(result.images, plain.images, strict=True):
        assert_close(made, wanted)
    assert distance(plain.image, webui.txt2img(**payload).image) > 2


@pytest.fixture
def embedding(webui: WebUI) -> Iterator[str]:
    """The name of one for SDXL."""
    folder = webui.data_dir / "embeddings"
    folder.mkdir(exist_ok=True)
    file = folder / "three-vectors.safetensors"
    vectors = 0.7 * torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
    save_file({"clip_l": vectors[0].contiguous(), "clip_g": vectors[1].contiguous()}, file)
    yield file.stem
    file.unlink()


# --- *joint everywhere is separate*, *everywhere is plain* ---

@pytest.mark.parametrize("kind", kinds_for("sd15"))
@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_every_network(webui: WebUI, name: str, kind: str) -> None:
    webui.set_checkpoint(f"tiny-{name}")
    assert_is_plain_in_every_way(webui, f"{name}-{kind}")


@pytest.mark.not_in_forge("it does not read them")
@pytest.mark.parametrize("kind", SDXL_ONLY)
def test_networks_of_sdxl_alone(webui: WebUI, kind: str) -> None:
    assert_is_plain_in_every_way(webui, f"sdxl-{kind}")


def assert_is_plain_in_every_way(webui: WebUI, network: str) -> None:
    """And *row-wise is merged*: guided, it acts on a concept's unconditional rows, too, which one way alone has."""
    prompt = f"{PROMPT} <lora:{network}:1>"
    plain = webui.txt2img(prompt=prompt, **UNGUIDED)
    assert plain.comments == []  # the web UI says here what it could not load
    assert distance(plain.image, webui.other(prompt=PROMPT, **UNGUIDED)) > 2
    whole, parts = [concept(prompt)], [concept(prompt, box) for box in (LEFT, {"box": [0.3, 0, 1, 1]})]
    for way, concepts in (("shared", whole), ("joint", whole), ("joint", parts)):
        assert_close(omg(webui, request(*concepts, predict=way), **UNGUIDED).image, plain.image)
    assert_is_plain(webui, prompt, steps=UNGUIDED["steps"])


@pytest.mark.parametrize("kind", ["locon", "full", pytest.param("oft", marks=NO_OFT)])
def test_v_prediction(webui: WebUI, kind: str) -> None:
    webui.set_checkpoint("tiny-sdxl-v")
    sampler = "Euler a" if kind == "oft" else "DDIM"
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-{kind}:1>", ways=WAYS, sampler_name=sampler, **UNGUIDED)
    assert_is_plain(webui, PROMPT, ways=WAYS, sampler_name=sampler, steps=3)


@pytest.mark.parametrize("tag", [
    "sdxl-lora:0.3:1.2", "sdxl-locon:0:1", "sdxl-locon:1:0", pytest.param("sdxl-lora:1:1:2", marks=NO_DYN),
    "sdxl-lora:0.5><lora:sdxl-other:0.8", pytest.param("sdxl-locon:0.5><lora:sdxl-oft:0.8", marks=NO_OFT),
    "sdxl-norm:0.5><lora:sdxl-lokr:0.5"])
def test_tag_arguments(webui: WebUI, tag: str) -> None:
    assert_is_plain(webui, f"{PROMPT} <lora:{tag}>", ways=WAYS, **UNGUIDED)


@pytest.mark.parametrize(("prompt", "payload"), [
    ("", {"batch_size": 2}),
    ("", {"n_iter": 2}),
    ("", {"width": 136, "height": 72}),
    ("", {"background": "a man AND a woman :0.6"}),
    ("", {"background": LONG}),
    ("", {"negative_prompt": LONG}),
    ("", {"negative_prompt": LONG, "override_settings": {"pad_cond_uncond": True}}),
    ("", {"negative_prompt": LONG, "override_settings": {"pad_cond_uncond_v0": True}}),
    ("", {"override_settings": {"batch_cond_uncond": False}}),
    ("", {"styles": ["around"]}),
    ("", {"styles": ["network", "words"]}),
    ("", {"tiling": True}),
    ("", {**HIRES, "hr_second_pass_steps": 3}),
    (LONG, {}),
    (LONG, {"batch_size": 2, "negative_prompt": LONG}),
    ("a red car BREAK a blue house", {}),
    ("a (red:1.4) [car], ((blue))", {}),
    ("a [red:blue:0.5] car", {}),
    ("a [red|blue] car", {**HIRES, "batch_size": 2}),
    (AND, {}),
    (AND, {"batch_size": 2, "override_settings": {"batch_cond_uncond": False}}),
    (AND, {"background": "a man AND a woman :0.6 AND a cat :0.2"}),
    (f"{LONG} :0.6 AND a blue car :0.4", {"background": f"a man AND {LONG}"}),
], ids=str)
def test_whatever_the_rows(webui: WebUI, prompt: str, payload: dict[str, Any]) -> None:
    """With a network and without guidance."""
    prompt = f"{prompt or PROMPT} <lora:sdxl-locon:1>"
    assert_is_plain(webui, prompt, ways=WAYS, sampler_name="Euler a", **{**UNGUIDED, **payload})


@pytest.mark.parametrize("payload", [
    {"negative_prompt": LONG, "batch_size": 2},
    {"negative_prompt": LONG, "override_settings": {"pad_cond_uncond": True}},
    {"background": "a man AND a woman :0.6", "override_settings": {"batch_cond_uncond": False}},
    pytest.param({"s_min_uncond": 4}, marks=BARE_AND),
    pytest.param({"s_min_uncond": 4, "override_settings": {"s_min_uncond_all": True}}, marks=BARE_AND),
    pytest.param({"override_settings": {"skip_early_cond": 0.4}}, marks=BARE_AND), HIRES], ids=str)
def test_whatever_the_guidance(webui: WebUI, payload: dict[str, Any]) -> None:
    """Without a network."""
    prompt = "a red car AND a blue car :0.7"
    assert_is_plain(webui, prompt, ways=WAYS, sampler_name="Euler a", **{"steps": 4, **payload})


def test_embeddings(webui: WebUI, embedding: str) -> None:
    prompt = f"a {embedding} car"
    without = webui.txt2img(prompt="a red car", steps=4).image
    assert distance(webui.txt2img(prompt=prompt, steps=4).image, without) > 1
    assert_is_plain(webui, prompt, ways=WAYS, steps=4)


@pytest.mark.parametrize("way", WAYS)
def test_networks_of_the_main_prompt_act_everywhere(webui: WebUI, way: str) -> None:
    """Types that depend on the weight see the styled one."""
    for network in ("locon", "dora", WHOLE):
        plain = webui.txt2img(prompt=f"{PROMPT} <lora:sdxl-style:0.7> <lora:sdxl-{network}:1>", **UNGUIDED)
        data = request(concept(f"{PROMPT} <lora:sdxl-{network}:1>"), predict=way)
        assert_close(omg(webui, data, prompt="a street <lora:sdxl-style:0.7>", **UNGUIDED).image, plain.image)
        assert distance(omg(webui, data, prompt="a street", **UNGUIDED).image, plain.image) > 2


@pytest.mark.parametrize("fields", [
    {"negative_prompt": f"ugly, {LONG}"}, {"cfg_scale": [9, 3]}, {"lora_guidance": 3},
    {"cfg_scale": 1, "strength": 0.5},
    {"negative_prompt": "ugly", "cfg_scale": 2, "lora_guidance": 2, "strength": 0.5}], ids=str)
@pytest.mark.parametrize("prompt", [PROMPT, AND])
def test_joint_is_shared_whatever_the_guidance(webui: WebUI, prompt: str, fields: dict[str, Any]) -> None:
    """*joint everywhere is separate*"""
    usual = concept(f"{prompt} <lora:sdxl-locon:1>")
    shared, joint = (omg(webui, request({**usual, **fields}, predict=way), batch_size=2, steps=4).images
                     for way in WAYS)
    for made, wanted in zip(joint, shared, strict=True):
        assert_close(made, wanted)
    assert distance(omg(webui, request(usual, predict="shared"), batch_size=2, steps=4).image, shared[0]) > 0.5


@pytest.mark.parametrize("way", ["separate", *WAYS])
def test_lora_guidance_leads_away_from_the_model_without(webui: WebUI, way: str) -> None:
    """Where the negative prompt is the prompt, that is what guidance does, but for a network in the negative row."""
    own = concept(f"{PROMPT} <lora:sdxl-locon:1>", negative_prompt=PROMPT)
    less, more = {**own, "cfg_scale": 2, "lora_guidance": 3}, {**own, "cfg_scale": 5}
    if way == "separate":
        less, more = {**less, "cfg_scale": 1}, {**more, "cfg_scale": 4}
    guided = omg(webui, request(less, predict=way), steps=4).image
    assert_close(guided, omg(webui, request(more, predict="shared"), steps=4).image)
    # without a network there is nothing to guide by
    bare, guided = (omg(webui, request(concept(PROMPT, lora_guidance=guidance), predict=way), steps=4).image
                    for guidance in (0, 5))
    assert_close(guided, bare)


@pytest.mark.parametrize("way", WAYS)
def test_negative_prompts_are_read_without_the_concepts_networks(webui: WebUI, way: str) -> None:
    """The main negative prompt, written into the concept, is the picture's own."""
    own = concept(f"{PROMPT} <lora:sdxl-locon:1>")
    usual, written = (omg(webui, request({**own, **fields}, predict=way), steps=4).image
                      for fields in ({}, {"negative_prompt": DEFAULTS["negative_prompt"]}))
    assert_close(written, usual)


# --- several concepts in one row ---

@pytest.mark.parametrize("sampler", [
    "Euler a", "DPM++ 2M", "DPM++ SDE", "DPM2 a", "LCM", "DDIM", "DDIM CFG++", "UniPC"])
def test_samplers(webui: WebUI, sampler: str) -> None:
    """Also of a pass whose prefix finds the places: the same as a whole one, and with the steps of one."""
    assert_shared_out(webui, PROMPT, LEFT, RIGHT, sampler_name=sampler, steps=5)
    whole = omg(webui, two(blend_start=0.3), sampler_name=sampler, steps=5)
    prefix, calls = calls_of(webui, lambda: omg(webui, two(blend_start=0.3, first_pass="prefix"), sampler_name=sampler,
                                                steps=5))
    np.testing.assert_array_equal(prefix.image, whole.image)
    assert calls == calls_of(webui, lambda: webui.txt2img(sampler_name=sampler, steps=5))[1]


@pytest.mark.parametrize("payload", [
    {"batch_size": 2, "sampler_name": "DPM++ SDE"}, {**HIRES, "sampler_name": "DDIM"},
    {"negative_prompt": LONG, "override_settings": {"pad_cond_uncond": True}, "sampler_name": "DPM2 a"}], ids=str)
def test_shared_out_with_a_network(webui: WebUI, payload: dict[str, Any]) -> None:
    assert_shared_out(webui, f"{PROMPT} <lora:sdxl-full:1>", *OVERLAPPING, EVERYWHERE, **{**UNGUIDED, **payload})


@pytest.mark.parametrize("settings", [{"batch_cond_uncond": False}, {"omg_rows_per_call": 1}], ids=str)
def test_how_rows_are_called_does_not_matter(webui: WebUI, settings: dict[str, Any]) -> None:
    """*rows do not matter*"""
    data = two(blend_start=0.3, layout={"cross": 1, "self": 0.4})
    data["concepts"][1] |= {"negative_prompt": "ugly", "lora_guidance": 1}
    usual = omg(webui, data, batch_size=2, steps=5)
    changed = omg(webui, data, batch_size=2, steps=5, override_settings=settings)
    for made, wanted in zip(changed.images, usual.images, strict=True):
        assert_close(made, wanted)


@pytest.mark.parametrize("fields", [{}, {"first_pass": "prefix"}], ids=str)
def test_a_batch_is_its_single_pictures(webui: WebUI, fields: dict[str, Any]) -> None:
    """*rows do not matter*, in both passes and in one."""
    data = {**two(blend_start=0.3), **fields}
    batch = omg(webui, data, batch_size=2, sampler_name="Euler a", steps=5)
    for number, image in enumerate(batch.images):
        assert_close(omg(webui, data, seed=7 + number, sampler_name="Euler a", steps=5).image, image)


def test_order_of_concepts(webui: WebUI) -> None:
    """*rows do not matter*"""
    boxes = {"box": [0, 0, 0.6, 1]}, {"box": [0.3, 0, 1, 1]}
    concepts = [{**each, "where": box} for each, box in zip(two()["concepts"], boxes, strict=True)]
    pictures = [omg(webui, two(concepts=order), steps=5).image for order in (concepts, concepts[::-1])]
    assert_close(*pictures)


def test_each_concept_has_its_place(webui: WebUI) -> None:
    """The other place sees what is in one, but does not get it."""
    left, right = {"box": [0, 0, 0.4, 1]}, {"box": [0.6, 0, 1, 1]}
    usual, other = (omg(webui, request(concept("a man <lora:sdxl-lora:1>", left), concept(words, right),
                                       predict="joint", blend_start=0.3)).image
                    for words in ("a woman <lora:sdxl-other:1>", "a red car <lora:sdxl-full:1>"))
    assert distance(usual[:, 80:], other[:, 80:]) > 1.2 * distance(usual[:, :48], other[:, :48])


@pytest.mark.parametrize("settings", [
    {"token_merging_ratio": 0.5},
    {"token_merging_ratio": 0.8},  # to as many as the next grid has
    pytest.param({"hypertile_enable_unet": True, "hypertile_max_tile_unet": 128, "hypertile_swap_size_unet": 1},
                 marks=pytest.mark.not_in_forge("it has no HyperTile"))], ids=str)
def test_tokens_without_a_place_are_refused(webui: WebUI, settings: dict[str, Any]) -> None:
    webui.set_checkpoint("tiny-sd15")
    payload: dict[str, Any] = {"steps": 3, "width": 256, "override_settings": settings}
    plain = webui.txt2img(prompt=PROMPT, **payload).image
    without = webui.txt2img(prompt=PROMPT, **{**payload, "override_settings": {}}).image
    assert distance(plain, without) > 0.5
    with pytest.raises(ApiError, match="turn off token merging and HyperTile, or choose shared") as caught:
        omg(webui, request(concept(f"{PROMPT} <lora:sd15-lora:1>", LEFT), predict="joint"), **payload)
    assert caught.value.status == 422
    if webui.is_forge:  # which merges tokens at random: no two pictures are alike
        return
    # tokens are merged in self-attention alone: prompts have their places
    assert_is_plain(webui, PROMPT, ways=WAYS, **payload)
    assert_is_plain(webui, f"{PROMPT} <lora:sd15-lora:1>", ways=["shared"], cfg_scale=1, **payload)


@pytest.mark.parametrize(("fields", "run"), [({}, 0), ({}, 1), (PREFIX, 0)], ids=["first", "second", "prefix"])
def test_interrupted(webui: WebUI, fields: dict[str, Any], run: int) -> None:
    """*nothing remains*"""
    result = stop_in(webui, run, webui.interrupt, {**two(blend_start=0.1), **fields})
    assert len(result.images) == 1
    assert result.image.std() > 5
    assert len(result.comments) == run  # the second gives the first picture, and says why


# --- both passes in one ---

@pytest.mark.parametrize(("detector", "sampler"), [
    ("contrast", "Euler a"), ("contrast", "DDIM"), ("attention", "DPM++ 2M"), ("attention", "UniPC")])
def test_prefix_finds_what_is_sought(webui: WebUI, detector: str, sampler: str) -> None:
    """In what the picture is going to be; it takes the steps of one pass, and leaves the noise as it was."""
    payload = {"sampler_name": sampler, "steps": 10}
    plain, plain_calls = calls_of(webui, lambda: webui.txt2img(**payload))
    data = sought(detector=detector, show=["first_pass", "overlay", "masks"], blend_start=0.7)
    result, calls = calls_of(webui, lambda: omg(webui, data, **payload))
    image, first, _, mask, box = result.images
    assert not [comment for comment in result.comments if "blend_start" not in comment]
    assert calls == plain_calls
    assert distance(first, plain.image) < 0.5 * distance(webui.txt2img(**payload, seed=8).image, plain.image)
    assert 0 < mask.mean() < 255
    assert (box[:, 64:].min(), box[:, :64].max()) == (255, 0)
    assert distance(image, plain.image) > 1
    # drawn with the same places from the start, it is the same picture
    given = {**data, "concepts": [{**each, "where": {"mask": png(each_mask)}} for each, each_mask in
                                  zip(data["concepts"], (mask, box), strict=True)], "show": []}
    assert_close(omg(webui, given, **payload).image, image)


@pytest.mark.parametrize(("sampler", "last"), [("Euler a", 0.99), ("DDIM", 0.85), ("UniPC", 0.85)])
def test_in_the_last_step_it_looks_at_the_finished_picture(webui: WebUI, sampler: str, last: float) -> None:
    """Some samplers know it, others the noise that is left."""
    payload = {"sampler_name": sampler, "steps": 10}
    first = omg(webui, two(first_pass="prefix", blend_start=last, show=["first_pass"]), **payload).images[1]
    assert distance(first, webui.txt2img(**payload).image) < 1.5


def test_prefix_goes_on_after_what_is_not_found(webui: WebUI) -> None:
    plain = webui.txt2img().image
    data = sought(concepts=[{"phrase": "giraffe", "prompt": "a giraffe <lora:sdxl-lora:1>"}])
    result = omg(webui, data)
    np.testing.assert_array_equal(result.image, plain)
    assert any("no 'giraffe' was found" in comment for comment in result.comments)
    with pytest.raises(ApiError, match="giraffe") as caught:
        omg(webui, {**data, "strict": True})
    assert caught.value.status == 422


@NO_REPLAY
def test_prefix_is_told_and_pasted(webui: WebUI) -> None:
    """In the progress line and in the infotext, which draws the same picture again."""
    result: list[Result] = []
    told = told_while(webui, lambda webui: result.append(omg(webui, sought(predict="shared"), steps=12)))
    assert told == ["OMG: drawing the concepts"]
    text, = result[0].info["infotexts"]
    assert "prefix" in text
    assert "shared" in text
    assert "OMG found" in text
    np.testing.assert_array_equal(webui.generate({"infotext": text}).image, result[0].image)
    assert webui.progress()["textinfo"] is None


def test_preview_of_a_prefix(webui: WebUI) -> None:
    """The ordinary picture, and who is where halfway; it is not kept, as there is no pass to go on from."""
    plain, plain_calls = calls_of(webui, webui.txt2img)
    expected = omg(webui, sought(show=["masks", "overlay"]))
    result, calls = calls_of(webui, lambda: omg(webui, sought(preview=True)))
    np.testing.assert_array_equal(result.image, plain.image)
    assert calls == plain_calls
    assert len(result.images) == 2
    assert result.info["extra_generation_params"]["OMG found"] == expected.info["extra_generation_params"]["OMG found"]
    again, calls = calls_of(webui, lambda: omg(webui, sought()))
    assert calls == plain_calls
    np.testing.assert_array_equal(again.image, expected.image)


@pytest.mark.parametrize(("fault", "detector", "reason"), [
    ("fault 5", "contrast", "finding the concepts failed"), ("fault 6", "attention", "drawing the concepts failed"),
    ("out of memory once 6", "attention", "does not fit")])
def test_failed_prefix_leaves_the_ordinary_picture(webui: WebUI, fault: str, detector: str, reason: str) -> None:
    payload = {"sampler_name": "Euler a", "batch_size": 2}
    plain = webui.txt2img(**payload)
    data = sought(detector=detector)
    webui.doubles(fault)
    result = omg(webui, data, **payload)
    if "memory" in fault:  # one call is made in parts
        webui.doubles()
        for made, wanted in zip(result.images, omg(webui, data, **payload).images, strict=True):
            assert_close(made, wanted)
        return
    for made, wanted in zip(result.images, plain.images, strict=True):
        np.testing.assert_array_equal(made, wanted)
    assert any(reason in comment and "ordinary picture: ZeroDivisionError" in comment for comment in result.comments)
    assert reason in result.info["infotexts"][0]
    webui.doubles(fault)
    with pytest.raises(ApiError, match="ZeroDivisionError") as caught:
        omg(webui, {**data, "strict": True}, **payload)
    assert caught.value.status == 422
    webui.doubles()


@pytest.mark.parametrize(("fields", "field"), [
    ({"layout": {"cross": 0.5}}, "layout"), ({"blend_start": 0.05}, "blend_start")])
def test_prefix_refuses_what_it_cannot_do(webui: WebUI, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError, match=f"{field}: .*take first_pass whole") as caught:
        omg(webui, sought(**fields))
    assert caught.value.status == 422


def test_hires_pass_after_a_prefix(webui: WebUI) -> None:
    payload = {**HIRES, "steps": 6, "batch_size": 2}
    plain = webui.txt2img(**payload)
    whole, prefix = (omg(webui, two(first_pass=first, blend_start=0.3), **payload) for first in ("whole", "prefix"))
    assert prefix.image.shape == plain.image.shape
    for made, wanted in zip(prefix.images, whole.images, strict=True):
        np.testing.assert_array_equal(made, wanted)
    assert distance(omg(webui, sought(), **payload).image, plain.image) > 1


def test_previews_while_it_is_drawn(webui: WebUI) -> None:
    """Another thread decodes them."""
    payload: dict[str, Any] = {"steps": 16, "override_settings": {"show_progress_every_n_steps": 1}}
    expected = omg(webui, sought(), **payload).image
    shown: list[bool] = []
    result: list[Result] = []
    drawing = threading.Thread(target=lambda: result.append(omg(webui, sought(), **payload)))
    drawing.start()
    while drawing.is_alive():
        shown.append(bool(webui.get("/sdapi/v1/progress")["current_image"]))
    drawing.join()
    assert any(shown)
    np.testing.assert_array_equal(result[0].image, expected)
