"""Find concepts: the first picture on the page, what clicks and the brush on it fill in, and Generate after it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.webui.browser import (
    SECONDS,
    choose,
    fill,
    generate,
    load,
    open_accordion,
    part,
    picture,
    source,
    thumbnails,
)
from tests.webui.host import Result, WebUI, distance
from tests.webui.test_preview import REUSED, nothing_kept

__all__ = ["nothing_kept"]  # a fixture

pytestmark = [pytest.mark.webui, pytest.mark.browser]

PREVIEW = 'gradioApp().getElementById("script_omg_enabled").omgPreview'
PROMPTS = ("a knight <lora:sdxl-lora:1>", "a dog <lora:sdxl-loha:1>")


@pytest.fixture
def concepts(page: Page) -> Page:
    """The page with one concept that is sought, and one whose place is given."""
    open_accordion(page)
    fill(part(page, "concept1_phrase").locator("input, textarea"), "man")
    for number, prompt in enumerate(PROMPTS, 1):
        fill(part(page, f"concept{number}_prompt").locator("textarea"), prompt)
    choose(part(page, "concept2_where"), "In a box")
    fill(part(page, "concept2_where_text").locator("input, textarea"), "0.5, 0, 1, 1")
    return page


def find_concepts(page: Page) -> None:
    """Press the button and wait until the web UI is done, and the page has said so."""
    before = note(page).inner_text()
    part(page, "find").click()
    page.wait_for_function("() => gradioApp().querySelector('#txt2img_interrupt').style.display === 'block'")
    page.wait_for_function("() => gradioApp().querySelector('#txt2img_interrupt').style.display !== 'block'",
                           timeout=180 * SECONDS)
    expect(note(page)).not_to_have_text(before)


def note(page: Page) -> Locator:
    """What the page says of the preview."""
    return page.locator("#script_omg_note .prose")


def canvas(page: Page) -> Locator:
    return page.locator("#omg_who canvas")


def pixels(page: Page) -> np.ndarray:
    """What is to be seen on the picture, uint8 [H, W, 3]."""
    url: str = canvas(page).evaluate("canvas => canvas.toDataURL('image/png')")
    return decoded(base64.b64decode(url.partition(",")[2]))


def decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Parts of the picture as a place on the page."""
    canvas(page).scroll_into_view_if_needed()
    box = canvas(page).bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def click(page: Page, x: float, y: float) -> None:
    page.mouse.click(*at(page, x, y))


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*at(page, *start))
    page.mouse.down()
    page.mouse.move(*at(page, *end), steps=8)
    page.mouse.up()


def take(page: Page, name: str, choice: str) -> None:
    """Choose one of the buttons above the picture."""
    part(page, name).get_by_label(choice).check()


def where(page: Page, number: int) -> Locator:
    return part(page, f"concept{number}_where").locator("input")


def place(page: Page, number: int) -> Locator:
    return part(page, f"concept{number}_where_text").locator("input, textarea")


def log(page: Page) -> Locator:
    """What the web UI says of the pictures in the gallery."""
    return page.locator("#html_log_txt2img .prose")


def by_api(webui: WebUI, *places: dict[str, Any], **fields: Any) -> Result:
    """The picture for the page's settings and such places of the two concepts."""
    asked = {"concepts": [{"prompt": prompt, **place} for prompt, place in zip(PROMPTS, places, strict=True)],
             **fields}
    return webui.txt2img(steps=6, sampler_name="DPM++ 2M", alwayson_scripts={"OMG": {"args": [asked]}})


BOX = {"where": {"box": [0.5, 0, 1, 1]}}


