"""The invariants of the design on the diffusers host, and what else must hold for every run of it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import omg_ext.passes.session
from omg_ext.diffusers import OMGPipeline, PromptEmbeds
from omg_ext.errors import OMGError
from omg_ext.request import Layout
from omg_ext.unet.calls import RecordingCall, Row
from omg_ext.unet.layout import LayoutRecorder, LayoutReplay
from omg_ext.unet.patches import Patches
from omg_ext.unet.query_store import Entry, QueryStore
from tests.diffusers_host import (
    KEY_FORMATS,
    LATENT,
    PROMPT,
    ROUNDING,
    assert_untouched,
    difference,
    everywhere,
    generate,
    left_and_right,
    merged,
    pipeline,
    plain,
    small_loras,
    snapshot,
    two_concepts,
    with_scheduler,
    write_lora,
)

# of diffusers' own schedulers with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SCHEDULERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: (class, options of the scheduler, options of the call)
    "DDIM": ("DDIMScheduler", {}, {}),
    "DDIM eta 1": ("DDIMScheduler", {}, {"eta": 1.0}),
    "DDPM": ("DDPMScheduler", {}, {}),
    "DEIS": ("DEISMultistepScheduler", {}, {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}, {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, {}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {}),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {}, {}),
    "DPM++ SDE": ("DPMSolverSDEScheduler", {"noise_sampler_seed": 3}, {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}, {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}, {}),
    "Euler": ("EulerDiscreteScheduler", {}, {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}, {}),
    "Euler trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, {}),
    "Heun": ("HeunDiscreteScheduler", {}, {}),
    "LCM": ("LCMScheduler", {}, {}),
    "LMS": ("LMSDiscreteScheduler", {}, {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}, {}),
    "PNDM with Runge-Kutta steps": ("PNDMScheduler", {}, {}),
    "SA-Solver": ("SASolverScheduler", {}, {}),
    "TCD": ("TCDScheduler", {}, {}),
    "UniPC": ("UniPCMultistepScheduler", {}, {}),
}


def scheduled(name: str) -> tuple[Any, dict[str, Any]]:
    """The tiny SDXL pipeline with a scheduler, and the options of its calls."""
    scheduler, options, call = SCHEDULERS[name]
    return with_scheduler(pipeline(), getattr(diffusers, scheduler), **options), call


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_loras(tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="module")
def usual(loras: Path) -> Tensor:
    """The final latents of an undisturbed run of :func:`two_concepts`."""
    return generate(pipeline(), two_concepts(), loras=loras).latents


@contextmanager
def unet_rows(pipe: Any) -> Iterator[list[int]]:
    """Yields a list that grows by the number of rows of each UNet call."""
    rows: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda unet, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


# --- 2: an empty second pass ---

@pytest.mark.parametrize("name", SCHEDULERS)
def test_without_blending_both_passes_are_the_ordinary_picture(name):
    pipe, options = scheduled(name)
    result = generate(pipe, {"concepts": left_and_right(), "blend_start": 1}, steps=5, seed=4, **options)
    assert torch.equal(result.first_pass_latents, plain(pipe, steps=5, seed=4, **options))
    assert torch.equal(result.latents, result.first_pass_latents)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_blending_nothing_in_changes_nothing(name):
    """As above, but the model is really run in the second pass: it meets the same latents, noise and timesteps."""
    pipe, options = scheduled(name)
    nothing = [{"prompt": "dog", "where": {"box": [0, 0, 1, 1]}, "strength": 0}]
    with unet_rows(pipe) as rows:
        result = generate(pipe, {"concepts": nothing, "blend_start": 0.4, "layout": {"cross": 0, "self": 0}}, steps=5,
                          **options)
    assert sum(rows) > 2 * 2 * 5 - 2 * 3
    assert difference(result.latents, result.first_pass_latents) < 1e-3


def test_noise_without_a_seed_of_its_own_is_repeated():
    """This scheduler draws a seed from torch's global generator, anew for each run."""
    pipe = with_scheduler(pipeline(), diffusers.DPMSolverSDEScheduler)
    result = generate(pipe, {"concepts": left_and_right(), "blend_start": 1}, steps=4)
    assert torch.equal(result.latents, result.first_pass_latents)


# --- 3 and 4: one concept everywhere, and its network ---

