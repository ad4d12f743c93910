"""The list of concepts on the page: by mouse and by keyboard, and what helps to fill it in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from omg_ext.comprehension.overlay import COLOURS
from tests.webui.browser import (
    choose,
    fill,
    fill_concepts,
    generate,
    load,
    open_accordion,
    part,
    picture,
    thumbnails,
)
from tests.webui.host import WebUI

pytestmark = [pytest.mark.webui, pytest.mark.browser]


# where the button below all concepts is on the page, however far that is scrolled
TOP = "() => gradioApp().getElementById('script_omg_find').getBoundingClientRect().top + window.scrollY"


def text(page: Page, number: int, name: str) -> Locator:
    """A text field of a concept."""
    return part(page, f"concept{number}_{name}").locator("textarea, input").first


def do(page: Page, number: int, action: str) -> None:
    """Press one of a concept's buttons."""
    part(page, f"concept{number}").locator(f"[data-omg={action}]").click()


def add(page: Page) -> None:
    part(page, "list").get_by_text("Add a concept").click()


def name_all(page: Page, *phrases: str) -> None:
    """So many concepts, each with a phrase of its own."""
    for number, phrase in enumerate(phrases, 1):
        if number > 2:
            add(page)
            expect(part(page, f"concept{number}")).to_be_visible()
        fill(text(page, number, "phrase"), phrase)
        fill(text(page, number, "prompt"), f"the {phrase}")


def expect_concepts(page: Page, *phrases: str) -> None:
    """These are shown, with the prompts of :func:`name_all`, and no others."""
    for number, phrase in enumerate(phrases, 1):
        expect(text(page, number, "phrase")).to_have_value(phrase)
        expect(text(page, number, "prompt")).to_have_value(f"the {phrase}" if phrase else "")
        expect(part(page, f"concept{number}")).to_be_visible()
    expect(part(page, f"concept{len(phrases) + 1}")).to_be_hidden()


def test_concepts_move_are_copied_and_removed_with_all_that_is_theirs(page: Page, tmp_path: Path) -> None:
    open_accordion(page)
    name_all(page, "man", "dog", "cat")
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    choose(part(page, "concept2_where"), "Painted mask")
    part(page, "concept2_mask_picture").locator("input[type=file]").set_input_files(tmp_path / "mask.png")
    expect(part(page, "concept2_mask_picture").locator("img")).to_be_visible()
    part(page, "concept2").get_by_text("Negative prompt, strength").click()
    fill(part(page, "concept2_strength").locator("input[type=number]"), "0.5")

    do(page, 2, "up")
    expect_concepts(page, "dog", "man", "cat")
    expect(part(page, "concept1_mask_picture").locator("img")).to_be_visible()
    expect(part(page, "concept2_mask_picture")).to_be_hidden()
    expect(part(page, "concept1_strength").locator("input[type=number]")).to_have_value("0.5")
    expect(part(page, "concept2_strength").locator("input[type=number]")).to_have_value("1")
    do(page, 1, "up")  # it is the first
    do(page, 3, "down")  # and the last
    expect_concepts(page, "dog", "man", "cat")
    do(page, 1, "down")
    do(page, 2, "down")
    expect_concepts(page, "man", "cat", "dog")

    do(page, 3, "copy")
    expect_concepts(page, "man", "cat", "dog", "dog")
    expect(part(page, "concept4_mask_picture").locator("img")).to_be_visible()
    do(page, 1, "remove")
    do(page, 1, "remove")
    expect_concepts(page, "dog", "dog")
    do(page, 2, "remove")
    undo = part(page, "list").get_by_text("Bring the removed one back")
    undo.click()
    expect_concepts(page, "dog", "dog")
    expect(part(page, "concept2_mask_picture").locator("img")).to_be_visible()
    undo.click()  # of all that were removed, the last first
    expect_concepts(page, "dog", "dog", "cat")
    undo.click()
    expect_concepts(page, "dog", "dog", "cat", "man")
    expect(undo).to_be_hidden()
    for number in (4, 3, 2):
        do(page, number, "remove")
    add(page)
    expect_concepts(page, "dog", "")
    expect(part(page, "concept2_strength").locator("input[type=number]")).to_have_value("1")
    expect(part(page, "concept2_where").locator("input")).to_have_value("Best match")
    do(page, 2, "remove")
    do(page, 1, "remove")  # the only one is emptied
    expect_concepts(page, "")
    expect(part(page, "concept1_mask_picture")).to_be_hidden()
    undo.click()
    expect_concepts(page, "dog")


def test_where_all_are_in_use_the_page_says_so(page: Page) -> None:
    open_accordion(page)
    groups = page.locator("#script_omg_enabled .omg-concept").count()
    name_all(page, *(f"{number}th" for number in range(1, groups + 1)))
    expect(part(page, "list").get_by_text("raise Settings > OMG > Concepts shown in the accordion")).to_be_visible()
    do(page, 1, "copy")  # has no room, and takes none away
    expect(text(page, groups, "phrase")).to_have_value(f"{groups}th")
    expect(text(page, 2, "phrase")).to_have_value("2th")
    do(page, 1, "remove")
    expect(part(page, "list").get_by_text("Add a concept")).to_be_visible()


