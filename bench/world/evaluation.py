"""What the command ``omg evaluate`` takes, of the small world: who reads its pictures, an engine, and specs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.world import checkpoint, weights
from bench.world.attributes import IDENTITIES
from bench.world.casts import CFG_SCALE, subject, template
from bench.world.detector import NAME, ReadFigures, reader_masks
from bench.world.measure import EmbedsIdentity
from bench.world.model import SIZE, pipeline
from bench.world.readers import FigureReader, IdentityReader, Mask
from bench.world.render import render
from bench.world.scenes import SCENES
from omg_ext.comprehension import Models
from omg_ext.diffusers.engine import DiffusersEngine
from omg_ext.evaluate.figures import FACES
from omg_ext.evaluate.measure import Judges
from omg_ext.evaluate.regions import FindRegions
from omg_ext.evaluate.spec import Regions
from omg_ext.faces.base import FloatArray, Picture

# the renderings that references are: these seeds nothing was trained on
_SEED, _REFERENCES = 5_000_000, 8


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure, as what reads faces has a face.

    Attributes:
        mask: bool [H, W], not empty.
    """

    mask: Mask

    @property
    def box(self) -> FloatArray:
        """Around it: left, top, right and bottom in pixels."""
        columns, rows = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)

    @property
    def points(self) -> FloatArray:
        """Five of its pixels."""
        y, x = np.nonzero(self.mask)
        return np.stack([x, y], axis=1)[np.linspace(0, len(x) - 1, 5).round().astype(int)].astype(np.float32)


@dataclass(frozen=True)
class Figures:
    """The readers, as :class:`omg_ext.faces.base.Analysis`: each figure of a picture is somebody's face.

    Attributes:
        figures: finds them.
        identity: tells whose they are.
    """

    figures: ReadFigures
    identity: EmbedsIdentity

    def faces(self, picture: Picture) -> Sequence[Figure]:
        """All figures, from left to right."""
        found = [Figure(figure.mask) for figure in self.figures(np.stack([picture]))[0].figures if figure.mask.any()]
        return sorted(found, key=lambda figure: float(figure.box[0] + figure.box[2]))

    def embedding(self, picture: Picture, face: Figure) -> FloatArray:
        """Whose figure it is: float32 [EMBEDDING], of unit length."""
        vector: npt.NDArray[np.float32] = self.identity.embed(np.stack([picture]), np.stack([face.mask]))[0].numpy()
        return vector


class Readers:
    """The trained readers, in place of ArcFace and a detector; see :class:`omg_ext.evaluate.readers.Readers`."""

    given = (FACES,)

    @contextmanager
    def loaded(self, regions: Regions | None) -> Iterator[Judges]:
        """Within the block the reader's masks are a detector, too: :data:`bench.world.detector.NAME`."""
        figures = FigureReader.load()
        faces = Figures(figures, IdentityReader.load())
        with reader_masks(figures), ExitStack() as stack:
            find = None if regions is None else stack.enter_context(FindRegions.loaded(regions, Models()))
            yield Judges(None, faces, find)


def engine() -> DiffusersEngine:
    """Draws jobs with the trained checkpoint and its LoRAs."""
    networks = checkpoint.load(weights.CHECKPOINT)
    return DiffusersEngine(weights.CHECKPOINT, loras=weights.lora("any").parent, device="cpu", dtype="float32",
                           load=lambda path, dtype: pipeline(networks))


def a_spec(folder: Path, casts: Sequence[Sequence[str]], **fields: Any) -> dict[str, Any]:
    """A spec of casts of ``IDENTITIES`` in a park, whose references are written into a folder.

    Args:
        folder: of the spec's file.
        fields: of the spec, such as ``methods``.
    """
    names = list(dict.fromkeys(name for cast in casts for name in cast))
    return {"concepts": {name: _concept(folder, name) for name in names}, "casts": [list(cast) for cast in casts],
            "prompts": [template("park")], "regions": {"detector": NAME},
            "settings": {"width": SIZE, "height": SIZE, "cfg_scale": CFG_SCALE, "steps": 25, "sampler": "DDIM"},
            **fields}


def _concept(folder: Path, name: str) -> dict[str, Any]:
    identity = IDENTITIES[name]
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    for turn in range(_REFERENCES):
        picture = render(_SEED + turn, [identity.character], SCENES[turn % len(SCENES)])
        Image.fromarray(picture.image).save(place / f"{turn}.png")
    made: dict[str, Any] = msgspec.to_builtins(subject(name))
    return made
