"""What only Forge's page has: a canvas of its own, on which the mask of an inpainting is painted."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.webui import host
from tests.webui import test_browser_img2img as over
from tests.webui.browser import picture
from tests.webui.host import WebUI, distance
from tests.webui.test_img2img import SQUARE

pytestmark = [pytest.mark.webui, pytest.mark.host, pytest.mark.browser,
              pytest.mark.skipif(not host.forge_is_tested(), reason="no Forge: set OMG_FORGE to its folder")]


def test_a_mask_painted_on_its_canvas_confines_the_concepts(webui: WebUI, page: Page, tmp_path: Path) -> None:
    over.give(page, tmp_path)
    page.locator("#mode_img2img > .tab-nav").get_by_role("tab", name="Inpaint", exact=True).click()
    canvas = page.locator("#img2maskimg")
    canvas.locator("input[type=file]").set_input_files(tmp_path / "given.png")
    shown = canvas.locator("img").bounding_box()
    assert shown is not None
    canvas.hover()  # shows its tools
    canvas.locator("[id^=scribbleWidth_]").fill("20")
    page.mouse.move(shown["x"] + shown["width"] / 4, shown["y"] + shown["height"] / 4)
    page.mouse.down()
    page.mouse.move(shown["x"] + shown["width"] / 4, shown["y"] + 3 * shown["height"] / 4, steps=8)
    page.mouse.up()
    over.open_accordion(page)
    over.fill_concepts(page)
    over.finish(webui, page, page.locator("#img2img_generate"))
    made = picture(page, tmp_path / "made.png", "img2img")
    assert distance(made[:, 96:], SQUARE[:, 96:]) < 1
    assert distance(made[32:96, 28:36], SQUARE[32:96, 28:36]) > 2
