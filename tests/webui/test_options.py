"""The web UI's own options with OMG: each that this file runs, and each that a CPU cannot.

Every option is tested by *everywhere is plain* and *empty second pass*; that it was on is seen by what it changes, or
in the web UI's log. Those with tests elsewhere (AND, styles, hires fix, tiling, token merging, medvram and more) are
not here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.webui.host import WebUI, distance, install_extension, make_data_dir
from tests.webui.networks import write_networks
from tests.webui.test_api import PROMPT, assert_is_plain, concept, omg, request

pytestmark = pytest.mark.webui

SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 3}


@dataclass(frozen=True)
class Option:
    """
    Attributes:
        name: what the test is called.
        settings: of the web UI.
        payload: of the call.
        checkpoint: which one it is for.
        said: what the web UI's log says once it is on; of those that leave the picture as it is, to rounding.
        not_in_forge: why it cannot be tested there.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    payload: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = "tiny-sdxl"
    said: str = ""
    not_in_forge: str = ""


ATTENTION_IN_FORGE = "flags choose attention there, and the option does nothing"


def attention(title: str, said: str = "") -> Option:
    return Option(f"attention: {title}", {"cross_attention_optimization": title},
                  said=said or f"attention optimization: {title.partition(' - ')[0]}", not_in_forge=ATTENTION_IN_FORGE)


ZERO_SNR = {"sd_noise_schedule": "Zero Terminal SNR"}
ATTENTION = ("sdp-no-mem - scaled dot product without memory efficient attention", "sdp - scaled dot product",
             "sub-quadratic", "V1 - original v1", "InvokeAI", "Doggettx")
RUN = (
    Option("clip skip", {"CLIP_stop_at_last_layers": 2}, checkpoint="tiny-sd15"),
    # 2 is what SDXL has anyway, and 1 the default, which the web UI's cache of prompts would not tell from this
    Option("clip skip, SDXL", {"CLIP_stop_at_last_layers": 3, "sdxl_clip_l_skip": True}),
    Option("seed resize", payload={"seed_resize_from_w": 32, "seed_resize_from_h": 48}),
    Option("seed resize, variation seed",
           payload={"seed_resize_from_w": 96, "seed_resize_from_h": 128, "subseed": 3, "subseed_strength": 0.4}),
    Option("SGM noise multiplier", {"sgm_noise_multiplier": True}),
    Option("zero terminal SNR", ZERO_SNR),
    Option("zero terminal SNR, v-prediction", ZERO_SNR, checkpoint="tiny-sdxl-v"),
    Option("zero terminal SNR, DDIM", ZERO_SNR, {"sampler_name": "DDIM"}, "tiny-sdxl-v"),
    Option("downcast alphas", {"use_downcasted_alpha_bar": True}, not_in_forge="the option does nothing there"),
    *(attention(title) for title in ATTENTION),
    attention("None", "Disabling attention optimization"),
)
OFF: dict[str, Any] = {
    "CLIP_stop_at_last_layers": 1, "sdxl_clip_l_skip": False, "sgm_noise_multiplier": False,
    "sd_noise_schedule": "Default", "use_downcasted_alpha_bar": False, "cross_attention_optimization": "Automatic",
}
"""The web UI's defaults."""
CANNOT = {
    "attention: xformers": "it needs a CUDA device",
    "FP8 weights, SDXL": "the web UI cannot load it: OpenCLIP's mask does not fit the bfloat16 that it takes there",
    "VAE on CPU": "web UI v1.10 has no such switch; --use-cpu all, with which all tests run, moves the VAE too",
    "half precision VAE, --no-half-vae": "a CPU has no arithmetic for float16; test_half.py has bfloat16",
    "--upcast-sampling": "a CPU has no arithmetic for float16",
}
"""And why not."""


@pytest.fixture(params=[
    pytest.param(each, id=each.name, marks=[pytest.mark.not_in_forge(each.not_in_forge)] if each.not_in_forge else [])
    for each in RUN])