@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_one_concept_everywhere_is_an_ordinary_picture(tmp_path, kind, prediction_type):
    pipe = pipeline(kind, prediction_type)
    write_lora(pipe, tmp_path / "one.safetensors")
    result = generate(pipe, everywhere("sks man<lora:one:0.7>", negative_prompt="blue dog"), loras=tmp_path)
    without = plain(pipe, "sks man", negative_prompt="blue dog")
    pipe.load_lora_weights(str(tmp_path), weight_name="one.safetensors")
    pipe.fuse_lora(lora_scale=0.7)
    try:
        expected = plain(pipe, "sks man", negative_prompt="blue dog")
    finally:
        pipe.unfuse_lora()
        pipe.unload_lora_weights()
    assert difference(result.latents, expected) < ROUNDING
    assert difference(without, expected) > 1e-2


@pytest.mark.parametrize("keys", KEY_FORMATS)
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_key_formats(tmp_path, kind, keys):
    """The same attention layers, which is what diffusers' older naming knows, in all formats."""
    pipe = pipeline(kind)
    write_lora(pipe, tmp_path / "one.safetensors", keys, only=r"attn\d?_")
    write_lora(pipe, tmp_path / "same.safetensors", only=r"attn\d?_")
    result = generate(pipe, everywhere("sks man<lora:one>"), loras=tmp_path)
    with merged(pipe, tmp_path / "same.safetensors"):
        expected = plain(pipe, "sks man")
    assert difference(result.latents, expected) < ROUNDING
    assert difference(plain(pipe, "sks man"), expected) > 1e-2


@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_every_layer_has_its_own_alpha(tmp_path, kind):
    pipe = pipeline(kind)
    path = write_lora(pipe, tmp_path / "one.safetensors")
    state = load_file(path)
    for number, key in enumerate(sorted(key for key in state if key.endswith("alpha"))):
        state[key] *= 0.3 + number % 5
    save_file(state, path)
    result = generate(pipe, everywhere("sks man<lora:one:0.4>"), loras=tmp_path, steps=2)
    with merged(pipe, path, 0.4, 0.4):
        expected = plain(pipe, "sks man", steps=2)
    assert difference(result.latents, expected) < ROUNDING


@pytest.mark.parametrize("network", ["lora", "locon"])
@pytest.mark.parametrize(("tag", "te", "unet", "dyn"), [
    ("", 1.0, 1.0, None), (":0.6", 0.6, 0.6, None), (":0.5:1.2", 0.5, 1.2, None), (":unet=0.4", 1.0, 0.4, None),
    (":te=0:unet=1", 0.0, 1.0, None), (":1:0", 1.0, 0.0, None), (":1:1:dyn=2", 1.0, 1.0, 2),
    (":0.8:-0.5:3", 0.8, -0.5, 3)])
def test_multipliers(tmp_path, network, tag, te, unet, dyn):
    pipe = pipeline("sd15" if network == "lora" else "sdxl")
    write_lora(pipe, tmp_path / "one.safetensors", kind=network, only=r"attn2|te\d?_|resnets|input_blocks.*layers")
    result = generate(pipe, everywhere(f"sks man<lora:one{tag}>"), loras=tmp_path, steps=2)
    with merged(pipe, tmp_path / "one.safetensors", te, unet, dyn):
        expected = plain(pipe, "sks man", steps=2)
    assert difference(result.latents, expected) < ROUNDING


def test_several_networks_of_one_concept(loras):
    pipe = pipeline()
    result = generate(pipe, everywhere("sks <lora:one:0.5>man<lora:two:0.7:0.9>"), loras=loras)
    with merged(pipe, loras / "one.safetensors", 0.5, 0.5), merged(pipe, loras / "two.safetensors", 0.7, 0.9):
        expected = plain(pipe, "sks man")
    assert difference(result.latents, expected) < ROUNDING


