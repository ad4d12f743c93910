"""What a picture's infotext says of the concepts' LoRAs, and what the API reads from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.webui.host import ApiError, Result, WebUI
from tests.webui.test_api import LEFT, NO_REPLAY, RIGHT, concept, omg, request
from tests.webui.test_img2img import SQUARE

pytestmark = pytest.mark.webui

HASHES = {"hashed-one": "1" * 64, "hashed-two": "2" * 64}


@pytest.fixture(scope="module")
def _hashed_loras(running: WebUI) -> None:
    """Two LoRAs with the hash that kohya's trainer writes; the web UI of the tests computes none itself."""
    folder = running.data_dir / "models" / "Lora"
    weights = load_file(folder / "sdxl-lora.safetensors")
    for name, value in HASHES.items():
        save_file(weights, folder / f"{name}.safetensors",
                  {"ss_base_model_version": "sdxl_base_v1-0", "sshs_model_hash": value})


@pytest.mark.usefixtures("_hashed_loras")
def test_loras_of_all_prompts_are_among_the_hashes(webui: WebUI) -> None:
    """Model sites recognise by them what a picture was made with."""
    data = request(concept("a man <lora:hashed-one:1>", LEFT), concept("a woman", RIGHT))
    text = omg(webui, data, prompt="a street <lora:hashed-two:0.5>").info["infotexts"][0]
    assert 'Lora hashes: "hashed-two: 222222222222, hashed-one: 111111111111"' in text
    alone = omg(webui, data, prompt="a street").info["infotexts"][0]
    assert 'Lora hashes: "hashed-one: 111111111111"' in alone
    plain = webui.txt2img(prompt="a street").info["infotexts"][0]
    assert "hashed" not in plain


@NO_REPLAY
@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_apis_infotext_field_asks_for_it_again(webui: WebUI, tab: str) -> None:
    """Fields that the gallery's buttons go by are no values of an infotext; and what is not here is named."""
    data = request(concept("a man <lora:sdxl-lora:1>", LEFT), concept("a woman", RIGHT), blend_start=0.2)

    def draw(**payload: Any) -> Result:
        return webui.txt2img(**payload) if tab == "txt2img" else webui.img2img(SQUARE, **payload)

    made = draw(alwayson_scripts={"OMG": {"args": [data]}})
    text = made.info["infotexts"][0]
    again = draw(infotext=f"{text}, OMG field: 3")
    np.testing.assert_array_equal(again.image, made.image)
    assert again.info["infotexts"][0] == text
    with pytest.raises(ApiError, match=r"concepts\[0\].prompt: there is no LoRA 'sdxl-lroa' .*sdxl-lora") as refused:
        draw(infotext=text.replace("sdxl-lora", "sdxl-lroa"))
    assert refused.value.status == 422