def option(webui: WebUI, request: pytest.FixtureRequest, nothing_left: None) -> Iterator[Option]:
    """The web UI with this option on, which is off again afterwards."""
    chosen: Option = request.param
    webui.set_checkpoint(chosen.checkpoint)
    log = len(webui.log())
    webui.options(**chosen.settings)
    assert chosen.said in webui.log()[log:]
    yield chosen
    if chosen.said:  # from None the web UI would come back with another attention in the VAE than it began with
        webui.options(cross_attention_optimization="InvokeAI")
    webui.options(**OFF)


def prompt_for(option: Option) -> str:
    return f"{PROMPT} <lora:{option.checkpoint.removeprefix('tiny-').removesuffix('-v')}-locon:1>"


def test_pictures_are_what_they_are_without_omg(webui: WebUI, option: Option) -> None:
    payload = {**SMALL, "sampler_name": "Euler a", **option.payload}
    prompt = f"{PROMPT} <lora:{option.checkpoint.removeprefix('tiny-').removesuffix('-v')}-locon:1>"
    # without guidance in every way, with guidance without a network
    assert_is_plain(webui, prompt, ways=("separate", "shared", "joint"), **{**payload, "cfg_scale": 1})
    assert_is_plain(webui, PROMPT, ways=("joint",), **payload)

    plain = webui.txt2img(**payload).image
    empty = {"concepts": [concept(prompt)], "blend_start": 1}
    np.testing.assert_array_equal(omg(webui, empty, **payload).image, plain)

    # it was on, or all this would prove nothing
    webui.options(**OFF)
    off = webui.txt2img(**SMALL, sampler_name=payload["sampler_name"]).image
    assert option.said or distance(plain, off) > 0


@pytest.mark.not_in_forge(ATTENTION_IN_FORGE)
def test_every_attention_of_the_web_ui_is_here(webui: WebUI) -> None:
    """Those that it offers on a CPU."""
    offered = next(each["props"]["choices"] for each in webui.get("/config")["components"]
                   if each["props"].get("elem_id") == "setting_cross_attention_optimization")
    assert set(offered) == {"Automatic", "None", *ATTENTION}
    assert not [each for each in offered if f"attention: {each}" in CANNOT]


# FP8 weights, which the web UI evaluates in bfloat16 on a CPU

@pytest.fixture(scope="module")
def eight(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """With SD 1.5, see :data:`CANNOT`."""
    folder = tmp_path_factory.mktemp("eight")
    make_data_dir(folder, checkpoints)
    write_networks(checkpoints, folder / "models" / "Lora")
    install_extension(installation, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"fp8_storage": "Enable", "sd_model_checkpoint": "tiny-sd15", "live_previews_enable": False}
    (folder / "config.json").write_text(json.dumps(settings))
    with WebUI(installation, folder) as started:
        yield started
    shutil.rmtree(folder / "models")


@pytest.mark.not_in_forge("test_forge.py has its weights in few bits")
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_fp8_concept_everywhere_is_the_plain_picture(eight: WebUI, kind: str) -> None:
    """*everywhere is plain*, but for the rounding of merged weights to 8 bits, which concepts are spared."""
    prompt = f"{PROMPT} <lora:sd15-{kind}:1>"
    payload: dict[str, Any] = {"steps": 4, "cfg_scale": 1}
    plain, without = (eight.txt2img(prompt=each, **payload).image for each in (prompt, PROMPT))
    for way in ("separate", "joint"):
        made = omg(eight, request(concept(prompt), predict=way), **payload)
        assert distance(made.image, plain) < 0.5 * distance(without, plain)


@pytest.mark.not_in_forge("test_forge.py has its weights in few bits")
def test_fp8_two_passes_repeat(eight: WebUI) -> None:
    """*empty second pass*"""
    data = {"concepts": [concept("a red car <lora:sd15-lora:1>")], "blend_start": 1}
    np.testing.assert_array_equal(omg(eight, data, steps=4).image, eight.txt2img(steps=4).image)
