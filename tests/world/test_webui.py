"""The small world in a real web UI: its weights and networks make the pictures that they make in diffusers.

The environment variable ``OMG_WORLD_SHEET`` names a PNG to write, which shows the pictures of both hosts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor

from bench.world import checkpoint, model, train_embedding, weights
from bench.world.attributes import IDENTITIES
from bench.world.readers import FigureReader, IdentityReader, references
from omg_ext.comprehension.masks import decode_mask, encode_mask
from omg_ext.diffusers import OMGPipeline
from tests.webui.host import Result, WebUI, distance

MISSING = weights.missing(weights.CHECKPOINT)
pytestmark = [pytest.mark.webui, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

PLACE = "in the park"
PROMPT = f"a man and a woman {PLACE}"
PAIR = ("Rusty", "Azura")
SCENES = 6
CFG_SCALE = 5.0
# Both hosts' Euler steps through the same whole timesteps if (STEPS - 1) divides 999; between whole ones the web UI
# interpolates log sigma, diffusers sigma.
STEPS = 28
SHEET = os.environ.get("OMG_WORLD_SHEET", "")
LABEL_WIDTH, LABEL_HEIGHT, GAP = 150, 16, 2

Pictures = list[np.ndarray]

# on models of this size threads only get in each other's way
torch.set_num_threads(1)


@pytest.fixture
def webui(running: WebUI) -> WebUI:
    """The running web UI with the small world loaded."""
    running.set_checkpoint(weights.CHECKPOINT.stem)
    running.txt2img(prompt="", steps=1)  # the last prompt's networks stay active until the next picture
    return running


@pytest.fixture(scope="module")
def networks() -> model.Parts:
    """The checkpoint in diffusers."""
    return checkpoint.load(weights.CHECKPOINT)


@pytest.fixture(scope="module")
def pipe(networks: model.Parts) -> Any:
    """The same with the web UI's sampler."""
    pipe = model.pipeline(networks)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    return pipe


@pytest.fixture(scope="module")
def omg(pipe: Any) -> OMGPipeline:
    """Both passes in diffusers; the LoRAs have the names that they have in the web UI."""
    return OMGPipeline(pipe, {name.lower(): weights.lora(name) for name in IDENTITIES})


def by_webui(webui: WebUI, prompt: str, seed: int, request: dict[str, Any] | None = None,
             negative_prompt: str = "") -> Result:
    return webui.txt2img(prompt=prompt, negative_prompt=negative_prompt, seed=seed, steps=STEPS, cfg_scale=CFG_SCALE,
                         sampler_name="Euler", alwayson_scripts={"OMG": {"args": [request]}} if request else {})


def by_diffusers(pipe: Any, prompt: str, seed: int, negative_prompt: str = "") -> np.ndarray:
    # without a negative prompt both hosts have zeros
    return np.asarray(pipe(prompt, negative_prompt=negative_prompt or None, num_inference_steps=STEPS,
                           guidance_scale=CFG_SCALE, generator=torch.Generator().manual_seed(seed)).images[0])


def assert_equal(made: np.ndarray, expected: np.ndarray) -> None:
    """To one grey level: the web UI cuts off what diffusers rounds."""
    assert expected.std() > 10
    assert np.abs(made.astype(int) - expected).max() <= 1


def assert_encoded(webui: WebUI, prompt: str, context: Tensor, pooled: Tensor) -> None:
    """To rounding."""
    made, vector = webui.encode(prompt)
    np.testing.assert_allclose(made, context, atol=1e-4)
    np.testing.assert_allclose(vector[:model.TEXT_WIDTH], pooled, atol=1e-4)


def concept(name: str, place: str = PLACE) -> dict[str, Any]:
    """An identity's LoRA and trigger, for a figure of its class."""
    identity = IDENTITIES[name]
    kind = identity.character.kind
    return {"phrase": kind, "prompt": f"a {identity.trigger} {kind} {place} <lora:{name.lower()}:1>"}


@pytest.mark.parametrize("prompt", [PROMPT, "", "beach: a dog , two robots and a sks man"])
def test_prompts_are_encoded_as_in_diffusers(webui: WebUI, pipe: Any, prompt: str) -> None:
    context, _, pooled, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
    assert_encoded(webui, prompt, context[0], pooled[0])


@pytest.mark.not_in_forge("it takes embeddings of the width of SDXL's or SD 1.5's encoders alone")
def test_embedding_means_what_it_was_trained_to_mean(webui: WebUI, networks: model.Parts) -> None:
    """In training the vectors stand in the trigger's place."""
    name = train_embedding.IDENTITY
    trigger, vectors = IDENTITIES[name].trigger, load_file(weights.embedding(name))
    ids = [train_embedding.token_ids([f"a {trigger} {PLACE}"], trigger, padding) for padding in ("<|endoftext|>", "!")]
    expected = train_embedding.encode(networks, ids, [vectors[key] for key in train_embedding.KEYS])
    assert_encoded(webui, f"a {name.lower()} {PLACE}", expected.context[0], expected.pooled[0])


@pytest.mark.parametrize("negative_prompt", ["", "two dogs at night"])
def test_plain_pictures_are_those_of_diffusers(webui: WebUI, pipe: Any, negative_prompt: str) -> None:
    for seed in range(3):
        made = by_webui(webui, PROMPT, seed, negative_prompt=negative_prompt).image
        assert_equal(made, by_diffusers(pipe, PROMPT, seed, negative_prompt))


