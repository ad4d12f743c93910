"""ControlNets for a call of the pipeline: what is given, what can be wrong with it, and what acts on the UNet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from ..errors import OMGError
from ..faces.base import steps_between
from ..unet.calls import Row, Which, every_row
from ..unet.patches import cross_attentions
from .residuals import RowControl

Picture = Image.Image | np.ndarray
"""A PIL picture, or an array [H, W, channels] or [H, W]: uint8, or floats from 0 to 1 (-1 marks what an inpainting
ControlNet is to fill)"""


@dataclass(frozen=True, eq=False)
class Control:
    """A ControlNet and what it is shown.

    It acts on every row: on the global prompt's and, unless the request's ``control_concepts`` is off, on each
    concept's own, in both passes. In a row it attends to the prompt that the row starts from. That is the concept's own
    in rows of its own (``separate``, ``shared``), and the global one in the row of all concepts (``joint``): there the
    ControlNet's cross-attention is not regional. Networks never act within it.

    Attributes:
        model: made for the pipeline's kind of model, on its device. It is asked in its own type, and left as it was.
        picture: of the kind that the model was trained on (edges, poses, depths, ...), scaled to the size of the
            pictures; one for all of a batch, or a list with one for each.
        scale: its residuals are multiplied by it; at 0 it does nothing.
        start, end: fractions of the steps. It acts in step i of n if ``start <= i/n`` and ``(i + 1)/n <= end``, as
            diffusers' ``control_guidance_start`` and ``control_guidance_end``.
        guess_mode: it acts on conditional rows alone, and the deeper a layer, the more. Models that pool what they see
            (``global_pool_conditions``: shuffle) act on conditional rows alone anyway.
    """

    model: ControlNetModel
    picture: Picture | Sequence[Picture]
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess_mode: bool = False

    def scales(self, steps: int) -> list[float]:
        """The scale at each step of the sampler, 0 where it does not act."""
        return steps_between(steps, self.start, self.end, self.scale)


def row_controls(pipe: DiffusionPipeline, controls: Sequence[Control], size: tuple[int, int], batch: int,
                 steps: int, on_concepts: bool) -> list[RowControl]:
    """What acts on the UNet.

    Args:
        size: of the pictures, height and width in pixels.
        batch: pictures.
        steps: at how many timesteps the UNet is asked.
        on_concepts: whether it acts on concepts' rows, too.

    Raises:
        OMGError: a model that is no ControlNet for this pipeline, a picture that is none, or numbers out of range.
    """
    if not isinstance(controls, (list, tuple)):
        raise OMGError("controls", f"expected a list of Control, got {_type(controls)}")
    return [_row_control(pipe, control, f"controls[{number}]", size, batch, steps, on_concepts)
            for number, control in enumerate(controls)]


def never_acting(controls: Sequence[Control], steps: int) -> list[str]:
    """A warning of each control that none of the steps falls to."""
    return [f"controls[{number}]: none of the {steps} steps lies wholly between its start and its end, so it did "
            "nothing; widen the span, or take more steps"
            for number, control in enumerate(controls) if control.scale and not any(control.scales(steps))]


def _row_control(pipe: DiffusionPipeline, control: Any, field: str, size: tuple[int, int], batch: int,
                 steps: int, on_concepts: bool) -> RowControl:
    if not isinstance(control, Control):
        raise OMGError(field, f"expected a Control, got {_type(control)}")
    model = control.model
    check_model(pipe, model, f"{field}.model")
    _check_number(control.scale, f"{field}.scale")
    for name, value in (("start", control.start), ("end", control.end)):
        _check_number(value, f"{field}.{name}", 0, 1)
    if control.start >= control.end:
        raise OMGError(f"{field}.start", f"expected less than the end ({control.end:g}), got {control.start:g}")
    pictures = _pictures(pipe, control.picture, f"{field}.picture", size, batch)
    if pictures.shape[1] != model.config.conditioning_channels:
        raise OMGError(f"{field}.picture", (
            f"it has {pictures.shape[1]} channels, the ControlNet reads {model.config.conditioning_channels}; give a "
            "picture of the kind that the ControlNet was trained on"))
    guesses = control.guess_mode or model.config.global_pool_conditions  # as in diffusers
    which = _WHICH[on_concepts, guesses]
    pictures = pictures.to(pipe._execution_device, model.dtype)
    return RowControl(model, pictures.expand(batch, -1, -1, -1), control.scales(steps), which, guesses)


def is_cond(row: Row) -> bool:
    """Picks conditional rows, whoever's prompt it is."""
    return row.part is not None


def is_global(row: Row) -> bool:
    """Picks the rows of the global prompt."""
    return row.concept is None


