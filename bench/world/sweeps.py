"""Which pictures the bench makes: tables of cells, each one method on one cast; and how a cell is run.

A cell can stand in several tables and is run once. All cells of a cast share seeds, scenes and noise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.world import train_control, weights
from bench.world.attributes import IDENTITIES
from bench.world.casts import CFG_SCALE, Cast
from bench.world.measure import FIGURES, Judges, Reference, Values, measure
from bench.world.methods import (
    EVERYONE,
    FaceAlone,
    FacesAtOnce,
    Method,
    NoLora,
    Omg,
    Regional,
    Shot,
    SimultaneousLoras,
    SingleLora,
    Studio,
    ordinary,
)
from bench.world.scenes import SCENES
from bench.world.silhouettes import of_picture
from bench.world.starts import inverted, noise, strangers
from omg_ext.diffusers import Control
from omg_ext.evaluate.means import Mean, summary
from omg_ext.request import Request

PAIR = Cast(("Rusty", "Azura"))
PAIRS = (PAIR, Cast(("Marlow", "Biscuit")), Cast(("Goldie", "Bolt")), Cast(("Biscuit", "Bolt")))
ONE = Cast(("Rusty",))
TWO_MEN = Cast(("Rusty", "Marlow"))
CROWD = ("Rusty", "Azura", "Biscuit", "Bolt", "Goldie")
GUIDANCES = (3.0, 4.5, 6.0, 8.0, 11.0)
BLEND_STARTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
LAYOUTS = {"off": (0.0, 0.0), "cross": (1.0, 0.0), "self": (0.0, 0.4), "both": (1.0, 0.4)}
OCCLUSIONS = (0.0, 0.15, 0.3, 0.45, 0.6)
# pictures of each cell that contact sheets show
SHOWN = 6

OMG = Omg()
ATTENTION = Omg("OMG, attention masks", {"detector": "attention"})
CONTRAST = Omg("OMG, contrast masks", {"detector": "contrast"})
YOLO = Omg("OMG, yolo masks", {"detector": "yolo", "detect": {"model": weights.DETECTOR.name}})
BLENDING = Omg("noise blending only", {"layout": {"cross": 0, "self": 0}})
ALONE = Omg("OMG, prompts of one alone", alone=True)
STRONG = Omg("OMG, concept guidance 8", concept={"cfg_scale": 8})
JOINT = Omg("joint", {"predict": "joint"})
SHARED = Omg("shared", {"predict": "shared"})
_REQUEST = Request(concepts=())
DEFAULTS = Omg("OMG's defaults", {name: getattr(_REQUEST, name) for name in ("predict", "detector", "blend_start")},
               concept={"cfg_scale": None})
UNTRIGGERED = SingleLora("single LoRA, no trigger", triggered=False)
METHODS: tuple[Method, ...] = (
    SingleLora(), UNTRIGGERED, NoLora(), SimultaneousLoras(), Regional(), BLENDING, OMG, STRONG, ATTENTION,
    CONTRAST, YOLO, ALONE, SHARED, JOINT, DEFAULTS)
FEW_METHODS: tuple[Method, ...] = (SingleLora(), NoLora(), SimultaneousLoras(), OMG, JOINT, DEFAULTS)
CONDITIONED: tuple[Method, ...] = (SingleLora(), NoLora(), SimultaneousLoras(), Regional(), BLENDING, OMG, DEFAULTS)


@dataclass(frozen=True)
class Cell:
    """One method on one cast.

    Attributes:
        cast: who.
        method: how.
        occlusion: of the rendering that each picture's noise comes from; None starts from plain noise.
        is_conditioned: plain noise, and the rendering's silhouettes are a spatial condition (the paper's Fig. 8).
    """

    cast: Cast
    method: Method
    occlusion: float | None = None
    is_conditioned: bool = False

    @property
    def start(self) -> str:
        """What it starts from, in words."""
        if self.occlusion is None:
            return str(self.cast)
        return f"{self.cast} {'after silhouettes ' if self.is_conditioned else ''}occluded {self.occlusion:g}"

    @property
    def name(self) -> str:
        """Unique: cells of one name are the same."""
        return f"{self.start}: {self.method.name}"

    @property
    def has_faces(self) -> bool:
        """Whether it takes the trained image prompt adapter."""
        method = self.method
        return isinstance(method, (FaceAlone, FacesAtOnce)) or (isinstance(method, Omg) and bool(method.by_face))


def _blend_start(value: float) -> Method:
    return OMG if value == 0.3 else Omg(f"OMG, blend start {value:g}", {"blend_start": value})


def _guidance(value: float) -> Method:
    known: Mapping[float, Method] = {4.5: OMG, 8: STRONG}
    return known.get(value) or Omg(f"OMG, concept guidance {value:g}", concept={"cfg_scale": value})


def _falling(way: Omg, value: float, **options: Any) -> Omg:
    """A way with a concept guidance that falls from ``value`` to the picture's, and other options."""
    known = "".join(f", {name.replace('_', ' ')} {option}" for name, option in options.items() if name != "detect")
    name = way.name + (f", guidance {value:g} to {CFG_SCALE:g}" if value != CFG_SCALE else "") + known
    concept = {"cfg_scale": [value, CFG_SCALE]} if value != CFG_SCALE else {}
    return Omg(name, {**way.options, **options}, concept=concept)


