"""The two passes in a real web UI, through its txt2img API. "Plain" is what the web UI makes without the request."""

from __future__ import annotations

import base64
import io
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.webui.host import DEFAULTS, ApiError, Result, WebUI, distance, forge_is_tested, neo_is_tested, reads_oft

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("nothing_left")]

NEO_LACKS = {"DDIM CFG++", "DPM++ 2M SDE Heun", "DPM2 a", "DPM adaptive", "DPM++ 2S a", "DPM fast"}
SAMPLERS = tuple(sampler for sampler in (
    "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler",
    "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC",
    "LCM", *(("HeunPP2", "IPNDM", "IPNDM_V", "DEIS", "DDPM") if forge_is_tested() else ()),
) if not (neo_is_tested() and sampler in NEO_LACKS))
SCHEDULERS = (
    "automatic", "uniform", "karras", "exponential", "polyexponential", "sgm_uniform", "kl_optimal", "align_your_steps",
    "simple", "normal", "ddim", "beta",
    *(("turbo", "align_your_steps_GITS", "align_your_steps_11", "align_your_steps_32") if forge_is_tested() else ()),
)
NO_OFT = pytest.mark.skipif(not reads_oft(), reason="not in Forge: it does not read OFT")
NO_IA3 = pytest.mark.not_in_forge("it does not read IA3")
NO_REPLAY = pytest.mark.not_in_forge("its API fails on every infotext")
NO_DYN = pytest.mark.not_in_forge("it does not cut ranks")
EVERYWHERE = {"box": [0, 0, 1, 1]}
LEFT, RIGHT = {"box": [0, 0, 0.5, 1]}, {"box": [0.5, 0, 1, 1]}
WHOLE = "oft" if reads_oft() else "full"
"""A kind of network that changes weights as a whole."""
LONG = "a portrait of a knight in shining armour, " * 12
PROMPT = "a portrait of a knight"


