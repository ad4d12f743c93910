"""Models of few steps: an accelerator's LoRA in the main prompt, LCM, no guidance, four steps."""

from __future__ import annotations

from typing import Any

import pytest

from tests.webui.host import WebUI, distance
from tests.webui.test_api import LEFT, PROMPT, assert_close, concept, omg, request

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("nothing_left")]

FAST = "<lora:sdxl-style:1>"
FEW: dict[str, Any] = {"sampler_name": "LCM", "cfg_scale": 1, "steps": 4}
MAIN = f"a photo of a man and a woman {FAST}"
OWN = concept("a red car <lora:sdxl-lora:1>", LEFT)


def test_the_defaults_say_which_field_to_change(webui: WebUI) -> None:
    """Of four steps at 0.4 of the sampling two are past; that is not refused, and what is drawn is drawn."""
    plain = webui.txt2img(prompt=MAIN, **FEW).image
    result = omg(webui, {"concepts": [OWN]}, prompt=MAIN, **FEW)
    said, = result.comments
    assert "blend_start: only " in said
    assert "lower it (to 0 for Turbo, Lightning and LCM)" in said
    assert said.removeprefix("OMG: ") in result.info["infotexts"][0]
    sooner = omg(webui, {"concepts": [OWN], "blend_start": 0}, prompt=MAIN, **FEW)
    assert sooner.comments == []
    assert distance(sooner.image, plain) > 2


@pytest.mark.parametrize("way", ["separate", "shared", "joint"])
def test_accelerator_acts_on_all_rows(webui: WebUI, way: str) -> None:
    """*everywhere is plain*: a concept's own rows and the joint row have the main prompt's LoRA, too."""
    own = f"{PROMPT} <lora:sdxl-lora:1>"
    plain = webui.txt2img(prompt=f"{own} {FAST}", **FEW).image
    assert_close(omg(webui, request(concept(own), predict=way), prompt=MAIN, **FEW).image, plain)
    assert distance(plain, webui.txt2img(prompt=own, **FEW).image) > 2