MOST_ALIKE = _falling(JOINT, 30, blend_start=0.4)
EARLY = _falling(JOINT, 30, blend_start=0.3)


def _by_face(way: Omg, name: str, by_face: Collection[int] = EVERYONE) -> Omg:
    """A way whose concepts have a face each instead of a LoRA."""
    return replace(way, name=name, by_face=by_face)


OMG_FACES = _by_face(OMG, "OMG + InstantID")
MOST_ALIKE_FACES = _by_face(MOST_ALIKE, f"OMG + InstantID, {MOST_ALIKE.name}")
# at which an overlap of about 0.7 is left
EARLY_FACES = _by_face(EARLY, f"OMG + InstantID, {EARLY.name}")
DEFAULT_FACES = _by_face(DEFAULTS, f"OMG + InstantID, {DEFAULTS.name}")
# the first concept by its LoRA, the second by its face
MIXED_ALONE = FaceAlone("LoRA or face alone", by_lora=(0,))
MIXED = _by_face(MOST_ALIKE, f"LoRA beside a face, {MOST_ALIKE.name}", (1,))
FACES: tuple[Method, ...] = (
    FaceAlone(), NoLora(), FacesAtOnce(), OMG_FACES, EARLY_FACES, MOST_ALIKE_FACES, DEFAULT_FACES, MIXED_ALONE,
    MIXED)
_BY_CONTRAST = {"first_pass": "prefix", "detector": "contrast"}
_BY_YOLO = {"first_pass": "prefix", "detector": "yolo", "detect": {"model": weights.DETECTOR.name}}
CURVES: Mapping[str, Sequence[Omg]] = {
    "separate, the paper's": [OMG, STRONG, _falling(OMG, 12)],
    "shared": [_falling(SHARED, value) for value in (4.5, 8, 12)],
    "shared, blend start 0.4": [_falling(SHARED, 30, blend_start=0.4)],
    "joint": [_falling(JOINT, value) for value in (4.5, 8, 12, 16)],
    "joint, blend start 0.4": [_falling(JOINT, 8, blend_start=0.4), MOST_ALIKE],
    "joint, blend start 0.2": [_falling(JOINT, 8, blend_start=0.2)],
    "joint, prefix, contrast": [_falling(JOINT, value, **_BY_CONTRAST) for value in (8, 12)],
    "OMG's defaults": [DEFAULTS],
    "joint, prefix, yolo": [_falling(JOINT, 8, **_BY_YOLO)],
}
"""Identity over layout: the settings of each way, from what keeps the layout best to what is most alike"""

_ON_CURVES: Sequence[Method] = (SingleLora(), *{way.name: way for curve in CURVES.values() for way in curve}.values())


def _layout(name: str, cross: float, self_: float) -> Method:
    known: Mapping[str, Method] = {"off": BLENDING, "both": OMG}
    return known.get(name) or Omg(f"OMG, layout {name}", {"layout": {"cross": cross, "self": self_}})


TABLES: Mapping[str, Sequence[Cell]] = {
    "methods": [Cell(cast, method) for cast in PAIRS for method in METHODS],
    "same-class": [Cell(TWO_MEN, method) for method in METHODS],
    "blend-start": [*(Cell(PAIR, _blend_start(value)) for value in BLEND_STARTS),
                    *(Cell(ONE, _blend_start(value)) for value in BLEND_STARTS if value <= 0.3)],
    "guidance": [Cell(PAIR, _guidance(value)) for value in GUIDANCES],
    "layout": [Cell(PAIR, _layout(name, *fractions)) for name, fractions in LAYOUTS.items()],
    "concepts": [Cell(Cast(CROWD[:count]), method) for count in range(1, len(CROWD) + 1) for method in FEW_METHODS],
    "occlusion": [Cell(PAIR, method, occlusion) for occlusion in OCCLUSIONS
                  for method in (*FEW_METHODS[:3], Regional(), BLENDING, OMG, JOINT, DEFAULTS)],
    "condition": [*(Cell(PAIR, method, occlusion, True) for occlusion in OCCLUSIONS for method in CONDITIONED),
                  *(Cell(TWO_MEN, method, 0.15, True) for method in CONDITIONED)],
    "frontier": [Cell(cast, method) for cast in (*PAIRS, TWO_MEN) for method in _ON_CURVES],
    "faces": [Cell(cast, method) for cast in PAIRS for method in FACES],
    "faces-same-class": [Cell(TWO_MEN, method) for method in FACES],
    "faces-single": [Cell(Cast((name,)), method) for name in IDENTITIES for method in (FaceAlone(), NoLora())],
}


