"""Two men in one scene, with both LoRAs at once and with OMG: the small world's trained model, no GPU.

Writes a sheet: the first pass, the masks found in it, the ordinary way to use two LoRAs, and OMG with the settings that
are most alike in this world: the concepts' CFG scale begins high and falls. Under each result stands how much its
figures look like the characters, as the identity reader sees it (1 is the character itself), and like the other one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from bench.world import checkpoint, weights
from bench.world.detector import reader_masks
from bench.world.measure import Judges, Reference, Values, measure
from bench.world.methods import Method, Shot, SimultaneousLoras, Studio, Take, ordinary
from bench.world.model import pipeline
from bench.world.readers import FigureReader, IdentityReader, references
from bench.world.starts import noise
from bench.world.sweeps import MOST_ALIKE, TWO_MEN

SCENE = "park"
SEEDS = (0, 1, 2)
COLOURS = ((230, 80, 60), (60, 120, 230))
SCALE = 2
MARGIN, TITLE, FIGURES = 8, 28, 24

Picture = npt.NDArray[np.uint8]
Cells = Sequence[tuple[Picture, str]]


def coloured_masks(masks: Sequence[npt.NDArray[np.float32] | None]) -> Picture:
    """Each concept's mask in a colour of its own on black, uint8 [H, W, 3]."""
    layers = [mask[..., None] * np.array(colour) for mask, colour in zip(masks, COLOURS, strict=True)
              if mask is not None]
    return np.clip(np.sum(layers, axis=0), 0, 255).astype(np.uint8)


def contact_sheet(columns: dict[str, Cells]) -> Image.Image:
    """Titled columns of pictures, each with a line of text below it."""
    first = next(iter(columns.values()))
    side = SCALE * len(first[0][0])
    across, down = side + MARGIN, side + FIGURES
    sheet = Image.new("RGB", (len(columns) * across + MARGIN, TITLE + len(first) * down + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (title, cells) in enumerate(columns.items()):
        left = MARGIN + column * across
        draw.text((left, 4), title, fill="black", font=ImageFont.load_default(16))
        for row, (picture, text) in enumerate(cells):
            top = TITLE + row * down
            sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), (left, top))
            draw.text((left, top + side + 3), text, fill="black", font=ImageFont.load_default(14))
    return sheet


def cells(take: Take, values: Values) -> Cells:
    """A method's pictures with their figures."""
    return [(picture, f"identity {identity:.2f}, bleed {bleed:.2f}")
            for picture, identity, bleed in zip(take.pictures, values["identity"], values["bleed"], strict=True)]


def main() -> None:
    """Draws the sheet, and says where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo.png"), help="where the contact sheet goes")
    output: Path = parser.parse_args().output
    loras = {name.lower(): weights.lora(name) for name in TWO_MEN.names}
    if reason := weights.missing(weights.CHECKPOINT, weights.FIGURES, weights.IDENTITY, *loras.values()):
        sys.exit(reason)
    start = time.perf_counter()
    diffusers.logging.set_verbosity_error()
    networks = checkpoint.load(weights.CHECKPOINT)
    identity = IdentityReader.load()
    judges = Judges(FigureReader.load(), identity, references(networks.vae, identity, names=TWO_MEN.names))
    studio = Studio(pipeline(networks), loras)
    shot = Shot(TWO_MEN, SCENE, noise(SEEDS))
    with reader_masks(judges.figures):
        plain = ordinary(studio, shot)
        reference = Reference.of(shot, plain, judges)
        results: dict[str, Method] = {"both LoRAs at once": SimultaneousLoras(), "OMG": MOST_ALIKE}
        takes = {title: method(studio, shot, plain)[0] for title, method in results.items()}
        figures = {title: measure(shot, [takes[title]], reference, judges, method.placed)
                   for title, method in results.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet({
        "first pass": [(picture, "") for picture in plain.pictures],
        "masks": [(coloured_masks(masks), "") for masks in takes["OMG"].masks or ()],
        **{title: cells(take, figures[title]) for title, take in takes.items()}}).save(output)
    for title, values in figures.items():
        print(f"{title}: identity {np.nanmean(values['identity']):.2f}, bleed {np.nanmean(values['bleed']):.2f}")
    print(f"{' and '.join(TWO_MEN.names)}, {len(SEEDS)} seeds, {time.perf_counter() - start:.0f} s: {output.resolve()}")


if __name__ == "__main__":
    main()
