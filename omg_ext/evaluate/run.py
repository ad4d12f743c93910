"""Measures the pictures of an evaluation that are there, with the models that are given."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .. import __version__
from ..errors import OMGError
from ..jobs.manifest import entries
from ..jobs.store import Store
from ..request.pictures import DAMAGED
from .conditions import conditions
from .figures import CLIP, DETECTOR, FACES, FIGURES
from .files import SpecFile
from .measure import Meter
from .plan import Place, Plan
from .readers import Readers
from .regions import Picture
from .report import Report
from .results import Result

FIRST_PASS = ".first_pass.png"
"""The end of the name of a first pass's picture, which lies beside a result."""
_WITHOUT = {CLIP: "the command has no --clip", FACES: "the command has no --face-reader",
            DETECTOR: "the spec has no regions"}


@dataclass(frozen=True)
class Measuring:
    """What an evaluation is measured with.

    Attributes:
        file: the spec.
        readers: of its pictures.
    """

    file: SpecFile
    readers: Readers

    @property
    def left_out(self) -> dict[str, str]:
        """Which figures are not measured, and why.

        Raises:
            OMGError: naming ``figures``: one of them must be.
        """
        given = [*self.readers.given, *([] if self.file.spec.regions is None else [DETECTOR])]
        reasons = {name: " and ".join(_WITHOUT[need] for need in figure.needs if need not in given)
                   for name, figure in FIGURES.items()}
        for index, name in enumerate(self.file.spec.figures):
            if reasons[name]:
                raise OMGError(f"figures[{index}]", f"{name} cannot be measured: {reasons[name]}")
        return {name: reason for name, reason in reasons.items() if reason}

    @contextmanager
    def meter(self) -> Iterator[Meter]:
        """What measures, within the block; the references are read.

        Raises:
            OMGError: a model cannot be had, or a character's reference shows no face.
        """
        try:
            from ..faces.reference import decoded
        except ImportError as error:
            raise OMGError("evaluate", f"{error.name} is not installed; pip install omg-webui[diffusers]") from None

        spec = self.file.spec
        with self.readers.loaded(spec.regions) as judges:
            references = {name: decoded(self.file.photos(name), f"concepts.{name}.references")
                          for name in dict.fromkeys(each for cast in spec.casts for each in cast)}
            yield Meter(spec, judges, references)

    def report(self, store: Store, watch: Callable[[], object] = lambda: None) -> Report:
        """Measures what is there.

        Args:
            watch: is told of each picture.
        """
        with self.meter() as meter:
            pictures = _Pictures(Plan(self.file), store)
            known = {entry["key"]: entry for entry in entries(store)}
            results = []
            for place, key, name in pictures:
                watch()
                picture = pictures.read(name)
                if picture is None:
                    pictures.missing += 1
                    continue
                measured = meter(place, picture, pictures.first(place, name))
                results.append(Result(place, key, name, measured, tuple(known.get(key, {}).get("warnings", ()))))
            read_by = meter.read_by
        workers = dict.fromkeys(known[each.key]["worker"] for each in results if each.key in known)
        about = {**conditions(), "omg": __version__, **read_by, **({"drawn by": ", ".join(workers)} if workers else {})}
        return Report(self.file.spec, self.file.data, results, about, self.left_out, pictures.missing,
                      tuple(pictures.damaged))


class _Pictures:
    """The pictures that are there, as places, keys and files' names."""

    def __init__(self, plan: Plan, store: Store):
        self._plan = plan
        self._store = store
        self._names = dict(store.pictures())
        self.missing = 0
        """How many were not there, or damaged, so far."""
        self.damaged: dict[str, None] = {}
        """Names of files that are no pictures, in the order in which they were read."""
        spec = plan.file.spec
        # any first pass is the ordinary picture of the same noise
        self._plain = {place.shot: job.key for place, job in plan.placed()
                       if spec.variants[place.method].method.kind == "plain"}

    def __iter__(self) -> Iterator[tuple[Place, str, str]]:
        for place, job in self._plan.placed():
            key = job.key
            if key in self._names:
                yield place, key, self._names[key]
            else:
                self.missing += 1

    def read(self, name: str) -> Picture | None:
        """None if it is not there, or damaged."""
        try:
            data = self._store.read(name)
        except FileNotFoundError:
            return None
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return np.asarray(picture.convert("RGB"))
        except DAMAGED:
            self.damaged[name] = None
            return None

    def first(self, place: Place, name: str) -> Picture | None:
        """The first pass's picture: that beside a result, or the ordinary one; that of regional sampling has LoRAs."""
        is_own = self._plan.file.spec.variants[place.method].method.kind != "regional"
        beside = self.read(f"{name.removesuffix('.png')}{FIRST_PASS}") if is_own else None
        plain = self._names.get(self._plain.get(place.shot, ""))
        return self.read(plain) if beside is None and plain is not None else beside
