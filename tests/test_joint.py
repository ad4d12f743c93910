"""One row for all concepts: against a slow literal reading of its equations, and what must hold of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import omg_ext.passes.session
import omg_ext.passes.stage
import omg_ext.predict.joint
from omg_ext.comprehension.heat import token_grids
from omg_ext.diffusers import PromptEmbeds
from omg_ext.diffusers.prompts import encode
from omg_ext.errors import OMGError
from omg_ext.unet.calls import JOINT, Place, RegionalCall, Row, UNetCall
from omg_ext.unet.regional import RegionalAttention
from omg_ext.unet.regions import Regions
from tests.diffusers_host import (
    LATENT,
    ROUNDING,
    assert_untouched,
    difference,
    everywhere,
    factors,
    generate,
    given_regions,
    left_and_right,
    mask_text,
    merged,
    pipeline,
    plain,
    small_loras,
    snapshot,
    two_concepts,
    write_lora,
)
from tests.test_invariants import unet_rows


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_loras(tmp_path_factory.mktemp("loras"))


class Asked(NamedTuple):
    """One UNet call: its inputs and its output."""

    x: Tensor
    t: Tensor
    conditioning: dict[str, Any]
    output: Tensor


@contextmanager
def asked(pipe: Any) -> Iterator[list[Asked]]:
    """Yields a list that grows by each call of the UNet."""
    calls: list[Asked] = []

    def keep(unet: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append(Asked(args[0].clone(), args[1].clone(), kwargs, output[0].clone()))

    handle = pipe.unet.register_forward_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


# --- the literal reading ---

class Literal:
    """The joint row by the equations, with whole maps and every concept's merged weights.

    Args:
        files, prompts, weights: of each concept: LoRA, encoded prompt, M_i [h, w].
    """

    def __init__(self, pipe: Any, files: Sequence[Path], prompts: Sequence[PromptEmbeds], weights: Sequence[Tensor]):
        self.base, self.prompts, self.weights = pipe.unet, prompts, weights
        self.models = [self._merged(pipe, file) for file in files]
        self.embeddings: list[Tensor] = []

    def _merged(self, pipe: Any, file: Path) -> Any:
        model = copy.deepcopy(pipe.unet)
        for name, (_, down, up, scale) in factors(pipe, load_file(file))["unet"].items():
            layer = model.get_submodule(name)
            layer.weight.data += scale * (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)
        return model

    def __call__(self, call: Asked) -> Tensor:
        added = call.conditioning["added_cond_kwargs"]
        pooled = [added and added["text_embeds"], *(prompt.pooled for prompt in self.prompts)]
        self.embeddings = [self._embedding(model, call, added and {**added, "text_embeds": own})
                           for model, own in zip([self.base, *self.models], pooled, strict=True)]
        with ExitStack() as stack:
            for name, layer in self.base.named_modules():
                hook = self._hook(name, layer)
                if hook is not None:
                    stack.callback(layer.register_forward_hook(hook).remove)
            result: Tensor = self.base(call.x, call.t, **call.conditioning)[0]
        return result

    def _embedding(self, model: Any, call: Asked, added: Any) -> Tensor:
        embedding: Tensor = model.time_embedding(model.time_proj(call.t.expand(1)))
        return embedding if added is None else embedding + model.get_aug_embed(embedding, call.x, added)

    def _hook(self, name: str, layer: nn.Module) -> Any:
        if name.endswith("attn2"):
            return lambda layer, args, output: self._blended(output, [
                model.get_submodule(name)(args[0], prompt.cond)
                for model, prompt in zip(self.models, self.prompts, strict=True)])
        if not isinstance(layer, (nn.Linear, nn.Conv2d)) or any(
                part in name for part in ("attn2.", "time_emb", "add_embedding")):
            return None

        def hook(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
            own = self._blended(output, [model.get_submodule(name)(args[0]) for model in self.models])
            if not name.endswith(".conv1"):
                return own
            block = name.removesuffix(".conv1")
            row, *others = (model.get_submodule(block).time_emb_proj(F.silu(embedding))[:, :, None, None].expand_as(own)
                            for model, embedding in zip([self.base, *self.models], self.embeddings, strict=True))
            return own + self._blended(row, others) - row

        return hook

    def _blended(self, own: Tensor, others: Sequence[Tensor]) -> Tensor:
        """``own + sum_i M_i (other_i - own)``"""
        result = own.clone()
        for weight, other in zip(self.weights, others, strict=True):
            grid = own.shape[2:] if own.dim() == 4 else token_grids(*weight.shape)[own.shape[1]]
            place = F.interpolate(weight[None, None], grid, mode="area")[0, 0]
            result += (place if own.dim() == 4 else place.flatten()[:, None]) * (other - own)
        return result


@pytest.fixture
def given_weights(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The places that joint rows were made with."""
    return given_regions(monkeypatch)