def request(*concepts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request that blends separate rows from the first step on, with hard masks and without layout preservation."""
    return {"concepts": list(concepts), "predict": "separate", "blend_start": 0, "layout": {"cross": 0, "self": 0},
            "mask": {"grow": 0, "feather": 0}, **fields}


def concept(prompt: str, where: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "where": where or EVERYWHERE, **fields}


def omg(webui: WebUI, data: Any, **payload: Any) -> Result:
    return webui.txt2img(alwayson_scripts={"OMG": {"args": [data]}}, **payload)


def assert_close(first: np.ndarray, second: np.ndarray) -> None:
    """Equal to rounding, which pictures of random networks amplify."""
    assert np.abs(first.astype(int) - second).max() <= 2


def assert_is_plain(webui: WebUI, prompt: str, *, background: str = "a photo of a man and a woman",
                    fields: dict[str, Any] | None = None, ways: Sequence[str] = ("separate",), **payload: Any) -> None:
    """*everywhere is plain*: one concept everywhere, blended from the start, is the plain picture of its prompt.

    Args:
        fields: of the concept.
        ways: to predict it; each is tested.
    """
    payload = {"steps": 5, **payload}
    plain = webui.txt2img(**{**payload, "prompt": prompt})
    for way in ways:
        # the picture's scale throughout: some ways begin with more
        own = concept(prompt, **{"cfg_scale": payload.get("cfg_scale", DEFAULTS["cfg_scale"]), **(fields or {})})
        data = request(own, predict=way)
        result = omg(webui, data, **{**payload, "prompt": background})
        assert len(result.images) == len(plain.images)
        for made, wanted in zip(result.images, plain.images, strict=True):
            assert_close(made, wanted)
    assert distance(plain.image, webui.other(**{**payload, "prompt": background})) > 2


# *off is off*

@pytest.mark.parametrize("data", [
    {"enabled": False, "concepts": [concept("a red car")]},
    {},
], ids=["disabled", "no argument"])
def test_disabled_request_changes_nothing(webui: WebUI, data: dict[str, Any]) -> None:
    plain = webui.txt2img()
    result = omg(webui, data) if data else webui.txt2img(alwayson_scripts={"OMG": {"args": []}})
    np.testing.assert_array_equal(result.image, plain.image)
    assert result.info["infotexts"] == plain.info["infotexts"]


# *empty second pass*

@pytest.mark.parametrize("sampler", SAMPLERS)
def test_empty_second_pass_is_the_first(webui: WebUI, sampler: str) -> None:
    assert_second_pass_repeats(webui, sampler_name=sampler)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_empty_second_pass_is_the_first_on_every_schedule(webui: WebUI, scheduler: str) -> None:
    assert_second_pass_repeats(webui, sampler_name="DPM++ 2M", scheduler=scheduler)


@pytest.mark.parametrize("payload", [
    {"batch_size": 2}, {"n_iter": 2}, {"steps": 1}, {"steps": 3}, {"steps": 30, "width": 64, "height": 64},
    {"width": 192, "height": 128}, {"cfg_scale": 1}, {"prompt": LONG}, {"prompt": "a man AND a woman :0.6"},
    {"s_min_uncond": 4}, {"override_settings": {"batch_cond_uncond": False}},
    {"override_settings": {"randn_source": "CPU"}}, {"override_settings": {"randn_source": "NV"}},
    {"override_settings": {"eta_noise_seed_delta": 31337}},
    {"subseed": 3, "subseed_strength": 0.4}, {"eta": 0.5}, {"s_churn": 8, "s_noise": 1.01}, {"tiling": True},
    {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.6},
], ids=str)
def test_empty_second_pass_is_the_first_however_it_is_asked_for(webui: WebUI, payload: dict[str, Any]) -> None:
    assert_second_pass_repeats(webui, **{"sampler_name": "Euler a", **payload})


def assert_second_pass_repeats(webui: WebUI, **payload: Any) -> None:
    payload = {"steps": 5, **payload}
    plain = webui.txt2img(**payload)
    data = {"concepts": [concept("a red car <lora:sdxl-lora:1>")], "blend_start": 1}
    result = omg(webui, data, **payload)
    assert len(result.images) == len(plain.images)
    for made, wanted in zip(result.images, plain.images, strict=True):
        np.testing.assert_array_equal(made, wanted)


def test_every_sampler_and_schedule_is_tested(webui: WebUI) -> None:
    samplers = {sampler["name"] for sampler in webui.get("/sdapi/v1/samplers")}
    schedulers = {scheduler["name"] for scheduler in webui.get("/sdapi/v1/schedulers")}
    if webui.is_reforge:  # which has dozens more, and lacks one
        assert samplers > {*SAMPLERS} - {"DDIM CFG++"}
        assert schedulers > {*SCHEDULERS}
    elif webui.is_neo:  # which has others besides, see test_forge.py
        assert samplers > {*SAMPLERS}
        assert not NEO_LACKS & samplers
        assert schedulers > {*SCHEDULERS}
    else:
        assert samplers == set(SAMPLERS)
        assert schedulers == set(SCHEDULERS)


# *everywhere is plain*, *row-wise is merged*; every type of network is in test_ways.py

# DPM adaptive is not among them: its step sizes follow rounding errors, so that even plain pictures differ by tens of
# grey levels between batch_cond_uncond on and off
@pytest.mark.parametrize("sampler", [sampler for sampler in SAMPLERS if sampler != "DPM adaptive"])
def test_concept_everywhere_is_the_plain_picture_with_every_sampler(webui: WebUI, sampler: str) -> None:
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-lora:1>", sampler_name=sampler)


@pytest.mark.parametrize("checkpoint", ["tiny-sdxl-v", "tiny-sd15"])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "DDIM", "UniPC"])
def test_concept_everywhere_on_other_models(webui: WebUI, checkpoint: str, sampler: str) -> None:
    webui.set_checkpoint(checkpoint)
    network = "sd15-locon" if checkpoint == "tiny-sd15" else "sdxl-locon"
    assert_is_plain(webui, f"{PROMPT} <lora:{network}:1>", sampler_name=sampler)


@pytest.mark.parametrize("tag", [
    "sdxl-lora:0.5", "sdxl-lora:-0.7", "sdxl-lora:0.3:1.2", "sdxl-lora:0:1", "sdxl-lora:1:0", "sdxl-lora:te=0.4",
    "sdxl-lora:unet=0.6", "sdxl-lora:1:te=0.2:unet=0.9",
    *(pytest.param(tag, marks=NO_DYN) for tag in (
        "sdxl-lora:1:1:2", "sdxl-lora:1:dyn=1", "sdxl-locon:1:1:3", "sdxl-dora-conv:1:1:2")),
    "sdxl-lora:0.5><lora:sdxl-other:0.8", pytest.param("sdxl-lora:0.5><lora:sdxl-oft:0.8", marks=NO_OFT),
    "sdxl-dora:0.8><lora:sdxl-full:0.5", "sdxl-norm:0.5><lora:sdxl-lokr:0.5",
])
def test_tag_arguments_mean_what_they_mean_in_a_prompt(webui: WebUI, tag: str) -> None:
    assert_is_plain(webui, f"{PROMPT} <lora:{tag}>")


@pytest.mark.parametrize(("prompt", "payload"), [
    ("", {"override_settings": {"batch_cond_uncond": False}}),
    ("", {"batch_size": 2}),
    ("", {"n_iter": 2}),
    ("", {"s_min_uncond": 4}),
    ("", {"cfg_scale": 1}),
    ("", {"width": 192, "height": 64}),
    ("", {"background": "a man AND a woman :0.6"}),
    ("", {"background": LONG}),
    ("", {"background": LONG, "override_settings": {"pad_cond_uncond": True}}),
    ("", {"negative_prompt": LONG}),
    ("", {"negative_prompt": LONG, "override_settings": {"pad_cond_uncond": True}}),
    (LONG, {}),
    (LONG, {"batch_size": 2}),
    (LONG, {"override_settings": {"pad_cond_uncond": True}}),
    (LONG, {"override_settings": {"pad_cond_uncond_v0": True}}),
    (LONG, {"override_settings": {"batch_cond_uncond": False}}),
    ("a (red:1.4) car", {}),
    ("a [red:blue:0.5] car", {}),
    ("a [red|blue] car", {}),
    ("a red car AND a blue car :0.7", {}),
    ("a red car AND a blue car :0.7", {"batch_size": 2}),
    ("a red car AND a blue car :0.7", {"background": "a man AND a woman :0.6"}),
], ids=str)
def test_concept_everywhere_whatever_the_rows(webui: WebUI, prompt: str, payload: dict[str, Any]) -> None:
    assert_is_plain(webui, f"{prompt or PROMPT} <lora:sdxl-locon:1>", **payload)


def test_concept_has_its_own_negative_prompt_and_scale(webui: WebUI) -> None:
    prompt = f"{PROMPT} <lora:sdxl-lora:1>"
    plain = webui.txt2img(prompt=prompt, negative_prompt="ugly", cfg_scale=3)
    own = concept(prompt, negative_prompt="ugly", cfg_scale=3)
    assert_close(omg(webui, request(own)).image, plain.image)


def test_rows_per_call_do_not_change_the_picture(webui: WebUI) -> None:
    concepts = [concept(f"{PROMPT} <lora:sdxl-{kind}:1>", where) for kind, where in
                (("lora", LEFT), ("loha", RIGHT), (WHOLE, {"box": [0.2, 0.2, 0.8, 0.8]}))]
    whole = omg(webui, request(*concepts), batch_size=2)
    for rows in (1, 3):
        parts = omg(webui, request(*concepts), batch_size=2, override_settings={"omg_rows_per_call": rows})
        for made, wanted in zip(parts.images, whole.images, strict=True):
            assert_close(made, wanted)


def test_a_batch_is_its_single_pictures(webui: WebUI) -> None:
    data = request(concept(f"{PROMPT} <lora:sdxl-lora:1>", LEFT), concept("a red car", RIGHT), blend_start=0.3,
                   layout={"cross": 1, "self": 0.4})
    batch = omg(webui, data, batch_size=2, sampler_name="Euler a")
    for index, image in enumerate(batch.images):
        assert_close(omg(webui, data, seed=DEFAULTS["seed"] + index, sampler_name="Euler a").image, image)


@pytest.mark.parametrize("budget", [2048, 0], ids=["stored", "recomputed"])
def test_samplers_that_choose_their_own_steps(webui: WebUI, budget: int) -> None:
    """Of the second pass's steps some were not made by the first, and some of the first's have nothing to replay."""
    data = request(concept(f"{PROMPT} <lora:sdxl-lora:1>", LEFT), layout={"cross": 0.86, "self": 0.89})
    settings = {"omg_device_budget_mb": budget, "omg_host_budget_mb": budget}
    result = omg(webui, data, sampler_name="DPM adaptive", override_settings=settings, width=64, height=64)
    assert result.comments == []
    assert result.image.std() > 5


# several concepts

def test_two_concepts_show_in_their_boxes(webui: WebUI) -> None:
    plain = webui.txt2img().image
    data = request(concept("a man <lora:sdxl-lora:1>", {"box": [0, 0, 0.4, 1]}),
                   concept("a woman <lora:sdxl-other:1>", {"box": [0.6, 0, 1, 1]}), blend_start=0.3,
                   layout={"cross": 1, "self": 0.4})
    result = omg(webui, data)
    inside = [distance(plain[:, columns], result.image[:, columns]) for columns in (slice(0, 48), slice(80, 128))]
    between = distance(plain[:, 56:72], result.image[:, 56:72])
    assert min(inside) > 5
    assert min(inside) > 1.5 * between


@pytest.mark.parametrize("boxes", [
    [LEFT, RIGHT], [EVERYWHERE, EVERYWHERE], [EVERYWHERE, LEFT, {"box": [0.3, 0.1, 0.7, 0.93]}],
], ids=["halves", "both everywhere", "overlapping"])
def test_weights_are_a_partition_of_unity(webui: WebUI, boxes: list[dict[str, Any]]) -> None:
    """*partition of unity*: concepts with one prompt that cover the picture together are the plain picture of it."""
    prompt = f"{PROMPT} <lora:sdxl-lora:0.8>"
    plain = webui.txt2img(prompt=prompt)
    data = request(*[concept(prompt, box) for box in boxes], mask={"grow": 0, "feather": 0})
    assert_close(omg(webui, data).image, plain.image)


@pytest.mark.parametrize("kind", ["lora", "locon", "loha", pytest.param("oft", marks=NO_OFT), "full"])
@pytest.mark.parametrize(("left", "right"), [("1", "0.2"), ("0.2", "1"), ("0.2:1.2", "1:0")])
def test_one_file_keeps_both_multipliers(webui: WebUI, kind: str, left: str, right: str) -> None:
    """Two concepts with one file give the same picture as with two files of the same content."""
    folder = webui.data_dir / "models" / "Lora"
    shutil.copyfile(folder / f"sdxl-{kind}.safetensors", folder / f"copy-{kind}.safetensors")
    one, two, swapped = (
        omg(webui, request(concept(f"a man <lora:sdxl-{kind}:{weights[0]}>", LEFT),
                           concept(f"a dog <lora:{second}-{kind}:{weights[1]}>", RIGHT)), steps=4).image
        for second, weights in (("sdxl", (left, right)), ("copy", (left, right)), ("copy", (right, left))))
    np.testing.assert_array_equal(one, two)
    assert distance(one, swapped) > 1


def test_style_network_of_the_global_prompt_stays_on_every_row(webui: WebUI) -> None:
    plain = webui.txt2img(prompt=f"{PROMPT} <lora:sdxl-style:0.7> <lora:sdxl-lora:1>")
    result = omg(webui, request(concept(f"{PROMPT} <lora:sdxl-lora:1>")), prompt="a street <lora:sdxl-style:0.7>")
    assert_close(result.image, plain.image)
    unstyled = omg(webui, request(concept(f"{PROMPT} <lora:sdxl-lora:1>")), prompt="a street")
    assert distance(unstyled.image, plain.image) > 2


@pytest.mark.parametrize(("style", "network"), [
    pytest.param("full", "oft", marks=NO_OFT), pytest.param("oft", "dora", marks=NO_OFT), ("norm", "lora"),
    pytest.param("ia3", "glora", marks=NO_IA3), ("full", "dora"), ("norm", "glora")])
def test_types_that_depend_on_the_weight_see_the_styled_one(webui: WebUI, style: str, network: str) -> None:
    plain = webui.txt2img(prompt=f"{PROMPT} <lora:sdxl-{style}:0.7> <lora:sdxl-{network}:1>")
    data = request(concept(f"{PROMPT} <lora:sdxl-{network}:1>"))
    result = omg(webui, data, prompt=f"a street <lora:sdxl-{style}:0.7>")
    assert_close(result.image, plain.image)


def test_one_file_in_the_global_and_a_concept_prompt_adds_up(webui: WebUI) -> None:
    plain = webui.txt2img(prompt=f"{PROMPT} <lora:sdxl-lora:1>")
    result = omg(webui, request(concept(f"{PROMPT} <lora:sdxl-lora:0.6>")), prompt="a street <lora:sdxl-lora:0.4>")
    assert_close(result.image, plain.image)


# masks, detection, pictures to show

def png(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_mask_is_the_same_as_the_box_it_draws(webui: WebUI) -> None:
    drawn = np.zeros((128, 128), np.uint8)
    drawn[:, :64] = 255
    made = [omg(webui, request(concept("a red car <lora:sdxl-lora:1>", where))).image
            for where in (LEFT, {"mask": png(drawn)}, {"mask": "data:image/png;base64," + png(drawn)})]
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])


def test_extra_pictures(webui: WebUI) -> None:
    plain = webui.txt2img(sampler_name="Euler a")
    data = request(concept("a red car", LEFT), concept("a dog", RIGHT), show=["first_pass", "masks"])
    result = omg(webui, data, sampler_name="Euler a")
    final, first, left, right = result.images
    assert distance(final, plain.image) > 2
    np.testing.assert_array_equal(first, plain.image)
    assert left[:, :64].min() == right[:, 64:].min() == 255
    assert left[:, 64:].max() == right[:, :64].max() == 0
    assert len(result.info["infotexts"]) == 4


@NO_REPLAY
def test_infotext_holds_the_request(webui: WebUI) -> None:
    result = omg(webui, request(concept("a red car", LEFT)))
    assert "OMG: " in result.info["infotexts"][0]
    again = webui.generate({"infotext": result.info["infotexts"][0]})
    np.testing.assert_array_equal(again.image, result.image)


@pytest.mark.parametrize("checkpoint", ["tiny-sdxl", "tiny-sd15"])
def test_attention_finds_phrases_of_the_prompt(webui: WebUI, checkpoint: str) -> None:
    webui.set_checkpoint(checkpoint)
    plain = webui.txt2img().image
    man, woman = {"phrase": "man", "prompt": "a red car"}, {"phrase": "woman", "prompt": "a dog"}
    result = omg(webui, request(man, woman, show=["masks"]))
    assert result.comments == []
    assert distance(result.image, plain) > 1
    first, second = (mask[:, :, 0].astype(int) for mask in result.images[1:])
    assert first.max() == second.max() == 255
    assert (first + second).max() <= 255  # no place belongs to both
    row, column = np.argwhere(first == 255)[0]
    point = {"point": [(column + 0.5) / 128, (row + 0.5) / 128]}
    again = omg(webui, request({**man, "where": point}, woman, show=["masks"]))
    np.testing.assert_array_equal(again.images[1], result.images[1])


def test_phrase_that_is_not_found_is_left_out_with_a_warning(webui: WebUI) -> None:
    plain = webui.txt2img()
    result = omg(webui, request({"phrase": "giraffe", "prompt": "a giraffe"}))
    np.testing.assert_array_equal(result.image, plain.image)
    assert any("giraffe" in comment for comment in result.comments)
    assert "giraffe" in result.info["infotexts"][0]


# bad input

WHITE = np.full((64, 64), 255, np.uint8)
BAD_REQUESTS: dict[str, tuple[Any, str]] = {
    "no object": ([1, 2], "request"),
    "no JSON": ("a man", "request"),
    "no concepts": ({"blend_start": 0.3}, "concepts"),
    "empty concepts": ({"concepts": []}, "concepts"),
    "unknown field": ({"concepts": [concept("x")], "blendstart": 0.3}, "blendstart"),
    "unknown field of a concept": ({"concepts": [concept("x", promt="y")]}, "concepts[0].promt"),
    "missing prompt": ({"concepts": [{"phrase": "man"}]}, "concepts[0].prompt"),
    "empty prompt": ({"concepts": [concept(" ")]}, "concepts[0].prompt"),
    "no phrase and no place": ({"concepts": [{"prompt": "x"}]}, "concepts[0].phrase"),
    "wrong type": (request(concept("x"), blend_start="soon"), "blend_start"),
    "blend_start out of range": (request(concept("x"), blend_start=1.5), "blend_start"),
    "not a number": (request(concept("x"), blend_start=float("nan")), "blend_start"),
    "strength out of range": (request(concept("x"), concept("x", strength=-1)), "concepts[1].strength"),
    "layout out of range": (request(concept("x"), layout={"cross": 2}), "layout.cross"),
    "grow out of range": (request(concept("x"), mask={"grow": -0.1}), "mask.grow"),
    "unknown detector": (request({"phrase": "man", "prompt": "x"}, detector="crystal ball"), "detector"),
    "unknown picture to show": (request(concept("x"), show=["everything"]), "show"),
    "two places": (request(concept("x", {"index": 0, "point": [0.5, 0.5]})), "concepts[0].where"),
    "empty box": (request(concept("x", {"box": [0.5, 0, 0.5, 1]})), "concepts[0].where"),
    "box outside": (request(concept("x", {"box": [0, 0, 1.2, 1]})), "concepts[0].where.box"),
    "point outside": (request(concept("x", {"point": [-1, 0]}, phrase="man")), "concepts[0].where.point"),
    "no rest": (request(concept("x", {"rest": False})), "concepts[0].where.rest"),
    "two rests": (request(concept("x", {"rest": True}), concept("y", {"rest": True})), "concepts[1].where.rest"),
    "nothing left, strict": (request(concept("x"), concept("y", {"rest": True}), strict=True), "where.rest"),
    "box too small": (request(concept("x", {"box": [0.5, 0.5, 0.51, 0.51]})), "concepts[0]"),
    "mask is not base64": (request(concept("x", {"mask": "!!"})), "concepts[0].where.mask"),
    "mask is no PNG": (request(concept("x", {"mask": base64.b64encode(b"GIF89a").decode()})), "concepts[0].where.mask"),
    "broken mask": (request(concept("x", {"mask": png(WHITE)[:60]})), "concepts[0].where.mask"),
    "huge mask": (request(concept("x", {"mask": png(np.ones((9000, 9000), bool))})), "concepts[0].where.mask"),
    "black mask": (request(concept("x", {"mask": png(WHITE * 0)})), "concepts[0].where.mask"),
    "no such LoRA": (request(concept("x"), concept("y <lora:no-such-lora:1>")), "no-such-lora"),
    "LoRA weight is no number": (request(concept("x <lora:sdxl-lora:much>")), "concepts[0].prompt"),
    "LoRA for SD 1.5": (request(concept("x <lora:sd15-lora:1>")), "SD 1"),
    "LoCon for SD 1.5": (request(concept("x <lora:sd15-locon:1>")), "SD 1"),
    "OFT for SD 1.5": (request(concept("x <lora:sd15-oft:1>")), "SD 1"),
    "broken LoRA": (request(concept("x <lora:broken:1>")), "broken"),
    "not found, strict": (request({"phrase": "giraffe", "prompt": "x"}, strict=True), "giraffe"),
}


@pytest.fixture(scope="module")
def broken_lora(running: WebUI) -> None:
    """A file that is no safetensors file."""
    (running.data_dir / "models" / "Lora" / "broken.safetensors").write_bytes(b"not a LoRA" * 20)


@pytest.mark.parametrize("name", [pytest.param(name, marks=NO_OFT) if name.startswith("OFT") else name
                                  for name in BAD_REQUESTS])
@pytest.mark.usefixtures("broken_lora")
def test_bad_request_is_refused_with_the_field_named(webui: WebUI, name: str) -> None:
    data, mentioned = BAD_REQUESTS[name]
    with pytest.raises(ApiError) as caught:
        omg(webui, data)
    assert caught.value.status == 422
    assert mentioned in caught.value.detail


def test_lora_for_sdxl_is_refused_on_sd15(webui: WebUI) -> None:
    webui.set_checkpoint("tiny-sd15")
    with pytest.raises(ApiError, match="SDXL") as caught:
        omg(webui, request(concept("x <lora:sdxl-locon:1>")))
    assert caught.value.status == 422


# interrupt and skip

ONE = {"concepts": [concept("a red car <lora:sdxl-lora:1>", LEFT)], "blend_start": 0.1}


STOPPED = 32  # steps


def stop_in(webui: WebUI, run: int, stop: Callable[[], None], data: Any = ONE, **payload: Any) -> Result:
    """Start a long request and stop it some steps into its ``run``-th sampling (0: first pass, 1: second pass)."""
    results: list[Result | Exception] = []

    def generate() -> None:
        try:
            results.append(omg(webui, data, steps=STOPPED, **payload))
        except Exception as error:  # for the test's own thread
            results.append(error)

    thread = threading.Thread(target=generate)
    thread.start()
    while thread.is_alive():
        state = webui.progress()["state"]
        if state["job_no"] == run and state["sampling_step"] > STOPPED // 4:
            stop()
            break
        time.sleep(0.02)
    thread.join()
    result = results[0]
    assert isinstance(result, Result), result
    return result


@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_stopped_first_pass_returns_what_is_there(webui: WebUI, how: str) -> None:
    started = time.monotonic()
    full = omg(webui, ONE, steps=STOPPED)
    duration = time.monotonic() - started
    started = time.monotonic()
    result = stop_in(webui, 0, getattr(webui, how))
    assert time.monotonic() - started < duration
    assert len(result.images) == 1
    assert result.image.std() > 5
    assert distance(result.image, full.image) > 0.5
    assert result.comments == []


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_stopped_second_pass_returns_the_first_picture_and_says_so(webui: WebUI, how: str, strict: bool) -> None:
    plain = webui.txt2img(steps=STOPPED)
    result = stop_in(webui, 1, getattr(webui, how), {**ONE, "strict": strict})
    image, = result.images
    np.testing.assert_array_equal(image, plain.image)
    comment, = result.comments
    assert comment == "OMG: it was broken off while the concepts were drawn, so this is the first picture"
    assert comment.removeprefix("OMG: ") in result.info["infotexts"][0]


def test_picture_skipped_in_its_second_pass_is_upscaled_as_it_was(webui: WebUI) -> None:
    """The hires pass does not begin while the web UI still skips, and would leave noise."""
    hires = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0}
    upscaled = webui.txt2img(**hires).image
    webui.doubles("skip 12")  # calls 0 to 7 are the first pass
    result = omg(webui, ONE, **hires)
    assert result.image.shape == (192, 192, 3)
    assert distance(result.image, upscaled) < 0.3 * distance(webui.txt2img(**hires, seed=8).image, upscaled)
    assert ["it was broken off" in comment for comment in result.comments] == [True]


def test_interrupt_after_current_finishes_both_passes(webui: WebUI) -> None:
    """Wherever in the first of three pictures it is asked for: its second pass is part of it."""
    expected = omg(webui, ONE, steps=STOPPED)
    for run in (0, 1):
        result = stop_in(webui, run, webui.stop_after_current, n_iter=3)
        image, = result.images
        np.testing.assert_array_equal(image, expected.image)
        assert result.comments == []


def test_skipped_picture_is_followed_by_the_next(webui: WebUI) -> None:
    expected = omg(webui, ONE, steps=STOPPED, seed=DEFAULTS["seed"] + 1)
    result = stop_in(webui, 0, webui.skip, n_iter=2)
    assert len(result.images) == 2
    np.testing.assert_array_equal(result.images[1], expected.image)


def test_no_tensor_stays(webui: WebUI) -> None:
    """*nothing remains*: after a run, and a plain one that replaces the web UI's caches, memory is what it was."""
    found = {"phrase": "man", "prompt": "a dog <lora:sdxl-lora:1>"}
    data = request(concept(f"a red car <lora:sdxl-{WHOLE}:1>", LEFT), found, layout={"cross": 1, "self": 1})
    omg(webui, data)
    webui.txt2img()
    before = webui.tensors()
    for _ in range(3):
        omg(webui, data)
    webui.txt2img()
    assert webui.tensors() == before
