"""What the world bench found: a JSON file that grows cell by cell, tables of it, the targets, and contact sheets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.table import Row, results_name
from bench.world import frontier
from bench.world.casts import Cast
from bench.world.measure import FIGURES
from bench.world.methods import FaceAlone, NoLora
from bench.world.sweeps import (
    DEFAULT_FACES,
    DEFAULTS,
    EARLY_FACES,
    MIXED,
    MIXED_ALONE,
    MOST_ALIKE,
    MOST_ALIKE_FACES,
    OCCLUSIONS,
    OMG,
    PAIR,
    PAIRS,
    TWO_MEN,
    Cell,
    Result,
)
from omg_ext.evaluate.conditions import conditions
from omg_ext.evaluate.means import Mean, pooled, shown
from omg_ext.evaluate.tables import markdown

# the targets, for two concepts of which at most this share is hidden
TARGET_OCCLUSION = 0.3
MOST_IDENTITY_LOST = 0.05
MOST_BLEED = 1.2
_DECIMALS = {"background": 1, "rows": 0, "seconds": 2}
_LABEL, _TEXT, _COLOURS = 190, 12, 192


def default_path(folder: Path) -> Path:
    """The file of today and of this machine."""
    return folder / f"world-{results_name()}.json"


@dataclass
class Record:
    """The JSON file of a bench, and strips of its cells' pictures.

    Attributes:
        path: the file; it is written after each cell, so that an interrupted bench can go on.
        strips: a folder for the pictures that contact sheets are made of. They are not kept with the results.
        settings: what the figures depend on.
        cells: figures by cell and name.
    """

    path: Path
    strips: Path
    settings: Mapping[str, Any]
    cells: dict[str, dict[str, Mean]]

    @classmethod
    def open(cls, path: Path, strips: Path, settings: Mapping[str, Any]) -> Record:
        """The record so far.

        Raises:
            ValueError: the file was made with other settings.
        """
        cells = {}
        if path.exists():
            data = json.loads(path.read_text())
            if data["settings"] != settings:
                raise ValueError(f"{path} has other settings ({data['settings']}, not {settings}): name another file "
                                 "with --file, or delete it")
            cells = {name: {figure: Mean(**mean) for figure, mean in figures.items()}
                     for name, figures in data["cells"].items()}
        return cls(path, strips, settings, cells)

    def add(self, cell: Cell, result: Result) -> None:
        """Enters a cell and writes the file."""
        self.cells[cell.name] = dict(result.figures)
        self.strips.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(list(result.pictures), axis=1)).save(self._strip(cell))
        data = {**conditions(), "diffusers": diffusers.__version__, "settings": self.settings,
                "figures": FIGURES,
                "cells": {name: {figure: asdict(mean) for figure, mean in figures.items()}
                          for name, figures in self.cells.items()}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(data, indent=1) + "\n")

    def sheet(self, cells: Sequence[Cell]) -> Image.Image | None:
        """A contact sheet: a row of pictures for each cell that has been run here, a seed to a column."""
        found = [(cell, Image.open(self._strip(cell))) for cell in cells
                 if cell.name in self.cells and self._strip(cell).exists()]
        if not found:
            return None
        widest, heights = max(strip.width for _, strip in found), [strip.height for _, strip in found]
        sheet = Image.new("RGB", (_LABEL + widest, sum(heights)), "white")
        draw = ImageDraw.Draw(sheet)
        for (cell, strip), top in zip(found, np.cumsum([0, *heights[:-1]]).tolist(), strict=True):
            figures = [f"{name} {_shown(name, self.cells[cell.name].get(name))}" for name in ("identity", "bleed")]
            text = "\n".join([*cell.name.split(": "), *figures])
            draw.text((4, top + 4), text, fill="black", font=ImageFont.load_default(_TEXT))
            sheet.paste(strip, (_LABEL, top))
        return sheet.quantize(_COLOURS)

    def _strip(self, cell: Cell) -> Path:
        return self.strips / (re.sub(r"[^a-z0-9.]+", "-", cell.name.lower()) + ".png")


def _shown(name: str, mean: Mean | None) -> str:
    """A figure with its standard error; what is no sample of anything has none."""
    return shown(mean, _DECIMALS.get(name, 3), name not in ("rows", "seconds"))


Figures = Mapping[str, Mean]


def table(cells: Sequence[Cell], found: Mapping[str, Figures]) -> str:
    """The cells that were run as a Markdown table: figures that none of them has are left out."""
    return _markdown([(cell.start, cell.method.name, found[cell.name]) for cell in cells if cell.name in found])


def averages(cells: Sequence[Cell], found: Mapping[str, Figures]) -> str:
    """A Markdown table of each method's mean over its casts; of methods that were run with every cast."""
    casts = len({cell.start for cell in cells})
    by_method: dict[str, list[Figures]] = {}
    for cell in cells:
        if cell.name in found:
            by_method.setdefault(cell.method.name, []).append(found[cell.name])
    return _markdown([(f"{casts} casts", method, {name: pooled([one[name] for one in each]) for name in each[0]})
                      for method, each in by_method.items() if len(each) == casts])


