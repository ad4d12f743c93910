"""All texts of the page can be translated by the web UI's localizations; docs/strings.json has them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from omg_ext.webui.fields import CONCEPT_FIELDS, GLOBAL_FIELDS, PLACES
from tests.webui.browser import browsing, fill, load, open_accordion, part
from tests.webui.host import REPOSITORY, WebUI

pytestmark = [pytest.mark.webui, pytest.mark.browser]

PROPOSED = "The prompt at the top names"
STRINGS = REPOSITORY / "docs" / "strings.json"
# as the host finds what it translates; but examples, which are prompts, and what counts
TEXTS = """(roots) => {
    const found = [];
    for (const root of gradioApp().querySelectorAll(roots)) {
        for (const node of textNodesUnder(root)) {
            const text = node.textContent.trim();
            const skipped = 'button.hide, button.hidden, .omg-hint i, .token-counter, .omg-proposed button, table, '
                + '.progress-text';
            if (canBeTranslated(node, text) && !node.parentElement.closest(skipped)) found.push(text);
        }
        // Gradio 4 gives checkboxes their values for titles
        for (const element of root.querySelectorAll('[title]:not(input)')) found.push(element.title);
    }
    return found;
}"""
# beside the settings; Forge does not show those of a list
COMMENTS = """() => Object.entries(opts._comments_after)
    .filter(([name]) => name.startsWith('omg_'))
    .flatMap(([, html]) => textNodesUnder(new DOMParser().parseFromString(html, 'text/html').body))
    .map((node) => node.textContent.trim())"""
ROOTS = "#script_omg_enabled, #script_img2img_omg_enabled"
NO_WORDS = re.compile(r"[\W\d_]*")
# what the program calls by name
NAMES = {"OMG", "contrast", "attention", "painted", "yolo", "transformers", "grounding-dino+sam", "sam3",
         "ultralytics-sam3"}
SENTENCE = re.compile(r"""["A-Z][^<>=]* [^<>=]*\.$""")
LINE = re.compile(r'"((?:[^"\\]|\\.)*)"')


def of_fields() -> Iterator[str]:
    """What the tables of fields show by and by: help, and entries of lists."""
    for each in (*GLOBAL_FIELDS, *CONCEPT_FIELDS):
        yield from (each.label, each.info, *(entry for entry, _ in each.choices))
    yield from (f"Concept {number}" for number in range(1, 17))
    for place in PLACES:
        yield from (place.choice, place.label, place.info)


def said_later() -> Iterator[str]:
    """Templates of what is said in answer to something."""
    for name in ("preview_page", "presets_page"):
        code = ast.parse((REPOSITORY / "omg_ext" / "webui" / f"{name}.py").read_text())
        constants = [node.value for node in code.body if isinstance(node, ast.Assign)]
        yield from (node.value for constant in constants for node in ast.walk(constant)
                    if isinstance(node, ast.Constant) and isinstance(node.value, str) and SENTENCE.match(node.value))
    yield PROPOSED
    for script in (REPOSITORY / "javascript").glob("*.js"):
        yield from filter(SENTENCE.match, LINE.findall(script.read_text()))


@pytest.fixture(scope="module")
def texts(running: WebUI) -> set[str]:
    """Everything that there is to be translated."""
    with browsing(running) as page:
        load(running, page)
        open_accordion(page)
        found = {*page.evaluate(TEXTS, ROOTS), *page.evaluate(TEXTS, "#settings_omg"), *page.evaluate(COMMENTS),
                 *of_fields(), *said_later()}
    return {text for text in found if text not in NAMES and not NO_WORDS.fullmatch(text)}


def test_the_list_is_complete_and_has_no_more(texts: set[str], tmp_path: Path) -> None:
    (tmp_path / "strings.json").write_text(
        json.dumps({text: text for text in sorted(texts)}, indent=1, ensure_ascii=False) + "\n")
    kept = set(json.loads(STRINGS.read_text()))
    assert kept == texts, f"docs/strings.json is to be {tmp_path / 'strings.json'}"


@pytest.fixture
def translated(webui: WebUI) -> Iterator[Page]:
    """The page in a language in which everything stands in « »."""
    words = json.dumps({text: f"«{text}»" for text in json.loads(STRINGS.read_text())})
    before = webui.options()["localization"]
    webui.options(localization="omg-test-loud")
    with browsing(webui) as page:
        # the host puts a table into the page when it starts, whatever the setting says by now
        page.add_init_script(f"Object.defineProperty(window, 'localization', {{value: {words}, writable: false}})")
        load(webui, page)
        page.locator("#script_omg_enabled .label-wrap").first.click()
        expect(part(page, "concept1_prompt")).to_be_visible()
        yield page
    webui.options(localization=before)


def test_a_translation_reaches_all_of_it(translated: Page) -> None:
    translated.wait_for_timeout(1000)
    shown: list[str] = translated.evaluate(TEXTS, ROOTS)
    assert {text for text in shown if not (text.startswith("«") or text in NAMES or NO_WORDS.fullmatch(text))} == set()


def test_what_is_said_later_is_translated_with_its_names(translated: Page) -> None:
    note = translated.locator("#script_omg_preset_note .prose")
    part(translated, "preset_load").click()
    expect(note).to_have_text("«Choose a preset first.»")
    for number in (1, 2):
        fill(part(translated, f"concept{number}_phrase").locator("input, textarea"), "man")
    fill(part(translated, "preset_name").locator("input, textarea"), "Ann & Ben")
    part(translated, "preset_save").click()
    expect(note).to_have_text('«Saved as "Ann & Ben".»')
    for _ in range(2):
        part(translated, "preset_delete").click()
    expect(note).to_have_text('«"Ann & Ben" is deleted.»')
