"""What a picture's infotext says of the concepts' LoRAs."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file

from tests.webui.host import WebUI
from tests.webui.test_api import LEFT, RIGHT, concept, omg, request

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