def _markdown(rows: Sequence[tuple[str, str, Figures]]) -> str:
    names = [name for name in FIGURES
             if any((mean := figures.get(name)) is not None and mean.count for _, _, figures in rows)]
    return markdown(["cast", "method", *names],
                    [[start, method, *(_shown(name, figures.get(name)) for name in names)]
                     for start, method, figures in rows])


def targets(found: Mapping[str, Mapping[str, Mean]]) -> list[Row]:
    """What is asked of OMG, and how far simultaneous LoRAs are from it: for each pair that was run."""
    pairs = [*(Cell(pair, OMG) for pair in PAIRS),
             *(Cell(PAIR, OMG, share) for share in OCCLUSIONS if share <= TARGET_OCCLUSION)]
    return [*(row for pair in pairs for row in _targets_of(pair.start, found)), *_targets_of_ways(found),
            *(row for casts in (PAIRS, (TWO_MEN,)) for row in _targets_of_faces(casts, found))]


def _targets_of_ways(found: Mapping[str, Mapping[str, Mean]]) -> list[Row]:
    """What is asked of the way that is most alike, and of the defaults."""
    asked = (("four pairs", PAIRS, MOST_ALIKE.name, 0.1, 0.3), ("two men", (TWO_MEN,), MOST_ALIKE.name, 0.07, 0.3),
             ("four pairs", PAIRS, DEFAULTS.name, 0.2, 0.28))
    rows = []
    for who, casts, method, most_identity, most_layout in asked:
        point = frontier.point(casts, method, found)
        if point is not None:
            layout, identity = point
            rows += [Row(f"{who}: identity that {method} loses", 1 - identity, "", "of single LoRA's", most_identity),
                     Row(f"{who}: overlap that {method} loses", 1 - layout, "", "with the first pass", most_layout)]
    return rows


def _targets_of_faces(casts: Sequence[Cast], found: Mapping[str, Figures]) -> list[Row]:
    """What is asked where no LoRA was trained."""
    who, rows = ("two men" if casts == (TWO_MEN,) else "four pairs"), []
    for method, alone in ((EARLY_FACES, FaceAlone()), (MOST_ALIKE_FACES, FaceAlone()), (DEFAULT_FACES, FaceAlone()),
                          (MIXED, MIXED_ALONE)):
        point = frontier.point(casts, method.name, found, alone.name)
        if point is not None:
            layout, identity = point
            rows += [Row(f"{who}: identity that {method.name} loses", 1 - identity, "", f"of {alone.name}'s", 0.15),
                     Row(f"{who}: overlap that {method.name} loses", 1 - layout, "", "with the first pass", 0.3)]
        bleed, least = ([found[cell.name]["bleed"] for cell in (Cell(cast, each) for cast in casts)
                         if cell.name in found] for each in (method, NoLora()))
        if len(bleed) == len(least) == len(casts):
            rows += _bleed(f"{who}: bleed of {method.name}", pooled(bleed).mean, pooled(least).mean)
    return rows


def _targets_of(start: str, found: Mapping[str, Mapping[str, Mean]]) -> list[Row]:
    def mean(method: str, figure: str) -> float | None:
        known = found.get(f"{start}: {method}", {}).get(figure)
        return None if known is None else known.mean

    rows = []
    single = mean("single LoRA", "identity")
    for method, most in ((OMG.name, MOST_IDENTITY_LOST), ("simultaneous LoRAs", None)):
        own = mean(method, "identity")
        if single and own is not None:
            rows.append(Row(f"{start}: identity that {method} loses", 1 - own / single, "", "of single LoRA's", most))
    bleed, least = mean(OMG.name, "bleed"), mean("no LoRA", "bleed")
    return [*rows, *_bleed(f"{start}: bleed of {OMG.name}", bleed, least)]


def _bleed(name: str, bleed: float | None, least: float | None) -> list[Row]:
    """A method's bleed against that without any LoRA; nothing if either is unknown."""
    if bleed is None or least is None:
        return []
    # where chance alone looks less alike than nothing, a factor would be no tolerance
    most = least + (MOST_BLEED - 1) * abs(least)
    return [Row(name, bleed, "", f"{least:.3f} without LoRA", round(most, 3))]
