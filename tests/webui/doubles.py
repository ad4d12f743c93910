"""Runs inside the web UI, as a script of a second extension: stand-ins for other extensions, and for bad luck.

``POST /omg-tests/doubles`` with a JSON list of names switches those on and the others off; ``GET`` tells what they saw.

* ``threshold`` replaces ``combine_denoised`` on the denoiser, as Dynamic Thresholding does, by one that is not linear.
* ``rescale`` changes the prediction in a ``cfg_after_cfg`` callback, as CFG rescale does, likewise.
* ``forward`` replaces ``forward`` on the denoiser when it is made, as Tiled Diffusion does; ``forward stays`` says
  whether it was still there afterwards.
* ``split`` lets a cross-attention see one row at a time, as NegPiP does.
* ``counts`` counts its steps in a number, as FreeU does; ``once`` acts in a first pass alone, as Kohya Hires.fix does.
* ``wraps`` puts a block of its own in the place of one of the UNet's in a late step, as Kohya Hires.fix does, and
  leaves it there until the picture is done; ``hooks attention`` changes what attention layers give, as Smoothed Energy
  Guidance does; ``samples itself`` replaces the sampling, as DemoFusion does.
* ``own guidance`` evaluates the model once more in a ``cfg_denoised`` callback and adds the difference, as SAG does;
  ``noisy prompt`` changes the conditioning in a ``cfg_denoiser`` callback, as CADS does.
* ``negpip`` is NegPiP as far as OMG looks at it; ``marks`` and ``marks KIND PREPROCESSOR`` mark the rows of the
  conditioning and act on conditional ones, as ControlNet does.
* ``out of memory N`` raises CUDA's error from the UNet's N-th call on (0 is the first), ``out of memory once N``
  at that call alone, ``fault N`` another error once;
  ``rows N`` raises CUDA's error in all calls of more rows once a first pass of 8 calls is over.
* ``skip N`` presses Skip in that call, ``skip denoiser N`` as a sampler asks for its N-th prediction, of any model;
* in Forge, ``another family`` has the model be of none that is known, ``compiled`` its UNet be compiled, ``flow`` be
  one of rectified flow; ``other texts`` changes what prompts say as they are drawn, as Revision does; ``weighs`` takes
  the mean of what guidance gives and of what it was made of, as MaHiRo does;
* ``downloads URL`` gives the detector ``transformers`` small files from there to download, and a stand-in for pip that
  refuses;
* ``applied outside`` counts where the Lora extension rewrites a layer's weights outside that layer's forward call,
  ``files read`` how many network files were read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gradio as gr
import networks as lora
import torch
from modules import prompt_parser, script_callbacks, scripts, shared

IS_FORGE = "OMG_TEST_FORGE" in os.environ
active: set[str] = set()
seen: dict[str, Any] = {}
handles: list[Any] = []
steps = 0
last: dict[str, Any] = {}


def switch(names: list[str]) -> None:
    """Switch doubles on, and forget what was seen."""
    while handles:
        handles.pop().remove()
    active.clear()
    active.update(names)
    seen.clear()
    seen.update({"files read": 0, "applied outside": [], "UNet calls": 0, "predictions": 0})
    unet = loaded_unet()
    handles.append(unet.register_forward_pre_hook(fail))
    if "split" in active:
        layer = next(module for name, module in unet.named_modules() if name.endswith("attn2"))
        handles.append(layer.register_forward_pre_hook(one_row_first, with_kwargs=True))
    for name in active:
        if name.startswith("downloads "):
            replace_downloads(name.removeprefix("downloads "))
    if "another family" in active:
        replace_attribute(shared.sd_model, "is_sdxl", False)
    if "compiled" in active:
        replace_attribute(shared.sd_model.forge_objects.unet.model, "diffusion_model", Compiled(unet))
    if "flow" in active:
        replace_attribute(shared.sd_model.forge_objects.unet.model.predictor, "prediction_type", "const")
    if "hooks attention" in active:
        layer = next(module for name, module in unet.named_modules() if name.endswith("attn2.to_q"))
        handles.append(layer.register_forward_hook(double_output))
    if active & {"counts", "once"}:
        last["stretched"] = False
        handles.append(unet.middle_block.register_forward_hook(stretch))


def replace_attribute(owner: Any, name: str, value: Any) -> None:
    """Until the next switch."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    handles.append(SimpleNamespace(remove=lambda: setattr(owner, name, before)))


def loaded_unet() -> Any:
    """The loaded model's."""
    model = shared.sd_model
    return model.forge_objects.unet.model.diffusion_model if IS_FORGE else model.model.diffusion_model


def double_output(layer: Any, args: Any, output: Any) -> Any:
    return 2 * output


