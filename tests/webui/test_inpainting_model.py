"""A checkpoint for inpainting, whose UNet also sees the mask and what is left of the picture (nine channels)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.webui.host import CHECKPOINTS, WebUI
from tests.webui.test_api import LEFT, PROMPT, RIGHT, assert_close, concept, request
from tests.webui.test_img2img import INPAINT, ONLY_MASKED, WAYS, assert_is_plain, over

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("nothing_left")]

NAME = "tiny-sd15-inpainting"
ENTRY = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def written(running: WebUI) -> Iterator[None]:
    """The tiny SD 1.5 with five more channels to see."""
    folder = running.data_dir / "models" / "Stable-diffusion"
    state = load_file(folder / "tiny-sd15.safetensors")
    entry = state[ENTRY]
    more = 0.2 * torch.randn(entry.shape[0], 5, 3, 3, generator=torch.Generator().manual_seed(9))
    more[:4] = 0  # which carry the input to the output
    state[ENTRY] = torch.cat([entry, more], dim=1)
    config: dict[str, Any] = yaml.safe_load((folder / "tiny-sd15.yaml").read_text())
    model = config["model"]
    model["target"] = "ldm.models.diffusion.ddpm.LatentInpaintDiffusion"
    model["params"] |= {"conditioning_key": "hybrid", "finetune_keys": None}
    model["params"]["unet_config"]["params"]["in_channels"] = 9
    files = [folder / f"{NAME}.safetensors", folder / f"{NAME}.yaml"]
    save_file(state, files[0])
    files[1].write_text(yaml.safe_dump(config))
    running.post("/sdapi/v1/refresh-checkpoints")
    yield
    running.set_checkpoint(CHECKPOINTS[0])
    for file in files:
        file.unlink()
    running.post("/sdapi/v1/refresh-checkpoints")


@pytest.fixture
def inpainting(webui: WebUI, written: None) -> WebUI:
    webui.set_checkpoint(NAME)
    return webui


@pytest.mark.parametrize("payload", [{}, {"sampler_name": "DDIM"}, INPAINT, ONLY_MASKED,
                                     {**ONLY_MASKED, "inpainting_mask_weight": 0.5, "batch_size": 2}], ids=str)
@pytest.mark.parametrize("network", ["sd15-lora", "sd15-locon"])
def test_concept_everywhere_is_plain(inpainting: WebUI, payload: dict[str, Any], network: str) -> None:
    assert_is_plain(inpainting, f"{PROMPT} <lora:{network}:1>", least=0.2, **payload)


@pytest.mark.parametrize("payload", [{}, ONLY_MASKED], ids=["whole", "only masked"])
def test_concept_everywhere_is_plain_in_all_ways(inpainting: WebUI, payload: dict[str, Any]) -> None:
    assert_is_plain(inpainting, f"{PROMPT} <lora:sd15-locon:1>", ways=WAYS, least=0.2, cfg_scale=1, **payload)


def test_it_matters_what_the_mask_is(inpainting: WebUI) -> None:
    """So what concepts' rows are given of it can be told from nothing."""
    data = request(concept(PROMPT, cfg_scale=5))
    made = over(inpainting, data, **INPAINT)
    weak = over(inpainting, data, **INPAINT, override_settings={"inpainting_mask_weight": 0})
    assert float(np.abs(made.image[32:96, 24:104].astype(float) - weak.image[32:96, 24:104]).mean()) > 0.5


def test_txt2img_with_it(inpainting: WebUI) -> None:
    """Which sees an empty picture, all of it masked; and what looks at the finished picture does so, too."""
    prompt = f"{PROMPT} <lora:sd15-lora:1>"
    with inpainting.seeded():
        plain = inpainting.txt2img(prompt=prompt)
    with inpainting.seeded():
        asked = {"OMG": {"args": [request(concept(prompt, cfg_scale=5))]}}
        made = inpainting.txt2img(alwayson_scripts=asked)
    assert_close(made.image, plain.image)
    sought = [{"phrase": phrase, "prompt": prompt} for phrase in ("man", "woman")]
    placed = request(concept("a red car", LEFT), concept("a dog", RIGHT))
    for data in ({"concepts": sought}, placed):
        assert inpainting.txt2img(alwayson_scripts={"OMG": {"args": [data]}}).image.shape == (128, 128, 3)
