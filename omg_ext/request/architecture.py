"""Which model family a network file was made for, told from its keys, shapes and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import OMGError

_METADATA = {"sdxl": "SDXL", "sd_xl": "SDXL", "stable-diffusion-xl": "SDXL", "sd_v1": "SD 1.x", "sd_1": "SD 1.x",
             "stable-diffusion-v1": "SD 1.x", "sd_v2": "SD 2.x", "stable-diffusion-v2": "SD 2.x", "sd3": "SD 3",
             "stable-diffusion-3": "SD 3", "flux": "Flux"}
_CONTEXT_WIDTH = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}


def architecture_of(shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str]) -> str | None:
    """The model family ("SD 1.x", "SD 2.x", "SDXL", "SD 3", "Flux"), or None if nothing tells.

    Args:
        shapes: the file's tensor shapes by key.
        metadata: the file's safetensors header metadata.
    """
    for name in ("ss_base_model_version", "modelspec.architecture"):
        value = metadata.get(name, "").lower()
        for prefix, architecture in _METADATA.items():
            if value.startswith(prefix):
                return architecture
    return _from_keys(shapes)


def wrong_architecture(field: str, name: str, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str],
                       loaded: str) -> OMGError:
    """The error for a network file that does not fit the ``loaded`` model family."""
    made_for = architecture_of(shapes, metadata)
    kind = made_for if made_for not in (None, loaded) else "another architecture"
    return OMGError(field, f"the LoRA {name} was made for {kind}; the loaded model is {loaded}")


def _from_keys(shapes: Mapping[str, Sequence[int]]) -> str | None:
    if any("double_blocks" in key or "single_transformer_blocks" in key for key in shapes):
        return "Flux"
    if any("joint_blocks" in key for key in shapes):
        return "SD 3"
    for key, shape in shapes.items():
        reads_text = "attn2" in key and ("to_k" in key or "to_v" in key)
        is_down = key.endswith(("down.weight", "lora_A.weight"))
        if reads_text and is_down and len(shape) > 1 and shape[1] in _CONTEXT_WIDTH:
            return _CONTEXT_WIDTH[shape[1]]
    if any("te2_" in key or "text_encoder_2" in key or "transformer_blocks_1_" in key or "transformer_blocks.1." in key
           for key in shapes):
        return "SDXL"
    if any(key.startswith(("lora_te_", "text_encoder.")) for key in shapes):
        return "SD 1.x"
    return None
