"""The pipeline against the paper's equations, written out literally: slow, and free of everything the core is built on.

Attention probabilities (Eq. 3) are materialised, stored in the first pass and overwritten in the second (Eq. 7);
concepts run one by one with their LoRA merged into the weights (Eq. 5); predictions are blended by masks (Eq. 6); the
sampler is a plain DDIM loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.diffusers_host import LATENT, PROMPT, SIZE, difference, generate, mask_text, merged, pipeline, write_lora

STEPS = 5
SCALE = 6.0
NEGATIVE = "blue painting"
CONCEPTS = ("sks man<lora:one:0.8>", "sks woman in a hat<lora:two:1:0.7>")


class AttentionMaps:
    """Softmax(Q K^T / sqrt(d)) of every attention layer: stored, or overwritten by what was stored."""

    def __init__(self) -> None:
        self.mode = ""
        self.step = 0
        self.layers: set[str] = set()
        self.maps: dict[tuple[int, str], Tensor] = {}

    def replace(self, name: str, probabilities: Tensor) -> Tensor:
        """``probabilities`` are [2, heads, queries, keys]: the conditional row, then the unconditional one."""
        if self.mode == "store":
            self.maps[self.step, name] = probabilities[0].clone()
        elif self.mode == "overwrite" and name in self.layers:
            probabilities = torch.stack([self.maps[self.step, name], probabilities[1]])
        return probabilities


class LiteralAttention:
    """An attention processor that materialises the attention map (Eq. 3 and 4)."""

    def __init__(self, name: str, maps: AttentionMaps):
        self.name, self.maps = name, maps

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 **unused: Any) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                   for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context)))
        probabilities = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        probabilities = self.maps.replace(self.name, probabilities)
        return attn.to_out[0]((probabilities @ v).transpose(1, 2).flatten(2))


@contextmanager
def literal_attention(unet: Any, maps: AttentionMaps) -> Iterator[None]:
    before = unet.attn_processors
    unet.set_attn_processor({name: LiteralAttention(name, maps) for name in before})
    try:
        yield
    finally:
        unet.set_attn_processor(before)


def alphas() -> Tensor:
    """The cumulative product of Stable Diffusion's noise schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.cumprod(1 - betas, 0)


