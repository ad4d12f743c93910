"""Hires. fix: the second sampling of the web UI at a larger size, with the concepts where the first one had them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.webui.host import ApiError, WebUI, distance
from tests.webui.test_api import LEFT, PROMPT, assert_is_plain, concept, omg, request

pytestmark = pytest.mark.webui

HIRES: dict[str, Any] = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "steps": 5}


@pytest.mark.parametrize("upscaler", ["Latent", "Nearest"])
@pytest.mark.parametrize("payload", [
    {}, {"batch_size": 2}, {"hr_second_pass_steps": 3}, {"hr_sampler_name": "DDIM"}, {"sampler_name": "Euler a"},
], ids=str)
def test_concept_everywhere_is_the_plain_hires_picture(webui: WebUI, upscaler: str, payload: dict[str, Any]) -> None:
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-locon:1>", **HIRES, hr_upscaler=upscaler, **payload)


def test_concept_stays_in_its_box(webui: WebUI) -> None:
    """With concepts in the first sampling only, the second would draw the plain prompt over them."""
    styled = concept(f"{PROMPT} <lora:sdxl-full:1>", {"box": [0, 0, 0.4, 1]})
    plain = webui.txt2img(**HIRES, hr_upscaler="Latent").image
    made = omg(webui, request(styled), **HIRES, hr_upscaler="Latent").image
    width = plain.shape[1]
    inside, outside = (distance(plain[:, columns], made[:, columns])
                       for columns in (slice(0, width // 3), slice(width * 2 // 3, width)))
    assert made.shape == plain.shape
    assert inside > 1.5 * outside


def test_concept_that_is_not_found_leaves_the_plain_hires_picture(webui: WebUI) -> None:
    plain = webui.txt2img(**HIRES, hr_upscaler="Latent")
    result = omg(webui, request({"phrase": "giraffe", "prompt": "a giraffe"}), **HIRES, hr_upscaler="Latent")
    np.testing.assert_array_equal(result.image, plain.image)


def test_hires_checkpoint_that_the_networks_fit(webui: WebUI) -> None:
    """*everywhere is plain*: the concepts go on with that model."""
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-locon:1>", **HIRES, hr_upscaler="Nearest",
                    hr_checkpoint_name="tiny-sdxl-v", n_iter=2)


def test_hires_checkpoint_that_the_networks_do_not_fit(webui: WebUI) -> None:
    """Both passes are paid for by then: the picture is upscaled without the concepts, and that is said."""
    # Neo takes what another hires checkpoint has made of the same prompts
    options = {**HIRES, "hr_upscaler": "Nearest", "hr_checkpoint_name": "tiny-sd15", "prompt": "a man beside a woman",
               "negative_prompt": "dark"}
    result = omg(webui, request(concept(f"{PROMPT} <lora:sdxl-lora:1>", LEFT)), **options)
    assert any("was upscaled without them" in comment for comment in result.comments)
    assert result.image.shape == (192, 192, 3)
    with pytest.raises(ApiError, match=r"was made for SDXL; the loaded model is SD 1\.x") as caught:
        omg(webui, request(concept(f"{PROMPT} <lora:sdxl-lora:1>", LEFT), strict=True), **options)
    assert caught.value.status == 422
