"""Block weights in concepts' tags, with the extension LoRA Block Weight: a web UI of its own, since it is always on.

"Plain" is the web UI with that extension and without a request.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.webui.host import ApiError, WebUI, distance, find_extension, install_extension, make_data_dir
from tests.webui.networks import write_networks
from tests.webui.test_api import LEFT, PROMPT, RIGHT, assert_close, assert_is_plain, concept, omg, request

pytestmark = [pytest.mark.webui, pytest.mark.not_in_forge("block weights are refused there")]

NAME = "sd-webui-lora-block-weight"
KINDS = ("lora", "locon", "loha", "lokr", "lokr-both", "ia3", "oft", "full", "norm", "dora")
STEPS = 4
TWELVE = "lbw=0,1,0.5,0,1,0.3,1,0,-0.6,1,0,1"
TWENTY = "lbw=0.4,1,0,0.5,0,1,0,1,1,0,0.3,1,0,1,-1,0,1,0.2,1,0"
FULL = "lbw=" + ",".join(f"{number % 3 / 2:g}" for number in range(26))


@pytest.fixture(scope="module")
def weighing(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    found = find_extension(NAME)
    if found is None:
        pytest.skip(f"no {NAME}: put it into OMG_EXTENSIONS or ~/.cache/omg/extensions")
    folder = tmp_path_factory.mktemp("weighing")
    make_data_dir(folder, checkpoints)
    write_networks(checkpoints, folder / "models" / "Lora", KINDS)
    install_extension(installation, folder)
    # it writes its presets beside its script
    shutil.copytree(found, folder / "extensions" / NAME, ignore=shutil.ignore_patterns(".git"))
    with WebUI(installation, folder) as started:
        yield started
    shutil.rmtree(folder / "models")


@pytest.mark.parametrize("arguments", [
    "1:1:lbw=OUTALL", "0.8:lbw=MIDD", "lbw=INALL", "0.5:0.7:lbw=OUTD", "unet=0.6:lbw=ALL0.5", "te=0.4:unet=0.9:lbw=INS",
    f"1:{TWELVE}", f"1:{TWENTY}", f"1:{FULL}", "1:1:2:lbw=OUTALL", "1:w=OUTALL", "1:lbwe=ATTNDEEPOFF",
    "1:lbw=OUTALL:lbwe=PROJDEEPOFF", f"1:{TWELVE.replace('0.5', 'X')}:x=0.2",
    f"1:{TWELVE.replace('0.5', 'X-0.3')}:x=0.7"])
def test_concept_everywhere_is_the_plain_picture(weighing: WebUI, arguments: str) -> None:
    """*everywhere is plain*"""
    prompt = f"{PROMPT} <lora:sdxl-lora:{arguments}>"
    assert_is_plain(weighing, prompt, steps=STEPS)
    whole = weighing.txt2img(prompt=f"{PROMPT} <lora:sdxl-lora:1>", steps=STEPS)
    assert distance(weighing.txt2img(prompt=prompt, steps=STEPS).image, whole.image) > 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lokr-both"])
def test_every_kind_that_the_extension_weighs(weighing: WebUI, kind: str) -> None:
    """*everywhere is plain*"""
    assert_is_plain(weighing, f"{PROMPT} <lora:sdxl-{kind}:1:lbw=OUTALL>", steps=STEPS)


@pytest.mark.parametrize("kind", ["lora", "locon"])
def test_sd15(weighing: WebUI, kind: str) -> None:
    """*everywhere is plain*"""
    weighing.set_checkpoint("tiny-sd15")
    try:
        assert_is_plain(weighing, f"{PROMPT} <lora:sd15-{kind}:1:lbw=OUTALL>", steps=STEPS)
    finally:
        weighing.set_checkpoint("tiny-sdxl")


@pytest.mark.parametrize("payload", [
    {"n_iter": 2}, {"batch_size": 2, "override_settings": {"lora_in_memory_limit": 4}},
    {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.7},
], ids=str)
def test_batches_and_hires(weighing: WebUI, payload: dict[str, Any]) -> None:
    """*everywhere is plain*"""
    assert_is_plain(weighing, f"{PROMPT} <lora:sdxl-lora:1:lbw=OUTALL> <lora:sdxl-other:0.5>", steps=STEPS, **payload)


@pytest.mark.parametrize(("main", "own"), [
    ("sdxl-style:0.7", "sdxl-lora:1:lbw=OUTALL"), ("sdxl-style:0.7:lbw=INALL", "sdxl-lora:1:lbw=OUTALL"),
    ("sdxl-style:0.7:lbw=INALL", "sdxl-lora:1")])
def test_beside_the_main_prompts_networks(weighing: WebUI, main: str, own: str) -> None:
    plain = weighing.txt2img(prompt=f"{PROMPT} <lora:{main}> <lora:{own}>", steps=STEPS)
    made = omg(weighing, request(concept(f"{PROMPT} <lora:{own}>")), prompt=f"a street <lora:{main}>", steps=STEPS)
    assert_close(made.image, plain.image)


def test_one_file_weighed_in_several_ways(weighing: WebUI) -> None:
    """Concepts' weights do not meet in the file that they share, nor the main prompt's."""
    folder = weighing.data_dir / "models" / "Lora"
    for name in ("one", "two", "three"):
        shutil.copyfile(folder / "sdxl-lora.safetensors", folder / f"copy-{name}.safetensors")
    results = [omg(weighing, request(concept(f"a man <lora:{left}:1:lbw=OUTALL>", LEFT),
                                     concept(f"a dog <lora:{right}:1:lbw=INALL>", RIGHT)), steps=STEPS,
                   prompt=f"a street <lora:{main}:0.3:lbw=MIDD>", n_iter=2)
               for left, right, main in (("copy-one", "copy-two", "copy-three"), ("sdxl-lora",) * 3)]
    for apart, shared in zip(results[0].images, results[1].images, strict=True):
        assert_close(apart, shared)


@pytest.mark.parametrize(("arguments", "words"), [
    ("1:lbw=OUTAL", "lbw=OUTAL is no preset of LoRA Block Weight; known: NONE, ALL"), ("1:lbw=1,1,1", "has 3 weights"),
    ("1:lbw=FLUXALL", "has 61 weights"), (f"1:{TWELVE.replace('0.5', 'R')}", "random weight R"),
    (f"1:{TWELVE.replace('0.5', 'much')}", "'much', which is not a number"),
    ("1:lbwe=ATTN", "lbwe=ATTN is no preset"), ("1:lbw=OUTALL:start=3", "start= in a tag does not work"),
    ("1:stop=3", "stop= in a tag does not work"), ("1:lbw=OUTALL:step=2-3", "step= in a tag does not work"),
    (f"1:{TWELVE}:x=lots", "x=lots"), ("1:weight=2", "weight=")])
def test_what_is_refused(weighing: WebUI, arguments: str, words: str) -> None:
    assert words in refusal(weighing, f"{PROMPT} <lora:sdxl-lora:{arguments}>")


def test_kind_that_the_extension_does_not_weigh(weighing: WebUI) -> None:
    assert "cannot weigh the blocks" in refusal(weighing, f"{PROMPT} <lora:sdxl-lokr-both:1:lbw=OUTALL>")


@pytest.mark.parametrize("tag", ["lbw=OUTALL:sdxl-lora:1", "sdxl-lora:1:x=0.5"])
def test_tag_that_the_extension_does_not_understand(weighing: WebUI, tag: str) -> None:
    """It does nothing then, and says nothing."""
    assert f"does nothing with <lora:{tag}>" in refusal(weighing, f"{PROMPT} <lora:{tag}>")


def test_switched_off(weighing: WebUI) -> None:
    """*off is off*: then the web UI ignores them too, but says nothing."""
    off = {"LoRA Block Weight": {"args": ["OUTALL:1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1", False]}}
    assert "switched off" in refusal(weighing, f"{PROMPT} <lora:sdxl-lora:1:lbw=OUTALL>", off)
    assert_close(omg(weighing, request(concept(f"{PROMPT} <lora:sdxl-lora:1>")), steps=STEPS).image,
                 weighing.txt2img(prompt=f"{PROMPT} <lora:sdxl-lora:1>", steps=STEPS).image)


def test_nothing_remains(weighing: WebUI) -> None:
    weighing.txt2img(steps=STEPS)
    before, patches = weighing.txt2img(steps=STEPS).image, weighing.patches()
    omg(weighing, request(concept(f"{PROMPT} <lora:sdxl-lora:1:lbw=OUTALL>", LEFT)), steps=STEPS)
    np.testing.assert_array_equal(weighing.txt2img(steps=STEPS).image, before)
    assert weighing.patches() == patches


def refusal(webui: WebUI, prompt: str, scripts: dict[str, Any] | None = None) -> str:
    data = request(concept(prompt, LEFT))
    with pytest.raises(ApiError) as caught:
        webui.txt2img(steps=STEPS, alwayson_scripts={"OMG": {"args": [data]}, **(scripts or {})})
    assert caught.value.status == 422
    assert "concepts[0].prompt" in caught.value.detail
    return caught.value.detail
