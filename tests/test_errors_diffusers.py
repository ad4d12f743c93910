"""Bad input on the diffusers host: the message names the field, nothing is generated, and the pipeline is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from omg_ext.diffusers import PromptEmbeds
from omg_ext.errors import OMGError
from omg_ext.request import Concept, Request
from tests.diffusers_host import (
    PROMPT,
    SIZE,
    assert_untouched,
    difference,
    everywhere,
    generate,
    left_and_right,
    mask_text,
    pipeline,
    plain,
    snapshot,
    write_lora,
)
from tests.webui.networks import kinds_for

EVERYWHERE = {"box": [0, 0, 1, 1]}


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Whatever happens in a test, the pipelines are as they were."""
    pipes = [pipeline("sdxl"), pipeline("sd15")]
    before = [snapshot(pipe) for pipe in pipes]
    yield
    for pipe, state in zip(pipes, before, strict=True):
        assert_untouched(pipe, state)


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(pipeline("sdxl"), folder / "good.safetensors", only="attn2|te._")
    write_lora(pipeline("sd15"), folder / "sd15.safetensors", only="attn2|te_")
    (folder / "broken.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:2000])
    (folder / "text.safetensors").write_text("This is no network.")
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "folder.safetensors").mkdir()
    save_file({"some.weight": torch.ones(3)}, folder / "odd.safetensors")
    return folder


def refusal(request: Any, kind: str = "sdxl", **options: Any) -> OMGError:
    """The error, after making sure that the UNet was not asked once."""
    pipe = pipeline(kind)
    calls: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda unet, args: calls.append(1))
    try:
        with pytest.raises(OMGError) as caught:
            generate(pipe, request, **options)
    finally:
        handle.remove()
    assert not calls
    return caught.value


def concept(prompt: str = "man", **options: Any) -> dict[str, Any]:
    return {"concepts": [{"prompt": prompt, "where": EVERYWHERE, **options}]}


@pytest.mark.parametrize(("request_", "field", "words"), [
    ({}, "concepts", "required"),
    ({"concepts": []}, "concepts", "at least one"),
    ({"concepts": [{"where": EVERYWHERE}]}, "concepts[0].prompt", "required"),
    (concept(" "), "concepts[0].prompt", "empty"),
    (concept(colour="red"), "concepts[0].colour", "unknown field"),
    (concept(strength=2), "concepts[0].strength", "at most 1"),
    (concept(strength="much"), "concepts[0].strength", "a number"),
    (concept(where={"box": [0, 0, 1.2, 1]}), "concepts[0].where.box[2]", "at most 1"),
    (concept(where={"box": [0.5, 0, 0.5, 1]}), "concepts[0].where", "empty"),
    (concept(where={"point": [0.5, 0.5]}), "concepts[0].phrase", "what to look for"),
    ({**concept(), "detector": "crystal ball"}, "detector", "known: attention"),
    ({**concept(), "blend_start": 2}, "blend_start", "at most 1"),
    ("no json", "request", "JSON"),
    (Request(concepts=(Concept(prompt="man", phrase="man", strength=3),)), "concepts[0].strength", "at most 1"),
    (concept(where={"mask": "%%%"}), "concepts[0].where.mask", "base64"),
    (concept(where={"mask": "aGVsbG8="}), "concepts[0].where.mask", "no PNG, JPEG or WebP"),
    (concept(where={"mask": mask_text(np.zeros((8, 8)))}), "concepts[0].where.mask", "black"),
    (concept(where={"mask": mask_text(np.eye(400))[:400]}), "concepts[0].where.mask", "damaged"),
    ({"concepts": [*concept()["concepts"], {"prompt": "dog", "where": {"box": [0.5, 0.5, 0.52, 0.52]}}],
      "mask": {"grow": 0, "feather": 0}}, "concepts[1]", "latent grid"),
])
def test_request(request_, field, words):
    error = refusal(request_)
    assert error.field == field
    assert words in error.message
    assert field in str(error)


