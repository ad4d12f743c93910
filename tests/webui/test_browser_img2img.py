"""The accordion of the img2img tab in a headless Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.webui.browser import (
    PLACES,
    PROMPTS,
    SAMPLER,
    SECONDS,
    SIZE,
    WATCH,
    choose,
    fill,
    load,
    open_tab,
    picture,
)
from tests.webui.host import DEFAULTS, WebUI, distance
from tests.webui.test_img2img import SQUARE

PREVIEW = 'gradioApp().getElementById("script_img2img_omg_enabled").omgPreview'

pytestmark = [pytest.mark.webui, pytest.mark.browser]


@pytest.fixture
def page(webui: WebUI, browser_page: Page, tmp_path: Path) -> Page:
    """A freshly loaded page with its img2img tab open, and a small picture to draw over."""
    load(webui, browser_page)
    give(browser_page, tmp_path)
    fill(browser_page.locator("#img2img_prompt textarea"), DEFAULTS["prompt"])
    fill(browser_page.locator("#img2img_neg_prompt textarea"), DEFAULTS["negative_prompt"])
    return browser_page


def give(page: Page, folder: Path) -> None:
    """All but the prompts."""
    Image.fromarray(SQUARE).save(folder / "given.png")
    open_tab(page, "img2img")
    page.locator("#img2img_image input[type=file]").set_input_files(folder / "given.png")
    expect(page.locator("#img2img_image img").first).to_be_visible()
    choose(page.locator("#img2img_sampling"), SAMPLER)
    for name, value in {**SIZE, "steps": "8", "cfg_scale": "5"}.items():
        fill(page.locator(f"#img2img_{name} input[type=number]"), value)
    fill(page.locator("#img2img_seed input"), "7")


def part(page: Page, name: str) -> Locator:
    """A component of the tab's accordion."""
    return page.locator(f"#script_img2img_omg_{name}")


def open_accordion(page: Page) -> None:
    part(page, "enabled").locator(".label-wrap").first.click()
    expect(page.locator("#script_img2img_omg_enabled-visible-checkbox")).to_be_checked()
    expect(part(page, "concept1_prompt")).to_be_visible()


def fill_concepts(page: Page) -> None:
    for number, (prompt, place) in enumerate(zip(PROMPTS, PLACES, strict=True), 1):
        fill(part(page, f"concept{number}_prompt").locator("textarea"), prompt)
        choose(part(page, f"concept{number}_where"), "In a box")
        fill(part(page, f"concept{number}_where_text").locator("input, textarea"), place)


def finish(webui: WebUI, page: Page, button: Locator) -> None:
    """Press a button that generates, and wait until the web UI is done."""
    page.evaluate(WATCH.replace("txt2img", "img2img"))
    with webui.seeded():
        button.click()
        page.wait_for_function("() => window.omgTestStarted")
        page.wait_for_function("() => gradioApp().querySelector('#img2img_interrupt').style.display !== 'block'",
                               timeout=180 * SECONDS)


def by_api(webui: WebUI, **payload: Any) -> np.ndarray:
    boxes = [[float(number) for number in place.split(", ")] for place in PLACES]
    concepts = [{"prompt": prompt, "where": {"box": box}} for prompt, box in zip(PROMPTS, boxes, strict=True)]
    return webui.img2img(SQUARE, sampler_name="DPM++ 2M", alwayson_scripts={"OMG": {"args": [{"concepts": concepts}]}},
                         **payload).image


def test_two_concepts_make_the_picture_that_the_api_makes(webui: WebUI, page: Page, tmp_path: Path) -> None:
    """And with the arrow they come back, and make it again."""
    open_accordion(page)
    fill_concepts(page)
    finish(webui, page, page.locator("#img2img_generate"))
    made = picture(page, tmp_path / "made.png", "img2img")

    load(webui, page)
    give(page, tmp_path)
    expect(part(page, "concept1_prompt")).to_be_hidden()
    page.locator("#img2img_tools #paste").click()
    expect(page.locator("#img2img_prompt textarea")).to_have_value(DEFAULTS["prompt"])
    expect(page.locator("#script_img2img_omg_enabled-visible-checkbox")).to_be_checked()
    expect(page.locator("#script_omg_enabled-visible-checkbox")).not_to_be_checked()
    for number, prompt in enumerate(PROMPTS, 1):
        expect(part(page, f"concept{number}_prompt").locator("textarea")).to_have_value(prompt)
    finish(webui, page, page.locator("#img2img_generate"))
    np.testing.assert_array_equal(picture(page, tmp_path / "again.png", "img2img"), made)

    np.testing.assert_array_equal(made, by_api(webui))
    assert distance(made, webui.img2img(SQUARE, sampler_name="DPM++ 2M").image) > 2