def test_two_concepts_use_one_file_with_own_multipliers(loras):
    """Each half of the picture is that of a plain run with its multiplier, where the model does not look across."""
    pipe = pipeline()
    request = {**everywhere("man<lora:one:0.3>"), "concepts": [
        {"prompt": "man<lora:one:0.3>", "where": {"box": [0, 0, 0.5, 1]}},
        {"prompt": "man<lora:one:1.1>", "where": {"box": [0.5, 0, 1, 1]}}]}
    result = generate(pipe, request, loras=loras, steps=1).latents
    middle = LATENT // 2
    for multiplier, half in ((0.3, slice(0, middle)), (1.1, slice(middle, LATENT))):
        with merged(pipe, loras / "one.safetensors", multiplier, multiplier):
            expected = plain(pipe, "man", steps=1)
        assert difference(result[..., half], expected[..., half]) < ROUNDING


@pytest.mark.parametrize(("global_scale", "own_scale"), [(1.0, None), (1.0, 4.0), (5.0, 1.0), (5.0, 2.5), (5.0, None)])
def test_guidance_scales(global_scale, own_scale):
    pipe = pipeline()
    result = generate(pipe, everywhere("old dog", cfg_scale=own_scale), cfg_scale=global_scale)
    assert torch.equal(result.first_pass_latents, plain(pipe, cfg_scale=global_scale))
    expected = plain(pipe, "old dog", cfg_scale=global_scale if own_scale is None else own_scale)
    assert difference(result.latents, expected) < ROUNDING


def test_style_network_acts_on_every_row(loras, usual):
    """The paper's style setting: a LoRA in the global prompt is as good as merged into the model for the whole run."""
    pipe = pipeline()
    result = generate(pipe, two_concepts(), f"{PROMPT}<lora:style:0.8>", loras=loras)
    with merged(pipe, loras / "style.safetensors", 0.8, 0.8):
        expected = generate(pipe, two_concepts(), loras=loras)
    assert difference(result.first_pass_latents, expected.first_pass_latents) < ROUNDING
    assert difference(result.latents, expected.latents) < ROUNDING
    assert difference(usual, expected.latents) > 1e-2


def test_the_users_own_adapters_stay(loras):
    """An adapter that is loaded and active acts on every row, as merged weights do, and is there afterwards."""
    pipe = pipeline()
    with merged(pipe, loras / "style.safetensors"):
        expected = generate(pipe, two_concepts(), loras=loras)
    pipe.load_lora_weights(str(loras), weight_name="style.safetensors", adapter_name="mine")
    try:
        result = generate(pipe, two_concepts(), loras=loras)
        assert pipe.get_list_adapters() == {part: ["mine"] for part in ("unet", "text_encoder", "text_encoder_2")}
        assert pipe.get_active_adapters() == ["mine"]
    finally:
        pipe.unload_lora_weights()
    assert difference(result.latents, expected.latents) < ROUNDING


# --- 6: replay of queries is replacement of probabilities ---