@pytest.fixture(params=["all space", "their masks"])
def reach(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far concepts act in the row: all space is somebody's, unless the base keeps what no mask has."""
    if request.param == "their masks":
        monkeypatch.setattr(omg_ext.passes.stage, "spread", lambda shares: shares)


def soft_masks() -> list[str]:
    """Two that overlap, with soft edges."""
    left, right = torch.zeros(LATENT * 8, LATENT * 8), torch.zeros(LATENT * 8, LATENT * 8)
    left[:, :44] = right[16:72, 36:] = 1
    return [mask_text(left), mask_text(right)]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
@pytest.mark.usefixtures("reach")
def test_the_joint_row_is_what_its_equations_say(tmp_path, kind, given_weights):
    pipe = pipeline(kind)
    files = [write_lora(pipe, tmp_path / f"{name}.safetensors", kind="locon", seed=seed, only="^lora_unet")
             for seed, name in enumerate(("one", "two"))]
    texts = ["old man", "young woman in a hat"]
    concepts = [{"prompt": f"{text}<lora:{file.stem}>", "where": {"mask": mask}}
                for text, file, mask in zip(texts, files, soft_masks(), strict=True)]
    request = {"concepts": concepts, "predict": "joint", "blend_start": 0, "mask": {"grow": 0, "feather": 0.05}}
    with asked(pipe) as calls:
        generate(pipe, request, loras=tmp_path, steps=2)
    prompts = [encode(pipe, text, None, {}) for text in texts]
    weights = [of_concept[0, 0] for of_concept in given_weights[0]]
    assert (weights[0] * weights[1]).max() > 0
    joint = [call for call in calls if len(call.x) == 1]
    literal = Literal(pipe, files, prompts, weights)
    assert len(joint) == 2
    for call in joint:
        expected = literal(call)
        assert difference(call.output, expected) < ROUNDING
        assert difference(call.output, pipe.unet(call.x, call.t, **call.conditioning)[0]) > 1e-2


# --- 9: joint everywhere is separate ---

@pytest.mark.parametrize("network", ["lora", "locon"])
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
@pytest.mark.parametrize("options", [{}, {"negative_prompt": "blue dog"}, {"cfg_scale": [9, 3]}, {"lora_guidance": 3},
                                     {"negative_prompt": "blue dog", "lora_guidance": 2, "strength": 0.5}], ids=str)
def test_joint_everywhere_is_its_own_row(tmp_path, kind, network, options):
    """With its own pooled prompt and with networks in every layer, those without a place too."""
    pipe = pipeline(kind)
    write_lora(pipe, tmp_path / "one.safetensors", kind=network)
    joint, own = (generate(pipe, {**everywhere("sks man<lora:one:0.7>", **options), "predict": predict}, loras=tmp_path,
                           batch_size=2).latents for predict in ("joint", "shared"))
    assert difference(joint, own) < ROUNDING
    assert difference(own, generate(pipe, {**everywhere("sks man", **options), "predict": "shared"},
                                    batch_size=2).latents) > 1e-2


def test_without_guidance_shared_and_joint_are_the_ordinary_picture(tmp_path):
    """At scale 1 no way has unconditional rows, so all are the plain picture of that prompt and LoRA."""
    pipe = pipeline()
    path = write_lora(pipe, tmp_path / "one.safetensors")
    with merged(pipe, path):
        expected = plain(pipe, "sks man", cfg_scale=1)
    for predict in ("separate", "shared", "joint"):
        result = generate(pipe, {**everywhere("sks man<lora:one>"), "predict": predict}, loras=tmp_path, cfg_scale=1)
        assert difference(result.latents, expected) < ROUNDING


# --- 5: places on every grid ---

@pytest.mark.parametrize("grid", [(12, 12), (6, 6), (3, 3), (2, 2), (1, 1)])
def test_weights_are_a_partition_of_unity_on_every_grid(grid):
    masks = torch.rand(3, 2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    regions = Regions(masks / masks.sum(0).clamp(min=1))
    weights = regions.on(grid)
    torch.testing.assert_close(weights, F.interpolate((masks / masks.sum(0).clamp(min=1))[:, :, 0], grid, mode="area"))
    assert float(weights.sum(0).max()) <= 1 + 1e-6
    call = UNetCall((Row(1, JOINT), Row(0, JOINT), Row(0, JOINT, None, is_bare=True)), 0.5, (12, 12))
    tokens = torch.zeros(3, grid[0] * grid[1], 1)
    regions.grid = grid
    of_rows = torch.stack([weights[:, row.picture] for row in call.rows]).flatten(2)
    shares = regions.shares(call, tuple(Place(row, concept) for concept in (2, 0, 1) for row in range(3)), tokens)
    assert shares.rest is not None
    torch.testing.assert_close(shares.rest, 1 - of_rows.sum(1).unsqueeze(2))
    own = (torch.arange(9.0) + 1).view(9, 1, 1).expand(shares.gather(tokens).shape)
    shares.add(own, tokens)
    numbers = torch.tensor([[4.0, 7, 1], [5, 8, 2], [6, 9, 3]])  # by row and concept
    torch.testing.assert_close(tokens, torch.einsum("rkt,rk->rt", of_rows, numbers).unsqueeze(2))
    ranks = regions.of_ranks(call, ((2, 1), (0, 2)), tokens)
    assert float(ranks[2].abs().max()) == 0
    torch.testing.assert_close(ranks[:2], of_rows[:2, [2, 0, 0]].transpose(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_outside_every_layer_gives_what_the_base_gives(tmp_path, kind, monkeypatch):
    """Bit for bit, given the same inputs: asked of each layer that a network or a prompt acts on."""
    monkeypatch.setattr(omg_ext.passes.stage, "spread", lambda shares: shares)
    pipe = pipeline(kind)
    write_lora(pipe, tmp_path / "one.safetensors", kind="locon", only="^lora_unet")
    request = {"concepts": [{"prompt": "old man<lora:one>", "where": {"box": [0, 0, 0.5, 1]}}], "predict": "joint",
               "blend_start": 0, "mask": {"grow": 0, "feather": 0}}
    seen: set[str] = set()

    def check(name: str) -> Any:
        def hook(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            grids = token_grids(LATENT, LATENT)
            # cross-attention is evaluated once more within itself, on the tokens of a concept
            if len(args[0]) != 1 or (output.dim() == 3 and output.shape[1] not in grids):
                return
            maps = [each if each.dim() == 4 else each.unflatten(1, grids[each.shape[1]]).permute(0, 3, 1, 2)
                    for each in (output, layer.forward(*args, **kwargs))]
            middle = -(-maps[0].shape[3] // 2)
            assert torch.equal(maps[0][..., middle:], maps[1][..., middle:]), name
            assert not torch.equal(maps[0][..., :middle], maps[1][..., :middle]), name
            seen.add(name)
        return hook

    wanted = {name for name, layer in pipe.unet.named_modules() if name.endswith("attn2") or (
        isinstance(layer, (nn.Linear, nn.Conv2d)) and not any(part in name for part in (
            "attn2.", "time_emb", "add_embedding", "conv_out", "conv_in")))}
    handles: list[Any] = []

    class Checking(RegionalAttention):
        """Its hooks come before ours, which then see what they made."""

        def __init__(self, *args: Any):
            super().__init__(*args)
            handles.extend(pipe.unet.get_submodule(name).register_forward_hook(check(name), with_kwargs=True)
                           for name in wanted)

    monkeypatch.setattr(omg_ext.predict.joint, "RegionalAttention", Checking)
    try:
        generate(pipe, request, loras=tmp_path, steps=1)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == wanted


# --- 7 and 8, and what it costs ---

def test_rows_do_not_matter(loras):
    """*rows do not matter*: a batch is its single pictures, in calls of any size, whichever concept comes first."""
    pipe, request = pipeline(), {**two_concepts(), "predict": "joint"}
    both = generate(pipe, request, loras=loras, batch_size=2, seed=3).latents
    for number in (0, 1):
        assert difference(both[number:number + 1], generate(pipe, request, loras=loras, seed=3 + number).latents) < 1e-3
    assert difference(generate(pipe, request, loras=loras, batch_size=2, seed=3, rows_per_call=1).latents, both) < 1e-3
    turned = {**request, "concepts": request["concepts"][::-1]}
    assert difference(generate(pipe, turned, loras=loras, batch_size=2, seed=3).latents, both) < ROUNDING


@pytest.mark.parametrize(("predict", "options", "rows"), [
    ("separate", {}, 4), ("shared", {}, 2), ("joint", {}, 1), ("separate", {"lora_guidance": 1}, 5),
    ("shared", {"lora_guidance": 1}, 3), ("joint", {"lora_guidance": 1}, 2), ("shared", {"negative_prompt": "dog"}, 3),
    ("joint", {"negative_prompt": "dog"}, 2)], ids=str)
def test_rows_of_a_blended_step(loras, predict, options, rows):
    """2 of the picture's own, and these for two concepts; ``options`` are of the second."""
    pipe, before = pipeline(), snapshot(pipeline())
    concepts = two_concepts()["concepts"]
    request = {"concepts": [concepts[0], {**concepts[1], **options}], "predict": predict, "blend_start": 0,
               "layout": {"cross": 0, "self": 0}}
    with unet_rows(pipe) as counted:
        generate(pipe, request, loras=loras, steps=2)
    assert sum(counted) == 2 * 2 + 2 * (2 + rows)
    assert_untouched(pipe, before)


def test_more_concepts_cost_no_more_rows():
    concepts = [{"prompt": f"dog {number}", "where": {"box": [number / 5, 0, (number + 1) / 5, 1]}}
                for number in range(5)]
    with unet_rows(pipeline()) as counted:
        generate(pipeline(), {"concepts": concepts, "predict": "joint", "blend_start": 0,
                              "layout": {"cross": 0, "self": 0}}, steps=2)
    assert sum(counted) == 2 * 2 + 2 * 3


def test_a_concept_without_a_network_is_a_regional_prompt():
    request = {"concepts": left_and_right(), "blend_start": 0, "layout": {"cross": 0, "self": 0}, "predict": "joint"}
    result = generate(pipeline(), request)
    assert difference(result.latents, result.first_pass_latents) > 1e-2


@pytest.mark.parametrize("predict", ["separate", "shared", "joint"])
def test_strength_0_is_leaving_a_concept_out(loras, predict):
    first, second = two_concepts()["concepts"]
    request = {"predict": predict, "blend_start": 0, "layout": {"cross": 0, "self": 0}}
    with unet_rows(pipeline()) as rows:
        none = generate(pipeline(), {**request, "concepts": [first, {**second, "strength": 0}]}, loras=loras)
        with_none = sum(rows)
        alone = generate(pipeline(), {**request, "concepts": [first]}, loras=loras)
    assert difference(none.latents, alone.latents) < ROUNDING
    assert 2 * with_none == sum(rows)


@pytest.mark.parametrize("predict", ["separate", "shared", "joint"])
def test_there_is_no_lora_guidance_without_a_lora(loras, predict):
    """Not by another concept's either."""
    first, second = two_concepts()["concepts"]
    bare = {**second, "prompt": "young woman"}
    usual, guided = (generate(pipeline(), {"concepts": [first, {**bare, "lora_guidance": value}], "predict": predict,
                                           "blend_start": 0}, loras=loras).latents for value in (0, 5))
    assert torch.equal(usual, guided)


@pytest.mark.parametrize("predict", ["separate", "shared", "joint"])
def test_negative_embeddings_count_as_negative_prompts_do(predict):
    pipe = pipeline()
    with torch.no_grad():
        embeds = [encode(pipe, "old man", negative, {}) for negative in (None, "blue dog")]
    first, second = left_and_right()
    request = {"concepts": [first, second], "predict": predict, "blend_start": 0}
    words = [generate(pipe, {**request, "concepts": [{**first, **own}, second]}).latents
             for own in ({}, {"negative_prompt": "blue dog"})]
    assert difference(*words) > 1e-3
    for each, expected in zip(embeds, words, strict=True):
        assert difference(generate(pipe, request, concept_embeds={0: each}).latents, expected) < ROUNDING


def test_prompts_of_unequal_length_meet_in_one_row():
    """Embeddings of 77 and 154 tokens, as the web UI makes them; the longer one's second half says nothing more."""
    pipe = pipeline()
    with torch.no_grad():
        short, other = (encode(pipe, text, None, {}) for text in ("old man", "young woman"))
    twice = PromptEmbeds(torch.cat([other.cond] * 2, 1), other.uncond, other.pooled, other.pooled_uncond)
    request = {"concepts": left_and_right(), "predict": "joint", "blend_start": 0}
    usual, longer = (generate(pipe, request, concept_embeds={0: short, 1: each}).latents for each in (other, twice))
    assert difference(usual, longer) < ROUNDING  # softmax over each token twice is the same


def test_tokens_that_have_no_place_are_refused():
    """Token merging gives a layer other tokens than the picture has, if as many as a coarser grid; HyperTile rows."""
    regions = Regions(torch.ones(1, 1, 1, 12, 12))
    call = RegionalCall((Row(0, JOINT),), 0.5, (12, 12), contexts={(Row(0, JOINT), 0): torch.zeros(77, 8)}, pooled={})
    for tokens in (torch.zeros(1, 100, 8), torch.zeros(1, 36, 8), torch.zeros(4, 36, 8)):
        with pytest.raises(OMGError, match="token merging"):
            regions.shares(call, call.places, tokens)


def test_pictures_without_a_concept_have_no_joint_row(monkeypatch):
    """A concept that was found in one picture of a batch only costs a row there."""
    first, second = left_and_right()
    request = {"concepts": [first, {**second, "strength": 1}], "predict": "joint", "blend_start": 0}
    places = omg_ext.passes.session.Session.find

    def found(session: Any, *args: Any) -> Any:
        result = places(session, *args)
        for masks in result.masks[1:]:
            masks[:] = [None] * len(masks)
        result.weights[:, 1:] = 0
        return result

    monkeypatch.setattr(omg_ext.passes.session.Session, "find", found)
    with unet_rows(pipeline()) as counted:
        result = generate(pipeline(), request, batch_size=2, steps=2)
    assert sum(counted) == 2 * 4 + 2 * (4 + 1)
    assert difference(result.latents[1], result.first_pass_latents[1]) < 1e-3
    assert difference(result.latents[0], result.first_pass_latents[0]) > 1e-2
