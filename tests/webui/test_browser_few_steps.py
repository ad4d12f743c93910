"""The note above Blend start, on the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.webui import test_browser_img2img as over
from tests.webui.browser import choose, fill, fill_concepts, generate, load, open_accordion, open_tab, part
from tests.webui.host import WebUI

pytestmark = [pytest.mark.webui, pytest.mark.browser]


@pytest.fixture
def page(webui: WebUI, browser_page: Page) -> Page:
    """A freshly loaded page, with as many steps as it begins with."""
    load(webui, browser_page)
    return browser_page


def note(page: Page, there: Callable[[Page, str], Locator] = part) -> Locator:
    return there(page, "few_steps").locator(".prose")


def number(page: Page, name: str) -> Locator:
    return page.locator(f"#{name} input[type=number]")


def test_few_steps_are_said_before_and_as_after_drawing(webui: WebUI, page: Page) -> None:
    """As soon as the steps, OMG or the blend start say so; in sight, though the panel of Blend start is closed."""
    fill(number(page, "txt2img_steps"), "4")
    fill(number(page, "txt2img_width"), "128")
    fill(number(page, "txt2img_height"), "128")
    open_accordion(page)
    expect(note(page)).to_have_text("Blend start: only 2 of 4 steps come after 0.4 of the trajectory, so the concepts "
                                    "show little; lower it (to 0 for Turbo, Lightning and LCM), or take more steps.")
    expect(note(page)).to_be_visible()
    expect(part(page, "blend_start")).to_be_hidden()
    fill_concepts(page)
    choose(page.locator("#txt2img_sampling"), "LCM")
    generate(page)
    expect(page.locator("#html_log_txt2img .prose")).to_contain_text(
        "so the concepts show little; lower it (to 0 for Turbo, Lightning and LCM), or take more steps")

    part(page, "enabled").get_by_text("Blending, layout and mask edges").click()
    fill(part(page, "blend_start").locator("input[type=number]"), "0")
    expect(note(page)).to_have_text("")
    fill(part(page, "blend_start").locator("input[type=number]"), "0.4")
    expect(note(page)).to_contain_text("only 2 of 4")
    fill(number(page, "txt2img_steps"), "20")
    expect(note(page)).to_have_text("")
    fill(number(page, "txt2img_steps"), "3")
    expect(note(page)).to_contain_text("only 1 of 3")
    part(page, "enabled").locator(".label-wrap").first.click()
    expect(page.locator("#script_omg_enabled-visible-checkbox")).not_to_be_checked()
    expect(note(page)).to_have_text("")


def test_guidance_of_concepts_beside_a_picture_without(page: Page) -> None:
    open_accordion(page)
    fill(number(page, "txt2img_cfg_scale"), "1")
    part(page, "concept2").get_by_text("Negative prompt, strength").click()
    scale = part(page, "concept2_cfg_scale").locator("input[type=number]")
    fill(scale, "1")
    fill(part(page, "concept2_lora_guidance").locator("input[type=number]"), "2")
    expect(note(page)).to_contain_text("CFG scale: the picture's is 1, as Turbo, Lightning and LCM want it, but "
                                       "concept 2 has guidance of its own")
    part(page, "concept2_on").locator("input").uncheck()
    expect(note(page)).to_have_text("")
    part(page, "concept2_on").locator("input").check()
    expect(note(page)).to_contain_text("concept 2")
    fill(part(page, "concept2_lora_guidance").locator("input[type=number]"), "0")
    expect(note(page)).to_have_text("")
    fill(scale, "7")
    expect(note(page)).to_contain_text("concept 2")
    fill(number(page, "txt2img_cfg_scale"), "7")
    expect(note(page)).to_have_text("")


def test_pasted_steps_count(page: Page) -> None:
    fill(page.locator("#txt2img_prompt textarea"),
         'a man\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 9, OMG: "{\\"concepts\\":[{\\"prompt\\":\\"a man\\",'
         '\\"phrase\\":\\"man\\"}],\\"blend_start\\":0.6}"')
    page.locator("#txt2img_tools #paste").click()
    expect(note(page)).to_contain_text("only 1 of 4 steps come after 0.6")


def test_denoising_strength_counts_where_a_picture_is_given(page: Page) -> None:
    open_tab(page, "img2img")
    over.open_accordion(page)
    fill(number(page, "img2img_steps"), "20")
    expect(note(page, over.part)).to_have_text("")
    fill(number(page, "img2img_denoising_strength"), "0.1")
    expect(note(page, over.part)).to_have_text("Denoising strength: 0.1 leaves only 3 of the steps, so the concepts "
                                               "show little; raise it, or take more steps.")
    fill(number(page, "img2img_steps"), "40")
    expect(note(page, over.part)).to_have_text("")
    expect(note(page)).to_have_text("")
