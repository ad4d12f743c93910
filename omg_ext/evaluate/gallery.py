"""Pictures beside each other, a method to a column: for contact sheets and the report."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .results import Result, excerpts
from .spec import Spec

SEEDS, ROWS = 2, 24
"""How many seeds of each prompt are shown, and how many rows at most; all pictures are in the folder."""
COLUMNS = 12
"""How many columns a contact sheet has at most; those of more are in several files."""
_SIDE, _LABEL, _HEAD, _TEXT, _LINE = 192, 150, 24, 12, 16


@dataclass(frozen=True)
class Gallery:
    """
    Attributes:
        title: who is to be seen, or of an excerpt.
        columns: titles.
        rows: titles, and for each column the picture; None where it was not drawn.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Result | None, ...]], ...]


def galleries(spec: Spec, results: Sequence[Result]) -> list[Gallery]:
    """One for each cast of which there are pictures, and one for each excerpt."""
    casts = dict.fromkeys(result.place.cast for result in results)
    groups = [("+".join(cast), [result for result in results if result.place.cast == cast]) for cast in casts]
    return [_gallery(spec, title, own) for title, own in (*groups, *excerpts(spec, results).items()) if own]


def _gallery(spec: Spec, title: str, results: Sequence[Result]) -> Gallery:
    by_cell = {(result.place.shot, _column(result)): result for result in results}
    columns = tuple(dict.fromkeys(column for _, column in by_cell))
    shots: dict[tuple[tuple[str, ...], int], dict[int, None]] = {}
    for (cast, prompt, seed), _ in by_cell:
        shots.setdefault((cast, prompt), {})[seed] = None
    chosen = [(*scene, seed) for scene, seeds in shots.items() for seed in list(seeds)[:SEEDS]][:ROWS]
    rows = tuple((f"{spec.scene(shot[0], shot[1]).prompt({})}, seed {shot[2]}",
                  tuple(by_cell.get((shot, column)) for column in columns)) for shot in chosen)
    return Gallery(title, columns, rows)


def _column(result: Result) -> str:
    """The method; where it draws a picture for each concept also whom this shows."""
    is_part = len(result.place.shown) < len(result.place.cast)
    return result.place.method + (f": {'+'.join(result.shown)}" if is_part else "")


def sheets(gallery: Gallery, read: Callable[[str], bytes]) -> list[bytes]:
    """A gallery as JPEG files, of at most so many columns each: see :data:`COLUMNS`.

    Args:
        read: a picture's file by its name.
    """
    starts = range(0, len(gallery.columns), COLUMNS)
    return [_sheet(gallery.columns[start:start + COLUMNS],
                   [(title, results[start:start + COLUMNS]) for title, results in gallery.rows], read)
            for start in starts]


def _sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Result | None]]],
           read: Callable[[str], bytes]) -> bytes:
    heads = [textwrap.fill(title, _SIDE // 7) for title in columns]
    head = _HEAD + (max(text.count("\n") for text in heads)) * _LINE
    made = Image.new("RGB", (_LABEL + _SIDE * len(columns), head + _SIDE * len(rows)), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(_TEXT)
    for column, text in enumerate(heads):
        draw.text((_LABEL + column * _SIDE + 4, 4), text, fill="black", font=font)
    for row, (title, results) in enumerate(rows):
        top = head + row * _SIDE
        draw.text((4, top + 4), textwrap.fill(title, _LABEL // 7), fill="black", font=font)
        for column, result in enumerate(results):
            if result is not None:
                made.paste(_thumbnail(read(result.file)), (_LABEL + column * _SIDE, top))
    file = io.BytesIO()
    made.save(file, "JPEG", quality=88)
    return file.getvalue()


def _thumbnail(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        return ImageOps.contain(picture.convert("RGB"), (_SIDE - 2, _SIDE - 2))