def chosen(patterns: Iterable[str]) -> list[Cell]:
    """The cells of these tables or with names that match these patterns, each once; of no patterns, all.

    Cells that start alike follow each other, so that they can share their ordinary pictures.

    Raises:
        ValueError: a pattern matches nothing.
    """
    cells = {cell.name: cell for table in TABLES.values() for cell in table}
    wanted: dict[str, Cell] = {}
    for pattern in list(patterns) or ["*"]:
        found = TABLES.get(pattern) or [cell for name, cell in cells.items() if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"--cells: {pattern!r} is neither a table ({', '.join(TABLES)}) nor matches a cell's name")
        wanted |= {cell.name: cell for cell in found}
    starts = list(dict.fromkeys(cell.start for cell in wanted.values()))
    return sorted(wanted.values(), key=lambda cell: starts.index(cell.start))


@dataclass(frozen=True)
class Result:
    """A cell's figures by name (see :data:`FIGURES`), and some of its pictures, uint8 [n, H, W, 3]."""

    figures: Mapping[str, Mean]
    pictures: npt.NDArray[np.uint8]


@dataclass
class Runner:
    """Runs cells.

    Attributes:
        studio, judges: who makes and who reads the pictures.
        seeds: pictures per cell, of the seeds from 0 on.
        batch: pictures at once; each batch has another scene, in turn.
    """

    studio: Studio
    judges: Judges
    seeds: int = 64
    batch: int = 8
    _start: str = ""
    _shots: list[tuple[Shot, Reference]] = field(default_factory=list)

    def __call__(self, cell: Cell) -> Result:
        """Makes, reads and sums up a cell's pictures."""
        values: list[Values] = []
        pictures: list[npt.NDArray[np.uint8]] = []
        for shot, reference in self._shots_of(cell):
            takes = cell.method(self.studio, shot, reference.take)
            values.append(measure(shot, takes, reference, self.judges, cell.method.placed))
            # of methods with a picture for each concept, the concepts in turn
            pictures += [takes[(len(pictures) + picture) % len(takes)].pictures[picture]
                         for picture in range(len(takes[0].pictures))]
        figures = {name: summary(np.concatenate([each[name] for each in values]))
                   for name in FIGURES if name in values[0]}
        return Result(figures, np.stack(_spread(pictures, SHOWN)))

    def _shots_of(self, cell: Cell) -> list[tuple[Shot, Reference]]:
        """Those of the last cell are kept: cells that start alike follow each other."""
        if self._start != cell.start:
            batches = range(math.ceil(self.seeds / self.batch))
            self._shots = [self._shot(cell, number) for number in batches]
            self._start = cell.start
        return self._shots

    def _shot(self, cell: Cell, number: int) -> tuple[Shot, Reference]:
        cast = cell.cast
        first = number * self.batch
        seeds = range(first, min(first + self.batch, self.seeds))
        scene = SCENES[number % len(SCENES)]
        latents = noise(seeds, self.studio.pipe.unet.config.sample_size)
        if cell.occlusion is None:
            shot = Shot(cast, scene, latents)
            return shot, Reference.of(shot, ordinary(self.studio, shot), self.judges)
        renderings = [strangers(cast, scene, cell.occlusion, seed) for seed in seeds]
        wanted = [[figure.visible for figure in picture.figures] for picture in renderings]
        controls: Sequence[Control] = ()
        if cell.is_conditioned:
            controls = [Control(train_control.load(), [of_picture(picture) for picture in renderings])]
        else:
            images = np.stack([picture.image for picture in renderings])
            latents = inverted(self.studio.pipe, images, cast.prompt(scene), self.studio.steps)
        shot = Shot(cast, scene, latents, controls)
        return shot, Reference.of(shot, ordinary(self.studio, shot), self.judges, wanted)


def _spread(pictures: Sequence[npt.NDArray[np.uint8]], count: int) -> list[npt.NDArray[np.uint8]]:
    """So many of the pictures, evenly from all, which are of all scenes."""
    steps = np.linspace(0, len(pictures) - 1, min(count, len(pictures)))
    return [pictures[round(step)] for step in steps]
