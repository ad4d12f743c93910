"""Forge's page, which Gradio 4 makes, in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.webui.browser import (
    PLACES,
    PROMPTS,
    SECONDS,
    ask_for_a_small_picture,
    browsing,
    fill,
    fill_concepts,
    generate,
    load,
    open_accordion,
    part,
    picture,
)
from tests.webui.host import WebUI, distance, tests_forge

pytestmark = [pytest.mark.webui, pytest.mark.browser,
              pytest.mark.skipif(not tests_forge(), reason="no Forge: set OMG_FORGE to its folder")]

SAMPLER = "Euler a"  # what the page begins with


@pytest.fixture(scope="module")
def browser_page(running: WebUI) -> Iterator[Page]:
    with browsing(running) as page:
        yield page


@pytest.fixture
def page(webui: WebUI, browser_page: Page, tmp_path: Path) -> Iterator[Page]:
    load(webui, browser_page)
    ask_for_a_small_picture(browser_page)
    yield browser_page
    browser_page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_two_concepts_make_the_picture_that_the_api_makes(webui: WebUI, page: Page, tmp_path: Path) -> None:
    """The arrow brings them back."""
    open_accordion(page)
    fill_concepts(page)
    generate(page)
    made = picture(page, tmp_path / "made.png")
    boxes = [[float(number) for number in place.split(", ")] for place in PLACES]
    concepts = [{"prompt": prompt, "where": {"box": box}} for prompt, box in zip(PROMPTS, boxes, strict=True)]
    asked = {"OMG": {"args": [{"concepts": concepts}]}}
    wanted = webui.txt2img(steps=6, sampler_name=SAMPLER, alwayson_scripts=asked)
    np.testing.assert_array_equal(made, wanted.image)
    assert distance(made, webui.txt2img(steps=6, sampler_name=SAMPLER).image) > 2


def test_a_refusal_is_shown_with_the_field_named(page: Page) -> None:
    open_accordion(page)
    fill_concepts(page)
    fill(part(page, "concept2_prompt").locator("textarea"), "a woman <lora:no-such-lora:1>")
    generate(page)
    expect(page.locator("#html_log_txt2img")).to_contain_text("concepts[1].prompt: there is no LoRA 'no-such-lora'")


def test_find_concepts_shows_the_first_picture(webui: WebUI, page: Page) -> None:
    """On it a click says which thing is whose."""
    open_accordion(page)
    fill_concepts(page)
    page.get_by_role("button", name="Find concepts").click()
    canvas = page.locator("#omg_who canvas")
    expect(canvas).to_be_visible(timeout=60 * SECONDS)
    page.wait_for_function("() => document.querySelector('#omg_who canvas').width == 128", timeout=10 * SECONDS)
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    expect(part(page, "concept1_where_text").locator("input, textarea")).to_have_value("0.250, 0.500")
    # what is painted is the mask
    part(page, "tool").get_by_label("gets a mask: paint it").check()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 3 * box["height"] / 4, steps=5)
    page.mouse.up()
    expect(part(page, "note")).to_contain_text("Concept 1 has the mask that you painted.")
    part(page, "enabled").get_by_text("Blending, layout and mask edges").click()
    part(page, "show").get_by_label("Masks").check()
    generate(page)
    expect(page.locator("#html_log_txt2img")).not_to_contain_text("Error")
    expect(page.locator("#txt2img_gallery .thumbnail-small")).to_have_count(3)
