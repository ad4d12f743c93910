"""Beside the real other extensions, where they are there: they act on concepts as on any picture, or are refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.webui.host import SETTINGS, ApiError, WebUI, distance, find_extension, install_extension, make_data_dir
from tests.webui.networks import write_networks
from tests.webui.test_api import PROMPT, assert_close, concept, omg, request

pytestmark = pytest.mark.webui

EXTENSIONS = ("sd-dynamic-thresholding", "sd-webui-kohya-hiresfix", "sd-webui-freeu", "sd_webui_SAG",
              "sd-webui-incantations", "sd-webui-negpip", "multidiffusion-upscaler-for-automatic1111",
              "sd-webui-controlnet", "sd-dynamic-prompts")
# Dynamic Prompts registers its settings with its script, too late for a first start: they stand in a user's file
PROMPT_SETTINGS = {f"dp_{name}": value for name, value in {
    "auto_purge_cache": False, "ignore_whitespace": False, "limit_jinja_prompts": False, "magicprompt_batch_size": 1,
    "magicprompt_default_model": "", "parser_variant_start": "{", "parser_variant_end": "}",
    "parser_wildcard_wrap": "__", "wildcard_manager_no_dedupe": False, "wildcard_manager_no_sort": False,
    "wildcard_manager_shuffle": False, "write_prompts_to_file": False, "write_raw_template": False}.items()}
DYNAMIC = {"Dynamic Thresholding (CFG Scale Fix)": {"args": [
    True, 7.0, 100, "Constant", 0, "Constant", 0, 4.0, True, "MEAN", "AD", 1.0]}}
# whose blocks are still in the UNet when a pass of few steps ends
LATE_KOHYA = {"Kohya Hires.fix": {"args": [True, True, 3, 4, 0.6, 0.9, "bicubic", 0.5, 2.0, True, False]}}
KOHYA = {"Kohya Hires.fix": {"args": [True, True, 3, 4, 0.15, 0.3, "bicubic", 0.5, 2.0, True, False]}}
TILED = {"Tiled Diffusion": {"args": [True, "MultiDiffusion", False, True, 1024, 1024, 16, 16, 4, 2]}}
SAG = {"Self Attention Guidance": {"args": [True, 0.75, 1.0]}}
NEGPIP = {"NegPiP": {"args": [True]}}


@pytest.fixture(scope="module")
def beside(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A web UI with copies of all that are there: some write into their own folder."""
    found = [path for path in map(find_extension, EXTENSIONS) if path is not None]
    if not found:
        pytest.skip("no third-party extension: put them into OMG_EXTENSIONS")
    folder = tmp_path_factory.mktemp("beside")
    make_data_dir(folder, checkpoints)
    write_networks(checkpoints, folder / "models" / "Lora")
    install_extension(installation, folder)
    (folder / "config.json").write_text(json.dumps({**SETTINGS, **PROMPT_SETTINGS}))
    (folder / "ui-config.json").write_text("{}")  # NegPiP asks for it at the first start already
    for path in found:
        shutil.copytree(path, folder / "extensions" / path.name, ignore=shutil.ignore_patterns(".git"))
    with WebUI(installation, folder) as started:
        yield started
    shutil.rmtree(folder / "models")


@pytest.fixture(autouse=True)
def on_sdxl(beside: WebUI) -> None:
    beside.set_checkpoint("tiny-sdxl")


def need(webui: WebUI, title: str) -> list[Any]:
    """The default arguments of an extension's script; without it the test is skipped."""
    for script in webui.get("/sdapi/v1/script-info"):
        if script["name"] == title.lower() and not script["is_img2img"]:
            return [(arg["label"], arg["value"]) for arg in script["args"]]
    pytest.skip(f"{title} is not there, or does not start in this web UI")


def beside_omg(webui: WebUI, scripts: dict[str, Any], data: dict[str, Any], **payload: Any) -> np.ndarray:
    return webui.txt2img(alwayson_scripts={"OMG": {"args": [data]}, **scripts}, **payload).image


