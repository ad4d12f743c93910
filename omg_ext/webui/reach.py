"""Models of Forge whose UNet OMG cannot reach."""

from __future__ import annotations

from typing import Any

from ..errors import OMGError

UNETS = ("sd1", "sd2", "sdxl")
COMPILES = ("_torch_compile_config", "_orig_apply_model")
"""By either of these on what is around the UNet Forge Neo is known to compile it each time that it asks it."""
FLOW = "const"
"""The prediction type of models that are trained on straight lines from noise."""


def refuse_unreachable(model: Any) -> None:
    """
    Args:
        model: Forge's loaded model.

    Raises:
        OMGError: it has no UNet that OMG knows (Flux, Chroma, Qwen, SD 3, ...), or one that hooks do not reach.
    """
    name = model.sd_checkpoint_info.name
    if not any(getattr(model, f"is_{family}", False) for family in UNETS):
        raise OMGError("checkpoint", f"{name} has no UNet that OMG knows; load an SD 1.x, SD 2.x or SDXL checkpoint")
    around, unet = model.forge_objects.unet.model, model.forge_objects.unet.model.diffusion_model
    is_compiled = hasattr(unet, "_orig_mod") or getattr(unet, "_compiled_call_impl", None) is not None
    if is_compiled or any(getattr(around, name, None) is not None for name in COMPILES):
        raise OMGError("checkpoint", "OMG cannot reach into a compiled UNet; turn off what compiles it")
    if getattr(getattr(around, "predictor", None), "prediction_type", "") == FLOW:  # Mugen, rectified SDXL
        raise OMGError("checkpoint", f"{name} is a rectified flow model, which OMG does not know how to draw on; load "
                                     "an SDXL checkpoint that predicts noise or v")
    modules = [(inner, type(layer)) for inner, layer in unet.named_modules()]
    if any("nunchaku" in f"{base.__module__}.{base.__name__}".lower() for _, kind in modules for base in kind.__mro__):
        raise OMGError("checkpoint", f"{name} is a Nunchaku model, whose layers OMG cannot reach into; load a "
                                     "checkpoint of another format")
    if not any(inner.endswith("attn2") for inner, _ in modules):
        raise OMGError("checkpoint", f"OMG finds no cross-attention in the UNet of {name}; load another checkpoint")
