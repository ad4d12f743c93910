"""What people do that has always worked, and has to: odd names and sizes, other ways to start the web UI and ask it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from omg_ext.request import parse_request
from omg_ext.webui.form import args_from_request
from tests.webui.host import SETTINGS, Result, WebUI, distance, install_extension, make_data_dir
from tests.webui.networks import write_networks
from tests.webui.test_api import LEFT, PROMPT, assert_close, assert_is_plain, concept, omg, request

pytestmark = pytest.mark.webui

TWO = (concept(f"{PROMPT} <lora:sdxl-lora:1>", LEFT), concept("a dog <lora:sdxl-loha:1>", {"box": [0.3, 0, 1, 1]}))


@pytest.fixture(scope="module")
def _odd_files(running: WebUI) -> None:
    """A LoRA under names that people give, one known by its alias, one that brings an embedding."""
    folder = running.data_dir / "models" / "Lora"
    weights = load_file(folder / "sdxl-lora.safetensors")
    for name in ("it's v1.2 (final) [new]", "ünïcode-名前", "UPPER_and-lower"):
        save_file(weights, folder / f"{name}.safetensors")
    save_file(weights, folder / "file-name.safetensors", {"ss_output_name": "trained-as"})
    vectors = torch.Generator().manual_seed(0)
    bundled = {f"bundle_emb.sksword.{part}": torch.randn(2, 32, generator=vectors) for part in ("clip_l", "clip_g")}
    save_file({**weights, **bundled}, folder / "with-embedding.safetensors")


@pytest.mark.usefixtures("_odd_files")
@pytest.mark.parametrize("name", ["it's v1.2 (final) [new]", "ünïcode-名前", "UPPER_and-lower", "trained-as"])
def test_file_names(webui: WebUI, name: str) -> None:
    """*everywhere is plain*"""
    assert_is_plain(webui, f"{PROMPT} <lora:{name}:0.9>")


@pytest.mark.usefixtures("_odd_files")
def test_embedding_that_comes_with_a_lora(webui: WebUI) -> None:
    """*everywhere is plain*; Forge leaves it out, which is said."""
    prompt = "a sksword car <lora:with-embedding:1>"
    without = webui.txt2img(prompt="a sksword car <lora:sdxl-lora:1>").image
    assert (distance(webui.txt2img(prompt=prompt).image, without) > 1) is not webui.is_forge
    assert_is_plain(webui, prompt)
    said = omg(webui, request(concept(prompt)), steps=2).comments
    assert any("with-embedding brings an embedding, sksword, which Forge does not read" in each
               for each in said) is webui.is_forge


@pytest.mark.parametrize("payload", [
    {"width": 136, "height": 120}, {"width": 72, "height": 200},
    {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.37, "denoising_strength": 0.6, "steps": 5},
    {"enable_hr": True, "hr_upscaler": "Nearest", "hr_resize_x": 200, "hr_resize_y": 152, "denoising_strength": 0.6,
     "steps": 5},
], ids=str)
def test_sizes(webui: WebUI, payload: dict[str, Any]) -> None:
    """*everywhere is plain*"""
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-locon:1>", **payload)


def test_order_of_concepts(webui: WebUI) -> None:
    """*rows do not matter*"""
    assert_close(omg(webui, request(*TWO[::-1])).image, omg(webui, request(*TWO)).image)


def test_component_values_in_their_order(webui: WebUI) -> None:
    """As queues send them, which know a script by its components alone."""
    data = request(*TWO, show=["masks"])
    args = args_from_request(parse_request(data), SETTINGS["omg_ui_concepts"])
    result = webui.txt2img(alwayson_scripts={"OMG": {"args": args}})
    expected = omg(webui, data)
    assert [image.tobytes() for image in result.images] == [image.tobytes() for image in expected.images]


def test_requests_at_once(webui: WebUI) -> None:
    """The web UI takes one after the other, each with what belongs to it."""
    payloads: list[dict[str, Any]] = [
        {"alwayson_scripts": {"OMG": {"args": [request(*TWO)]}}}, {},
        {"alwayson_scripts": {"OMG": {"args": [request(TWO[0])]}}}, {"prompt": f"{PROMPT} <lora:sdxl-lora:1>"}]
    expected = [webui.txt2img(**payload).image for payload in payloads]
    results: dict[int, Result] = {}

    def ask(number: int) -> None:
        results[number] = webui.txt2img(**payloads[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(payloads))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, image in enumerate(expected):
        np.testing.assert_array_equal(results[number].image, image)


@pytest.fixture(scope="module")
def without_page(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A web UI of its own: the API alone, in float32 with little graphics memory."""
    folder = tmp_path_factory.mktemp("nowebui")
    make_data_dir(folder, checkpoints)
    write_networks(checkpoints, folder / "models" / "Lora")
    install_extension(installation, folder)
    with WebUI(installation, folder, ("--nowebui", "--medvram")) as started:
        yield started
    shutil.rmtree(folder / "models")


@pytest.mark.parametrize("kind", ["lora", "loha", "dora"])
def test_without_a_page_and_with_medvram(without_page: WebUI, kind: str) -> None:
    """*everywhere is plain*"""
    without_page.set_checkpoint("tiny-sdxl")
    assert_is_plain(without_page, f"{PROMPT} <lora:sdxl-{kind}:1>", steps=4)