class Block(torch.nn.Module):
    """The two attention layers of a transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1 = diffusers.models.attention_processor.Attention(32, heads=2, dim_head=16)
        self.attn2 = diffusers.models.attention_processor.Attention(32, cross_attention_dim=24, heads=2, dim_head=16)


def probabilities(attention: Any, x: Tensor, context: Tensor) -> Tensor:
    q, k = (layer(y).unflatten(-1, (2, 16)).transpose(1, 2)
            for layer, y in ((attention.to_q, x), (attention.to_k, context)))
    return torch.softmax(q @ k.transpose(-1, -2) / 16**0.5, dim=-1)


def attend(attention: Any, weights: Tensor, context: Tensor) -> Tensor:
    v = attention.to_v(context).unflatten(-1, (2, 16)).transpose(1, 2)
    return attention.to_out[0]((weights @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cross", "self"])
def test_replay_of_queries_is_replacement_of_probabilities(kind):
    """*replay*: fused attention with replayed queries (and keys) against materialised maps that are overwritten."""
    torch.manual_seed(0)
    block = Block()
    attention = block.attn2 if kind == "cross" else block.attn1
    for layer in (attention.to_q, attention.to_k):
        layer.weight.mul_(6)  # peaked maps
    first, second, text = torch.randn(4, 9, 32), torch.randn(4, 9, 32), torch.randn(4, 7, 24)
    contexts = (text, text) if kind == "cross" else (first, second)
    rows, until = slice(0, 2), Layout(1.0, 0.0) if kind == "cross" else Layout(0.0, 1.0)
    call = RecordingCall((Row(0), Row(1), Row(0, None, None), Row(1, None, None)), 0.0, (3, 3))

    with Patches(block) as patches:
        recorder = LayoutRecorder(patches, until, QueryStore(2**20, 0))
        with patches.running(call):
            attention(first, encoder_hidden_states=contexts[0])
    with Patches(block) as patches:
        LayoutReplay(patches, recorder.record())
        with patches.running(call.replaying(call.queries)):
            replayed = attention(second, encoder_hidden_states=contexts[1])
    maps = probabilities(attention, second, contexts[1])
    without = attend(attention, maps, contexts[1])
    maps[rows] = probabilities(attention, first, contexts[0])[rows]
    torch.testing.assert_close(replayed, attend(attention, maps, contexts[1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(replayed[2:], without[2:], rtol=1e-4, atol=1e-5)
    assert difference(replayed[rows], without[rows]) > 0.1


# --- 7: order, batches, chunks ---

@pytest.mark.parametrize("rows_per_call", [1, 2, 3])
def test_chunking_changes_nothing(loras, usual, rows_per_call):
    pipe = pipeline()
    with unet_rows(pipe) as rows:
        result = generate(pipe, two_concepts(), loras=loras, rows_per_call=rows_per_call)
    assert difference(result.latents, usual) < ROUNDING
    calls = -(-4 // rows_per_call)
    assert len(rows) == 3 + 3 * (1 + calls)


def test_order_of_concepts_changes_nothing(loras):
    pipe, request = pipeline(), two_concepts()
    request["concepts"][0]["where"] = {"box": [0, 0, 0.8, 1]}  # so that they overlap
    result = generate(pipe, {**request, "concepts": request["concepts"][::-1]}, loras=loras)
    expected = generate(pipe, request, loras=loras)
    assert difference(result.latents, expected.latents) < ROUNDING
    for swapped, mask in zip(result.masks[0][::-1], expected.masks[0], strict=True):
        np.testing.assert_array_equal(swapped, mask)


@pytest.mark.parametrize("name", ["DDIM eta 1", "Euler a"])
def test_batch_is_its_single_pictures(loras, name):
    pipe, options = scheduled(name)
    batch = generate(pipe, two_concepts(), loras=loras, batch_size=2, seed=10, **options)
    for index in range(2):
        single = generate(pipe, two_concepts(), loras=loras, seed=10 + index, **options)
        assert difference(batch.first_pass_latents[index], single.first_pass_latents[0]) < ROUNDING
        assert difference(batch.latents[index], single.latents[0]) < ROUNDING
    assert difference(batch.latents[0], batch.latents[1]) > 1e-2


# --- 8: nothing remains ---

def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


class FaultError(Exception):
    """Anything but what the package raises itself."""


@contextmanager
def raising(pipe: Any, error: BaseException, at_call: int, always: bool = False) -> Iterator[None]:
    """The UNet raises ``error`` at its n-th call: 0 to 2 are the first pass, then global and concept rows alternate.

    Args:
        always: and at every later call.
    """
    calls = iter(range(1000))

    def hook(unet: Any, args: Any) -> None:
        number = next(calls)
        if number == at_call or (always and number > at_call):
            raise error

    handle = pipe.unet.mid_block.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


OUTCOMES: dict[str, Callable[[Any, Path], Any]] = {
    "done": lambda pipe, loras: generate(pipe, two_concepts(), loras=loras),
    "recompute": lambda pipe, loras: generate(pipe, two_concepts(), loras=loras, budgets=(0, 0)),
    "style": lambda pipe, loras: generate(pipe, two_concepts(), f"{PROMPT}<lora:style>", loras=loras),
    "detection": lambda pipe, loras: generate(
        pipe, {"concepts": [{"prompt": "man<lora:one>", "phrase": "man"}], "blend_start": 0}, loras=loras),
    "nothing found": lambda pipe, loras: generate(
        pipe, {"concepts": [{"prompt": "dog<lora:one>", "phrase": "dog"}]}, loras=loras),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_nothing_remains(loras, outcome):
    pipe = pipeline()
    before = snapshot(pipe)
    weights = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    OUTCOMES[outcome](pipe, loras)
    assert_untouched(pipe, before)
    assert all(torch.equal(weights[name], value) for name, value in pipe.unet.state_dict().items())
    tensors = live_tensors()
    for _ in range(2):
        OUTCOMES[outcome](pipe, loras)
    assert live_tensors() == tensors


@pytest.mark.parametrize(("error", "at_call"), [
    (FaultError(), 0), (FaultError(), 2), (KeyboardInterrupt(), 1), (KeyboardInterrupt(), 4),
    (OMGError("steps", "fault"), 3)])
def test_nothing_remains_after_an_error(loras, usual, error, at_call):
    """*nothing remains*"""
    pipe = pipeline()
    before = snapshot(pipe)
    tensors = live_tensors()
    with raising(pipe, error, at_call), pytest.raises(type(error)):
        generate(pipe, two_concepts(), loras=loras)
    error.__traceback__ = None  # it holds the frames' tensors
    assert_untouched(pipe, before)
    assert live_tensors() == tensors


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("error", [FaultError("torn cable"), RuntimeError("odd shape"),
                                   torch.cuda.OutOfMemoryError("no room")])
@pytest.mark.parametrize("at_call", [3, 4])
def test_a_failed_second_pass_leaves_the_first_picture(loras, usual, monkeypatch, error, at_call, strict):
    """*nothing remains*: the first picture, once lost, comes with the reason; a strict request has an error."""
    pipe = pipeline()
    before = snapshot(pipe)
    monkeypatch.setattr(omg_ext.passes.session.log, "disabled", True)  # pytest keeps what is logged, tensors and all
    tensors = live_tensors()
    always = isinstance(error, torch.cuda.OutOfMemoryError)  # or a smaller call is tried
    with raising(pipe, error, at_call, always):
        if strict:
            with pytest.raises(OMGError) as caught:
                generate(pipe, two_concepts(strict=True), loras=loras)
            assert caught.value.field == "second pass"
            said = caught.value.message
            del caught
        else:
            result = generate(pipe, two_concepts(), loras=loras)
            assert torch.equal(result.latents, result.first_pass_latents)
            said, = result.warnings
            assert said.startswith("the second pass failed, so this is the first picture: ")
            del result
    assert ("graphics memory" if always else str(error)) in said
    error.__traceback__ = None
    assert_untouched(pipe, before)
    assert live_tensors() == tensors


def test_runs_repeat_bit_for_bit(loras, usual):
    assert torch.equal(generate(pipeline(), two_concepts(), loras=loras).latents, usual)


# --- other ways to call it ---

def embeds(pipe: Any, prompt: str) -> PromptEmbeds:
    return PromptEmbeds(*pipe.encode_prompt(prompt=prompt, device="cpu", num_images_per_prompt=1,
                                            do_classifier_free_guidance=True))


@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
@torch.no_grad()
def test_embeddings_instead_of_prompts(kind):
    pipe = pipeline(kind)
    request = {"concepts": left_and_right(), "blend_start": 0}
    given = generate(pipe, request, None, prompt_embeds=embeds(pipe, PROMPT),
                     concept_embeds={0: embeds(pipe, "old man"), 1: embeds(pipe, "young woman")})
    expected = generate(pipe, request)
    assert torch.equal(given.latents, expected.latents)
    replaced = generate(pipe, request, concept_embeds={1: embeds(pipe, "dog")})
    changed = generate(pipe, {**request, "concepts": left_and_right(prompt="dog")})
    assert torch.equal(replaced.latents, changed.latents)


@torch.no_grad()
def test_embeddings_of_another_precision():
    """As diffusers takes them; a concept's once failed its second pass."""
    pipe = pipeline()
    given, request = embeds(pipe, "dog"), everywhere("dog")
    wide = given.to(torch.device("cpu"), torch.float64)
    result = generate(pipe, request, None, prompt_embeds=wide, concept_embeds={0: wide})
    expected = generate(pipe, request, None, prompt_embeds=given, concept_embeds={0: given})
    assert result.warnings == []
    assert torch.equal(result.latents, expected.latents)


