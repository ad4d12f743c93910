"""Half precision and ``--medvram``, which most users have: a web UI of its own, with weights in bfloat16."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.webui.host import WebUI, distance, install_extension, make_data_dir
from tests.webui.networks import write_networks
from tests.webui.test_api import LEFT, PROMPT, concept, omg, request

pytestmark = [pytest.mark.webui, pytest.mark.not_in_forge("half precision is made otherwise there")]

KINDS = ("lora", "locon-cp", "loha", "lokr", "dora", "full", "norm", "ia3")


@pytest.fixture(scope="module", params=["--medvram", "--lowvram"])
def half(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory,
         request: pytest.FixtureRequest) -> Iterator[WebUI]:
    folder = tmp_path_factory.mktemp("half")
    make_data_dir(folder, checkpoints)
    write_networks(checkpoints, folder / "models" / "Lora")
    install_extension(installation, folder)
    with WebUI(installation, folder, (request.param,), half=True) as started:
        started.options(live_previews_enable=False)  # NumPy knows no bfloat16
        started.doubles()
        yield started
    shutil.rmtree(folder / "models")


@pytest.mark.parametrize("kind", KINDS)
def test_concept_everywhere_is_the_plain_picture(half: WebUI, kind: str) -> None:
    """*everywhere is plain*, to the rounding of bfloat16: far nearer than the prompt without its network."""
    prompt = f"{PROMPT} <lora:sdxl-{kind}:1>"
    plain, without = half.txt2img(prompt=prompt, steps=4).image, half.txt2img(prompt=PROMPT, steps=4).image
    made = omg(half, request(concept(prompt)), steps=4)
    assert distance(made.image, plain) < 0.2 * distance(without, plain)


def test_main_prompts_network_is_there_and_stays(half: WebUI) -> None:
    """Merged outside a forward call it was missing, in later plain pictures too."""
    styled = f"{PROMPT} <lora:sdxl-style:0.7>"
    before = half.txt2img(prompt=styled, steps=4).image
    half.txt2img(prompt=PROMPT, steps=4)
    result = omg(half, {"concepts": [concept("a dog <lora:sdxl-loha:1>", LEFT)], "show": ["first_pass"]},
                 prompt=styled, steps=4)
    np.testing.assert_array_equal(result.images[1], before)
    np.testing.assert_array_equal(half.txt2img(prompt=styled, steps=4).image, before)
    assert half.doubles_saw()["applied outside"] == []


def test_two_passes_repeat(half: WebUI) -> None:
    """*empty second pass*"""
    data = {"concepts": [concept("a red car <lora:sdxl-lora:1>")], "blend_start": 1}
    np.testing.assert_array_equal(omg(half, data, steps=4).image, half.txt2img(steps=4).image)
