"""The setting that names a preset which the page starts with, in a web UI of its own: the page is built anew."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from omg_ext.comprehension.masks import encode_mask
from tests.webui import test_browser_img2img as over
from tests.webui.browser import (
    ask_for_a_small_picture,
    browsing,
    generate,
    load,
    open_accordion,
    open_tab,
    part,
    picture,
)
from tests.webui.host import SETTINGS, ApiError, WebUI, encode, install_extension, make_data_dir

pytestmark = [pytest.mark.webui, pytest.mark.browser]

MASK = np.array([[0, 0, 0, 1, 1]] * 5, np.float32)
PRESET: dict[str, Any] = {
    "concepts": [{"phrase": "man", "prompt": "a red car", "where": {"box": [0, 0, 0.5, 1]}},
                 {"prompt": "a blue house", "where": {"mask": encode_mask(MASK)}, "strength": 0.7},
                 {"prompt": "a tree <lora:no-such:1>", "where": {"rest": True}}],
    "predict": "shared", "blend_start": 0.2,
}
# as Settings > Defaults writes it
KEY = "customscript/omg.py/txt2img/{label}/value"
OWN = {KEY.format(label="Blend start"): 0.3, KEY.format(label="Keep layout until"): 0.5}


@pytest.fixture(scope="module")
def started(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder = tmp_path_factory.mktemp("webui")
    make_data_dir(folder, checkpoints)
    install_extension(installation, folder)
    presets = folder / "omg" / "presets"
    presets.mkdir(parents=True)
    (presets / "three.json").write_text(json.dumps(PRESET))
    (presets / "eight.json").write_text(json.dumps({"concepts": PRESET["concepts"][:1] * 8}))
    (presets / "broken.json").write_text('{"concepts": ')
    (folder / "config.json").write_text(json.dumps({**SETTINGS, "omg_defaults": "three"}))
    (folder / "ui-config.json").write_text(json.dumps(OWN))
    with WebUI(installation, folder) as webui:
        yield webui
    shutil.rmtree(folder / "models")


@pytest.fixture(scope="module")
def browser_page(started: WebUI) -> Iterator[Page]:
    with browsing(started) as page:
        yield page


@pytest.fixture
def page(started: WebUI, browser_page: Page, tmp_path: Path) -> Iterator[Page]:
    """A freshly loaded page with a small picture to make; its last state is kept as a screenshot."""
    load(started, browser_page)
    ask_for_a_small_picture(browser_page)
    yield browser_page
    browser_page.screenshot(path=tmp_path / "page.png", full_page=True)


def number(page: Page, name: str) -> Any:
    return part(page, name).locator("input[type=number]")


def test_the_page_starts_with_the_preset(started: WebUI, page: Page, tmp_path: Path) -> None:
    """Of both tabs, switched off; what it leaves at the defaults is as the web UI's own defaults have it."""
    expect(page.locator("#script_omg_enabled-visible-checkbox")).not_to_be_checked()
    generate(page)
    plain = started.txt2img(sampler_name="DPM++ 2M", steps=6)
    np.testing.assert_array_equal(picture(page, tmp_path / "plain.png"), plain.image)

    open_accordion(page)
    expect(part(page, "preset").locator("input")).to_have_value("three")
    expect(part(page, "lacks").locator(".prose")).to_contain_text(
        "Concept 3: there is no LoRA 'no-such'")
    expect(part(page, "concept3")).to_be_visible()
    expect(part(page, "concept4")).to_be_hidden()
    for index, concept in enumerate(PRESET["concepts"], 1):
        expect(part(page, f"concept{index}_prompt").locator("textarea")).to_have_value(concept["prompt"])
    position = part(page, "concept1_where_text").locator("input, textarea")
    expect(position).to_be_visible()
    expect(position).to_have_value("0.0, 0.0, 0.5, 1.0")
    expect(part(page, "concept1_where_text")).to_contain_text("Left, top, right, bottom")
    expect(part(page, "concept2_mask_picture").locator("img")).to_be_visible()
    expect(part(page, "concept3_where_text")).to_be_hidden()
    expect(part(page, "predict").locator("input")).to_have_value("Faster: shared guidance")
    expect(number(page, "blend_start")).to_have_value("0.2")
    expect(number(page, "cross")).to_have_value("0.5")
    part(page, "concept3_prompt").locator("textarea").fill("a tree")
    part(page, "concept3_prompt").locator("textarea").blur()
    generate(page)
    made = picture(page, tmp_path / "made.png")
    asked = {**PRESET, "layout": {"cross": 0.5},
             "concepts": [*PRESET["concepts"][:2], {**PRESET["concepts"][2], "prompt": "a tree"}]}
    wanted = started.txt2img(sampler_name="DPM++ 2M", steps=6, alwayson_scripts={"OMG": {"args": [asked]}})
    np.testing.assert_array_equal(made, wanted.image)

    open_tab(page, "img2img")
    over.open_accordion(page)
    expect(over.part(page, "concept3_prompt").locator("textarea")).to_have_value("a tree <lora:no-such:1>")