@torch.no_grad()
def test_tags_count_with_embeddings(loras):
    """A concept's embeddings replace its text, not its network."""
    pipe = pipeline()
    given = generate(pipe, everywhere("anything<lora:one:0:1>"), loras=loras,
                     concept_embeds={0: embeds(pipe, "sks man")})
    with merged(pipe, loras / "one.safetensors", 0.0, 1.0):
        expected = plain(pipe, "sks man")
    assert difference(given.latents, expected) < ROUNDING


def test_embeddings_without_guidance_need_no_negative():
    pipe = pipeline()
    with torch.no_grad():
        whole = embeds(pipe, "old dog")
    only = PromptEmbeds(whole.cond, None, whole.pooled, None)
    result = generate(pipe, everywhere("dog"), None, prompt_embeds=only, concept_embeds={0: only}, cfg_scale=1.0)
    assert difference(result.latents, plain(pipe, "old dog", cfg_scale=1.0)) < ROUNDING


@pytest.mark.parametrize("name", ["DDIM", "Euler a"])
def test_latents_instead_of_a_seed(name):
    pipe, _ = scheduled(name)
    request = {"concepts": left_and_right(), "blend_start": 0}
    noise = torch.cat([torch.randn(1, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(seed))
                       for seed in (5, 6)])
    given = generate(pipe, request, latents=noise, height=None, width=None)
    assert given.latents.shape == noise.shape
    if name == "DDIM":  # no noise but the initial one
        assert torch.equal(given.latents, generate(pipe, request, seed=5, batch_size=2).latents)
    again = generate(pipe, request, latents=noise)
    assert torch.equal(given.latents, again.latents)