def timesteps() -> list[int]:
    """Evenly spaced from the noisiest, one step above zero."""
    return [step * (1000 // STEPS) + 1 for step in reversed(range(STEPS))]


def ddim_step(z: Tensor, prediction: Tensor, t: int, prediction_type: str) -> Tensor:
    now, then = alphas()[t], alphas()[max(t - 1000 // STEPS, 0)]
    is_v = prediction_type == "v_prediction"
    noise = now.sqrt() * prediction + (1 - now).sqrt() * z if is_v else prediction
    clean = (z - (1 - now).sqrt() * noise) / now.sqrt()
    return then.sqrt() * clean + (1 - then).sqrt() * noise


def encoded(pipe: Any, prompt: str) -> dict[str, Any]:
    """Conditioning of two rows: the prompt's, then the negative prompt's."""
    cond, uncond, pooled, pooled_uncond = pipe.encode_prompt(
        prompt=prompt, negative_prompt=NEGATIVE, device="cpu", num_images_per_prompt=1,
        do_classifier_free_guidance=True)
    return {"encoder_hidden_states": torch.cat([cond, uncond]),
            "added_cond_kwargs": {"text_embeds": torch.cat([pooled, pooled_uncond]),
                                  "time_ids": torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2).float()}}


def guided(pipe: Any, z: Tensor, t: int, conditioning: dict[str, Any]) -> Tensor:
    """The model's prediction after classifier-free guidance."""
    cond, uncond = pipe.unet(torch.cat([z, z]), t, **conditioning).sample
    return (uncond + SCALE * (cond - uncond))[None]


def layers_to_overwrite(unet: Any, t: int, layout: dict[str, float]) -> set[str]:
    """All cross-attention, and self-attention of the lowest resolution, each until its share of the trajectory."""
    passed = (999 - t) / 1000
    # levels 0 and 1 of this UNet have 12 x 12 and 6 x 6 tokens
    deepest = ("down_blocks.2", "mid_block", "up_blocks.0")
    return {name for name in unet.attn_processors
            if ("attn2" in name and passed < layout["cross"])
            or ("attn1" in name and name.startswith(deepest) and passed < layout["self"])}


@torch.no_grad()
def literal(pipe: Any, folder: Path, noise: Tensor, masks: list[Tensor],
            layout: dict[str, float]) -> tuple[Tensor, Tensor]:
    """The final latents of both passes; concepts have masks [H, W] and are blended in from the first step on."""
    networks = [lambda: merged(pipe, folder / "one.safetensors", 0.8, 0.8),
                lambda: merged(pipe, folder / "two.safetensors", 1.0, 0.7)]
    prompts = ["sks man", "sks woman in a hat"]
    everything = encoded(pipe, PROMPT)
    concepts = []
    for network, prompt in zip(networks, prompts, strict=True):
        with network():
            concepts.append(encoded(pipe, prompt))
    m = F.avg_pool2d(torch.stack(masks)[:, None], 8)
    m = m / m.sum(0).clamp(min=1)

    maps = AttentionMaps()
    with literal_attention(pipe.unet, maps):
        z, kind = noise, pipe.scheduler.config.prediction_type
        for maps.step, t in enumerate(timesteps()):
            maps.mode = "store"
            z = ddim_step(z, guided(pipe, z, t, everything), t, kind)
        first, z = z, noise
        for maps.step, t in enumerate(timesteps()):
            maps.mode, maps.layers = "overwrite", layers_to_overwrite(pipe.unet, t, layout)
            blended = (1 - m.sum(0)) * guided(pipe, z, t, everything)
            maps.mode = ""
            for network, conditioning, mask in zip(networks, concepts, m, strict=True):
                with network():
                    blended = blended + mask * guided(pipe, z, t, conditioning)
            z = ddim_step(z, blended, t, kind)
    return first, z


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(pipeline(), folder / "one.safetensors", seed=1)
    write_lora(pipeline(), folder / "two.safetensors", kind="locon", seed=2)
    return folder


def overlapping_masks() -> list[Tensor]:
    """Two blobs of ones that overlap, with some background left; their edges cut latent cells."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return [(((x - cx) / (0.25 * SIZE)) ** 2 + ((y - 0.5 * SIZE) / (0.3 * SIZE)) ** 2 < 1).float()
            for cx in (0.35 * SIZE, 0.65 * SIZE)]


def run(pipe: Any, loras: Path, noise: Tensor, masks: list[Tensor], layout: dict[str, float], **options: Any) -> Any:
    request = {"concepts": [{"prompt": prompt, "where": {"mask": mask_text(mask)}}
                            for prompt, mask in zip(CONCEPTS, masks, strict=True)],
               "blend_start": 0, "layout": layout, "mask": {"grow": 0, "feather": 0}}
    return generate(pipe, request, loras=loras, latents=noise, negative_prompt=NEGATIVE, steps=STEPS, cfg_scale=SCALE,
                    **options)


def noise() -> Tensor:
    return torch.randn(1, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("layout", [{"cross": 0, "self": 0}, {"cross": 1.0, "self": 0}, {"cross": 1.0, "self": 0.4}],
                         ids=["no layout", "cross", "cross and self"])
def test_parity_with_the_equations(loras, prediction_type, layout):
    pipe, masks = pipeline("sdxl", prediction_type), overlapping_masks()
    first, final = literal(pipe, loras, noise(), masks, layout)
    result = run(pipe, loras, noise(), masks, layout)
    assert difference(result.first_pass_latents, first) < 1e-4
    assert difference(result.latents, final) < 1e-4


@pytest.mark.parametrize("layout", [{"cross": 0, "self": 0}, {"cross": 1.0, "self": 0.4}], ids=["no layout", "layout"])
def test_the_rest_is_blended_in_where_the_other_mask_is_not(loras, layout):
    """``M C_1 + (1 - M) C_2``: nothing of the global prediction is left."""
    pipe, mask = pipeline(), overlapping_masks()[0]
    mask[:, SIZE // 3:] *= 51 / 255
    final = literal(pipe, loras, noise(), [mask, 1 - mask], layout)[1]
    request = {"concepts": [{"prompt": CONCEPTS[0], "where": {"mask": mask_text(mask)}},
                            {"prompt": CONCEPTS[1], "where": {"rest": True}}],
               "blend_start": 0, "layout": layout, "mask": {"grow": 0, "feather": 0}}
    options = {"loras": loras, "latents": noise(), "negative_prompt": NEGATIVE, "steps": STEPS, "cfg_scale": SCALE}
    result = generate(pipe, request, **options)
    assert difference(result.latents, final) < 1e-4
    assert difference(generate(pipe, {**request, "concepts": request["concepts"][:1]}, **options).latents, final) > 1e-2


def test_everything_in_it_matters(loras):
    """What parity compares would show each of: replay of cross-attention, of self-attention, both LoRAs, the masks."""
    pipe, masks = pipeline(), overlapping_masks()
    layout = {"cross": 1.0, "self": 0.4}
    final = run(pipe, loras, noise(), masks, layout).latents
    others = {"cross": run(pipe, loras, noise(), masks, {**layout, "cross": 0}),
              "self": run(pipe, loras, noise(), masks, {**layout, "self": 0}),
              "until": run(pipe, loras, noise(), masks, {**layout, "cross": 0.4}),
              "masks": run(pipe, loras, noise(), masks[::-1], layout)}
    effects = {name: difference(other.latents, final) for name, other in others.items()}
    assert min(effects.values()) > 1e-2, effects
    assert difference(others["cross"].first_pass_latents, final) > 1e-1


def test_weights_are_restored(loras):
    """The literal merging leaves no trace, so that the tests above compare the same model."""
    pipe = pipeline()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    with merged(pipe, loras / "one.safetensors"):
        assert any(not torch.equal(before[name], value) for name, value in pipe.unet.state_dict().items())
    assert all(torch.equal(before[name], value) for name, value in pipe.unet.state_dict().items())