class Compiled(torch.nn.Module):
    """What ``torch.compile`` makes of a UNet, as far as OMG looks at it."""

    def __init__(self, unet: Any):
        super().__init__()
        self._orig_mod = unet


class Louder(torch.nn.Module):
    """A block of the UNet, with more effect."""

    def __init__(self, block: Any):
        super().__init__()
        self.block = block

    def forward(self, *args: Any) -> Any:
        return 3 * self.block(*args)


def stretch(block: Any, args: Any, output: Any) -> Any:
    """Act on all rows, in the steps in which it is asked for."""
    acts = ("counts" in active and steps < 4) or last["stretched"]
    return 1.5 * output if acts else output


def replace_downloads(server: str) -> None:
    """Small files, and a pip that does nothing, until the next switch."""
    from omg_ext.comprehension.catalog import CATALOG, Download
    from omg_ext.errors import OMGError
    from omg_ext.webui import packages

    def refuse(requirements: Sequence[str]) -> list[str]:
        seen["installed"] = requirements
        raise OMGError("packages", "a stand-in for pip does not <install>")

    before, install = dict(CATALOG), packages.install
    for name, kind in (("owlvit", "owlvit"), ("sam", "sam")):
        CATALOG[name] = tuple(Download(file, f"{server}/{kind}/{file}", "the page", kind)
                              for file in ("model.safetensors", "config.json"))
    packages.install = refuse

    def restore() -> None:
        CATALOG.update(before)
        packages.install = install

    handles.append(SimpleNamespace(remove=restore))


def fail(unet: Any, args: Any) -> None:
    """Raise what is asked for at this call."""
    number, seen["UNet calls"] = seen["UNet calls"], seen["UNet calls"] + 1
    for name in active:
        kind, _, at = name.rpartition(" ")
        if kind == "skip" and number == int(at):
            shared.state.skip()
        if kind == "out of memory" and number >= int(at):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory: a stand-in")
        if kind == "rows" and number >= 8 and len(args[0]) > int(at):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory: a stand-in")
        if kind == "out of memory once" and number == int(at):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory: a stand-in")
        if kind == "fault" and number == int(at):
            raise ZeroDivisionError("a stand-in for a fault")


def skip_prediction(params: Any) -> None:
    """Press Skip if it is asked for as this prediction is."""
    number = seen.get("predictions", 0)
    seen["predictions"] = number + 1
    if f"skip denoiser {number}" in active:
        shared.state.skip()


script_callbacks.on_cfg_denoiser(skip_prediction)  # once, as there are two objects of each script


def one_row_first(layer: Any, args: Any, kwargs: Any) -> None:
    """Ask the layer's query for one row alone before it sees them all."""
    x = args[0] if args else kwargs["x"]
    layer.to_q(x[:1])