@pytest.mark.parametrize(("prompt", "words"), [
    ("man<lora:nobody>", "nobody"), ("man<lora:broken>", "broken.safetensors"),
    ("man<lora:text>", "text.safetensors"),
    ("man<lora:empty>", "empty.safetensors"), ("man<lora:folder>", "folder.safetensors"),
    ("man<lora:good:lots>", "not a number"), ("man<lora:good:1:1:few>", "not a number"),
    ("man<hypernet:x:1>", "hypernet"), ("man<lora:good:1:1:lbw=OUTALL>", "lbw="),
    ("man<lora:good:1:1:4:1>", "too many"), ("man<lora:GOOD>", "mean <lora:good:1>?"),
    ("man<lora:good.safetensors:0.5>", "mean <lora:good:0.5>?"), ("man<lora:chars/good>", "mean <lora:good:1>?"),
    ("man<lora: good >", "mean <lora:good:1>?"),
    ("man<lora:good><lora:nobody>", "nobody"), ("man<lora:odd>", "odd.safetensors")])
@pytest.mark.parametrize("place", ["prompt", "concepts[1].prompt"])
def test_networks(loras, prompt, words, place):
    first = {"prompt": "woman<lora:good>", "where": EVERYWHERE}
    if place == "prompt":
        error = refusal({"concepts": [first]}, prompt=prompt, loras=loras)
    else:
        error = refusal({"concepts": [first, {"prompt": prompt, "where": EVERYWHERE}]}, loras=loras)
    assert error.field == place
    assert words in error.message


def test_names_from_a_mapping(loras):
    known = {"face": loras / "good.safetensors"}
    generate(pipeline(), concept("man<lora:face>"), loras=known, steps=1)
    error = refusal(concept("man<lora:good>"), loras=known)
    assert "'good'" in error.message
    assert "known: face" in error.message
    assert "known: none" in refusal(concept("man<lora:good>"), loras={}).message
    assert "did you mean <lora:face:1>?" in refusal(concept("man<lora:Face.safetensors>"), loras=known).message


def test_tags_in_a_negative_prompt(loras):
    """They were encoded as words."""
    error = refusal(concept(negative_prompt="ugly<lora:good:1>"), loras=loras)
    assert error.field == "concepts[0].negative_prompt"
    assert "put it into the prompt" in error.message
    assert refusal(concept(), loras=loras, negative_prompt="<lora:good:1>").field == "negative_prompt"


@pytest.mark.parametrize(("kind", "name", "made_for", "loaded"), [
    ("sdxl", "sd15", "SD 1.x", "SDXL"), ("sd15", "good", "SDXL", "SD 1.x")])
def test_another_architecture_is_named(loras, kind, name, made_for, loaded):
    error = refusal(concept(f"man<lora:{name}>"), kind, loras=loras)
    assert error.field == "concepts[0].prompt"
    for part in (name, f"made for {made_for}", f"is {loaded}"):
        assert part in error.message


@pytest.mark.parametrize(("keys", "made_for"), [
    ({"lora_unet_double_blocks_0_img_attn_proj": (16, 3072)}, "Flux"),
    ({"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k": (640, 1024)}, "SD 2.x")])
def test_a_file_without_metadata_is_known_by_its_keys(tmp_path, keys, made_for):
    state: dict[str, Tensor] = {}
    for key, (out, into) in keys.items():
        state |= {f"{key}.lora_down.weight": torch.zeros(4, into), f"{key}.lora_up.weight": torch.zeros(out, 4),
                  f"{key}.alpha": torch.tensor(4.0)}
    save_file(state, tmp_path / "other.safetensors")
    assert f"made for {made_for}" in refusal(concept("man<lora:other>"), loras=tmp_path).message


