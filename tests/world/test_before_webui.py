"""The web UI: pictures are the kept ones from before the core was redesigned."""

from __future__ import annotations

from typing import Any

import pytest

from bench.world import weights
from tests.webui.host import WebUI
from tests.world.before.cases import PROMPT, WEBUI
from tests.world.before.kept import compare

MISSING = weights.missing(weights.CHECKPOINT)
pytestmark = [pytest.mark.webui, pytest.mark.skipif(bool(MISSING), reason=MISSING),
              pytest.mark.not_in_forge("what was drawn before is the web UI's, to the last bit")]

DEFAULTS: dict[str, Any] = {
    "prompt": PROMPT, "negative_prompt": "", "width": 128, "height": 128, "steps": 10, "seed": 5, "cfg_scale": 5.0,
    "sampler_name": "Euler", "scheduler": "Automatic", "save_images": False,
}


@pytest.mark.parametrize("name", WEBUI)
def test_pictures_are_as_before(running: WebUI, name: str) -> None:
    case = WEBUI[name]
    running.set_checkpoint(case.checkpoint)
    result = running.generate({**DEFAULTS, **case.options, "alwayson_scripts": {"OMG": {"args": [case.request]}}})
    assert result.comments == []
    compare("webui", name, result.images)
