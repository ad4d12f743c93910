"""Telling from a network file which model family it was made for."""

from __future__ import annotations

import pytest

from omg_ext.request.architecture import (
    architecture_of,
    has_diffusers_keys,
    is_for_another,
    wrong_architecture,
)

KOHYA_UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
KOHYA_SGM = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
PEFT_UNET = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(("metadata", "family"), [
    ({"ss_base_model_version": "sdxl_base_v1-0"}, "SDXL"), ({"ss_base_model_version": "sd_v1"}, "SD 1.x"),
    ({"ss_base_model_version": "sd_v2_768_v"}, "SD 2.x"), ({"ss_base_model_version": "flux1"}, "Flux"),
    ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "SDXL"),
    ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "SD 1.x"),
    ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "SD 2.x"),
    ({"modelspec.architecture": "stable-diffusion-3-medium/lora"}, "SD 3"),
    ({"ss_base_model_version": "unheard of"}, None), ({}, None)])
def test_metadata(metadata, family):
    assert architecture_of({}, metadata) == family


@pytest.mark.parametrize(("width", "family"), [(768, "SD 1.x"), (1024, "SD 2.x"), (2048, "SDXL")])
@pytest.mark.parametrize("down", [f"{KOHYA_UNET}.lora_down.weight", f"{KOHYA_SGM}.lora_down.weight",
                                  f"{PEFT_UNET}.lora_A.weight", f"{PEFT_UNET}.lora.down.weight",
                                  f"{PEFT_UNET.replace('attn2.to_k', 'attn2.processor')}.to_k_lora.down.weight"])
def test_width_of_the_text_that_cross_attention_reads(down, width, family):
    assert architecture_of({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 768), down: (8, width)},
                           {}) == family


@pytest.mark.parametrize(("key", "family"), [
    ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "SDXL"),
    ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "SDXL"),
    ("lora_unet_middle_block_1_transformer_blocks_9_attn1_to_q.lora_down.weight", None),
    ("lora_unet_input_blocks_8_1_transformer_blocks_1_attn1_to_q.lora_down.weight", "SDXL"),
    ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "SD 1.x"),
    ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "SD 1.x"),
    ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "Flux"),
    ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
    ("lora_unet_joint_blocks_0_context_block_attn_proj.lora_down.weight", "SD 3"),
    ("lora_transformer_transformer_blocks_1_attn_to_q.lora_down.weight", "a diffusion transformer"),
    ("transformer.transformer_blocks.1.attn.to_q.lora_A.weight", "a diffusion transformer"),
    ("something_else.weight", None)])
def test_names(key, family):
    found = architecture_of({key: (8, 64)}, {})
    assert found == family or (found is not None and found.startswith(str(family)))


@pytest.mark.parametrize(("width", "family"), [(768, "SD 1.x"), (1024, "SD 2.x"), (32, "SD 1.x")])
def test_width_of_the_only_text_encoder(width, family):
    key = "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"
    assert architecture_of({key: (8, width)}, {}) == family


def test_metadata_goes_before_keys():
    shapes = {f"{KOHYA_UNET}.lora_down.weight": (8, 768)}
    assert architecture_of(shapes, {"ss_base_model_version": "sdxl_base_v1-0"}) == "SDXL"
    assert architecture_of(shapes, {"ss_base_model_version": ""}) == "SD 1.x"


def test_an_upward_weight_of_high_rank_is_no_context():
    """[out, rank]: its second number is the rank, not a width."""
    assert architecture_of({f"{PEFT_UNET}.lora_B.weight": (640, 768), f"{KOHYA_SGM}.lora_up.weight": (640, 1024)},
                           {}) is None


@pytest.mark.parametrize(("metadata", "text"), [({"ss_base_model_version": "sd_v1"}, "was made for SD 1.x"),
                                                ({}, "another architecture"),
                                                ({"ss_base_model_version": "sdxl"}, "another architecture")])
def test_error_names_file_and_families(metadata, text):
    error = wrong_architecture("concepts[1].prompt", "face.safetensors", {}, metadata, "SDXL")
    assert error.field == "concepts[1].prompt"
    for part in ("face.safetensors", text, "SDXL"):
        assert part in error.message


CLIP = "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"
FLUX = "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"
CLIP_G = "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"


@pytest.mark.parametrize(("keys", "metadata", "loaded", "other"), [
    ([CLIP, FLUX], {}, "SDXL", True), ([CLIP, "lora_unet_of_tomorrow.lora_down.weight"], {}, "SDXL", True),
    ([CLIP], {}, "SDXL", False), ([CLIP], {}, "SD 1.x", False), ([CLIP, CLIP_G], {}, "SDXL", False),
    ([CLIP, CLIP_G], {}, "SD 1.x", True), ([CLIP], {"ss_base_model_version": "flux1"}, "SDXL", True),
    ([CLIP, "bundle_emb.me.clip_l"], {}, "SDXL", False)])
def test_a_file_of_which_only_text_encoders_fit(keys, metadata, loaded, other):
    """CLIP-L is part of many families: Flux files once passed as SDXL's."""
    assert is_for_another(dict.fromkeys(keys, (8, 64)), metadata, loaded) is other


@pytest.mark.parametrize(("keys", "words"), [
    (["clip_l", "clip_g"], "textual inversion"), (["emb_params"], "textual inversion"),
    (["<sks>"], "textual inversion"), (["string_to_param", "string_to_token", "step"], "textual inversion"),
    (["control_model.input_blocks.0.0.weight"], "ControlNet"), (["controlnet_down_blocks.0.weight"], "ControlNet"),
    (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "ControlNet"),
    (["lora_controlnet", "input_blocks.1.0.in_layers.2.down"], "ControlNet"),
    (["ip_adapter.1.to_k_ip.weight", "image_proj.norm.weight"], "IP-Adapter"),
    (["model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_in.weight"], "whole checkpoint"),
    (["first_stage_model.decoder.conv_in.weight"], "VAE"), (["decoder.up.0.block.0.conv1.weight"], "VAE"),
    (["decoder.up_blocks.0.resnets.0.conv1.weight", "quant_conv.weight"], "VAE"),
    (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "whole UNet"),
    (["some.weight"], "no LoRA")])
def test_a_file_that_is_no_lora(keys, words):
    """"Made for another architecture" sent people for another checkpoint."""
    error = wrong_architecture("concepts[0].prompt", "thing", dict.fromkeys(keys, (4, 768)), {}, "SDXL")
    assert words in error.message
    assert "thing is " in error.message
    assert "architecture" not in error.message


@pytest.mark.parametrize(("key", "diffusers"), [
    (f"{PEFT_UNET}.lora_A.weight", True), (f"{PEFT_UNET}.lora.down.weight", True),
    ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", True),
    ("base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", True),
    ("down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight", True),
    (f"{KOHYA_UNET}.lora_down.weight", False), (f"{KOHYA_SGM}.lora_A.weight", False),
    ("down_blocks.0.resnets.0.conv1.weight", False)])
def test_key_names_of_diffusers(key, diffusers):
    assert has_diffusers_keys({key: (8, 64)}) is diffusers