def test_the_tabs_are_apart(webui: WebUI, page: Page, tmp_path: Path) -> None:
    """No id stands in both, and what is filled in one is not in the other; the accordion of txt2img is as it was."""
    ids = [set(page.evaluate(f"""() => Array.from(gradioApp().querySelectorAll(
        "#tab_{tab} [id*=omg]"), (each) => each.id)""")) for tab in ("txt2img", "img2img")]
    assert len(ids[0]) == len(ids[1]) > 100
    assert not ids[0] & ids[1]
    assert page.locator("#tab_txt2img #script_omg_concept1_prompt").count() == 1
    assert page.locator("#tab_img2img #script_img2img_omg_concept1_prompt").count() == 1
    open_accordion(page)
    fill_concepts(page)
    assert page.locator("#script_omg_concept1_prompt textarea").input_value() == ""
    finish(webui, page, page.locator("#img2img_generate"))
    plain = webui.img2img(SQUARE, sampler_name="DPM++ 2M").image
    assert distance(picture(page, tmp_path / "made.png", "img2img"), plain) > 2
    part(page, "enabled").locator(".label-wrap").first.click()
    finish(webui, page, page.locator("#img2img_generate"))
    np.testing.assert_array_equal(picture(page, tmp_path / "plain.png", "img2img"), plain)


def test_what_has_no_meaning_is_not_there(page: Page) -> None:
    open_accordion(page)
    expect(part(page, "enabled").locator(".omg-hint.prose")).to_contain_text("the picture that you give")
    expect(part(page, "predict")).to_contain_text("fastest 150")
    part(page, "enabled").get_by_text("Blending, layout and mask edges").click()
    expect(part(page, "blend_start")).to_be_visible()
    for name in ("first_pass", "cross", "self"):
        expect(part(page, name)).to_be_hidden()


def test_cards_go_into_the_concept_of_the_tab(page: Page) -> None:
    open_accordion(page)
    fill_concepts(page)
    part(page, "concept2_prompt").locator("textarea").click()
    expect(page.locator("#script_img2img_omg_card_target")).to_have_text("cards → OMG Concept 2")
    expect(page.locator("#script_omg_card_target")).to_have_text("")
    for tab in ("img2img", "txt2img"):
        page.evaluate(f"cardClicked('{tab}', '<lora:sdxl-oft:1>', '', false)")
    expect(page.locator("#txt2img_prompt textarea")).to_have_value(re.compile("<lora:sdxl-oft:1>$"))
    expect(part(page, "concept2_prompt").locator("textarea")).to_have_value(f"{PROMPTS[1]} <lora:sdxl-oft:1>")
    expect(page.locator("#img2img_prompt textarea")).to_have_value(DEFAULTS["prompt"])


def test_find_concepts_shows_the_given_picture(webui: WebUI, page: Page, tmp_path: Path) -> None:
    """Nothing is drawn, and a click on it says whose place it is."""
    open_accordion(page)
    fill_concepts(page)
    choose(part(page, "concept1_where"), "Best match")
    fill(part(page, "concept1_phrase").locator("input, textarea"), "man")
    calls = webui.denoiser_calls()
    finish(webui, page, part(page, "find"))
    assert webui.denoiser_calls() == calls
    expect(page.locator("#script_img2img_omg_note .prose")).to_contain_text("the picture that you give")
    canvas = page.locator("#omg_img2img_who canvas")
    expect(canvas).to_be_visible()
    expect(page.locator("#omg_who canvas")).to_be_hidden()
    page.wait_for_function(f"() => {PREVIEW}.overlay")
    part(page, "tool").get_by_label("gets a box").check()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.9 * box["height"], steps=8)
    page.mouse.up()
    expect(part(page, "concept1_where").locator("input")).to_have_value("In a box")
    asked = part(page, "concept1_where_text").locator("input, textarea").input_value()
    assert np.allclose(json.loads(f"[{asked}]"), [0.1, 0.1, 0.4, 0.9], atol=0.02)
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.locator("#script_omg_concept1_where input").input_value() == "Best match"


def test_each_picture_of_the_batch_tab_is_drawn_over(webui: WebUI, page: Page, tmp_path: Path) -> None:
    """Each for itself, as if it alone were given."""
    given, drawn = tmp_path / "given", tmp_path / "drawn"
    given.mkdir()
    pictures = {"a.png": SQUARE, "b.png": SQUARE[:, ::-1].copy()}
    for name, each in pictures.items():
        Image.fromarray(each).save(given / name)
    open_accordion(page)
    fill_concepts(page)
    page.locator("#mode_img2img > .tab-nav button", has_text="Batch").click()
    page.locator("#img2img_batch_source > .tab-nav button", has_text="From directory").click()
    for name, folder in (("input", given), ("output", drawn)):
        fill(page.locator(f"#img2img_batch_{name}_dir :is(input, textarea)"), str(folder))
    saving = ["samples_save", *(["img2img_batch_use_original_name"] if webui.is_forge else [])]
    webui.options(**dict.fromkeys(saving, True))
    try:
        finish(webui, page, page.locator("#img2img_generate"))
    finally:
        webui.options(**dict.fromkeys(saving, False))
    made = {path.name.partition("-")[2]: np.asarray(Image.open(path).convert("RGB")) for path in drawn.iterdir()}
    assert made.keys() == pictures.keys()
    for name, each in pictures.items():
        asked = {"OMG": {"args": [{"concepts": [
            {"prompt": prompt, "where": {"box": [float(number) for number in place.split(", ")]}}
            for prompt, place in zip(PROMPTS, PLACES, strict=True)]}]}}
        assert distance(made[name], webui.img2img(each, sampler_name="DPM++ 2M", alwayson_scripts=asked).image) < 1
        assert distance(made[name], webui.img2img(each, sampler_name="DPM++ 2M").image) > 2
