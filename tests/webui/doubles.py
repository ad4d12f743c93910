"""Runs inside the web UI, as a script of a second extension: stand-ins for other extensions, and for bad luck.

``POST /omg-tests/doubles`` with a JSON list of names switches those on and the others off; ``GET`` tells what they saw.

* ``threshold`` replaces ``combine_denoised`` on the denoiser, as Dynamic Thresholding does, by one that is not linear.
* ``rescale`` changes the prediction in a ``cfg_after_cfg`` callback, as CFG rescale does, likewise.
* ``forward`` replaces ``forward`` on the denoiser when it is made, as Tiled Diffusion does; ``forward stays`` says
  whether it was still there afterwards.
* ``split`` lets a cross-attention see one row at a time, as NegPiP does.
* ``out of memory N`` raises CUDA's error from the UNet's N-th call on (0 is the first), ``fault N`` another error once;
  ``rows N`` raises CUDA's error in all calls of more rows once a first pass of 8 calls is over.
* ``applied outside`` counts where the Lora extension rewrites a layer's weights outside that layer's forward call,
  ``files read`` how many network files were read.
"""

from __future__ import annotations

import sys
from typing import Any

import networks as lora
import torch
from modules import script_callbacks, scripts, shared

active: set[str] = set()
seen: dict[str, Any] = {}
handles: list[Any] = []


def switch(names: list[str]) -> None:
    """Switch doubles on, and forget what was seen."""
    while handles:
        handles.pop().remove()
    active.clear()
    active.update(names)
    seen.clear()
    seen.update({"files read": 0, "applied outside": [], "UNet calls": 0})
    unet = shared.sd_model.model.diffusion_model
    handles.append(unet.register_forward_pre_hook(fail))
    if "split" in active:
        layer = next(module for name, module in unet.named_modules() if name.endswith("attn2"))
        handles.append(layer.register_forward_pre_hook(one_row_first, with_kwargs=True))


def fail(unet: Any, args: Any) -> None:
    """Raise what is asked for at this call."""
    number, seen["UNet calls"] = seen["UNet calls"], seen["UNet calls"] + 1
    for name in active:
        kind, _, at = name.rpartition(" ")
        if kind == "out of memory" and number >= int(at):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory: a stand-in")
        if kind == "rows" and number >= 8 and len(args[0]) > int(at):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory: a stand-in")
        if kind == "fault" and number == int(at):
            raise ZeroDivisionError("a stand-in for a fault")


def one_row_first(layer: Any, args: Any, kwargs: Any) -> None:
    """Ask the layer's query for one row alone before it sees them all."""
    x = args[0] if args else kwargs["x"]
    layer.to_q(x[:1])


class Doubles(scripts.Script):
    """Patches each new sampler's denoiser."""

    def title(self) -> str:
        return "OMG test doubles"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        denoiser = p.sampler.model_wrap_cfg
        if "threshold" in active:
            combine = denoiser.combine_denoised
            denoiser.combine_denoised = lambda *given: 3 * torch.tanh(combine(*given) / 3)
        if "forward" in active:
            forward = denoiser.forward
            denoiser.forward = p.omg_test_forward = lambda *given, **named: 3 * torch.tanh(forward(*given, **named) / 3)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        mine = getattr(p, "omg_test_forward", None)
        if mine is not None:
            seen["forward stays"] = vars(p.sampler.model_wrap_cfg).get("forward") is mine


def rescale(params: Any) -> None:
    """What CFG rescale does to a prediction, more or less."""
    if "rescale" in active:
        params.x = params.x * (2.0 / (1.0 + params.x.std(dim=(1, 2, 3), keepdim=True)))


def watch_networks() -> None:
    """See what the Lora extension does."""
    apply_weights, load_network = lora.network_apply_weights, lora.load_network

    def applied(layer: Any) -> None:
        caller = sys._getframe(1).f_code.co_name
        if not caller.endswith("_forward"):
            seen.setdefault("applied outside", []).append(caller)
        apply_weights(layer)

    def read(*args: Any) -> Any:
        seen["files read"] = seen.get("files read", 0) + 1
        return load_network(*args)

    lora.network_apply_weights, lora.load_network = applied, read


def add_routes(demo: Any, app: Any) -> None:
    app.post("/omg-tests/doubles")(switch)
    app.get("/omg-tests/doubles")(lambda: seen)


watch_networks()
script_callbacks.on_cfg_after_cfg(rescale)
script_callbacks.on_app_started(add_routes)
