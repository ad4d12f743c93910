"""The rig itself: the web UI runs with the extension, the tiny checkpoints and the test networks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.webui.host import CHECKPOINTS, ApiError, WebUI, distance
from tests.webui.networks import kinds_for

pytestmark = pytest.mark.webui


def test_extension_is_an_always_on_script_of_both_tabs(webui: WebUI) -> None:
    names = webui.get("/sdapi/v1/scripts")
    assert "omg" in names["txt2img"]
    assert "omg" in names["img2img"]


def test_extension_starts_without_errors(webui: WebUI) -> None:
    assert "Error loading script" not in webui.log()
    assert "Error calling" not in webui.log()
    assert "Error executing callback" not in webui.log()


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_pictures_are_repeatable_and_follow_the_prompt(webui: WebUI, checkpoint: str) -> None:
    webui.set_checkpoint(checkpoint)
    first, again, other = webui.txt2img().image, webui.txt2img().image, webui.txt2img(prompt="a red car").image
    assert first.shape == (128, 128, 3)
    assert first.std() > 20
    np.testing.assert_array_equal(first, again)
    assert distance(first, other) > 5


def test_refused_request_raises(webui: WebUI) -> None:
    with pytest.raises(ApiError, match="'no such script' not found") as caught:
        webui.txt2img(script_name="no such script")
    assert caught.value.status == 422


@pytest.mark.parametrize("kind", [kind for kind in ("lora", "locon", "oft", "full") if kind in kinds_for("sdxl")])
def test_text_encoder_half_shows_alone(webui: WebUI, kind: str) -> None:
    plain = webui.txt2img(prompt="a photo of a man").image
    result = webui.txt2img(prompt=f"a photo of a man <lora:sdxl-{kind}:1:0>")
    assert distance(plain, result.image) > 0.5


def test_all_types_differ(webui: WebUI) -> None:
    kinds = kinds_for("sdxl")
    pictures = {kind: webui.txt2img(prompt=f"a photo of a man <lora:sdxl-{kind}:1>").image.tobytes() for kind in kinds}
    assert len(set(pictures.values())) == len(kinds)