@pytest.mark.parametrize(("scripts", "payload"), [
    (DYNAMIC, {"cfg_scale": 15}), (DYNAMIC, {"cfg_scale": 15, "sampler_name": "DPM++ 2M SDE"}),
    (KOHYA, {}), (KOHYA, {"sampler_name": "Euler a", "steps": 12}), (LATE_KOHYA, {}),
    (TILED, {"width": 256, "height": 192}), (TILED, {"width": 256, "height": 192, "sampler_name": "DDIM"}),
], ids=str)
def test_concept_everywhere_is_plain(beside: WebUI, scripts: dict[str, Any], payload: dict[str, Any]) -> None:
    """*everywhere is plain*, and with the layout kept the picture of the same prompt stays itself.

    A picture without extensions comes before each: Kohya Hires.fix registers its callback anew in every picture until
    one is made without it, and two of them draw another picture than one.
    """
    need(beside, next(iter(scripts)))
    prompt = f"{PROMPT} <lora:sdxl-lora:1>"
    without = beside.txt2img(prompt=prompt, **payload).image
    plain = beside.txt2img(prompt=prompt, alwayson_scripts=scripts, **payload).image
    assert distance(plain, without) > 1
    beside.txt2img(**payload)
    assert_close(beside_omg(beside, scripts, request(concept(prompt)), prompt="a street", **payload), plain)
    beside.txt2img(**payload)
    plain = beside.txt2img(prompt=PROMPT, alwayson_scripts=scripts, **payload).image
    beside.txt2img(**payload)
    kept = {"concepts": [concept(PROMPT)], "predict": "separate"}
    assert_close(beside_omg(beside, scripts, kept, prompt=PROMPT, **payload), plain)


def refused(webui: WebUI, scripts: dict[str, Any], *concepts: dict[str, Any], **payload: Any) -> str:
    with pytest.raises(ApiError) as caught:
        beside_omg(webui, scripts, request(*concepts), **payload)
    assert caught.value.status == 422
    return caught.value.detail


def test_self_attention_guidance_is_refused(beside: WebUI) -> None:
    """It knows SD 1.x alone; with SDXL it stops the web UI's plain pictures, too."""
    need(beside, "Self Attention Guidance")
    beside.set_checkpoint("tiny-sd15")
    assert "sd_webui_SAG evaluates the model for guidance of its own" in refused(beside, SAG, concept("a red car"))


def test_perturbed_attention_guidance_is_refused(beside: WebUI) -> None:
    """After any error a callback of its stays until the end of the next picture, with or without OMG."""
    args = need(beside, "Incantations")
    scale = [label for label, _ in args].index("PAG Scale")
    values = [value for _, value in args]
    values[scale - 1], values[scale] = True, 3.0
    message = refused(beside, {"Incantations": {"args": values}}, concept("a red car"))
    assert re.search("sd-webui-incantations (evaluates the model|changes attention layers)", message)
    beside.txt2img()


@pytest.mark.parametrize("switch", [0, 21], ids=["Smoothed Energy Guidance", "Multi T2I-Zero"])
def test_hooks_on_attention_are_refused(beside: WebUI, switch: int) -> None:
    """They go by the order of rows in a call, or count calls."""
    values = [value for _, value in need(beside, "Incantations")]
    assert values[switch] is False
    values[switch] = True
    assert "sd-webui-incantations changes attention layers" in refused(
        beside, {"Incantations": {"args": values}}, concept("a red car"))
    beside.txt2img()


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2}, {"n_iter": 2}], ids=str)
def test_dynamic_prompts(beside: WebUI, payload: dict[str, Any]) -> None:
    """*everywhere is plain*: what is drawn for a concept is what is drawn for a main prompt, picture by picture."""
    need(beside, "Dynamic Prompts v2.17.1")
    prompt = "a {red|green|blue|black} car <lora:sdxl-lora:1>"
    plain = beside.txt2img(prompt=prompt, **payload)
    assert all("{" not in drawn for drawn in plain.info["all_prompts"])
    made = omg(beside, request(concept(prompt)), prompt="a street", **payload)
    for ours, wanted in zip(made.images, plain.images, strict=True):
        assert_close(ours, wanted)
    for text, drawn in zip(made.info["infotexts"], plain.info["all_prompts"], strict=True):
        assert drawn.partition(" <")[0] in text


def test_negpip(beside: WebUI) -> None:
    need(beside, "NegPiP")
    assert "NegPiP" in refused(beside, NEGPIP, concept("a red car"), prompt="a street, (cars:-1)")
    assert "NegPiP" in refused(beside, NEGPIP, concept("a car, (red:-1)"), prompt="a street")
    plain = beside.txt2img(prompt=PROMPT, alwayson_scripts=NEGPIP).image
    assert_close(beside_omg(beside, NEGPIP, request(concept(PROMPT)), prompt="a street"), plain)


def test_idle_extensions_change_nothing(beside: WebUI) -> None:
    """*everywhere is plain* while all of them are there and off."""
    plain = beside.txt2img(prompt=f"{PROMPT} <lora:sdxl-lora:1>").image
    assert_close(omg(beside, request(concept(f"{PROMPT} <lora:sdxl-lora:1>"))).image, plain)
