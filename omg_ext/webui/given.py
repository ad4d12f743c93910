"""img2img: the picture that the user gives, in place of a first pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from modules import devices, images, processing, shared
from PIL import Image
from torch import Tensor

from ..comprehension import get_detector
from ..errors import OMGError
from ..passes.given import Given
from ..passes.noise import Noise
from ..request import Request
from .frame import Frame

Pixels = npt.NDArray[np.uint8]

# by their titles: scripts of the tab that have the picture drawn in tiles
TILING = ("sd upscale", "ultimate sd upscale")


def is_given(p: Any) -> bool:
    """Whether a processing object of the web UI draws over a given picture."""
    return isinstance(p, processing.StableDiffusionProcessingImg2Img)


@dataclass(frozen=True, eq=False)
class GivenPictures:
    """What the user gives for one batch.

    Attributes:
        request: the user's, with places in what is sampled.
        frame: where that lies in the result.
        given: what is sampled.
        whole: the given pictures as large as the results, one of each.
    """

    request: Request
    frame: Frame
    given: Given
    whole: Sequence[Pixels]

    @classmethod
    def of(cls, p: Any, request: Request) -> GivenPictures:
        """
        Args:
            p: the web UI's processing object, about to sample.
            request: validated.

        Raises:
            OMGError: the model, or a script of the tab, is out of OMG's reach.
        """
        _refuse(p)
        given = [images.flatten(image, shared.opts.img2img_background_color) for image in p.init_images]
        frame = frame_of(p, given[0])
        request_here, outside = frame.asked(request)
        shown = [_framed(p, image, frame) for image in given]
        count = len(p.init_latent)
        # a mask that is filled hides what stands there
        is_filled = p.mask is not None and p.inpainting_fill != 1
        is_sought = get_detector(request.detector).goes_by_prompt and any(
            concept.needs_detection for concept in request_here.concepts)
        is_seen = request.preview or is_sought
        latents = _encoded(p, shown, count) if is_filled and is_seen else p.init_latent
        # [C, h, w], in Forge Neo [1, C, h, w]; of all channels alike
        drawn = None if p.mask is None else p.nmask.flatten(0, -3)[0].float().cpu().numpy()
        pictures = [np.asarray(image) for image in shown]
        whole = pictures if frame.crop is None else [np.asarray(image) for image in given]
        here = Given(latents, _for_each(pictures, count), p.denoising_strength, drawn, outside)
        return cls(request_here, frame, here, _for_each(whole, count))


def frame_of(p: Any, picture: Image.Image) -> Frame:
    """
    Args:
        p: the web UI's processing object, once it has begun.
        picture: one that it was given.
    """
    size = (p.height, p.width)
    # it goes on without the crop if the mask is blank
    is_cropped = p.image_mask is not None and p.inpaint_full_res and p.paste_to is not None
    return Frame(size, (picture.height, picture.width), tuple(p.paste_to)) if is_cropped else Frame(size, size)


def _refuse(p: Any) -> None:
    if getattr(p.sd_model, "cond_stage_key", None) == "edit":  # Forge's models have none
        raise OMGError("checkpoint", f"{p.sd_model.sd_checkpoint_info.name} edits pictures as it is told "
                                     "(InstructPix2Pix), which leaves no place for concepts; load another checkpoint")
    chosen = p.script_args[0] if p.scripts is not None and p.scripts.selectable_scripts and p.script_args else 0
    title = p.scripts.selectable_scripts[chosen - 1].title() if isinstance(chosen, int) and chosen > 0 else ""
    if title.lower() in TILING:  # Neo writes them with capitals
        raise OMGError("script", f"{title} draws a picture in tiles, and concepts have their places in the whole; turn "
                                 "OMG off for it, or draw the whole picture at once, without the script")


def _framed(p: Any, image: Image.Image, frame: Frame) -> Image.Image:
    """A given picture as the web UI crops and enlarges it, before a mask is filled. No upscaler runs again for it."""
    if frame.crop is not None:
        left, top, width, height = frame.crop
        image, mode = image.crop((left, top, left + width, top + height)), 2
    else:
        mode = p.resize_mode if p.resize_mode < 3 else 0  # the last stretches the latents
    resized: Image.Image = images.resize_image(mode, image, p.width, p.height, "None")
    return resized.convert("RGB")


def _encoded(p: Any, pictures: Sequence[Image.Image], count: int) -> Tensor:
    """Latents [count, C, h, w] of pictures as large as what is sampled, the same at every look."""
    noise = Noise.of([])
    torch.manual_seed(0)  # the encoder draws from the global generator
    pixels = np.stack([np.asarray(picture, np.float32) / 255 for picture in pictures])
    batch = torch.from_numpy(np.moveaxis(pixels, 3, 1)).to(shared.device, dtype=devices.dtype_vae)
    method = processing.approximation_indexes.get(shared.opts.sd_vae_encode_method)
    latents: Tensor = processing.images_tensor_to_samples(batch, method, p.sd_model)
    noise.restore([])
    return latents if len(latents) == count else latents.expand(count, -1, -1, -1)


def _for_each(pictures: Sequence[Pixels], count: int) -> list[Pixels]:
    return list(pictures) if len(pictures) == count else [pictures[0]] * count
