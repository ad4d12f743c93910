"""The accordion as a user has it, in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.webui.browser import (
    PLACES,
    PROMPTS,
    choose,
    fill,
    fill_concepts,
    generate,
    load,
    open_accordion,
    part,
    picture,
    saved,
    thumbnails,
)
from tests.webui.host import WebUI

pytestmark = [pytest.mark.webui, pytest.mark.browser]


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
    expect(page.locator("#html_log_txt2img .prose")).to_contain_text("no-such-lora")
    expect(page.locator("#html_log_txt2img .prose")).to_contain_text("concepts[1].prompt")


def test_concept_that_is_not_found_is_said(page: Page) -> None:
    open_accordion(page)
    fill_concepts(page)
    choose(part(page, "concept2_where"), "Best match")
    fill(part(page, "concept2_phrase").locator("input, textarea"), "giraffe")
    generate(page)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible()
    expect(page.locator("#html_log_txt2img .prose")).to_contain_text("giraffe")


@pytest.fixture
def _grid(webui: WebUI) -> Iterator[None]:
    """A grid before the pictures, as most users have it: all numbers shift."""
    webui.options(return_grid=True)
    yield
    webui.options(return_grid=False)


@pytest.mark.usefixtures("_grid")
def test_extra_pictures_are_saved_zipped_and_give_their_seed_as_any(webui: WebUI, page: Page) -> None:
    open_accordion(page)
    fill_concepts(page)
    part(page, "enabled").get_by_text("Blending, layout and mask edges").click()
    for label in ("First picture", "Masks"):
        part(page, "show").get_by_label(label).check()
    fill(page.locator("#txt2img_batch_size input[type=number]"), "2")
    generate(page)
    expect(thumbnails(page)).to_have_count(1 + 2 + 2 * 3)

    page.locator("#save_zip_txt2img").click()
    expect(page.locator("#download_files_txt2img")).to_contain_text(".zip")
    archive = ZipFile(saved(webui, "zip").pop())
    assert len(archive.namelist()) == 9

    before = saved(webui, "png")
    thumbnails(page).last.click()
    expect(page.locator("#html_info_txt2img .prose")).to_contain_text("OMG picture: mask of concept 2")
    expect(page.locator("#html_info_txt2img .prose")).to_contain_text("Seed: 8")
    page.locator("#save_txt2img").click()
    expect(page.locator("#html_log_txt2img .prose")).to_contain_text("-8.png")
    last, = saved(webui, "png") - before
    text = Image.open(last).info["parameters"]
    assert "Seed: 8" in text
    assert "OMG picture: mask of concept 2" in text
    page.locator("#txt2img_reuse_seed").click()
    expect(page.locator("#txt2img_seed input")).to_have_value("8")


def test_the_arrow_restores_the_last_generation(webui: WebUI, page: Page, tmp_path: Path) -> None:
    open_accordion(page)
    fill_concepts(page)
    fill(part(page, "concept1_phrase").locator("input, textarea"), "man")
    part(page, "enabled").get_by_text("Blending, layout and mask edges").click()
    fill(part(page, "blend_start").locator("input[type=number]"), "0.2")
    generate(page)
    made = picture(page, tmp_path / "made.png")
    load(webui, page)
    expect(part(page, "concept1_prompt")).to_be_hidden()
    page.locator("#txt2img_tools #paste").click()
    expect(page.locator("#txt2img_prompt textarea")).to_have_value("a photo of a man and a woman")
    expect(page.locator("#script_omg_enabled-visible-checkbox")).to_be_checked()
    for number, (prompt, place) in enumerate(zip(PROMPTS, PLACES, strict=True), 1):
        expect(part(page, f"concept{number}_prompt").locator("textarea")).to_have_value(prompt)
        expect(part(page, f"concept{number}_where_text").locator("input, textarea")).to_have_value(
            ", ".join(str(float(number)) for number in place.split(", ")))
    expect(part(page, "concept1_phrase").locator("input, textarea")).to_have_value("man")
    generate(page)
    np.testing.assert_array_equal(picture(page, tmp_path / "again.png"), made)


def test_everything_else_needs_no_position(webui: WebUI, page: Page, tmp_path: Path) -> None:
    """And comes back with the arrow."""
    open_accordion(page)
    fill_concepts(page)
    choose(part(page, "concept2_where"), "Everything else")
    for name in ("where_text", "mask_picture"):
        expect(part(page, f"concept2_{name}")).to_be_hidden()
    expect(part(page, "concept2_where")).to_contain_text("all that the others leave")
    generate(page)
    made = picture(page, tmp_path / "made.png")
    load(webui, page)
    page.locator("#txt2img_tools #paste").click()
    expect(part(page, "concept2_where").locator("input")).to_have_value("Everything else")
    generate(page)
    np.testing.assert_array_equal(picture(page, tmp_path / "again.png"), made)


def test_ways_and_guidance_come_back_with_the_arrow(webui: WebUI, page: Page, tmp_path: Path) -> None:
    chosen = {"predict": "Faster: shared guidance", "first_pass": "Up to the blend start only"}
    numbers = {"concept1_cfg_scale": 6, "concept2_cfg_scale": 8, "concept2_cfg_end": 2.5, "concept2_lora_guidance": 1.5}
    open_accordion(page)
    fill_concepts(page)
    for name, entry in chosen.items():
        choose(part(page, name), entry)
    for number in (1, 2):
        part(page, f"concept{number}").get_by_text("Negative prompt, strength").click()
    for name, value in numbers.items():
        fill(part(page, name).locator("input[type=number]"), str(value))
    generate(page)
    made = picture(page, tmp_path / "made.png")
    boxes = [[float(number) for number in place.split(", ")] for place in PLACES]
    guidance: list[dict[str, Any]] = [{"cfg_scale": 6}, {"cfg_scale": [8, 2.5], "lora_guidance": 1.5}]
    concepts = [{"prompt": prompt, "where": {"box": box}, **more}
                for prompt, box, more in zip(PROMPTS, boxes, guidance, strict=True)]
    asked = {"concepts": concepts, "predict": "shared", "first_pass": "prefix"}
    wanted = webui.txt2img(steps=6, sampler_name="DPM++ 2M", alwayson_scripts={"OMG": {"args": [asked]}})
    np.testing.assert_array_equal(made, wanted.image)

    load(webui, page)
    page.locator("#txt2img_tools #paste").click()
    expect(page.locator("#script_omg_enabled-visible-checkbox")).to_be_checked()
    for name, entry in chosen.items():
        expect(part(page, name).locator("input")).to_have_value(entry)
    for name, value in {**numbers, "concept1_cfg_end": 0, "concept1_lora_guidance": 0}.items():
        expect(part(page, name).locator("input[type=number]")).to_have_value(str(value))
    expect(part(page, "api")).to_be_hidden()  # the fields show all of it
    generate(page)
    np.testing.assert_array_equal(picture(page, tmp_path / "again.png"), made)


def test_a_final_cfg_scale_alone_is_refused(page: Page) -> None:
    open_accordion(page)
    fill_concepts(page)
    part(page, "concept2").get_by_text("Negative prompt, strength").click()
    fill(part(page, "concept2_cfg_end").locator("input[type=number]"), "3")
    generate(page)
    expect(page.locator("#html_log_txt2img .prose")).to_contain_text("Concept 2: Final CFG scale is set")


def test_the_page_alone_says_what_goes_where(page: Page) -> None:
    """What a newcomer with two LoRAs needs: in plain sight, and two examples that follow it."""
    open_accordion(page)
    hint = part(page, "enabled").locator(".omg-hint.prose")
    for words in ("The whole scene", "without the characters' LoRAs", "trigger word and LoRA", "no other's"):
        expect(hint).to_contain_text(words)
    examples = [part(page, f"concept{number}_prompt").locator("textarea").get_attribute("placeholder") or ""
                for number in (1, 2)]
    phrases = [part(page, f"concept{number}_phrase").locator("input, textarea").get_attribute("placeholder") or ""
               for number in (1, 2)]
    assert phrases == ["man", "woman"]
    for example in examples:
        assert all(phrase in example for phrase in phrases)
        assert example.count("<lora:") == 1
    assert examples[0] != examples[1]
