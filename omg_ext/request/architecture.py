"""What a network file is, told from its keys, shapes and metadata: which model family it was made for, or that it is no
LoRA at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import OMGError

Shapes = Mapping[str, Sequence[int]]
"""A file's tensor shapes by key"""

_METADATA = {"sdxl": "SDXL", "sd_xl": "SDXL", "stable-diffusion-xl": "SDXL", "sd_v1": "SD 1.x", "sd_1": "SD 1.x",
             "stable-diffusion-v1": "SD 1.x", "sd_v2": "SD 2.x", "stable-diffusion-v2": "SD 2.x", "sd3": "SD 3",
             "stable-diffusion-3": "SD 3", "flux": "Flux"}
_CONTEXT_WIDTH = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
_TEXT_WIDTH = {768: "SD 1.x", 1024: "SD 2.x"}
_DOWN = ("down.weight", "lora_A.weight")
_TRANSFORMER = "a diffusion transformer (as Flux and SD 3 are)"

_NETWORK = re.compile(r"lora|lokr|hada_|oft|\.diff(_b)?$|on_input|\.w_norm|\.[ab][12]\.weight|bundle_emb")
_TEXT_ENCODER = re.compile(r"(lora|oft)_te\d?_|text_encoder(_\d)?\.|te\d?_|(lora_)?(clip|t5xxl)|bundle_emb")
_DIFFUSERS_KEYS = re.compile(r"(unet|text_encoder(_\d)?|base_model\.model|down_blocks|mid_block|up_blocks)\.")
_NO_LORA = (
    (re.compile(r"control_model\.|controlnet_|input_hint_block\.|lora_controlnet$|lllite_"),
     "a ControlNet model, not a LoRA; load it in ControlNet"),
    (re.compile(r"ip_adapter\.|image_proj"), "an IP-Adapter, not a LoRA; load it in ControlNet"),
    (re.compile(r"model\.diffusion_model\.|conditioner\.embedders|cond_stage_model\."),
     "a whole checkpoint, not a LoRA; put it into the folder of checkpoints and load it there"),
    (re.compile(r"first_stage_model\.|(post_)?quant_conv\.|(en|de)coder\.(mid|up|down)"),
     "an autoencoder (VAE), not a LoRA; choose it as the VAE"),
    (re.compile(r"emb_params$|clip_[lg]$|string_to_|<.*>$"),
     "a textual inversion embedding, not a LoRA; load it as an embedding and write its name into the prompt as a word"),
)


def architecture_of(shapes: Shapes, metadata: Mapping[str, str]) -> str | None:
    """The model family ("SD 1.x", "SD 2.x", "SDXL", "SD 3", "Flux" or some transformer), or None if nothing tells.

    Args:
        shapes: see :data:`Shapes`.
        metadata: the file's safetensors header metadata.
    """
    for name in ("ss_base_model_version", "modelspec.architecture"):
        value = metadata.get(name, "").lower()
        for prefix, architecture in _METADATA.items():
            if value.startswith(prefix):
                return architecture
    return _from_keys(shapes)


def wrong_architecture(field: str, name: str, shapes: Shapes, metadata: Mapping[str, str], loaded: str) -> OMGError:
    """The error for a network file that does not fit the ``loaded`` model family, or is no network."""
    other = _what_else(shapes)
    if other is not None:
        return OMGError(field, f"{name} is {other}")
    made_for = architecture_of(shapes, metadata)
    kind = made_for if made_for not in (None, loaded) else "another architecture"
    return OMGError(field, f"the LoRA {name} was made for {kind}; the loaded model is {loaded}")


def is_for_another(shapes: Shapes, metadata: Mapping[str, str], loaded: str) -> bool:
    """Whether a file of which only text encoder layers fit the ``loaded`` model family is none of its.

    CLIP-L is part of many families. A file that trains something besides text encoders, none of which fits, is another
    family's; one that trains text encoders alone is, if that is known of it.
    """
    if any(_NETWORK.search(key) and not _TEXT_ENCODER.match(key) for key in shapes):
        return True
    return architecture_of(shapes, metadata) not in (None, loaded)


def is_network(shapes: Shapes) -> bool:
    """Whether a file holds a LoRA or another network, of whatever family."""
    return _what_else(shapes) is None


def has_diffusers_keys(shapes: Shapes) -> bool:
    """Whether this is a LoRA with the key names of diffusers or PEFT."""
    return any(_DIFFUSERS_KEYS.match(key) and "lora" in key for key in shapes)


def _what_else(shapes: Shapes) -> str | None:
    """What a file is that holds no network; None if it holds one, or nothing tells."""
    for pattern, what in _NO_LORA:
        if any(pattern.match(key) for key in shapes):
            return what
    if shapes and not any(_NETWORK.search(key) for key in shapes):
        if any(_DIFFUSERS_KEYS.match(key) for key in shapes):
            return "a whole UNet or text encoder, not a LoRA; load the checkpoint that it is part of"
        return "no LoRA, and nothing else that OMG knows by its contents; look up on the page it came from what it is"
    return None


def _from_keys(shapes: Shapes) -> str | None:
    if any("double_blocks" in key or "single_transformer_blocks" in key for key in shapes):
        return "Flux"
    if any("joint_blocks" in key for key in shapes):
        return "SD 3"
    if any(key.startswith(("transformer.", "lora_transformer_", "diffusion_model.layers.", "diffusion_model.blocks."))
           for key in shapes):
        return _TRANSFORMER
    for key, shape in shapes.items():
        reads_text = "attn2" in key and ("to_k" in key or "to_v" in key)
        if reads_text and key.endswith(_DOWN) and len(shape) > 1 and shape[1] in _CONTEXT_WIDTH:
            return _CONTEXT_WIDTH[shape[1]]
    if any("te2_" in key or "text_encoder_2" in key or "transformer_blocks_1_" in key or "transformer_blocks.1." in key
           for key in shapes):
        return "SDXL"
    return _from_text_encoder(shapes)


def _from_text_encoder(shapes: Shapes) -> str | None:
    """Of a file for the only text encoder of its family, which a layer that reads its whole width tells."""
    own = {key: shape for key, shape in shapes.items() if key.startswith(("lora_te_", "text_encoder."))}
    widths = {shape[1] for key, shape in own.items() if "q_proj" in key and key.endswith(_DOWN) and len(shape) > 1}
    return next((_TEXT_WIDTH[width] for width in widths if width in _TEXT_WIDTH), "SD 1.x" if own else None)
