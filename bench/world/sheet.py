"""A contact sheet to look at: ``python -m bench.world.sheet [FILE]``.

Rows: the six identities, four times each with another scene, size and place; pairs with rising occlusion; random
pictures of 1 to 5 figures.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from bench.world.attributes import IDENTITIES
from bench.world.layout import MAX_OCCLUSION
from bench.world.render import Picture, random_cast, render
from bench.world.scenes import SCENES

LABEL_HEIGHT = 50


def _labelled(picture: Picture, label: str) -> npt.NDArray[np.uint8]:
    size = picture.image.shape[1]
    tile = Image.new("RGB", (size, size + LABEL_HEIGHT), "white")
    tile.paste(Image.fromarray(picture.image))
    ImageDraw.Draw(tile).text((2, size + 1), textwrap.fill(label, size // 6), fill="black", spacing=1)
    return np.asarray(tile)


def _grid(rows: Sequence[Sequence[npt.NDArray[np.uint8]]]) -> Image.Image:
    """Rows of equally many tiles, 2 pixels apart."""
    framed = [[np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=255) for tile in row] for row in rows]
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in framed]))


def contact_sheet(seed: int = 0, size: int = 128) -> Image.Image:
    """Seven rows of eight pictures; see the module."""
    people = [identity.character for identity in IDENTITIES.values()]
    singles = [_labelled(render(seed + turn, [identity.character], SCENES[(turn + place) % len(SCENES)], size=size),
                         f"{name} ({identity.trigger})")
               for place, (name, identity) in enumerate(IDENTITIES.items()) for turn in range(4)]
    pairs = []
    for step, occlusion in enumerate(np.linspace(0, MAX_OCCLUSION, 8).tolist()):
        pair = [people[step % 6], people[(step + 2 + step // 6) % 6]]
        pairs.append(_labelled(render(seed + step, pair, occlusion=occlusion, size=size), f"occlusion {occlusion:.2f}"))
    crowds = [render(seed + step, random_cast(Random(seed + step), 1 + step % 5), size=size) for step in range(24)]
    tiles = [*singles, *pairs, *(_labelled(picture, picture.caption) for picture in crowds)]
    return _grid([tiles[start:start + 8] for start in range(0, len(tiles), 8)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws a contact sheet of the small world.")
    parser.add_argument("file", type=Path, nargs="?", default=Path("out/world.png"), help="PNG to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(arguments.seed).save(arguments.file)
    print(arguments.file)


if __name__ == "__main__":
    main()
