"""Phrases in the web UI's prompts: emphasis, ``AND``, ``BREAK``, prompt editing, embeddings; and masks of any kind."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.webui.host import WebUI
from tests.webui.test_api import LEFT, assert_close, concept, omg, request

pytestmark = pytest.mark.webui

EMBEDDING = "two-vectors"
LONG = "a portrait in shining armour, " * 12


def place(webui: WebUI, phrase: str, prompt: str, detector: str = "contrast", **payload: Any) -> np.ndarray:
    """Where a phrase is found, [H, W]; fails if it is not."""
    data = request({"phrase": phrase, "prompt": "a red car"}, show=["masks"], detector=detector)
    result = omg(webui, data, prompt=prompt, **payload)
    assert result.comments == []
    mask: np.ndarray = result.images[1][:, :, 0]
    assert 0 < mask.mean() < 255
    return mask


def missed(webui: WebUI, phrase: str, prompt: str, detector: str = "contrast", **payload: Any) -> str:
    """What is said of a phrase that is not found."""
    data = request({"phrase": phrase, "prompt": "a red car"}, detector=detector)
    result = omg(webui, data, prompt=prompt, **payload)
    np.testing.assert_array_equal(result.image, webui.txt2img(prompt=prompt, **payload).image)
    said, = result.comments
    assert f"no '{phrase}' was found" in said
    return said


@pytest.fixture(params=["tiny-sdxl", "tiny-sd15"])
def any_checkpoint(webui: WebUI, request: pytest.FixtureRequest) -> Iterator[WebUI]:
    webui.set_checkpoint(request.param)
    yield webui
    webui.set_checkpoint("tiny-sdxl")


@pytest.mark.parametrize(("phrase", "same", "prompt"), [
    ("girl", "girls", "2girls, side by side, park"),
    ("man", "men", "two men"),
    ("(man:1.2)", "man", "a man in a park"),
    ("man", "MAN", "a ((man:1.3)) in a [park]"),
    ("hatsune miku", "hatsune_miku", "hatsune_miku, solo"),
    ("dog", "the dog", f"a man, {LONG} BREAK the dog and the dog AND a cat :0.7"),
], ids=str)
def test_a_place_is_the_same_however_it_is_named(any_checkpoint: WebUI, phrase: str, same: str, prompt: str) -> None:
    found = place(any_checkpoint, phrase, prompt)
    if same != "the dog":  # which names another word too
        np.testing.assert_array_equal(found, place(any_checkpoint, same, prompt))


def test_words_between(webui: WebUI) -> None:
    place(webui, "old man", "old wise man")


@pytest.mark.parametrize(("phrase", "edited", "plain", "steps"), [
    # edits that say the same at every step
    ("man", "a [man|man] in a park", "a man in a park", 8),
    ("man", "a [man:man:0.5] in a park", "a man in a park", 8),
    # an edit behind the last step
    ("man", "a [man:dog:7] in a park", "a man in a park", 8),
])
def test_edited_prompt_is_read_as_at_its_step(webui: WebUI, phrase: str, edited: str, plain: str, steps: int) -> None:
    for detector in ("attention", "contrast"):
        found, wanted = (place(webui, phrase, prompt, detector, steps=steps) for prompt in (edited, plain))
        assert (found != wanted).mean() <= (0.001 if webui.is_neo else 0)  # whose encoder rounds them in two ways


@pytest.mark.parametrize("prompt", ["a [man:woman:0.5] in a park", "a [woman:man:0.5] in a park", "[man|woman], park",
                                    "in a park [a man:4]", "[in a very wide park: :3] a man", "a [dog:man:6]"])
@pytest.mark.parametrize("sampler", ["Euler", "Heun"])
@pytest.mark.parametrize("detector", ["attention", "contrast"])
def test_phrases_in_edits(webui: WebUI, prompt: str, sampler: str, detector: str) -> None:
    place(webui, "man", prompt, detector, sampler_name=sampler)


def test_a_phrase_of_an_edit_is_sought_at_its_steps_alone(webui: WebUI) -> None:
    """Behind the last step it is never read; the positions of other steps' words are none of its."""
    assert "not read it there" in missed(webui, "dog", "a [man:dog:7] in a park", "attention")
    moved = place(webui, "man", "[in a very wide park: :7] a man", "attention")
    np.testing.assert_array_equal(moved, place(webui, "man", "in a very wide park a man", "attention"))


def test_what_comes_near_is_said(webui: WebUI) -> None:
    assert "'catgirl' comes near" in missed(webui, "girl", "a catgirl in a park")
    assert "'man' comes near" in missed(webui, "old man", "a man in a park")
    assert "comes near" not in missed(webui, "giraffe", "a man in a park")


@pytest.mark.not_in_forge("it takes embeddings of the width of SDXL's or SD 1.5's encoders alone")
def test_embeddings_are_found_by_their_names(webui: WebUI) -> None:
    folder = webui.data_dir / "embeddings"
    folder.mkdir(exist_ok=True)
    file = folder / f"{EMBEDDING}.safetensors"
    vectors = 0.7 * torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(1))
    save_file({"clip_l": vectors[0].contiguous(), "clip_g": vectors[1].contiguous()}, file)
    try:
        prompt = f"a man, {EMBEDDING}, park"
        found = place(webui, EMBEDDING, prompt)
        assert EMBEDDING in webui.get("/sdapi/v1/embeddings")["loaded"]
        assert np.abs(found.astype(int) - place(webui, "man", prompt)).max() > 100
    finally:
        file.unlink()


@pytest.mark.parametrize(("mode", "paint", "kind"), [
    ("RGB", (255, 0, 0), "PNG"), ("L", 128, "PNG"), ("RGB", (0, 90, 40), "JPEG"), ("RGB", (128, 128, 128), "WEBP"),
    ("LA", (0, 255), "PNG"), ("RGBA", (0, 0, 0, 255), "WEBP")], ids=str)
def test_painted_masks_count_fully(webui: WebUI, mode: str, paint: Any, kind: str) -> None:
    """In any colour, on black or on nothing, in any of the formats: the left half, as a box says it."""
    picture = Image.new(mode, (128, 128))
    picture.paste(paint, (0, 0, 64, 128))
    file = io.BytesIO()
    picture.save(file, kind, **({"lossless": True} if kind == "WEBP" else {"quality": 100}))
    mask = {"mask": base64.b64encode(file.getvalue()).decode()}
    painted = omg(webui, request(concept("a red car", mask), show=["masks"]))
    boxed = omg(webui, request(concept("a red car", LEFT), show=["masks"]))
    if kind == "JPEG":
        assert np.abs(painted.images[1].astype(int) - boxed.images[1]).mean() < 4
    else:
        np.testing.assert_array_equal(painted.images[1], boxed.images[1])
        assert_close(painted.image, boxed.image)
