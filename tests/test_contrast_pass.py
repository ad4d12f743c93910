"""A second look at the first picture: the compared predictions against calls of the pipeline's own UNet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed in this environment")

from omg_ext.comprehension import DETECTORS, AttentionDetector, FirstPicture, Instance
from omg_ext.comprehension.without import without
from tests.diffusers_host import generate, pipeline, small_loras

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PROMPT = "a man and a dog in the park"


class Looking(AttentionDetector):
    """A detector that takes a second look."""

    name, needs_attention = "looking", False

    def __init__(self, times: tuple[float, ...] = (0.3, 0.7), noises: int = 2):
        self.times, self.noises = times, noises
        self.seen: list[np.ndarray] = []

    def find(self, picture: FirstPicture, queries: Any) -> list[list[Instance]]:
        pairs = [(picture.prompt, without(picture.prompt, query.phrase)) for query in queries]
        self.seen.append(picture.contrasts(pairs, self.times, self.noises))
        return [[] for _ in queries]


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> Looking:
    detector = Looking()
    monkeypatch.setitem(DETECTORS, "looking", detector)
    return detector


def look(pipe: Any, prompt: str = PROMPT, phrases: tuple[str, ...] = ("man", "dog"), **options: Any) -> Any:
    request = {"concepts": [{"phrase": phrase, "prompt": ""} for phrase in phrases], "detector": "looking",
               "preview": True}
    return generate(pipe, request, prompt, **options)


def literal(pipe: Any, latents: torch.Tensor, prompt: str, other: str, time: float, noise: torch.Tensor) -> np.ndarray:
    """DiffEdit's difference, with the pipeline's own parts."""
    t = round(time * 999)
    kept = pipe.scheduler.alphas_cumprod[t].item()
    x = math.sqrt(kept) * latents + math.sqrt(1 - kept) * noise
    outputs = []
    for text in (prompt, other):
        states, _, pooled, _ = pipe.encode_prompt(prompt=text, device="cpu", do_classifier_free_guidance=False)
        height, width = (8 * side for side in latents.shape[2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        outputs.append(pipe.unet(x, torch.tensor([t]), encoder_hidden_states=states,
                                 added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample)
    return ((outputs[0] - outputs[1]) ** 2).mean(1)[0].detach().numpy()


@torch.no_grad()
def test_is_diffedits_difference(looking: Looking) -> None:
    pipe = pipeline()
    result = look(pipe)
    latents = result.first_pass_latents[:1]
    generator = torch.Generator("cpu").manual_seed(0)
    seen, = looking.seen
    looks = []
    for time in looking.times:
        noise = torch.randn(latents.shape[1:], generator=generator)
        looks += [(time, noise), (time, -noise)]
    for phrase, other in enumerate(("a dog in the park", "a man in the park")):
        expected = np.mean([literal(pipe, latents, PROMPT, other, *each) for each in looks], axis=0)
        np.testing.assert_allclose(seen[phrase], expected, rtol=1e-3, atol=1e-6)


def test_each_picture_of_a_batch_is_looked_at_alone(looking: Looking) -> None:
    pipe = pipeline()
    look(pipe, batch_size=2, seed=4)
    together, looking.seen = looking.seen, []
    for seed in (4, 5):
        look(pipe, seed=seed)
    np.testing.assert_allclose(together, looking.seen, rtol=1e-2, atol=1e-5)


def test_a_phrase_that_is_not_there_changes_nothing(looking: Looking) -> None:
    look(pipeline(), phrases=("giraffe",))
    assert not looking.seen[0].any()


def test_a_style_acts_as_in_the_picture(looking: Looking, tmp_path: Path) -> None:
    """The main prompt's networks are on these rows too."""
    loras, pipe = small_loras(tmp_path), pipeline()
    look(pipe, loras=loras)
    look(pipe, f"{PROMPT} <lora:style:1:0>", loras=loras)  # in the text encoders alone
    look(pipe, f"{PROMPT} <lora:style:0:1>", loras=loras)  # in the UNet alone
    plain, in_text, in_unet = looking.seen
    assert not np.allclose(plain, in_text, rtol=1e-2)
    assert not np.allclose(plain, in_unet, rtol=1e-2)


def test_rows_that_do_not_fit_are_looked_at_in_parts(looking: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline()
    look(pipe)
    forward = pipe.unet.forward

    def small(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory: a stand-in")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", small)
    look(pipe)
    np.testing.assert_allclose(looking.seen[1], looking.seen[0], rtol=1e-3, atol=1e-6)


def test_the_sampler_does_not_notice(looking: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers and hooks are as without."""
    pipe = pipeline()
    request: dict[str, Any] = {"concepts": [{"phrase": "man", "prompt": "a knight"},
                                            {"prompt": "a dog", "where": {"box": [0, 0, 1, 1]}}]}
    with_look = generate(pipe, {**request, "detector": "looking"}, PROMPT)
    monkeypatch.setattr(looking, "find", lambda picture, queries: [[] for _ in queries])
    without = generate(pipe, {**request, "detector": "looking"}, PROMPT)
    assert torch.equal(with_look.latents, without.latents)