def test_the_api_does_not_go_by_it(started: WebUI) -> None:
    """Values that are left out of `args` are the fields' own."""
    with pytest.raises(ApiError, match="Concept 1 is empty"):
        started.txt2img(alwayson_scripts={"OMG": {"args": ["", True]}})
    only = {"concepts": [PRESET["concepts"][0]]}
    said = started.txt2img(alwayson_scripts={"OMG": {"args": [only]}}).info["infotexts"][0]
    assert "blend_start" not in said
    values: list[Any] = ["", True, 1, "contrast", 0.4, 1, 0.4, 0.01, 0.01, False, [], "man", "Best match", "", None,
                         "a red car"]
    said = started.txt2img(alwayson_scripts={"OMG": {"args": values}}).info["infotexts"][0]
    assert "shared" not in said
    assert "strength" not in said


def test_the_web_uis_own_defaults_keep_nothing_of_it(started: WebUI) -> None:
    kept = json.loads((started.data_dir / "ui-config.json").read_text())
    assert {key: kept[key] for key in OWN} == OWN
    assert KEY.format(label="How to draw them") not in kept
    assert KEY.format(label="Grow masks") in kept


@pytest.mark.parametrize(("name", "said"), [
    ("gone", 'starts without the preset "gone", which the settings name: there is no preset "gone". Choose another'),
    ("broken", 'the preset "broken" is damaged'),
    ("eight", "it has more than the fields can show"),
    ("../three", "the settings name: it may"),
])
def test_without_the_preset_the_fields_are_as_ever(started: WebUI, page: Page, name: str, said: str) -> None:
    """After Reload UI, which builds the page anew."""
    started.options(omg_defaults=name)
    reload(started, page)
    open_accordion(page)
    expect(page.locator("#script_omg_preset_note p")).to_contain_text(said)
    expect(part(page, "preset").locator("input")).to_have_value("")
    expect(part(page, "concept1_prompt").locator("textarea")).to_have_value("")
    expect(part(page, "concept3")).to_be_hidden()
    expect(part(page, "predict").locator("input")).to_have_value("Fastest: all in one go")
    expect(number(page, "blend_start")).to_have_value("0.3")
    expect(number(page, "cross")).to_have_value("0.5")
    expect(part(page, "api")).to_be_hidden()


def test_the_settings_offer_the_presets(started: WebUI, page: Page) -> None:
    """None of them is as if there were no setting."""
    open_tab(page, "Settings")
    page.evaluate("() => gradioApp().querySelector('#settings_show_all_pages').click()")
    field = page.locator("#setting_omg_defaults")
    field.scroll_into_view_if_needed()
    field.locator("input").click()
    texts = [text.replace("✓", "").strip() for text in field.locator("li").all_inner_texts()]
    assert texts[:3] == ["None: the fields as they are", "broken", "eight"]
    field.locator("li").filter(has_text="None: the fields").click()
    page.locator("#settings_submit").click()
    expect(page.locator("#settings_result .prose")).to_contain_text("settings changed")
    assert json.loads((started.data_dir / "config.json").read_text())["omg_defaults"] == texts[0]
    reload(started, page)
    open_accordion(page)
    expect(page.locator("#script_omg_preset_note p")).to_have_count(0)
    expect(number(page, "blend_start")).to_have_value("0.3")


def reload(started: WebUI, page: Page) -> None:
    """Press Reload UI, and wait for the page that is built then."""
    before = started.log()
    page.evaluate("() => gradioApp().querySelector('#settings_restart_gradio').click()")
    for said in ("Restarting UI", "Startup time"):
        deadline = time.monotonic() + 120
        while started.log().count(said) == before.count(said):
            assert time.monotonic() < deadline
            page.wait_for_timeout(200)  # what the page asks for goes through this process
        page.goto("about:blank")  # the page would load itself anew, and break off what comes next
    load(started, page)


def test_a_photo_of_the_preset_is_there(started: WebUI, page: Page) -> None:
    photo = Image.new("RGB", (8, 8), (200, 30, 30))
    data = {"concepts": [{"phrase": "man", "prompt": "", "face": encode(np.asarray(photo))}]}
    started.post("/omg/v1/presets", {"name": "face", "request": data})
    started.options(omg_defaults="face")
    reload(started, page)
    open_accordion(page)
    part(page, "concept1").get_by_text("Face from a photo").click()
    expect(part(page, "concept1_face").locator("img")).to_be_visible()
    expect(part(page, "concept2")).to_be_hidden()