def test_pictures_and_masks():
    pipe = pipeline()
    request = {"concepts": left_and_right(), "show": ["first_pass"], "mask": {"grow": 0, "feather": 0}}
    result = generate(pipe, request, batch_size=2, output_type="pil", height=64, width=96)
    assert result.images is not None
    assert [picture.size for picture in [*result.images, *result.first_pass]] == [(96, 64)] * 4
    assert [[mask.shape for mask in masks if mask is not None] for masks in result.masks] == [[(64, 96)] * 2] * 2
    assert generate(pipe, request).images is None


def test_from_folder(tmp_path):
    pipe = pipeline("sd15")
    pipe.save_pretrained(tmp_path)
    loaded = OMGPipeline.from_folder(tmp_path)
    loaded.pipe.set_progress_bar_config(disable=True)
    request = {"concepts": left_and_right(), "predict": "separate"}
    result = loaded(request, PROMPT, height=64, width=64, steps=2, output_type="latent")
    expected = generate(pipe, request, height=64, width=64, steps=2)
    assert difference(result.latents, expected.latents) < ROUNDING


# --- storage and rows ---

class Wandering(diffusers.DDIMScheduler):
    """Every other run takes other timesteps, as adaptive samplers do once the latents differ."""

    runs = 0

    def set_timesteps(self, steps: int, device: Any = None) -> None:
        super().set_timesteps(steps, device)
        Wandering.runs += 1
        self.timesteps: Tensor = self.timesteps + (0 if Wandering.runs % 2 else 20)


@pytest.mark.parametrize("budgets", [(2**40, 0), (0, 2**40), (0, 0)], ids=["device", "host", "recompute"])
def test_timesteps_that_the_first_pass_did_not_make(budgets):
    """*replay*: a call of the second pass (0.878) failed where the nearest of the first (0.898) held nothing."""
    pipe = with_scheduler(pipeline(), Wandering)
    request = {"concepts": left_and_right(), "blend_start": 0, "layout": {"cross": 0.86, "self": 0.89}}
    results = []
    for each in (budgets, (2**40, 0)):
        Wandering.runs = 0
        results.append(generate(pipe, request, budgets=each, steps=10, batch_size=2))
    assert results[0].warnings == []
    assert difference(results[0].latents, results[1].latents) < 2 * ROUNDING
    assert difference(results[0].latents, results[0].first_pass_latents) > 1e-2



class Watched(QueryStore):
    """Notes what became of every call's queries."""

    places: list[str]

    def put(self, tensors: dict[str, Tensor]) -> Entry | None:
        entry = super().put(tensors)
        self.places += [entry.place] if entry else []
        return entry


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    noted: list[str] = []
    monkeypatch.setattr(Watched, "places", noted, raising=False)
    monkeypatch.setattr(omg_ext.passes.session, "QueryStore", Watched)
    return noted


@pytest.mark.parametrize(("mode", "batch_size"), [("host", 1), ("recompute", 1), ("device then recompute", 1),
                                                  ("device then host", 1), ("all three", 1), ("all three", 2)])
