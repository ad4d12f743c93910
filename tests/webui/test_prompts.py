"""What the web UI and its extensions do to the main prompt, they do to concepts' prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.webui.host import WebUI, distance
from tests.webui.test_api import LEFT, NO_REPLAY, PROMPT, RIGHT, assert_is_plain, concept, omg, request

pytestmark = pytest.mark.webui


@pytest.mark.parametrize(("prompt", "payload"), [
    (f"{PROMPT} <lora:sdxl-lora:1>", {"styles": ["words"]}),
    (f"{PROMPT} <lora:sdxl-lora:1>", {"styles": ["around"]}),
    (f"{PROMPT} <lora:sdxl-lora:1>", {"styles": ["network"]}),
    (f"{PROMPT} <lora:sdxl-other:0.4>", {"styles": ["network", "words"]}),
    (f"{PROMPT} # a note, red and blue", {}),
    (f"# a note, red and blue\n{PROMPT}\n# <lora:sdxl-lora:1>", {}),
    ("a __colour__ car <lora:sdxl-lora:1>", {"batch_size": 2}),
    ("a __colour__ car", {"n_iter": 2, "styles": ["words"]}),
    ("a __colour__ car", {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.7,
                          "steps": 5}),
], ids=str)
def test_concept_everywhere_is_the_plain_picture(webui: WebUI, prompt: str, payload: dict[str, Any]) -> None:
    """*everywhere is plain*"""
    assert_is_plain(webui, prompt, **payload)


def test_concepts_negative_prompt_is_rewritten_too(webui: WebUI) -> None:
    """*everywhere is plain*"""
    negative = "a __colour__ house # and a note"
    plain = webui.txt2img(prompt=PROMPT, negative_prompt=negative, styles=["words"])
    own = omg(webui, request(concept(PROMPT, negative_prompt=negative)), styles=["words"])
    assert np.abs(plain.image.astype(int) - own.image).max() <= 2


@NO_REPLAY
@pytest.mark.parametrize("number", ["batch_size", "n_iter"])
def test_infotext_says_what_was_drawn(webui: WebUI, number: str) -> None:
    """Each picture its own colour, in its own infotext, and the infotext makes the same picture again."""
    data = request(concept("a __colour__ car", LEFT), concept("a __colour__ dog", RIGHT))
    plain = webui.txt2img(prompt="a __colour__ car", seed=8, **{number: 2}).info["all_prompts"]
    result = omg(webui, data, seed=8, **{number: 2})
    texts = result.info["infotexts"]
    assert len(set(plain)) == 2
    assert all("__colour__" not in text for text in texts)
    assert all(prompt in text for prompt, text in zip(plain, texts, strict=True))
    for text, image in zip(texts, result.images, strict=True):
        again = webui.generate({"infotext": text, "batch_size": 1, "n_iter": 1})
        assert np.abs(again.image.astype(int) - image).max() <= 2


def test_words_that_do_not_reach_the_concepts_are_told(webui: WebUI) -> None:
    """An extension that OMG does not know has rewritten the main prompt."""
    data = request(concept(PROMPT, LEFT))
    assert not any("rewritten" in comment for comment in omg(webui, data, styles=["words"]).comments)
    result = omg(webui, data, prompt="a street, stranger")
    assert any("rewritten the main prompt" in comment for comment in result.comments)


def test_lora_in_both_prompts_is_told(webui: WebUI) -> None:
    """The weights add up, and the other figure wears the face."""
    data = request(concept(f"{PROMPT} <lora:sdxl-lora:0.6>", LEFT))
    assert omg(webui, data, prompt="a street").comments == []
    result = omg(webui, data, prompt="a street <lora:sdxl-lora:0.4>")
    assert any("sdxl-lora is in the main prompt too" in comment for comment in result.comments)
    style = omg(webui, data, prompt="a street", styles=["network"])
    assert style.comments == []


def test_styles_change_pictures(webui: WebUI) -> None:
    plain = webui.txt2img(prompt=PROMPT).image
    for style in ("words", "around", "network"):
        assert distance(webui.txt2img(prompt=PROMPT, styles=[style]).image, plain) > 1


@NO_REPLAY
@pytest.mark.parametrize("styles", [["words"], ["around"], ["network"], ["network", "words"]], ids=str)
def test_a_pasted_picture_has_its_styles_once(webui: WebUI, styles: list[str]) -> None:
    """The web UI takes styles out of a pasted main prompt and applies them anew; so are the concepts' prompts."""
    made = omg(webui, request(concept(f"{PROMPT} <lora:sdxl-lora:1>", negative_prompt="dark")), styles=styles)
    # the API reads the text's styles as no list; the page, as here, as one
    again = webui.generate({"infotext": made.info["infotexts"][0], "styles": styles})
    np.testing.assert_array_equal(again.image, made.image)


def test_networks_that_are_switched_off_are_off_in_concepts(webui: WebUI) -> None:
    """*everywhere is plain*"""
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-lora:1>", disable_extra_networks=True)


def test_a_tag_that_comes_twice(webui: WebUI) -> None:
    """*everywhere is plain*: the Lora extension applies the last one as often as the name comes."""
    assert_is_plain(webui, f"{PROMPT} <lora:sdxl-lora:1> <lora:sdxl-lora:0.3>")
