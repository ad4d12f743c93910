"""``<lora:...>`` tags of concepts and the files they name, in a real web UI: honoured, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.webui.host import ApiError, WebUI
from tests.webui.networks import as_diffusers
from tests.webui.test_api import EVERYWHERE, LEFT, PROMPT, assert_is_plain, concept, omg, request

pytestmark = pytest.mark.webui


@pytest.fixture(scope="module")
def folder(running: WebUI) -> Path:
    """The web UI's Lora folder, with files that people have."""
    loras = running.data_dir / "models" / "Lora"
    state = load_file(loras / "sdxl-lora.safetensors")
    metadata = {"ss_base_model_version": "sdxl_base_v1-0"}
    (loras / "chars").mkdir()
    for name in ("UPPER", "chars/inside", "with space"):
        save_file(state, loras / f"{name}.safetensors", metadata)
    for name in ("first", "second"):
        save_file(state, loras / f"{name}-twin.safetensors", {**metadata, "ss_output_name": "twin"})
    save_file(as_diffusers(state), loras / "diffusers.safetensors")
    save_file({key.replace("lora_unet", "lycoris_unet"): value for key, value in state.items() if "unet" in key},
              loras / "lycoris.safetensors", metadata)
    text = {key: value for key, value in state.items() if key.startswith("lora_te")}
    save_file(text, loras / "text-only.safetensors")
    clip = {key: value for key, value in text.items() if key.startswith("lora_te1")}
    save_file({**clip, **zeros("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight")}, loras / "flux.safetensors")
    save_file(zeros("clip_l", "clip_g"), loras / "embedding.safetensors")
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 768)}, "name": "me", "step": 9},
               loras / "old-embedding.pt", _use_new_zipfile_serialization=False)
    save_file(zeros("controlnet_down_blocks.0.weight"), loras / "controlnet.safetensors")
    save_file(zeros("model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_in.weight"),
              loras / "whole.safetensors")
    save_file(zeros("decoder.up.0.block.0.conv1.weight"), loras / "vae.safetensors")
    save_file(zeros("transformer.transformer_blocks.0.attn.to_q.lora_A.weight"), loras / "transformer.safetensors")
    running.post("/sdapi/v1/refresh-loras")
    return loras


def zeros(*keys: str) -> dict[str, Tensor]:
    return {key: torch.zeros(4, 64) for key in keys}


def refusal(webui: WebUI, prompt: str, field: str = "concepts[1].prompt", **fields: str) -> str:
    """The message, of a second concept."""
    data = request(concept(PROMPT, LEFT), {"prompt": prompt, "where": EVERYWHERE, **fields})
    with pytest.raises(ApiError) as caught:
        omg(webui, data, steps=2)
    assert caught.value.status == 422
    assert field in caught.value.detail
    return caught.value.detail


# --- names ---

@pytest.mark.parametrize(("name", "meant"), [
    ("upper", "UPPER"), ("UPPER.safetensors", "UPPER"), (" UPPER ", "UPPER"), ("chars/inside", "inside"),
    ("chars/Inside.safetensors", "inside"), ("with_space", "with space"), ("sdxl_lora", "sdxl-lora")])
def test_names_are_suggested(webui: WebUI, folder: Path, name: str, meant: str) -> None:
    assert f"did you mean <lora:{meant}:0.7>?" in refusal(webui, f"{PROMPT} <lora:{name}:0.7>")


def test_ambiguous_alias(webui: WebUI, folder: Path) -> None:
    message = refusal(webui, f"{PROMPT} <lora:twin:1>")
    for part in ("2 files have the alias 'twin'", "first-twin.safetensors", "second-twin.safetensors",
                 "<lora:first-twin:1> or <lora:second-twin:1>"):
        assert part in message
    assert_is_plain(webui, f"{PROMPT} <lora:first-twin:1>")


# --- arguments ---

BLOCKS = pytest.mark.not_in_forge("block weights do nothing there")


@pytest.mark.parametrize(("arguments", "words"), [
    pytest.param("1:1:lbw=OUTALL", "LoRA Block Weight (sd-webui-lora-block-weight), which is not installed",
                 marks=BLOCKS),
    pytest.param("lbwe=ATTNDEEPON", "not installed", marks=BLOCKS),
    pytest.param("1:stop=4", "not installed", marks=BLOCKS),
    ("1:1:4:9", "too many arguments"), ("1:strength=0.5", "strength=")])
def test_arguments_that_are_not_known(webui: WebUI, arguments: str, words: str) -> None:
    assert words in refusal(webui, f"{PROMPT} <lora:sdxl-lora:{arguments}>")


def test_tag_in_a_negative_prompt(webui: WebUI) -> None:
    message = refusal(webui, PROMPT, "concepts[1].negative_prompt", negative_prompt="ugly <lora:sdxl-lora:1>")
    assert "put it into the prompt" in message


# --- files ---

@pytest.mark.parametrize(("name", "words"), [
    ("flux", "made for Flux"), ("embedding", "textual inversion"),
    ("old-embedding", "textual inversion"), ("controlnet", "ControlNet"), ("whole", "whole checkpoint"),
    ("vae", "(VAE)"), ("transformer", "diffusion transformer")])
@pytest.mark.parametrize("checkpoint", ["tiny-sdxl", "tiny-sd15"])
def test_files_that_are_something_else(webui: WebUI, folder: Path, checkpoint: str, name: str, words: str) -> None:
    webui.set_checkpoint(checkpoint)
    assert words in refusal(webui, f"{PROMPT} <lora:{name}:1>")


@pytest.mark.parametrize(("checkpoint", "words"), [
    pytest.param("tiny-sdxl", "diffusers' key names", marks=pytest.mark.not_in_forge("it reads such files")),
    ("tiny-sd15", "was made for SDXL")])
def test_files_with_diffusers_keys(webui: WebUI, folder: Path, checkpoint: str, words: str) -> None:
    """The web UI drops all of them without a word."""
    webui.set_checkpoint(checkpoint)
    assert words in refusal(webui, f"{PROMPT} <lora:diffusers:1>")


def test_files_with_keys_that_the_web_ui_does_not_read(webui: WebUI, folder: Path) -> None:
    who = "Forge" if webui.is_forge else "the web UI"
    assert f"key names that {who} does not read" in refusal(webui, f"{PROMPT} <lora:lycoris:1>")


def test_file_for_text_encoders_alone(webui: WebUI, folder: Path) -> None:
    """*everywhere is plain*"""
    assert_is_plain(webui, f"{PROMPT} <lora:text-only:1>")