def test_a_click_on_the_picture_says_which_thing_it_is(webui: WebUI, concepts: Page, tmp_path: Path) -> None:
    find_concepts(concepts)
    expect(note(concepts)).to_contain_text("This is the first picture of seed 7.")
    first = picture(concepts, tmp_path / "first.png")
    np.testing.assert_array_equal(first, webui.txt2img(steps=6, sampler_name="DPM++ 2M").image)
    shown = webui.txt2img(steps=6, sampler_name="DPM++ 2M", alwayson_scripts={"OMG": {"args": [{
        "preview": True, "concepts": [{"phrase": "man", "prompt": "-"}, {"prompt": "-", **BOX}]}]}}).images[1]
    np.testing.assert_array_equal(pixels(concepts), shown)

    click(concepts, 0.25, 0.5)
    expect(where(concepts, 1)).to_have_value("At a point")
    expect(place(concepts, 1)).to_have_value(re.compile(r"^0\.2[45]\d, 0\.(49|50)\d$"))
    point = [float(part) for part in place(concepts, 1).input_value().split(", ")]
    expect(note(concepts)).to_contain_text(f"Concept 1 is the thing at {place(concepts, 1).input_value()}.")
    expect(where(concepts, 2)).to_have_value("In a box")
    assert distance(pixels(concepts), shown) > 0  # the click is marked

    find_concepts(concepts)
    generate(concepts)
    expect(log(concepts)).to_contain_text(REUSED)
    made = picture(concepts, tmp_path / "made.png")
    wanted = by_api(webui, {"phrase": "man", "where": {"point": point}}, BOX)
    np.testing.assert_array_equal(made, wanted.image)
    assert thumbnails(concepts).count() < 2  # no picture of who is where: it was no preview


def test_two_clicks_or_a_drag_make_a_box(webui: WebUI, concepts: Page, tmp_path: Path) -> None:
    find_concepts(concepts)
    take(concepts, "target", "Concept 2")
    take(concepts, "tool", "gets a box: click two corners, or drag")
    click(concepts, 0.75, 0.875)
    expect(note(concepts)).to_contain_text("Now click the opposite one.")
    expect(place(concepts, 2)).to_have_value("0.5, 0, 1, 1")
    click(concepts, 0.25, 0.125)
    box = re.compile(r"^0\.2[45]\d, 0\.12\d, 0\.7[45]\d, 0\.87\d$")
    expect(place(concepts, 2)).to_have_value(box)
    expect(note(concepts)).to_contain_text("Concept 2 has the box 0.2")
    expect(where(concepts, 1)).to_have_value("Best match")
    click(concepts, 0.5, 0.5)
    click(concepts, 0.5, 0.5)
    expect(note(concepts)).to_contain_text("These two corners make no box.")
    expect(place(concepts, 2)).to_have_value(box)
    drag(concepts, (0.5, 0.125), (0.9375, 0.875))
    expect(place(concepts, 2)).to_have_value(re.compile(r"^0\.(49|50)\d, 0\.12\d, 0\.93\d, 0\.87\d$"))
    numbers = [float(part) for part in place(concepts, 2).input_value().split(", ")]
    generate(concepts)
    expect(log(concepts)).to_contain_text(REUSED)
    wanted = by_api(webui, {"phrase": "man"}, {"where": {"box": numbers}})
    np.testing.assert_array_equal(picture(concepts, tmp_path / "made.png"), wanted.image)


def mask(page: Page, number: int) -> np.ndarray | None:
    """The concept's mask as its field shows it; None if there is none."""
    shown = part(page, f"concept{number}_mask_picture").locator("img")
    return decoded(source(page, shown)) if shown.count() else None


def test_a_box_whose_shape_is_wanted(concepts: Page) -> None:
    """A drag fills the box of whichever kind the concept's place is."""
    find_concepts(concepts)
    take(concepts, "target", "Concept 2")
    take(concepts, "tool", "gets a box: click two corners, or drag")
    choose(part(concepts, "concept2_where"), "The shape inside a box")
    drag(concepts, (0.5, 0.125), (0.9375, 0.875))
    expect(place(concepts, 2)).to_have_value(re.compile(r"^0\.(49|50)\d, 0\.12\d, 0\.93\d, 0\.87\d$"))
    expect(where(concepts, 2)).to_have_value("The shape inside a box")
    expect(note(concepts)).to_contain_text("Concept 2 has the shape inside the box 0.")
    take(concepts, "target", "Concept 1")
    drag(concepts, (0.1, 0.125), (0.3, 0.875))
    expect(where(concepts, 1)).to_have_value("In a box")
    expect(where(concepts, 2)).to_have_value("The shape inside a box")


