"""The accordion as a user has it, in a headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect, sync_playwright

from tests.webui.host import WebUI

pytestmark = [pytest.mark.webui, pytest.mark.browser]

SECONDS = 1000.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PROMPTS = ("a man <lora:sdxl-lora:1>", "a woman <lora:sdxl-loha:0.8>")
PLACES = ("0, 0, 0.5, 1", "0.5, 0, 1, 1")
SIZE = {"steps": "6", "width": "128", "height": "128"}


@pytest.fixture(scope="module")
def browser_page(running: WebUI) -> Iterator[Page]:
    """A page that cannot reach anything but the web UI."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: install the system's chromium")

    def local_only(route: Route) -> None:
        url = route.request.url
        if url.startswith(f"{running.url}/file="):
            # Gradio serves no file below a folder with a leading dot, as an installation in a cache folder is
            route.fulfill(path=running.served_file(unquote(urlsplit(url).path.removeprefix("/file="))))
        elif url.startswith((running.url, "data:", "blob:")):
            route.continue_()
        else:
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1800})
        page.set_default_timeout(60 * SECONDS)
        page.route("**/*", local_only)
        yield page
        browser.close()


@pytest.fixture
def page(webui: WebUI, browser_page: Page, tmp_path: Path) -> Iterator[Page]:
    """A freshly loaded page with a small picture to make; its last state is kept as a screenshot."""
    browser_page.goto(webui.url, wait_until="domcontentloaded")
    expect(browser_page.locator("#txt2img_generate")).to_be_visible(timeout=120 * SECONDS)
    fill(browser_page.locator("#txt2img_prompt textarea"), "a photo of a man and a woman")
    fill(browser_page.locator("#txt2img_neg_prompt textarea"), "blurry")
    for name, value in SIZE.items():
        fill(browser_page.locator(f"#txt2img_{name} input[type=number]"), value)
    fill(browser_page.locator("#txt2img_cfg_scale input[type=number]"), "5")
    fill(browser_page.locator("#txt2img_seed input"), "7")
    yield browser_page
    browser_page.screenshot(path=tmp_path / "page.png", full_page=True)


def fill(field: Locator, value: str) -> None:
    """Type a value and leave the field, on which Gradio takes it over."""
    field.fill(value)
    field.blur()


def part(page: Page, name: str) -> Locator:
    """A component of the accordion."""
    return page.locator(f"#script_omg_{name}")


def open_accordion(page: Page) -> None:
    """Opening it switches it on."""
    part(page, "enabled").locator(".label-wrap").first.click()
    expect(page.locator("#script_omg_enabled-visible-checkbox")).to_be_checked()
    expect(part(page, "concept1_prompt")).to_be_visible()


def choose(field: Locator, choice: str) -> None:
    """Pick an entry of a Gradio dropdown."""
    field.locator("input").click()
    field.locator("li").filter(has_text=choice).click()


def fill_concepts(page: Page) -> None:
    for number, (prompt, place) in enumerate(zip(PROMPTS, PLACES, strict=True), 1):
        fill(part(page, f"concept{number}_prompt").locator("textarea"), prompt)
        choose(part(page, f"concept{number}_where"), "In a box")
        fill(part(page, f"concept{number}_where_text").locator("input, textarea"), place)


def generate(page: Page) -> None:
    """Press the button and wait until the web UI is done."""
    page.locator("#txt2img_generate").click()
    page.wait_for_function("() => gradioApp().querySelector('#txt2img_interrupt').style.display === 'block'")
    page.wait_for_function("() => gradioApp().querySelector('#txt2img_interrupt').style.display !== 'block'",
                           timeout=180 * SECONDS)


def picture(page: Page, file: Path) -> np.ndarray:
    """The picture in the gallery."""
    shown = page.locator("#txt2img_gallery img").first
    expect(shown).to_be_visible()
    answer = page.request.get(str(shown.get_attribute("src")))
    file.write_bytes(answer.body())
    return np.asarray(Image.open(file).convert("RGB"))


def test_two_concepts_make_the_picture_that_the_api_makes(webui: WebUI, page: Page, tmp_path: Path) -> None:
    open_accordion(page)
    fill_concepts(page)
    generate(page)
    made = picture(page, tmp_path / "made.png")
    boxes = [[float(number) for number in place.split(", ")] for place in PLACES]
    concepts = [{"prompt": prompt, "where": {"box": box}} for prompt, box in zip(PROMPTS, boxes, strict=True)]
    asked = {"OMG": {"args": [{"concepts": concepts}]}}
    wanted = webui.txt2img(steps=6, sampler_name="DPM++ 2M", alwayson_scripts=asked)
    np.testing.assert_array_equal(made, wanted.image)


def test_closed_accordion_makes_the_plain_picture(webui: WebUI, page: Page, tmp_path: Path) -> None:
    generate(page)
    plain = webui.txt2img(steps=6, sampler_name="DPM++ 2M")
    np.testing.assert_array_equal(picture(page, tmp_path / "made.png"), plain.image)


def test_error_is_shown_with_the_field_named(page: Page) -> None:
    open_accordion(page)
    fill_concepts(page)
    fill(part(page, "concept2_prompt").locator("textarea"), "a woman <lora:no-such-lora:1>")
    generate(page)
    expect(page.locator("#html_log_txt2img.prose")).to_contain_text("no-such-lora")
    expect(page.locator("#html_log_txt2img.prose")).to_contain_text("concepts[1].prompt")


def test_concept_that_is_not_found_is_said(page: Page) -> None:
    open_accordion(page)
    fill_concepts(page)
    choose(part(page, "concept2_where"), "Best match")
    fill(part(page, "concept2_phrase").locator("input, textarea"), "giraffe")
    generate(page)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible()
    expect(page.locator("#html_log_txt2img.prose")).to_contain_text("giraffe")