def test_who_is_off_is_left_out_and_comes_back_with_the_arrow(webui: WebUI, page: Page, tmp_path: Path) -> None:
    open_accordion(page)
    fill_concepts(page)
    part(page, "concept1_on").locator("input").uncheck()
    add(page)
    part(page, "concept3_on").locator("input").uncheck()  # empty, as a draft may be
    generate(page)
    made = picture(page, tmp_path / "made.png")
    load(webui, page)
    page.locator("#txt2img_tools #paste").click()
    for number, on in ((1, False), (2, True), (3, False)):
        expect(part(page, f"concept{number}_on").locator("input")).to_be_checked(checked=on)
    expect(part(page, "api")).to_be_hidden()
    generate(page)
    np.testing.assert_array_equal(picture(page, tmp_path / "again.png"), made)
    concepts = [{"prompt": "a woman <lora:sdxl-loha:0.8>", "where": {"box": [0.5, 0, 1, 1]}}]
    wanted = webui.txt2img(steps=6, sampler_name="DPM++ 2M", alwayson_scripts={"OMG": {"args": [
        {"concepts": concepts}]}})
    np.testing.assert_array_equal(made, wanted.image)


def test_phrases_are_offered_by_the_main_prompt(page: Page) -> None:
    """And nothing moves while one is typed."""
    open_accordion(page)
    offered = page.locator("#script_omg_concept1_proposed .prose button")
    expect(offered).to_have_text(["man", "woman"])
    offered.nth(1).click()
    expect(text(page, 1, "phrase")).to_have_value("woman")
    others = page.locator("#script_omg_concept2_proposed .prose button")
    expect(others).to_have_text(["man"])
    expect(offered).to_have_count(0)
    top = page.evaluate(TOP)
    text(page, 2, "phrase").press_sequentially("man", delay=30)
    expect(others).to_have_count(0)
    assert page.evaluate(TOP) == top
    expect(text(page, 2, "phrase")).to_be_focused()
    fill(page.locator("#txt2img_prompt textarea"), "a man, a woman and a dog")
    add(page)
    expect(page.locator("#script_omg_concept3_proposed .prose button")).to_have_text(["dog"])


def test_tokens_are_counted_as_the_hosts_are(webui: WebUI, page: Page) -> None:
    open_accordion(page)
    part(page, "concept1").get_by_text("Negative prompt, strength").click()
    for name in ("prompt", "negative_prompt"):
        field = text(page, 1, name)
        field.press_sequentially("one two three <lora:sdxl-lora:1>" if name == "prompt" else "one two", delay=5)
        counter = page.locator(f"#script_omg_concept1_{name}_tokens .prose")
        expect(counter).to_have_text("3/75" if name == "prompt" else "2/75")
    do(page, 1, "copy")
    expect(page.locator("#script_omg_concept2_prompt_tokens .prose")).to_have_text("3/75")
    box, field_box = (locator.bounding_box() for locator in (
        page.locator("#script_omg_concept1_prompt_tokens .prose span"), part(page, "concept1_prompt")))
    assert box is not None
    assert field_box is not None
    assert field_box["x"] + field_box["width"] - 60 < box["x"] + box["width"] < field_box["x"] + field_box["width"]


def test_the_whole_of_it_by_keyboard(webui: WebUI, page: Page, tmp_path: Path) -> None:
    """From the phrase to a place on the picture, without a mouse."""
    open_accordion(page)
    keys = page.keyboard
    text(page, 1, "phrase").focus()
    keys.type("man")
    text(page, 1, "prompt").focus()
    keys.type("a knight")
    keys.press("Control+ArrowUp")  # the host's weights
    expect(text(page, 1, "prompt")).to_have_value("a (knight:1.1)")
    keys.type(" <lora:sdxl-lora:1>")
    part(page, "concept2").locator("[data-omg=remove]").focus()
    keys.press("Enter")
    expect(part(page, "concept2")).to_be_hidden()
    expect(part(page, "concept1").locator("[data-omg=remove]")).to_be_focused()
    part(page, "find").focus()
    keys.press("Enter")
    canvas = page.locator("#omg_who canvas")
    expect(canvas).to_be_visible(timeout=60_000)
    canvas.focus()
    for key in ("ArrowLeft", *["ArrowLeft"] * 5, "Control+ArrowUp", "Enter"):  # the first shows where the cross is
        keys.press(key)
    expect(text(page, 1, "where_text")).to_have_value("0.250, 0.490")
    expect(part(page, "concept1_where").locator("input")).to_have_value("At a point")

    part(page, "tool").get_by_label("gets a box").check()
    canvas.focus()
    keys.press("Enter")
    expect(page.locator("#script_omg_note .prose")).to_contain_text("Now click the opposite one.")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        keys.press(key)
    expect(text(page, 1, "where_text")).to_have_value(re.compile(r"^0\.\d{3}, 0\.\d{3}, 0\.\d{3}, 0\.\d{3}$"))
    expect(part(page, "concept1_where").locator("input")).to_have_value("In a box")

    part(page, "tool").get_by_label("gets a mask").check()
    canvas.focus()
    keys.press("Enter")
    keys.press("Shift+ArrowRight")
    expect(page.locator("#script_omg_note .prose")).to_contain_text("Concept 1 has the mask that you painted.")
    generate(page)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible()