def test_a_flux_file_with_text_encoder_layers_that_fit(loras, tmp_path):
    """CLIP-L is part of Flux too: nothing of such a file may act."""
    state = {key: value for key, value in load_file(loras / "good.safetensors").items() if "lora_te1_" in key}
    assert state
    for layer in ("lora_unet_double_blocks_0_img_attn_proj", "lora_unet_single_blocks_0_linear1"):
        state |= {f"{layer}.lora_down.weight": torch.zeros(4, 3072), f"{layer}.lora_up.weight": torch.zeros(3072, 4),
                  f"{layer}.alpha": torch.tensor(4.0)}
    save_file(state, tmp_path / "flux.safetensors")
    assert "made for Flux" in refusal(concept("man<lora:flux>"), loras=tmp_path).message


@pytest.mark.parametrize(("keys", "words"), [
    (["clip_l", "clip_g"], "textual inversion"), (["controlnet_down_blocks.0.weight"], "ControlNet"),
    (["model.diffusion_model.out.2.weight"], "whole checkpoint"), (["decoder.up_blocks.0.conv.weight"], "VAE")])
def test_a_file_that_is_no_lora(tmp_path, keys, words):
    save_file({key: torch.zeros(2, 64) for key in keys}, tmp_path / "thing.safetensors")
    assert words in refusal(concept("man<lora:thing>"), loras=tmp_path).message


@pytest.mark.parametrize("network", [kind for kind in kinds_for("sd15") if kind not in ("lora", "locon", "norm")])
def test_other_network_types_are_named_as_such(tmp_path, network):
    """They work in the web UI; here they must not be mistaken for another architecture, or half applied."""
    write_lora(pipeline("sd15"), tmp_path / "other.safetensors", kind=network, only="down_blocks_0_attentions_0|conv1")
    error = refusal(concept("man<lora:other>"), "sd15", loras=tmp_path)
    assert error.field == "concepts[0].prompt"
    assert "other.safetensors is not a plain LoRA" in error.message


def test_norms_are_named_too(tmp_path):
    save_file({"lora_unet_conv_norm_out.w_norm": torch.ones(32)}, tmp_path / "other.safetensors")
    assert "not a plain LoRA" in refusal(concept("man<lora:other>"), loras=tmp_path).message


def test_the_users_own_adapter_survives_a_bad_file(loras):
    pipe = pipeline()
    pipe.load_lora_weights(str(loras), weight_name="good.safetensors", adapter_name="mine")
    try:
        for name in ("sd15", "odd", "broken"):
            refusal(concept(f"man<lora:{name}>"), loras=loras)
            assert pipe.get_list_adapters() == {part: ["mine"] for part in ("unet", "text_encoder", "text_encoder_2")}
            assert pipe.get_active_adapters() == ["mine"]
    finally:
        pipe.unload_lora_weights()


def test_layers_that_the_model_does_not_have(loras, tmp_path):
    """One wrong size among right ones: nothing of the file may stay."""
    state = load_file(loras / "good.safetensors")
    key = next(key for key in state if "output_blocks" in key and key.endswith("lora_down.weight"))
    state[key] = torch.zeros(4, 7)
    save_file(state, tmp_path / "other.safetensors")
    assert "another architecture" in refusal(concept("man<lora:other>"), loras=tmp_path).message


@pytest.mark.parametrize(("options", "field"), [
    ({"prompt": None}, "prompt"), ({"height": 100}, "height"), ({"width": 60}, "width")])
def test_arguments(options, field):
    assert refusal(concept(), **options).field == field