@pytest.mark.parametrize("name", IDENTITIES)
def test_loras_make_the_pictures_that_they_make_in_diffusers(webui: WebUI, omg: OMGPipeline, name: str) -> None:
    prompt = concept(name)["prompt"]
    made, without = (by_webui(webui, text, 1).image for text in (prompt, prompt.partition(" <")[0]))
    expected = omg({"enabled": False, "concepts": [concept(name)]}, prompt, steps=STEPS, cfg_scale=CFG_SCALE, seed=1)
    assert expected.images is not None
    assert_equal(made, np.asarray(expected.images[0]))
    assert distance(made, without) > 2


@pytest.mark.parametrize(("detector", "rounding"), [("attention", 1.0), ("contrast", 2.0)])
def test_detectors_find_the_masks_that_they_find_in_diffusers(webui: WebUI, omg: OMGPipeline, detector: str,
                                                              rounding: float) -> None:
    """To rounding, in grey levels: on it the hard edges of `contrast` decide for single pixels (1 level is 0.4 %)."""
    request = {"concepts": [concept(name) for name in PAIR], "show": ["masks"], "strict": True, "detector": detector}
    for seed in range(3):
        made = by_webui(webui, PROMPT, seed, request)
        expected = omg(request, PROMPT, steps=STEPS, cfg_scale=CFG_SCALE, seed=seed)
        assert expected.images is not None
        for mask, wanted in zip(made.images[1:], expected.masks[0], strict=True):
            assert wanted is not None
            assert distance(mask[:, :, 0], 255 * wanted) < rounding
        assert distance(made.image, np.asarray(expected.images[0])) < 1


@pytest.fixture(scope="module")
def scenes(pipe: Any) -> dict[int, dict[str, Any]]:
    """By seed, requests for first passes of one man and one woman, with the masks that the figure reader finds."""
    reader, found = FigureReader.load(), {}
    for seed in range(10 * SCENES):
        figures = {figure.kind: figure.mask for figure in reader(by_diffusers(pipe, PROMPT, seed)[None])[0].figures}
        concepts = [concept(name) for name in PAIR]
        if set(figures) == {each["phrase"] for each in concepts}:
            found[seed] = {"show": ["first_pass"], "concepts": [
                {**each, "where": {"mask": encode_mask(figures[each["phrase"]].astype(np.float32))}}
                for each in concepts]}
        if len(found) == SCENES:
            return found
    raise AssertionError(f"{len(found)} of {10 * SCENES} pictures show what they shall")


@pytest.fixture(scope="module")
def identity(networks: model.Parts) -> Callable[[Pictures, dict[int, dict[str, Any]]], float]:
    """The mean Identity Alignment of pictures, one for each of the scenes, at the masks of the requests."""
    reader = IdentityReader.load()
    known = references(networks.vae, reader)

    def mean(pictures: Pictures, scenes: dict[int, dict[str, Any]]) -> float:
        cosines = [reader.embed(picture[None], decode_mask(each["where"]["mask"], "mask")[None] > 0.5) @ known[name]
                   for picture, request in zip(pictures, scenes.values(), strict=True)
                   for each, name in zip(request["concepts"], PAIR, strict=True)]
        return float(torch.cat(cosines).mean())

    return mean


def test_pictures_of_two_concepts_are_those_of_diffusers(
        webui: WebUI, omg: OMGPipeline, scenes: dict[int, dict[str, Any]],
        identity: Callable[[Pictures, dict[int, dict[str, Any]]], float]) -> None:
    rows: dict[str, Pictures] = {"diffusers, first pass": [], "diffusers, OMG": [], "web UI, first pass": [],
                                 "web UI, OMG": []}
    for seed, request in scenes.items():
        expected = omg(request, PROMPT, steps=STEPS, cfg_scale=CFG_SCALE, seed=seed)
        assert expected.images is not None
        final, first = by_webui(webui, PROMPT, seed, request).images
        pictures = (*map(np.asarray, (*expected.first_pass, *expected.images)), first, final)
        for row, picture in zip(rows.values(), pictures, strict=True):
            row.append(picture)
    alike = {title: identity(pictures, scenes) for title, pictures in rows.items()}
    if SHEET:
        titled = {f"{title}\nidentity {alike[title]:.3f}": pictures for title, pictures in rows.items()}
        sheet(titled, [f"seed {seed}" for seed in scenes]).save(SHEET)
    assert alike["web UI, OMG"] == pytest.approx(alike["diffusers, OMG"], abs=0.01)
    assert alike["web UI, OMG"] > alike["web UI, first pass"] + 0.2
    for first, wanted_first, final, wanted in zip(*(rows[title] for title in (
            "web UI, first pass", "diffusers, first pass", "web UI, OMG", "diffusers, OMG")), strict=True):
        assert_equal(first, wanted_first)
        assert distance(final, wanted) < 1
        assert distance(final, first) > 2


def sheet(rows: dict[str, Pictures], columns: Sequence[str]) -> Image.Image:
    """Titled rows of pictures [128, 128, 3] under the titles of the columns."""
    step = model.SIZE + GAP
    drawn = Image.new("RGB", (LABEL_WIDTH + step * len(columns), LABEL_HEIGHT + step * len(rows)), "white")
    draw = ImageDraw.Draw(drawn)
    for column, title in enumerate(columns):
        draw.text((LABEL_WIDTH + step * column, 2), title, fill="black")
    for row, (title, pictures) in enumerate(rows.items()):
        draw.text((4, LABEL_HEIGHT + step * row + step // 2), title, fill="black")
        for column, picture in enumerate(pictures):
            drawn.paste(Image.fromarray(picture), (LABEL_WIDTH + step * column, LABEL_HEIGHT + step * row))
    return drawn
