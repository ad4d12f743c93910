"""Both passes on a tiny random model, as a contact sheet: first pass, masks, second pass, difference."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bench.scene import PROMPT, masks, request, write_loras
from bench.tiny import tiny_sdxl
from omg_ext.diffusers import OMGPipeline

SIZE = 384
STEPS = 20
COLOURS = ((230, 80, 60), (60, 120, 230))
MARGIN, TITLE = 8, 28

Picture = npt.NDArray[np.uint8]


def make_visible(unet: nn.Module) -> None:
    """Raise what a random UNet predicts, which would be lost in the noise, to the size of the noise."""
    with torch.no_grad():
        for parameter in unet.get_submodule("conv_out").parameters():
            parameter.mul_(8)


def smooth_noise(size: int) -> Tensor:
    """Initial latents [1, 4, size, size] of unit variance without detail: a random UNet makes no areas of noise."""
    coarse = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(3))
    latents = interpolate(coarse, size=(size, size), mode="bicubic")
    return latents / latents.std()


def coloured_masks(found: Sequence[npt.NDArray[np.float32]]) -> Picture:
    """Each mask in a colour of its own on black, uint8 [H, W, 3]."""
    layers = [mask[..., None] * np.array(colour) for mask, colour in zip(found, COLOURS, strict=True)]
    return np.clip(sum(layers), 0, 255).astype(np.uint8)


def stretched(pictures: Sequence[Picture]) -> list[Picture]:
    """The same contrast stretch for all: a random decoder gives nearly grey pictures."""
    low, high = np.percentile(np.stack(pictures), (1, 99))
    return [np.clip((picture - low) / (high - low) * 255, 0, 255).astype(np.uint8) for picture in pictures]


def contact_sheet(titled: dict[str, Picture]) -> Image.Image:
    """The pictures side by side, each under its title."""
    height, width = next(iter(titled.values())).shape[:2]
    sheet = Image.new("RGB", (len(titled) * (width + MARGIN) + MARGIN, height + TITLE + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (title, picture) in enumerate(titled.items()):
        left = MARGIN + index * (width + MARGIN)
        draw.text((left, 4), title, fill="black", font=ImageFont.load_default(18))
        sheet.paste(Image.fromarray(picture), (left, TITLE))
    return sheet


def main() -> None:
    """Draws the sheet, and says where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo.png"), help="where the contact sheet goes")
    output: Path = parser.parse_args().output
    start = time.perf_counter()
    diffusers.logging.set_verbosity_error()
    pipe = tiny_sdxl()
    make_visible(pipe.unet)
    with tempfile.TemporaryDirectory() as folder:
        omg = OMGPipeline(pipe, write_loras(pipe.unet, Path(folder), rank=8, strength=20.0))
        result = omg(request(SIZE, show=["first_pass"]), PROMPT, steps=STEPS, height=SIZE, width=SIZE,
                     latents=smooth_noise(SIZE // pipe.vae_scale_factor))
    first, second = stretched([np.asarray(picture) for picture in [*result.first_pass, *(result.images or [])]])
    difference = (2 * np.abs(first.astype(int) - second).max(-1, keepdims=True)).clip(0, 255)
    output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet({
        "first pass": first, "given masks": coloured_masks(list(masks(SIZE).values())), "second pass": second,
        "difference, doubled": np.repeat(difference, 3, axis=2).astype(np.uint8)}).save(output)
    print(f"Contact sheet: {output.resolve()} ({time.perf_counter() - start:.0f} s)")
    print("The model and both LoRAs are random, nothing was trained: do not look for people in it. What it shows is "
          "that the second pass differs from the first inside the masks, and each concept in its own way.")


if __name__ == "__main__":
    main()
