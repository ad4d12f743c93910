"""A request on its way between tabs, files and the fields, on the page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Locator, Page, expect

from omg_ext.infotext import KEY, parameters, request_text
from omg_ext.request import parse_request
from omg_ext.request.pictures import mark_of
from tests.webui import test_browser_img2img as over
from tests.webui.browser import (
    PLACES,
    PROMPTS,
    choose,
    fill,
    fill_concepts,
    generate,
    open_accordion,
    open_tab,
    part,
    source,
)
from tests.webui.host import WebUI

pytestmark = [pytest.mark.webui, pytest.mark.browser]

MISSING = "a man <lora:sdxl-lroa:1>"
SAID = re.compile(r"Concept 2: there is no LoRA 'sdxl-lroa' .*did you mean .*<lora:sdxl-lora:1>")


def fill_everything(page: Page, folder: Path) -> None:
    """Two concepts, of which one has a painted mask and a photo, in fields of every kind."""
    open_accordion(page)
    fill_concepts(page)
    fill(part(page, "concept1_phrase").locator("input, textarea"), "man")
    choose(part(page, "concept2_where"), "Painted mask")
    Image.fromarray(MASK).save(folder / "mask.png")
    part(page, "concept2_mask_picture").locator("input[type=file]").set_input_files(folder / "mask.png")
    expect(part(page, "concept2_mask_picture").locator("img")).to_be_visible()
    part(page, "concept2").get_by_text("Face from a photo").click()
    Image.fromarray(PHOTO).save(folder / "photo.png")
    part(page, "concept2_face").locator("input[type=file]").set_input_files(folder / "photo.png")
    expect(part(page, "concept2_face").locator("img")).to_be_visible()
    part(page, "concept2").get_by_text("Negative prompt, strength").click()
    fill(part(page, "concept2_strength").locator("input[type=number]"), "0.7")
    part(page, "enabled").get_by_text("Blending, layout and mask edges").click()
    fill(part(page, "blend_start").locator("input[type=number]"), "0.2")
    part(page, "strict").locator("input").check()
    choose(part(page, "predict"), "Faster: shared guidance")
    choose(part(page, "first_pass"), "Up to the blend start only")


MASK = np.array([[0, 0, 0, 255, 255]] * 5, np.uint8)
PHOTO = np.random.default_rng(0).integers(0, 255, (16, 12, 3), dtype=np.uint8)


def pixels(page: Page, slot: Locator) -> np.ndarray:
    """What a slot for pictures holds."""
    shown = slot.locator("img").first
    expect(shown).to_have_count(1)
    return np.asarray(Image.open(io.BytesIO(source(page, shown))))


@pytest.mark.parametrize("target", ["img2img", "inpaint"])
def test_the_gallery_sends_all_of_it_to_the_other_tab(page: Page, tmp_path: Path, target: str) -> None:
    """As the fields have it, whatever made the picture: the photo too, which no infotext holds."""
    generate(page)
    fill_everything(page, tmp_path)
    page.locator(f"#txt2img_send_to_{target}").click()
    expect(page.locator("#img2img_prompt textarea")).to_be_visible()
    expect(page.locator("#script_img2img_omg_enabled-visible-checkbox")).to_be_checked()
    expect(page.locator("#img2img_prompt textarea")).to_have_value("a photo of a man and a woman")
    for number, prompt in enumerate(PROMPTS, 1):
        expect(over.part(page, f"concept{number}_prompt").locator("textarea")).to_have_value(prompt)
    expect(over.part(page, "concept1_phrase").locator("input, textarea")).to_have_value("man")
    expect(over.part(page, "concept1_where").locator("input")).to_have_value("In a box")
    position = over.part(page, "concept1_where_text").locator("input, textarea")
    expect(position).to_be_visible()
    expect(position).to_have_value(PLACES[0])
    expect(over.part(page, "concept2_mask_picture").locator("img")).to_be_visible()
    assert (pixels(page, over.part(page, "concept2_mask_picture"))[..., 0] == MASK).all()
    assert (pixels(page, over.part(page, "concept2_face"))[..., :3] == PHOTO).all()
    expect(over.part(page, "concept2_strength").locator("input[type=number]")).to_have_value("0.7")
    expect(over.part(page, "blend_start").locator("input[type=number]")).to_have_value("0.2")
    expect(over.part(page, "strict").locator("input")).to_be_checked()
    expect(over.part(page, "predict").locator("input")).to_have_value("Faster: shared guidance")
    expect(over.part(page, "first_pass")).to_be_hidden()
    expect(over.part(page, "api")).to_be_hidden()
    # the tab that it comes from has it still
    expect(part(page, "concept2_prompt").locator("textarea")).to_have_value(PROMPTS[1])


def test_what_is_shown_of_a_photo_that_is_missing_is_sent_too(page: Page) -> None:
    """And Extras, which has no fields, takes the picture alone."""
    generate(page)
    mark = mark_of("any")
    paste(page, {"concepts": [{"prompt": PROMPTS[0], "phrase": "man", "face": mark}]})
    expect(part(page, "concept1_face_mark").locator("input, textarea")).to_have_value(mark)
    page.locator("#txt2img_send_to_extras").click()
    expect(page.locator("#extras_image img")).to_be_visible()
    open_tab(page, "txt2img")
    page.locator("#txt2img_send_to_img2img").click()
    expect(over.part(page, "concept1_face_mark").locator("input, textarea")).to_be_visible()
    expect(over.part(page, "concept1_face_mark").locator("input, textarea")).to_have_value(mark)
    expect(over.part(page, "concept2")).to_be_hidden()


def infotext(request: dict[str, Any]) -> str:
    return parameters("a photo of a man and a woman", "blurry", {
        "Steps": 6, "Sampler": "Euler", "Schedule type": "Automatic", "CFG scale": 5, "Seed": 7, "Size": "128x128",
        KEY: request_text(parse_request(request))})


def paste(page: Page, request: dict[str, Any], tab: str = "txt2img") -> None:
    """An infotext in the prompt, and the arrow."""
    fill(page.locator(f"#{tab}_prompt textarea"), infotext(request))
    page.locator(f"#{tab}_tools #paste").click()


def with_a_missing_lora(prompt: str = MISSING) -> dict[str, Any]:
    concepts = [{"prompt": PROMPTS[0], "where": {"box": [0, 0, 0.5, 1]}},
                {"prompt": prompt, "where": {"box": [0.5, 0, 1, 1]}}]
    return {"concepts": concepts, "blend_start": 0.2}


def png(folder: Path, text: str) -> Path:
    """A picture that says how it was made."""
    said = PngInfo()
    said.add_text("parameters", text)
    Image.new("RGB", (64, 64)).save(folder / "made.png", pnginfo=said)
    return folder / "made.png"


def lacking(page: Page, there: Callable[[Page, str], Locator] = part) -> Locator:
    """The note of what is not here."""
    return there(page, "lacks").locator(".prose")


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_arrow_names_a_lora_that_is_not_here(webui: WebUI, page: Page, tab: str) -> None:
    """Without drawing anything; with the name that was meant, and until the prompt is right."""
    there = {"txt2img": part, "img2img": over.part}[tab]
    if tab == "img2img":
        open_tab(page, "img2img")
    calls = webui.denoiser_calls()
    paste(page, with_a_missing_lora(), tab)
    note = lacking(page, there)
    expect(note).to_contain_text(SAID)
    expect(note).not_to_contain_text("Concept 1")
    expect(there(page, "concept2_prompt").locator("textarea")).to_have_value(MISSING)
    expect(there(page, "api")).to_be_hidden()
    fill(there(page, "concept2_prompt").locator("textarea"), PROMPTS[1])
    expect(note).to_have_text("")
    assert webui.denoiser_calls() == calls


@pytest.mark.parametrize("tab", ["txt2img", "img2img", "inpaint"])
def test_png_info_sends_it_to_either_tab(page: Page, tmp_path: Path, tab: str) -> None:
    there, prompt = (part, "#txt2img_prompt") if tab == "txt2img" else (over.part, "#img2img_prompt")
    open_tab(page, "PNG Info")
    page.locator("#pnginfo_image input[type=file]").set_input_files(png(tmp_path, infotext(with_a_missing_lora())))
    expect(page.locator("#tab_pnginfo")).to_contain_text("a photo of a man")
    page.locator(f"#tab_pnginfo #{tab}_tab").click()
    expect(page.locator(f"{prompt} textarea")).to_be_visible()
    expect(page.locator(f"{prompt} textarea")).to_have_value("a photo of a man and a woman")
    expect(there(page, "concept2_prompt").locator("textarea")).to_have_value(MISSING)
    expect(there(page, "concept2_where_text").locator("input, textarea")).to_have_value("0.5, 0.0, 1.0, 1.0")
    expect(there(page, "blend_start").locator("input[type=number]")).to_have_value("0.2")
    expect(lacking(page, there)).to_contain_text(SAID)


DROP = """([selector, text]) => {
    const data = new DataTransfer();
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    data.items.add(new File([bytes], "made.png", {type: "image/png"}));
    gradioApp().querySelector(selector).dispatchEvent(
        new DragEvent("drop", {dataTransfer: data, bubbles: true, composed: true, cancelable: true}));
}"""


def test_a_picture_dropped_onto_the_prompt(page: Page, tmp_path: Path) -> None:
    """The web UI puts its infotext into the prompt, and the arrow reads it."""
    file = png(tmp_path, infotext(with_a_missing_lora()))
    page.evaluate(DROP, ["#txt2img_prompt textarea", base64.b64encode(file.read_bytes()).decode()])
    expect(page.locator("#txt2img_prompt textarea")).to_have_value(re.compile("Steps: 6"))
    page.locator("#txt2img_tools #paste").click()
    expect(part(page, "concept2_prompt").locator("textarea")).to_have_value(MISSING)
    expect(lacking(page)).to_contain_text(SAID)


def test_an_infotext_without_omg_says_nothing(page: Page, tmp_path: Path) -> None:
    fill(page.locator("#txt2img_prompt textarea"), "a man <lora:sdxl-lroa:1>\nSteps: 6, Seed: 9, OMG field: x")
    page.locator("#txt2img_tools #paste").click()
    expect(page.locator("#txt2img_seed input")).to_have_value("9")
    expect(page.locator("#script_omg_enabled-visible-checkbox")).not_to_be_checked()
    expect(lacking(page)).to_have_text("")


def test_a_detector_that_is_not_here_is_named(page: Page) -> None:
    """When it is pasted and when it is chosen, with where it is to be had, and only where something is sought."""
    paste(page, {"concepts": [{"prompt": PROMPTS[0], "phrase": "man"}], "detector": "yolo"})
    expect(lacking(page)).to_contain_text(re.compile("Detector: `yolo` needs .*Settings, page OMG"))
    choose(part(page, "detector"), "contrast")
    expect(lacking(page)).to_have_text("")
    choose(part(page, "detector"), "yolo")
    expect(lacking(page)).to_contain_text("`yolo` needs")
    choose(part(page, "concept1_where"), "In a box")
    expect(lacking(page)).to_have_text("")
    choose(part(page, "concept1_where"), "The shape inside a box")
    expect(lacking(page)).to_contain_text("Detector: `where.outline` needs")


def test_a_request_that_the_fields_cannot_show_is_looked_at(page: Page) -> None:
    concepts = [{"prompt": PROMPTS[0], "where": {"box": [0, 0, 0.5, 1]}}] * 7
    paste(page, {"concepts": [*concepts, {**concepts[0], "prompt": MISSING}]})
    expect(part(page, "api")).to_be_visible()
    expect(lacking(page)).to_contain_text("Concept 8: there is no LoRA 'sdxl-lroa'")
    part(page, "concept1_prompt").locator("textarea").focus()
    part(page, "concept1_prompt").locator("textarea").blur()
    expect(lacking(page)).to_contain_text("Concept 8")


@pytest.mark.parametrize("prompt", ["a man # <lora:none-such:1>", "a man <lora:{none|such}:1>",
                                    "a man <lora:__characters__:1>", ""])
def test_what_is_chosen_later_or_never_is_not_missed(page: Page, prompt: str) -> None:
    open_accordion(page)
    field = part(page, "concept2_prompt").locator("textarea")
    fill(field, MISSING)
    expect(lacking(page)).to_contain_text(SAID)
    fill(field, prompt)
    expect(lacking(page)).to_have_text("")


def test_a_preset_names_what_is_not_here(webui: WebUI, page: Page, presets_folder: Path) -> None:
    webui.post("/omg/v1/presets", {"name": "two", "request": with_a_missing_lora()})
    open_accordion(page)
    choose(part(page, "preset"), "two")
    part(page, "preset_load").click()
    expect(part(page, "preset_note").locator("p")).to_contain_text("is loaded")
    expect(lacking(page)).to_contain_text(SAID)