def test_storage_modes(places, mode, batch_size):
    """Where the queries wait does not show in the picture, but in the rows."""
    pipe, options = pipeline(), {"steps": 5, "batch_size": batch_size}
    request = {"concepts": left_and_right(), "blend_start": 0, "layout": {"cross": 1, "self": 1}}
    expected = generate(pipe, request, **options).latents
    assert places == ["device"] * 5
    places.clear()
    call = sum(size_of_queries(pipe)) * batch_size
    budgets = {"host": (0, 2**40), "recompute": (0, 0), "device then recompute": (2 * call, 0),
               "device then host": (2 * call, 2**40), "all three": (2 * call, 2 * call)}[mode]
    with unet_rows(pipe) as rows:
        result = generate(pipe, request, budgets=budgets, **options).latents
    assert difference(result, expected) < ROUNDING
    wanted = {"host": ["host"] * 5, "recompute": [], "device then recompute": ["device"] * 2,
              "device then host": ["device"] * 2 + ["host"] * 3, "all three": ["device"] * 2 + ["host"] * 2}
    assert places == wanted[mode]  # what has no room is not even copied
    recomputed = 5 - len(places)
    assert sum(rows) == batch_size * (2 * 5 + 5 * (2 + 4) + recomputed)


def size_of_queries(pipe: Any) -> list[int]:
    """Bytes of each tensor recorded of a call at the tests' size: all cross-attention, the deepest self-attention."""
    tokens = {"down_blocks.1": (LATENT // 2) ** 2, "up_blocks.1": (LATENT // 2) ** 2}
    sizes = []
    for name, layer in pipe.unet.named_modules():
        count = tokens.get(".".join(name.split(".")[:2]), (LATENT // 4) ** 2)
        if name.endswith("attn2.to_q") or (name.endswith(("attn1.to_q", "attn1.to_k")) and count == (LATENT // 4) ** 2):
            sizes.append(4 * count * layer.weight.shape[0])
    return sizes


@pytest.mark.parametrize(("budgets", "extra"), [((2**40, 0), 0), ((0, 2**40), 0), ((0, 0), 34)],
                         ids=["device", "host", "recompute"])
def test_rows_evaluated(budgets, extra):
    """(2N) + (N - s)(2 + 2K), with N = 50, s = 16, K = 2."""
    pipe = pipeline()
    with unet_rows(pipe) as rows:
        generate(pipe, {"concepts": left_and_right(), "blend_start": 0.33}, budgets=budgets, steps=50, height=32,
                 width=32)
    assert sum(rows) == 304 + extra


@pytest.mark.parametrize("steps", range(1, 18))
def test_any_step_count(steps):
    pipe = pipeline("sd15")
    with unet_rows(pipe) as rows:
        result = generate(pipe, {"concepts": left_and_right()}, steps=steps, height=64, width=64)
    pipe.scheduler.set_timesteps(steps)
    prefix = sum((999 - int(t)) / 1000 < 0.4 for t in pipe.scheduler.timesteps)
    assert prefix < steps
    assert sum(rows) == 2 * steps + (steps - prefix) * (2 + 2 * 2)
    assert difference(result.latents, result.first_pass_latents) > 1e-3


def test_changed_token_count_is_a_warning():
    """Token merging that changes its mind between the passes, in one layer."""
    pipe = pipeline()
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    with unet_rows(pipe) as rows:
        def merge(module: Any, args: Any, kwargs: Any) -> Any:
            return ((args[0][:, ::3], *args[1:]), kwargs) if len(rows) > 3 else None

        def unmerge(module: Any, args: Any, output: Tensor) -> Tensor | None:
            return output.repeat_interleave(3, dim=1) if len(rows) > 3 else None

        handles = [layer.register_forward_pre_hook(merge, with_kwargs=True), layer.register_forward_hook(unmerge)]
        result = generate(pipe, {"concepts": left_and_right(), "blend_start": 0})
    for handle in handles:
        handle.remove()
    assert [warning for warning in result.warnings if "9 tokens" in warning and "3 in the second" in warning]
    assert len(result.warnings) == 1
    assert torch.isfinite(result.latents).all()
    assert generate(pipe, {"concepts": left_and_right(), "blend_start": 0}).warnings == []
