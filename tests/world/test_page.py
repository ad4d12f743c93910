"""A newcomer draws two characters of the small world from the page alone, with its hints and nothing else.

The environment variable ``OMG_PAGE_SHEET`` names a PNG to write: the page, once the picture is there.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from bench.world import weights
from tests.webui.browser import fill, generate, load, open_accordion, part, picture
from tests.webui.host import WebUI

MISSING = weights.missing(weights.CHECKPOINT)
pytestmark = [pytest.mark.webui, pytest.mark.browser, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

MAIN = "a man and a woman in the park"
CONCEPTS = (("man", "a sks man and a woman in the park <lora:rusty:1>"),
            ("woman", "a man and a phol woman in the park <lora:azura:1>"))
SIZE = {"steps": "25", "width": "128", "height": "128"}
SHEET = os.environ.get("OMG_PAGE_SHEET", "")


def test_two_characters_from_the_page(running: WebUI, browser_page: Page, tmp_path: Path) -> None:
    """Main prompt, phrases, prompts and Generate are enough; it is the picture of the same request at the API."""
    running.set_checkpoint(weights.CHECKPOINT.stem)
    page = browser_page
    load(running, page)
    fill(page.locator("#txt2img_prompt textarea"), MAIN)
    for name, value in SIZE.items():
        fill(page.locator(f"#txt2img_{name} input[type=number]"), value)
    fill(page.locator("#txt2img_cfg_scale input[type=number]"), "5")
    fill(page.locator("#txt2img_seed input"), "5")
    open_accordion(page)
    for number, (phrase, prompt) in enumerate(CONCEPTS, 1):
        fill(part(page, f"concept{number}_phrase").locator("input, textarea"), phrase)
        fill(part(page, f"concept{number}_prompt").locator("textarea"), prompt)
    generate(page)
    made = picture(page, tmp_path / "made.png")
    if SHEET:
        page.screenshot(path=SHEET, full_page=True)
    given = {"prompt": MAIN, "negative_prompt": "", "steps": 25, "width": 128, "height": 128, "cfg_scale": 5.0,
             "seed": 5, "sampler_name": page.locator("#txt2img_sampling input").input_value(),
             "scheduler": page.locator("#txt2img_scheduler input").input_value(), "save_images": False}
    request = {"concepts": [{"phrase": phrase, "prompt": prompt} for phrase, prompt in CONCEPTS]}
    wanted = running.generate({**given, "alwayson_scripts": {"OMG": {"args": [request]}}})
    assert wanted.comments == []
    np.testing.assert_array_equal(made, wanted.image)
    plain = running.generate(given).image
    assert np.abs(made.astype(int) - plain).mean() > 3