_WHICH: Mapping[tuple[bool, bool], Which] = {
    (True, False): every_row, (True, True): is_cond, (False, False): is_global,
    (False, True): lambda row: is_global(row) and is_cond(row)}
"""By whether it acts on concepts, and on conditional rows alone"""


# --- the model ---

def check_model(pipe: DiffusionPipeline, model: Any, field: str) -> None:
    """Refuse what is no ControlNet for the pipeline's UNet.

    Raises:
        OMGError: naming ``field``.
    """
    if not isinstance(model, ControlNetModel):
        instead = ("give each of its nets as a control of its own" if hasattr(model, "nets")
                   else "load one with ControlNetModel.from_pretrained")
        raise OMGError(field, f"expected a diffusers ControlNetModel, got {_type(model)}; {instead}")
    ours = _interface(pipe.unet)
    for name, theirs in _interface(model).items():
        if theirs and theirs != ours[name]:  # what a ControlNet does without it need not have alike
            kind = "SDXL" if pipe.unet.config.addition_embed_type == "text_time" else "SD 1.5"
            numbers = [", ".join(map(str, each)) or "none" for each in (theirs, ours[name])]
            raise OMGError(field, (f"it was made for another kind of model: its {name} is {numbers[0]}, the pipeline's "
                                   f"{numbers[1]}; take a ControlNet for {kind}"))
    device = pipe._execution_device
    # one that accelerate moves to and fro is where it should be when it is asked
    if model.device.type != device.type and not hasattr(model, "_hf_hook"):
        raise OMGError(field, f'it is on "{model.device}", the pipeline on "{device}"; move it there: '
                              f'model.to("{device}")')


def _interface(model: Any) -> dict[str, list[int]]:
    """What a ControlNet and the UNet have to have alike, by what it is called."""
    config = model.config
    has_sizes = config.addition_embed_type == "text_time"
    layers = [layer for block in model.down_blocks for layer in (*block.resnets, *(block.downsamplers or ()))]
    attentions: list[Any] = cross_attentions(model)
    return {"cross-attention width": sorted({attention.to_k.in_features for attention in attentions}),
            "size and pooled prompt width": [config.projection_class_embeddings_input_dim] if has_sizes else [],
            "number of latent channels": [model.conv_in.in_channels],
            "list of channels": [model.conv_in.out_channels, *(layer.out_channels for layer in layers)]}


# --- the pictures ---

def _pictures(pipe: DiffusionPipeline, picture: Any, field: str, size: tuple[int, int], batch: int) -> Tensor:
    """[1 or batch, channels, H, W], made as diffusers' ControlNet pipelines make them."""
    several = isinstance(picture, (list, tuple))
    given = list(picture) if several else [picture]
    if len(given) not in (1, batch):
        raise OMGError(field, f"got {len(given)} pictures for a batch of {batch}; give one for all, or one for each")
    checked = [_checked(each, f"{field}[{number}]" if several else field) for number, each in enumerate(given)]
    processor = VaeImageProcessor(vae_scale_factor=pipe.vae_scale_factor, do_convert_rgb=True, do_normalize=False)
    made = [processor.preprocess(each, *size) for each in checked]
    if len({each.shape for each in made}) > 1:
        raise OMGError(field, "the pictures have different numbers of channels; give all alike")
    return torch.cat(made)


def _checked(picture: Any, field: str) -> Picture:
    """A picture as diffusers takes it."""
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, np.ndarray) or picture.ndim not in (2, 3) or not picture.size:
        shape = f" of shape {tuple(picture.shape)}" if hasattr(picture, "shape") else ""
        raise OMGError(field, f"expected a PIL picture or an array [H, W, channels], got {_type(picture)}{shape}")
    if picture.ndim == 2 or picture.shape[2] == 1:  # grey
        picture = picture.reshape(*picture.shape[:2], 1).repeat(3, axis=2)
    if picture.dtype == np.uint8 and picture.shape[2] in (3, 4):
        return Image.fromarray(picture)  # diffusers would take its numbers for 0 to 1
    if not np.issubdtype(picture.dtype, np.floating) or not (np.abs(picture) <= 1).all():
        raise OMGError(field, (f"expected uint8 RGB, or floats from 0 to 1, got an array of {picture.dtype} with "
                               f"{picture.shape[2]} channels from {picture.min():g} to {picture.max():g}"))
    return picture.astype(np.float32)


def _check_number(value: Any, field: str, low: float = -math.inf, high: float = math.inf) -> None:
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise OMGError(field, f"expected a number, got {value!r}")
    if not low <= value <= high:
        raise OMGError(field, f"expected a number from {low:g} to {high:g}, got {value:g}")


def _type(value: object) -> str:
    return type(value).__name__
