"""The joint row against regionally controllable sampling (Mix-of-Show, arXiv 2305.18292, Sec. 3.3), by its own code.

Where all networks are the picture's, and its prompt is that of the rest, the two say the same: in every cross-attention
layer each region attends to its own prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.world.regional import regional_attention
from omg_ext.diffusers import PromptEmbeds
from omg_ext.diffusers.prompts import encode
from tests.diffusers_host import (
    LATENT,
    PROMPT,
    ROUNDING,
    difference,
    generate,
    given_regions,
    mask_text,
    merged,
    pipeline,
    write_lora,
)

TAG = "<lora:one:0.8>"
TEXTS = ("old man", "young woman in a hat")
SCALE = 6.0


def soft_masks() -> list[Tensor]:
    """Two that overlap, with an edge through cells of the latent grid; much of one has half the weight."""
    left, right = torch.zeros(LATENT * 8, LATENT * 8), torch.zeros(LATENT * 8, LATENT * 8)
    left[:, :44] = 1
    right[16:44, 36:84], right[44:72, 36:84] = 1, 128 / 255
    return [left, right]


def expected_weights() -> Tensor:
    """Of both and of what they leave at each pixel, [3, h, w] on the latent grid, adding up to 1."""
    left, right = soft_masks()
    shares = F.avg_pool2d(torch.stack([left, right, (1 - left - right).clamp(min=0)]), 8)
    return shares / shares.sum(0)


def request(*more: dict[str, Any]) -> dict[str, Any]:
    """Both concepts, and more, from the first step on, guided as the picture is."""
    concepts = [{"prompt": text, "where": {"mask": mask_text(mask)}} for text, mask in
                zip(TEXTS, soft_masks(), strict=True)]
    return {"concepts": [{**concept, "cfg_scale": SCALE} for concept in (*concepts, *more)], "predict": "joint",
            "blend_start": 0, "layout": {"cross": 0, "self": 0}, "mask": {"grow": 0, "feather": 0}}


REST = {"prompt": PROMPT, "where": {"rest": True}}


@torch.no_grad()
def with_pooled_of_the_picture(pipe: Any, *texts: str) -> list[PromptEmbeds]:
    """Encoded prompts of which the picture's own pooled one stands beside the tokens: cross-attention differs alone."""
    whole = encode(pipe, PROMPT, None, {})
    return [PromptEmbeds(encode(pipe, text, None, {}).cond, whole.uncond, whole.pooled, whole.pooled_uncond)
            for text in texts]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_with_the_rest_joint_is_mix_of_shows_sampling(tmp_path: Path, kind: str, batch_size: int,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Of SDXL's prompts, too, but for the pooled ones, which Mix-of-Show does not know."""
    pipe = pipeline(kind)
    path = write_lora(pipe, tmp_path / "one.safetensors", kind="locon")
    regions = given_regions(monkeypatch)
    options: dict[str, Any] = {"cfg_scale": SCALE, "batch_size": batch_size, "loras": tmp_path}
    with merged(pipe, path, 0.8, 0.8):
        embeds = with_pooled_of_the_picture(pipe, *TEXTS, PROMPT)
    concept_embeds = dict(enumerate(embeds)) if kind == "sdxl" else None
    found = generate(pipe, request(REST), PROMPT + TAG, concept_embeds=concept_embeds, **options)
    weights = expected_weights()[:, None, None].expand(-1, batch_size, -1, -1, -1)
    torch.testing.assert_close(regions[0], weights)
    assert float((weights[0] * weights[1]).max()) > 0.1
    with regional_attention(pipe.unet, torch.cat([each.cond for each in embeds[:2]]), weights[:2]):
        expected = generate(pipe, {**request(), "enabled": False}, PROMPT + TAG, **options)
    assert difference(found.latents, expected.latents) < ROUNDING
    assert difference(found.first_pass_latents, expected.latents) > 1e-2
    without = generate(pipe, request(), PROMPT + TAG, concept_embeds=concept_embeds and dict(enumerate(embeds[:2])),
                       **options)
    assert difference(without.latents, expected.latents) > 1e-2


def test_the_pooled_prompts_are_the_difference_on_sdxl(tmp_path: Path) -> None:
    """A joint row has each concept's in its place, as its own row would have."""
    pipe = pipeline()
    with merged(pipe, write_lora(pipe, tmp_path / "one.safetensors"), 0.8, 0.8):
        embeds = with_pooled_of_the_picture(pipe, *TEXTS, PROMPT)
    own, pictures = (generate(pipe, request(REST), PROMPT + TAG, loras=tmp_path, cfg_scale=SCALE, concept_embeds=each)
                     for each in (None, dict(enumerate(embeds))))
    assert difference(own.latents, pictures.latents) > 1e-2