def test_incomplete_embeddings():
    pipe = pipeline()
    with torch.no_grad():
        whole = PromptEmbeds(*pipe.encode_prompt(prompt=PROMPT, device="cpu", num_images_per_prompt=1,
                                                 do_classifier_free_guidance=True))
    no_negative = PromptEmbeds(whole.cond, None, whole.pooled, None)
    no_pooled = PromptEmbeds(whole.cond, whole.uncond)
    for embeds, words in ((no_negative, "negative"), (no_pooled, "pooled")):
        for options, field in (({"prompt_embeds": embeds}, "prompt_embeds"),
                               ({"concept_embeds": {0: embeds}}, "concept_embeds[0]")):
            error = refusal(concept(), **options)
            assert error.field == field
            assert words in error.message
    assert refusal(concept(cfg_scale=3), cfg_scale=1.0, concept_embeds={0: no_negative}).field == "concept_embeds[0]"


# --- what is found too late to refuse before the first pass ---

def test_phrase_that_is_not_in_the_prompt():
    """A warning, and the picture without that concept."""
    concepts = [*left_and_right()[:1], {"prompt": "dog", "phrase": "dog"}]
    pipe, request = pipeline(), {"concepts": concepts, "blend_start": 0}
    result = generate(pipe, request)
    assert len(result.warnings) == 1
    for part in ("concepts[1]", "'dog'", "left out"):
        assert part in result.warnings[0]
    assert [mask is None for mask in result.masks[0]] == [False, True]
    assert difference(result.latents, generate(pipe, {**request, "concepts": concepts[:1]}).latents) < 1e-4


def test_nothing_is_found():
    pipe = pipeline()
    result = generate(pipe, {"concepts": [{"prompt": "dog", "phrase": "dog"}], "blend_start": 0}, batch_size=2)
    assert torch.equal(result.latents, result.first_pass_latents)
    assert "in picture 1, 2" in result.warnings[0]


def test_strict_refuses_what_is_not_found():
    with pytest.raises(OMGError) as caught:
        generate(pipeline(), {"concepts": [{"prompt": "dog", "phrase": "dog"}], "strict": True})
    assert caught.value.field == "strict"
    for part in ("concepts[0]", "'dog'"):
        assert part in caught.value.message


def test_a_phrase_without_a_prompt_to_find_it_in():
    pipe = pipeline()
    with torch.no_grad():
        embeds = PromptEmbeds(*pipe.encode_prompt(prompt=PROMPT, device="cpu", num_images_per_prompt=1,
                                                  do_classifier_free_guidance=True))
    result = generate(pipe, {"concepts": [{"prompt": "old man", "phrase": "man"}]}, None, prompt_embeds=embeds)
    assert "'man'" in result.warnings[0]


def test_request_switched_off():
    """``enabled: false`` makes the whole request do nothing: one ordinary picture, no LoRA looked for."""
    pipe = pipeline()
    result = generate(pipe, {**everywhere("dog<lora:nobody>"), "enabled": False})
    assert torch.equal(result.latents, plain(pipe))
    assert torch.equal(result.latents, result.first_pass_latents)
    assert result.warnings == []


def test_size_of_masks_does_not_matter():
    """A mask in any size covers the same part of the picture."""
    pipe = pipeline()
    wide = torch.zeros(3, 4)
    wide[:, :2] = 1
    request = {**concept("dog", where={"mask": mask_text(wide)}), "blend_start": 0, "mask": {"grow": 0, "feather": 0}}
    result = generate(pipe, request)
    box = generate(pipe, {**request, "concepts": concept("dog", where={"box": [0, 0, 0.5, 1]})["concepts"]})
    assert result.masks[0][0] is not None
    assert result.masks[0][0].shape == (SIZE, SIZE)
    assert difference(result.latents, box.latents) < 0.2


def test_lora_in_both_prompts_is_told(loras):
    """The weights add up, and the other figure wears the face."""
    result = generate(pipeline(), concept("man<lora:good:0.6>"), "a man<lora:good:0.4>", loras=loras, steps=1)
    assert ["good is in the main prompt too" in warning for warning in result.warnings] == [True]
    assert generate(pipeline(), concept("man<lora:good>"), "a man", loras=loras, steps=1).warnings == []