def test_moved_concepts_keep_the_keyboard(page: Page) -> None:
    open_accordion(page)
    name_all(page, "man", "dog")
    part(page, "concept2").locator("[data-omg=up]").focus()
    page.keyboard.press("Enter")
    expect(part(page, "concept1").locator("[data-omg=up]")).to_be_focused()
    expect_concepts(page, "dog", "man")
    add(page)
    expect(text(page, 3, "phrase")).to_be_focused()


def test_cards_go_into_the_concept_in_focus(page: Page) -> None:
    """With the card's weight and activation text, its negative text, and back to the main prompt by keyboard."""
    open_accordion(page)
    note, main = page.locator("#script_omg_card_target"), page.locator("#txt2img_prompt textarea")
    before = main.input_value()

    def card(words: str, negative: str = "", *, follows: bool = False) -> None:
        page.evaluate(f"cardClicked('txt2img', '{words}', '{negative}', {str(follows).lower()})")

    text(page, 2, "prompt").focus()
    expect(note).to_have_text("cards → OMG Concept 2")
    card("<lora:sdxl-lora:0.7> sks man", "bad hands")
    expect(text(page, 2, "prompt")).to_have_value(re.compile("^ ?<lora:sdxl-lora:0.7> sks man$"))
    expect(text(page, 2, "negative_prompt")).to_have_value(re.compile("bad hands$"))
    part(page, "concept1").get_by_text("Negative prompt, strength").click()
    text(page, 1, "negative_prompt").focus()
    card("an-embedding", follows=True)  # as textual inversions do
    expect(text(page, 1, "negative_prompt")).to_have_value(re.compile("an-embedding$"))
    expect(main).to_have_value(before)
    note.focus()
    page.keyboard.press("Enter")
    expect(note).to_have_text("")
    card("<lora:sdxl-lora:1>")
    expect(main).to_have_value(f"{before} <lora:sdxl-lora:1>")
    text(page, 1, "prompt").focus()
    page.locator("#script_omg_enabled-visible-checkbox").uncheck()
    card("<lora:sdxl-oft:1>")
    expect(text(page, 1, "prompt")).to_have_value("")
    expect(main).to_have_value(re.compile("<lora:sdxl-oft:1>$"))


def test_scripts_that_come_twice_act_once(page: Page) -> None:
    """As from a copy of the extension that was left behind; and nothing of them is to be seen on the page's window."""
    open_accordion(page)
    sources: list[str] = page.evaluate(
        "() => [...document.scripts].map((script) => script.src).filter((source) => /omg_\\w+\\.js/.test(source))")
    assert len(sources) == 5
    for source in sources:
        page.add_script_tag(url=f"{source}&again")
    page.evaluate("() => executeCallbacks(uiLoadedCallbacks)")
    text(page, 1, "prompt").focus()
    page.evaluate("cardClicked('txt2img', '<lora:sdxl-lora:1>', '', false)")
    expect(text(page, 1, "prompt")).to_have_value(re.compile("^ ?<lora:sdxl-lora:1>$"))
    do(page, 1, "copy")
    expect(part(page, "concept3")).to_be_visible()
    expect(part(page, "concept4")).to_be_hidden()
    names = page.evaluate("() => Object.keys(window).filter((name) => /omg/i.test(name))")
    assert set(names) <= {"omgTestStarted"}  # which is another test's


def colour_of(page: Page, selector: str, pseudo: str, name: str) -> Any:
    return page.evaluate("""([selector, pseudo, name]) => getComputedStyle(gradioApp().querySelector(selector), pseudo)
        .getPropertyValue(name)""", [selector, pseudo, name])


def test_extra_pictures_are_labelled_in_their_concepts_colours(page: Page) -> None:
    open_accordion(page)
    fill_concepts(page)
    part(page, "enabled").get_by_text("Blending, layout and mask edges").click()
    for label in ("First picture", "Masks"):
        part(page, "show").get_by_label(label).check()
    generate(page)
    expect(thumbnails(page)).to_have_count(4)
    expect(thumbnails(page).nth(3)).to_have_attribute("data-omg-label", "2")
    labels = [thumbnails(page).nth(number).get_attribute("data-omg-title") or "" for number in range(4)]
    assert labels == ["", "first pass", "mask of concept 1", "mask of concept 2"]
    for number, colour in enumerate(COLOURS[:2], 1):
        rgb = f"rgb({', '.join(map(str, colour))})"
        thumb = f"#txt2img_gallery .thumbnail-small:nth-child({number + 2})"
        assert colour_of(page, thumb, "::after", "background-color") == rgb
        assert colour_of(page, f"#script_omg_concept{number}", "", "border-left-color") == rgb