def test_what_is_painted_is_the_mask(webui: WebUI, concepts: Page, tmp_path: Path) -> None:
    find_concepts(concepts)
    choose(part(concepts, "concept1_where"), "Painted mask")
    expect(concepts.locator("#omg_who .omg-brush")).to_be_visible()
    np.testing.assert_array_equal(pixels(concepts), picture(concepts, tmp_path / "first.png"))

    generate(concepts)
    expect(log(concepts)).to_contain_text("Concept 1 has no mask: paint it")

    drag(concepts, (0.25, 0.25), (0.25, 0.75))
    expect(note(concepts)).to_contain_text("Concept 1 has the mask that you painted.")
    expect(part(concepts, "concept1_mask_picture").locator("img")).to_be_visible()
    painted = mask(concepts, 1)
    assert painted is not None
    assert painted.shape == (128, 128, 3)
    assert painted[64, 32].min() == 255
    assert painted[:, 64:].max() == painted[:16].max() == 0
    assert 0.03 < (painted > 127).mean() < 0.1

    click(concepts, 0.25, 0.9)
    expect(part(concepts, "concept1_mask_picture").locator("img")).not_to_have_attribute("src", "")
    concepts.wait_for_function(f"() => {PREVIEW}.paint.before.length == 2")
    concepts.locator("#omg_who .omg-undo").click()
    np.testing.assert_array_equal(mask(concepts, 1), painted)

    find_concepts(concepts)
    generate(concepts)
    expect(log(concepts)).to_contain_text(REUSED)
    file = io.BytesIO()
    Image.fromarray(painted).save(file, "PNG")
    wanted = by_api(webui, {"where": {"mask": base64.b64encode(file.getvalue()).decode()}, "phrase": "man"}, BOX)
    np.testing.assert_array_equal(picture(concepts, tmp_path / "made.png"), wanted.image)


def test_a_painted_mask_can_be_corrected_and_taken_away(webui: WebUI, concepts: Page, tmp_path: Path) -> None:
    """Also one that was uploaded; and it comes back with the infotext."""
    find_concepts(concepts)
    uploaded = np.zeros((64, 64), np.uint8)
    uploaded[16:48, 16:48] = 255
    Image.fromarray(uploaded).save(tmp_path / "mask.png")
    choose(part(concepts, "concept2_where"), "Painted mask")
    part(concepts, "concept2_mask_picture").locator("input[type=file]").set_input_files(tmp_path / "mask.png")
    concepts.wait_for_function(f"() => {PREVIEW}.masks[2]")
    concepts.wait_for_timeout(300)
    concepts.locator("#omg_who input[type=checkbox]").check()
    drag(concepts, (0.5, 0), (0.5, 1))
    expect(note(concepts)).to_contain_text("Concept 2 has the mask that you painted.")
    left = mask(concepts, 2)
    assert left is not None
    assert left[64, 36].min() == left[64, 92].min() == 255
    assert left[64, 64].max() == left[8].max() == 0
    concepts.locator("#omg_who .omg-clear").click()
    expect(note(concepts)).to_contain_text("Concept 2 has no mask: nothing is painted.")
    assert mask(concepts, 2) is None
    generate(concepts)
    expect(log(concepts)).to_contain_text("Concept 2 has no mask: paint it")

    concepts.locator("#omg_who .omg-undo").click()
    expect(note(concepts)).to_contain_text("Concept 2 has the mask that you painted.")
    np.testing.assert_array_equal(mask(concepts, 2), left)
    generate(concepts)
    made = picture(concepts, tmp_path / "made.png")
    load(webui, concepts)
    concepts.locator("#txt2img_tools #paste").click()
    expect(where(concepts, 2)).to_have_value("Painted mask")
    expect(part(concepts, "concept2_mask_picture").locator("img")).to_be_visible()
    generate(concepts)
    assert distance(picture(concepts, tmp_path / "again.png"), made) < 3  # masks in infotexts are small


def test_what_is_found_at_the_blend_start_is_shown_and_nothing_kept(webui: WebUI, concepts: Page,
                                                                  tmp_path: Path) -> None:
    choose(part(concepts, "first_pass"), "Up to the blend start only")
    find_concepts(concepts)
    expect(note(concepts)).to_contain_text("the ordinary picture of seed 7, with what was found in it at the blend")
    first = picture(concepts, tmp_path / "first.png")
    np.testing.assert_array_equal(first, webui.txt2img(steps=6, sampler_name="DPM++ 2M").image)
    asked: dict[str, Any] = {"first_pass": "prefix", "preview": True}
    shown = by_api(webui, {"phrase": "man"}, BOX, **asked).images[1]
    np.testing.assert_array_equal(pixels(concepts), shown)
    click(concepts, 0.25, 0.5)
    expect(where(concepts, 1)).to_have_value("At a point")
    point = [float(part) for part in place(concepts, 1).input_value().split(", ")]
    generate(concepts)
    expect(log(concepts)).not_to_contain_text(REUSED)
    wanted = by_api(webui, {"phrase": "man", "where": {"point": point}}, BOX, first_pass="prefix")
    np.testing.assert_array_equal(picture(concepts, tmp_path / "made.png"), wanted.image)


