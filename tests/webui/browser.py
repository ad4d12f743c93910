"""The page in a headless Chromium, for tests: opening it, filling the accordion, drawing."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect, sync_playwright

from tests.webui.host import WebUI

SECONDS = 1000.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PROMPTS = ("a man <lora:sdxl-lora:1>", "a woman <lora:sdxl-loha:0.8>")
PLACES = ("0, 0, 0.5, 1", "0.5, 0, 1, 1")
SIZE = {"steps": "6", "width": "128", "height": "128"}
SAMPLER = re.compile(r"DPM\+\+ 2M\s*$")  # Forge begins with another

expect.set_options(timeout=15 * SECONDS)  # a busy machine's page takes its time


@contextmanager
def browsing(running: WebUI) -> Iterator[Page]:
    """A page that cannot reach anything but the web UI; without a browser the test is skipped."""
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
        page.set_default_timeout(30 * SECONDS)
        page.route("**/*", local_only)
        yield page
        browser.close()


def load(webui: WebUI, page: Page) -> None:
    page.goto(webui.url, wait_until="domcontentloaded")
    expect(page.locator("#txt2img_generate")).to_be_visible(timeout=120 * SECONDS)
    # which the page asks for by and by
    page.wait_for_function("() => typeof opts === 'object' && Object.keys(opts).length > 0")
    if webui.is_neo:  # whose presets fill the fields once more, some time after the page is there
        page.wait_for_timeout(5 * SECONDS)


def ask_for_a_small_picture(page: Page) -> None:
    fill(page.locator("#txt2img_prompt textarea"), "a photo of a man and a woman")
    fill(page.locator("#txt2img_neg_prompt textarea"), "blurry")
    if not SAMPLER.search(page.locator("#txt2img_sampling input").input_value()):
        choose(page.locator("#txt2img_sampling"), SAMPLER)
    fields = {f"#txt2img_{name} input[type=number]": value for name, value in {**SIZE, "cfg_scale": "5"}.items()}
    for field, value in {**fields, "#txt2img_seed input": "7"}.items():
        if page.locator(field).input_value() != value:  # each that is filled in has the page rendered anew
            fill(page.locator(field), value)


def fill(field: Locator, value: str) -> None:
    """Type a value and leave the field, on which Gradio takes it over."""
    field.fill(value)
    field.blur()


def open_tab(page: Page, name: str) -> None:
    """Open one of the page's tabs; Forge writes their names with capitals."""
    page.locator("#tabs > .tab-nav button", has_text=name).first.click()


def part(page: Page, name: str) -> Locator:
    """A component of the accordion."""
    return page.locator(f"#script_omg_{name}")


def open_accordion(page: Page) -> None:
    """Opening it switches it on."""
    part(page, "enabled").locator(".label-wrap").first.click()
    expect(page.locator("#script_omg_enabled-visible-checkbox")).to_be_checked()
    expect(part(page, "concept1_prompt")).to_be_visible()


def choose(field: Locator, choice: str | re.Pattern[str]) -> None:
    """Pick an entry of a Gradio dropdown."""
    field.locator("input").click()
    field.locator("li").filter(has_text=choice).click()


def fill_concepts(page: Page) -> None:
    for number, (prompt, place) in enumerate(zip(PROMPTS, PLACES, strict=True), 1):
        fill(part(page, f"concept{number}_prompt").locator("textarea"), prompt)
        choose(part(page, f"concept{number}_where"), "In a box")
        fill(part(page, f"concept{number}_where_text").locator("input, textarea"), place)


# a refusal is faster than a page that is asked now and then
WATCH = """() => {
    const button = gradioApp().querySelector('#txt2img_interrupt');
    window.omgTestStarted = false;
    new MutationObserver(() => { window.omgTestStarted ||= button.style.display === 'block'; })
        .observe(button, {attributes: true, attributeFilter: ['style']});
}"""


def generate(page: Page) -> None:
    """Press the button and wait until the web UI is done."""
    page.evaluate(WATCH)
    page.locator("#txt2img_generate").click()
    page.wait_for_function("() => window.omgTestStarted")
    page.wait_for_function("() => gradioApp().querySelector('#txt2img_interrupt').style.display !== 'block'",
                           timeout=180 * SECONDS)


def thumbnails(page: Page) -> Locator:
    """What is in the gallery."""
    return page.locator("#txt2img_gallery .thumbnail-small")


def saved(webui: WebUI, ending: str) -> set[Path]:
    """What the buttons under the gallery have saved."""
    return set(webui.data_dir.glob(f"**/{'output' if webui.is_neo else 'log'}/images/**/*.{ending}"))


def picture(page: Page, file: Path, tab: str = "txt2img") -> np.ndarray:
    """The picture in the gallery."""
    shown = page.locator(f"#{tab}_gallery img").first
    expect(shown).to_be_visible()
    file.write_bytes(source(page, shown))
    return np.asarray(Image.open(file).convert("RGB"))


def source(page: Page, image: Locator) -> bytes:
    """The file that an image on the page shows: in Gradio 3 what was uploaded is a text, in Gradio 4 a file too."""
    url = str(image.get_attribute("src"))
    return base64.b64decode(url.partition(",")[2]) if url.startswith("data:") else page.request.get(url).body()