def other_texts(model: Any, x: Any, sigma: Any, uncond: Any, cond: Any, *others: Any) -> Any:
    """Half of each pooled vector."""
    for each in cond:
        pooled = each["model_conds"]["y"]
        each["model_conds"]["y"] = type(pooled)(pooled.cond / 2)
    return model, x, sigma, uncond, cond, *others


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

        if active & {"other texts", "weighs"}:
            objects = p.sd_model.forge_objects
            objects.unet = objects.unet.clone()
            if "weighs" in active:
                objects.unet.set_model_sampler_post_cfg_function(
                    lambda given: (given["denoised"] + given["cond_denoised"]) / 2)
            else:
                objects.unet.add_conditioning_modifier(other_texts)

    def process(self, p: Any, *args: Any) -> None:
        if "samples itself" in active:
            p.sample = lambda *given, **named: torch.zeros(p.batch_size, 4, p.height // 8, p.width // 8)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        blocks = loaded_unet().output_blocks
        if isinstance(blocks[0], Louder):
            blocks[0] = blocks[0].block
        mine = getattr(p, "omg_test_forward", None)
        if mine is not None:
            seen["forward stays"] = vars(p.sampler.model_wrap_cfg).get("forward") is mine


class Once(scripts.Script):
    """Stretches the first half of a pass, and no further pass of a batch."""

    limit = 0

    def title(self) -> str:
        return "Something that counts passes"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def __init__(self) -> None:
        script_callbacks.on_cfg_denoiser(self.before_denoising)

    def before_denoising(self, params: Any) -> None:
        if "once" in active and params.sampling_step >= self.limit:
            last["stretched"] = params.sampling_step < params.total_sampling_steps / 2
            if not last["stretched"]:
                self.limit = params.sampling_step

    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        globals()["steps"] = self.limit = 0


class NegPiP(scripts.Script):
    """Takes negative weights out of the main prompts, and acts if there are any."""

    active = False

    def title(self) -> str:
        return "NegPiP" if "negpip" in active else "Not NegPiP"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        return [gr.Checkbox(False, visible=False)]

    def process_batch(self, p: Any, enabled: bool, **kwargs: Any) -> None:
        self.active = False
        if enabled:
            stripped = [re.sub(r"\([^(:)]*:-[^)]*\)", "", prompt) for prompt in p.prompts]
            self.active = stripped != p.prompts
            p.prompts = stripped


class ControlNet(scripts.Script):
    """Marks the conditioning of a batch, and acts on its conditional rows."""

    latest_network: Any = None
    ui_batch_option_state = ("All ControlNet units for all images in a batch", False)

    def title(self) -> str:
        return "ControlNet" if self.unit is not None else "Not ControlNet"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    @property
    def unit(self) -> tuple[str, str] | None:
        """Its kind and its preprocessor."""
        words = next((name.split() for name in active if name.split()[0] == "marks"), None)
        return None if words is None else (words[1], words[2]) if len(words) > 1 else ("ControlNet", "none")

    def process(self, p: Any, *args: Any) -> None:
        if self.unit is None:
            return
        kind, preprocessor = self.unit
        unit = SimpleNamespace(preprocessor={"name": preprocessor}, control_model_type=SimpleNamespace(name=kind))
        sample, unet = p.sample, loaded_unet()
        self.latest_network = SimpleNamespace(control_params=[unit], model=unet)
        forward = unet.forward

        def marked_sample(*args: Any, **kwargs: Any) -> Any:
            mark(kwargs["conditioning"], 1024)
            mark(kwargs["unconditional_conditioning"], -1024)
            return sample(*args, **kwargs)

        def controlled(x: Any, *args: Any, context: Any, **kwargs: Any) -> Any:
            first = context[:, :1]
            is_cond = torch.ones(len(x), 1, 1, 1)
            if (first.abs() - 1024).abs().mean() < 1e-3:
                is_cond, context = (first.mean((1, 2)) > 0).float()[:, None, None, None], context[:, 1:]
            hint = torch.linspace(-1, 1, x.shape[-1])
            return forward(x + 0.5 * is_cond * hint, *args, context=context, **kwargs)

        p.sample, unet.forward = marked_sample, controlled
        handles.append(SimpleNamespace(remove=self.restore))  # a refused picture is not postprocessed

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        self.restore()

    def restore(self) -> None:
        self.latest_network = None
        vars(loaded_unet()).pop("forward", None)


def mark(conds: Any, value: int) -> None:
    """Put a token of the value before every prompt, in place."""
    if isinstance(conds, prompt_parser.MulticondLearnedConditioning):
        conds = [part.schedules for parts in conds.batch for part in parts]
    for schedules in conds:
        for number, (end, cond) in enumerate(schedules):
            context = cond["crossattn"] if isinstance(cond, dict) else cond
            if context[0].abs().max() != 1024:
                context = torch.cat([torch.full_like(context[:1], value), context])
            cond = {**cond, "crossattn": context} if isinstance(cond, dict) else context
            schedules[number] = prompt_parser.ScheduledPromptConditioning(end, cond)


def before_denoising(params: Any) -> None:
    """See what is to be denoised, and change its prompt if that is asked for."""
    count = len(params.denoiser.sampler.sampler_extra_args["uncond"]) if "own guidance" in active else 0
    last.update(x=params.x[-count:], sigma=params.sigma[-count:], uncond=params.text_uncond,
                concat=params.image_cond[-count:])
    blocks = loaded_unet().output_blocks
    if "wraps" in active and params.sampling_step >= 3 and not isinstance(blocks[0], Louder):
        blocks[0] = Louder(blocks[0])
    if "noisy prompt" in active:
        text = params.text_cond
        changed = {**text, "crossattn": 0.5 * text["crossattn"]}
        params.text_cond = prompt_parser.DictWithShape(changed)


def after_denoising(params: Any) -> None:
    """Predict without a prompt once more, from a blurred latent."""
    if "own guidance" in active:
        blurred = torch.nn.functional.avg_pool2d(last["x"], 3, 1, 1)
        again = params.inner_model(blurred, last["sigma"], cond={**last["uncond"], "c_concat": [last["concat"]]})
        last["difference"] = params.x[-len(again):] - again


def after_guidance(params: Any) -> None:
    """Count the step, and add the guidance of its own."""
    globals()["steps"] += 1
    if "own guidance" in active:
        params.x = params.x + 0.3 * last["difference"]


def watch_callbacks() -> None:
    """Register what is called while a picture is sampled."""
    script_callbacks.on_cfg_denoiser(before_denoising)
    script_callbacks.on_cfg_denoised(after_denoising)
    script_callbacks.on_cfg_after_cfg(rescale)
    script_callbacks.on_cfg_after_cfg(after_guidance)


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


if not IS_FORGE:  # which merges networks in a way of its own
    watch_networks()
watch_callbacks()
script_callbacks.on_app_started(add_routes)