def test_a_random_seed_is_filled_in(concepts: Page, tmp_path: Path) -> None:
    fill(concepts.locator("#txt2img_seed input"), "-1")
    find_concepts(concepts)
    expect(note(concepts)).to_contain_text("The seed was random. It is")
    seed = concepts.locator("#txt2img_seed input").input_value()
    assert int(seed) >= 0
    expect(note(concepts)).to_contain_text(seed)
    expect(concepts.locator("#html_info_txt2img .prose")).to_contain_text(f"Seed: {seed}")
    generate(concepts)
    expect(log(concepts)).to_contain_text(REUSED)


def test_a_preview_that_fails_says_so_and_shows_nothing(webui: WebUI, concepts: Page) -> None:
    """Whatever an earlier one has left behind."""
    find_concepts(concepts)
    load(webui, concepts)
    concepts.locator("#txt2img_tools #paste").click()
    expect(part(concepts, "concept1_phrase").locator("input, textarea")).to_have_value("man")
    generate(concepts)
    choose(part(concepts, "concept1_where"), "At a point")
    fill(place(concepts, 1), "there")
    find_concepts(concepts)
    expect(note(concepts)).to_contain_text("There is nothing to show.")
    expect(log(concepts)).to_contain_text("got 'there'")
    expect(canvas(concepts)).to_be_hidden()


def test_a_page_that_submits_late_asks_for_a_preview(concepts: Page) -> None:
    """As Gradio 4 does, some frames after the click."""
    concepts.evaluate("() => { window.requestAnimationFrame = (run) => setTimeout(run, 300); }")
    find_concepts(concepts)
    expect(note(concepts)).to_contain_text("This is the first picture of seed 7.")


def test_while_a_picture_is_drawn_nothing_is_asked(concepts: Page) -> None:
    before = note(concepts).inner_text()
    concepts.locator("#txt2img_generate").click()
    concepts.wait_for_function("() => gradioApp().querySelector('#txt2img_interrupt').style.display === 'block'")
    part(concepts, "find").click()
    concepts.wait_for_function("() => gradioApp().querySelector('#txt2img_interrupt').style.display !== 'block'",
                               timeout=180 * SECONDS)
    expect(log(concepts)).to_contain_text("Time taken")
    concepts.wait_for_timeout(2 * SECONDS)
    expect(note(concepts)).to_have_text(before)


def test_concepts_to_choose_from_are_those_shown(concepts: Page) -> None:
    find_concepts(concepts)
    expect(part(concepts, "target").locator("label")).to_have_count(2)
    part(concepts, "list").get_by_text("Add a concept").click()
    expect(part(concepts, "target").locator("label")).to_have_count(3)
    take(concepts, "target", "Concept 3")
    for number in (3, 2):
        part(concepts, f"concept{number}").get_by_text("Remove").click()
        expect(part(concepts, f"concept{number}")).to_be_hidden()
    expect(part(concepts, "target").locator("label")).to_have_count(1)
    expect(part(concepts, "target").get_by_label("Concept 1")).to_be_checked()


def test_options_of_the_detector_and_the_overlay(webui: WebUI, concepts: Page, tmp_path: Path) -> None:
    part(concepts, "enabled").get_by_text("How to find them").click()
    fill(part(concepts, "threshold").locator("input[type=number]"), "0.5")
    generate(concepts)
    expect(log(concepts)).to_contain_text("detect.threshold: the detector `contrast` does not go by it")
    fill(part(concepts, "threshold").locator("input[type=number]"), "0")
    part(concepts, "enabled").get_by_text("Blending, layout and mask edges").click()
    part(concepts, "show").get_by_label("Who is where").check()
    generate(concepts)
    expect(thumbnails(concepts)).to_have_count(2)
    expect(canvas(concepts)).to_be_hidden()  # it was no preview
