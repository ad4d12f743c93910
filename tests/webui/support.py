"""Runs inside the web UI, as a script of a second extension: what tests must tell it, and what they cannot see.

It registers the tiny OpenCLIP architecture before the first checkpoint is loaded, and answers at
``/omg-tests/comments`` with the comments of the last picture, which the web UI's own API leaves out, at
``/omg-tests/patches`` and ``/omg-tests/tensors`` with what a run could leave behind, at ``/omg-tests/checkpoint`` with
the checkpoint that is loaded, at ``/omg-tests/encode`` with an encoded prompt, and at ``/omg-tests/denoiser-calls``
with how often samplers have asked for a prediction. ``POST /omg-tests/seeds`` makes img2img repeatable, and
``/omg-tests/stop-after-current`` is a button of the page that the API lacks.
"""

from __future__ import annotations

import gc
import os
from importlib import import_module
from typing import Any

import torch
from fastapi import Body
from modules import devices, processing, prompt_parser, script_callbacks, scripts, shared

IS_FORGE = "OMG_TEST_FORGE" in os.environ
if not IS_FORGE:
    import_module("open_clip").add_model_config(os.environ["OMG_TEST_OPENCLIP"])


def in_half_precision(model: Any) -> None:
    """As ``--precision autocast`` on a graphics card, with the one half precision that CPUs have arithmetic for.

    The text encoders stay out of it: OpenCLIP's mask does not fit bfloat16 on a CPU. So do group norms' weights.
    """
    model.model.bfloat16()
    for module in model.model.modules():
        if isinstance(module, torch.nn.GroupNorm):  # a card's autocast takes it in any precision
            module.float()
    devices.dtype = devices.dtype_unet = torch.bfloat16
    devices.autocast = lambda disable=False: torch.autocast("cpu", torch.bfloat16, enabled=not disable)
    devices.without_autocast = lambda disable=False: torch.autocast("cpu", enabled=False)
    encode = model.conditioner.forward

    def in_full(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return encode(*args, **kwargs)

    model.conditioner.forward = in_full


if os.environ["OMG_TEST_HALF"]:
    script_callbacks.on_model_loaded(in_half_precision)

last_comments: list[str] = []
denoiser_calls = [0]
# whether each picture of img2img begins with the same noise: the autoencoder's sample of what is given is the global
# generator's, which stands where the last picture left it
seeds = [False]


def count(params: Any) -> None:
    """A sampler asks for a prediction."""
    denoiser_calls[0] += 1


script_callbacks.on_cfg_denoiser(count)


class Support(scripts.Script):
    """Keeps the comments of the last picture, and makes img2img repeatable where that is asked for."""

    def title(self) -> str:
        return "OMG test support"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def before_process(self, p: Any, *args: Any) -> None:
        if seeds[0] and isinstance(p, processing.StableDiffusionProcessingImg2Img):
            torch.manual_seed(0)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        last_comments[:] = p.comments


def set_seeds(is_on: bool = Body()) -> None:
    """See :data:`seeds`."""
    seeds[0] = is_on


def comments() -> list[str]:
    """Of the last picture."""
    return last_comments


def patches() -> dict[str, int]:
    """Forward hooks and pre-hooks on the model's modules, and its modules with a ``forward`` of their own."""
    modules = [module for part in parts() for module in part.modules()]
    return {"hooks": sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules),
            "forwards": sum("forward" in vars(module) for module in modules)}


def parts() -> list[torch.nn.Module]:
    """The networks of the loaded model."""
    if not IS_FORGE:
        return [shared.sd_model]
    objects = shared.sd_model.forge_objects
    return [objects.unet.model, objects.clip.cond_stage_model, objects.vae.first_stage_model]


def tensors() -> dict[str, int]:
    """Live tensors of the whole process: their number and bytes."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return {"number": len(found), "bytes": sum(tensor.nbytes for tensor in found if tensor.device.type != "meta")}


def checkpoint() -> str:
    """The name of the loaded checkpoint, whatever the setting says. Forge loads it when a picture asks for it; reForge,
    as the web UI, at once."""
    load = getattr(import_module("modules.sd_models"), "forge_model_reload", None)
    if load is not None:
        load()
    name: str = shared.sd_model.sd_checkpoint_info.model_name
    return name


@torch.no_grad()
def encode(prompt: str) -> dict[str, list[Any]]:
    """SDXL's conditioning for a prompt and 128x128 pixels: ``crossattn`` [tokens, width] and ``vector`` [width]."""
    texts = prompt_parser.SdConditioning([prompt], width=128, height=128)
    return {name: rows[0].tolist() for name, rows in shared.sd_model.get_learned_conditioning(texts).items()}


def add_route(demo: Any, app: Any) -> None:
    app.get("/omg-tests/comments")(comments)
    app.get("/omg-tests/patches")(patches)
    app.get("/omg-tests/tensors")(tensors)
    app.get("/omg-tests/checkpoint")(checkpoint)
    app.get("/omg-tests/encode")(encode)
    app.post("/omg-tests/stop-after-current")(shared.state.stop_generating)
    app.get("/omg-tests/denoiser-calls")(lambda: denoiser_calls[0])
    app.post("/omg-tests/seeds")(set_seeds)


script_callbacks.on_app_started(add_route)
