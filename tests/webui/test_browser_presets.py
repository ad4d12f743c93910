"""Sets of concepts by name, on the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.webui.browser import (
    PROMPTS,
    SECONDS,
    ask_for_a_small_picture,
    browsing,
    choose,
    fill,
    fill_concepts,
    generate,
    load,
    open_accordion,
    part,
    picture,
)
from tests.webui.host import WebUI

pytestmark = [pytest.mark.webui, pytest.mark.browser]


@pytest.fixture(scope="module")
def browser_page(running: WebUI) -> Iterator[Page]:
    with browsing(running) as page:
        yield page


@pytest.fixture
def page(webui: WebUI, browser_page: Page, presets_folder: Path, tmp_path: Path) -> Iterator[Page]:
    """A freshly loaded page with OMG open; its last state is kept as a screenshot."""
    fresh(webui, browser_page)
    yield browser_page
    browser_page.screenshot(path=tmp_path / "page.png", full_page=True)


def fresh(webui: WebUI, page: Page) -> None:
    load(webui, page)
    ask_for_a_small_picture(page)
    open_accordion(page)


def press(page: Page, button: str, said: str) -> None:
    part(page, f"preset_{button}").click()
    expect(part(page, "preset_note").locator("p")).to_contain_text(said)


def save(page: Page, name: str, said: str = "") -> None:
    fill(named(page), name)
    press(page, "save", said or f'Saved as "{name}"')


def named(page: Page) -> Locator:
    return part(page, "preset_name").locator("input, textarea")


def chosen(page: Page) -> Locator:
    return part(page, "preset").locator("input")


def entries(page: Page) -> list[str]:
    """What the dropdown offers once it is open."""
    chosen(page).click()
    part(page, "preset").locator("li").first.wait_for()
    return [text.replace("✓", "").strip() for text in part(page, "preset").locator("li").all_inner_texts()]


def infotext(page: Page) -> str:
    shown = page.locator("#html_info_txt2img .prose")
    expect(shown).to_contain_text("Steps")
    return shown.inner_text()


def test_build_save_reload_load_generate(webui: WebUI, page: Page, tmp_path: Path) -> None:
    """Everything that can be filled in, a painted mask among it, draws the same with the same infotext."""
    fill_concepts(page)
    fill(part(page, "concept1_phrase").locator("input, textarea"), "man")
    choose(part(page, "concept2_where"), "Painted mask")
    Image.fromarray(np.array([[0, 0, 0, 255, 255]] * 5, np.uint8)).save(tmp_path / "mask.png")
    part(page, "concept2_mask_picture").locator("input[type=file]").set_input_files(tmp_path / "mask.png")
    expect(part(page, "concept2_mask_picture").locator("img")).to_be_visible()
    part(page, "concept2").get_by_text("Negative prompt, strength").click()
    fill(part(page, "concept2_strength").locator("input[type=number]"), "0.7")
    part(page, "enabled").get_by_text("Blending, layout and mask edges").click()
    fill(part(page, "blend_start").locator("input[type=number]"), "0.2")
    choose(part(page, "predict"), "Faster: shared guidance")
    generate(page)
    said, made = infotext(page), picture(page, tmp_path / "made.png")
    save(page, "Ann & Ben")

    fresh(webui, page)
    expect(part(page, "concept1_prompt").locator("textarea")).to_have_value("")
    choose(part(page, "preset"), "Ann & Ben")
    expect(named(page)).to_have_value("Ann & Ben")
    press(page, "load", '"Ann & Ben" is loaded')
    for number, prompt in enumerate(PROMPTS, 1):
        expect(part(page, f"concept{number}_prompt").locator("textarea")).to_have_value(prompt)
    expect(part(page, "concept2_mask_picture").locator("img")).to_be_visible()
    expect(part(page, "concept1_where_text").locator("input, textarea")).to_be_visible()
    expect(part(page, "api")).to_be_hidden()
    generate(page)
    assert infotext(page) == said
    np.testing.assert_array_equal(picture(page, tmp_path / "again.png"), made)


def test_nothing_is_overwritten_unasked(page: Page, presets_folder: Path) -> None:
    fill_concepts(page)
    save(page, "two")
    before = (presets_folder / "two.json").read_text()
    fill(part(page, "concept1_phrase").locator("input, textarea"), "knight")
    save(page, "Two", 'There is a preset "two" already')
    assert (presets_folder / "two.json").read_text() == before
    fill(named(page), "three")  # what was asked for one name is no yes for another
    press(page, "save", "Saved")
    fill(named(page), "TWO")
    press(page, "save", "Press Save once more")
    press(page, "save", 'Saved as "two"')
    assert json.loads((presets_folder / "two.json").read_text())["concepts"][0]["phrase"] == "knight"
    assert sorted(path.name for path in presets_folder.iterdir()) == ["three.json", "two.json"]


def test_rename_and_delete(page: Page, presets_folder: Path) -> None:
    fill_concepts(page)
    for name in ("one", "two"):
        save(page, name)
    expect(chosen(page)).to_have_value("two")
    fill(named(page), "one")
    press(page, "rename", 'a preset "one" already')
    fill(named(page), "../two")
    press(page, "rename", "but not /")
    fill(named(page), "three")
    press(page, "rename", 'It is "three" now')
    assert entries(page) == ["one", "three"]
    page.keyboard.press("Escape")
    press(page, "delete", "Press Delete once more")
    assert sorted(path.name for path in presets_folder.iterdir()) == ["one.json", "three.json"]
    press(page, "delete", '"three" is deleted')
    assert [path.name for path in presets_folder.iterdir()] == ["one.json"]
    expect(chosen(page)).to_have_value("")
    for button in ("delete", "load", "rename"):
        press(page, button, "Choose a preset first")


def test_a_draft_is_saved_and_what_is_missing_is_said(webui: WebUI, page: Page) -> None:
    save(page, "none", "Concept 1 is empty")
    for number, phrase in enumerate(("man", "woman"), 1):
        fill(part(page, f"concept{number}_phrase").locator("input, textarea"), phrase)
    save(page, "draft")
    save(page, "", "give the preset a name")
    fresh(webui, page)
    choose(part(page, "preset"), "draft")
    press(page, "load", "is loaded")
    expect(part(page, "concept2_phrase").locator("input, textarea")).to_have_value("woman")
    expect(part(page, "concept2_prompt").locator("textarea")).to_have_value("")
    expect(part(page, "api")).to_be_hidden()


def test_what_others_save_is_there_when_the_list_is_opened(webui: WebUI, page: Page) -> None:
    """And a request that the fields cannot show stands as text."""
    data: dict[str, Any] = {"concepts": [{"phrase": f"man {number}", "prompt": ""} for number in range(8)]}
    webui.post("/omg/v1/presets", {"name": "eight", "request": data})
    choose(part(page, "preset"), "eight")
    press(page, "load", "is loaded")
    expect(part(page, "api").locator("textarea")).to_be_visible()
    assert json.loads(part(page, "api").locator("textarea").input_value()) == data
    save(page, "eight again")
    assert webui.get("/omg/v1/presets?name=eight%20again")["request"] == data


def test_by_keyboard_alone(webui: WebUI, page: Page, presets_folder: Path) -> None:
    """From the list on, Tab comes to the name and each button, in their order."""
    fill_concepts(page)
    chosen(page).focus()
    page.keyboard.press("Tab")
    page.keyboard.type("keys")
    page.keyboard.press("Tab")
    for button in ("load", "save"):
        expect(part(page, f"preset_{button}")).to_be_focused()
        if button == "load":
            page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(part(page, "preset_note").locator("p")).to_contain_text('Saved as "keys"')
    for button in ("rename", "delete"):
        page.keyboard.press("Tab")
        expect(part(page, f"preset_{button}")).to_be_focused()
    assert [path.name for path in presets_folder.iterdir()] == ["keys.json"]

    fresh(webui, page)
    chosen(page).focus()
    part(page, "preset").locator("li").first.wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(named(page)).to_have_value("keys")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(part(page, "preset_load")).to_be_focused()
    page.keyboard.press("Space")
    expect(part(page, "concept1_prompt").locator("textarea")).to_have_value(PROMPTS[0])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read_in_either_theme(webui: WebUI, page: Page, theme: str) -> None:
    """Texts of the theme's colours: none of a colour of its own, none on its own colour."""
    page.goto(f"{webui.url}/?__theme={theme}", wait_until="domcontentloaded")
    expect(page.locator("#txt2img_generate")).to_be_visible(timeout=120 * SECONDS)
    open_accordion(page)
    save(page, "none", "Concept 1 is empty")
    for name in ("preset_load", "preset_note p", "preset_name input, #script_omg_preset_name textarea"):
        assert contrast(page, f"#script_omg_{name}") > 4.5


CONTRAST = """selector => {
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(each => each / 255)
        .map(each => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
        .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
    const element = document.querySelector(selector);
    let behind = element;
    const colour = () => numbers(getComputedStyle(behind).backgroundColor);
    while (behind.parentElement && colour()[3] === 0) behind = behind.parentElement;
    const [a, b] = [light(numbers(getComputedStyle(element).color)), light(colour())];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


def contrast(page: Page, selector: str) -> float:
    """Of a text against what lies behind it, as WCAG counts it."""
    return float(page.evaluate(CONTRAST, selector))
