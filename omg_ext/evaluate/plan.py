"""From an evaluation to jobs, each of which knows its place in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from ..errors import OMGError
from ..jobs.job import Job, parse_job, with_seed
from ..jobs.lists import seeds_of
from .files import SpecFile
from .methods import Shot, fields
from .scene import Scene, fits

_NOT_IN_NAMES = re.compile(r"[^\w .()+-]")
_CFG_SCALE = Job("").cfg_scale


@dataclass(frozen=True)
class Place:
    """Where a picture stands in an evaluation.

    Attributes:
        method: its name.
        cast: names of concepts.
        prompt: the number of its template.
        seed: of its noise.
        shown: numbers in the cast of those whom it is to show; a single method's others are company.
        text: the prompt in class words.
    """

    method: str
    cast: tuple[str, ...]
    prompt: int
    seed: int
    shown: tuple[int, ...]
    text: str

    @property
    def shot(self) -> tuple[tuple[str, ...], int, int]:
        """What all methods start from."""
        return self.cast, self.prompt, self.seed


@dataclass(frozen=True, eq=False)
class Plan:
    """All jobs of an evaluation; iterated they are what :class:`~omg_ext.jobs.run.Run` takes.

    Attributes:
        file: the spec.
    """

    file: SpecFile
    _photos: dict[str, list[str]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[int, Job | OMGError]]:
        """The jobs, each with its method's line; in place of one what is wrong with it, once for each cast."""
        for method, cast in self._pairs():
            yield from self._with_lines(method, cast)

    def placed(self) -> Iterator[tuple[Place, Job]]:
        """The jobs and their places, in the same order; a job may have several places.

        Raises:
            OMGError: a job is none; iterating over the plan tells of all.
        """
        for method, cast in self._pairs():
            yield from self._of(method, cast)

    def _pairs(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What draws whom."""
        spec = self.file.spec
        for name, variant in spec.variants.items():
            for cast in spec.chosen(variant.method.casts):
                yield name, cast

    def _with_lines(self, method: str, cast: Sequence[str]) -> Iterator[tuple[int, Job | OMGError]]:
        try:
            for _, job in self._of(method, cast):
                yield self.file.line(f"methods.{self.file.spec.variants[method].name}"), job
        except OMGError as error:
            yield self.file.line(error.field), error

    def _of(self, name: str, cast: Sequence[str]) -> Iterator[tuple[Place, Job]]:
        spec = self.file.spec
        in_spec, method = spec.variants[name]
        everyone = tuple(range(len(cast)))
        groups = [(index,) for index in everyone] if method.kind == "single" else [everyone]
        prompts = [number for number, template in enumerate(spec.prompts) if fits(template, len(cast))]
        for number, shown in product(prompts, groups):
            scene = spec.scene(cast, number)
            shot = self._shot(cast, scene)
            job = _job({**spec.settings, **fields(method, shot, shown), "name": _file_name(name, cast)}, in_spec,
                       spec.methods[in_spec].grid)
            for seed in seeds_of(spec.seeds):
                yield Place(name, tuple(cast), number, seed, shown, shot.plain), with_seed(job, seed)

    def _shot(self, cast: Sequence[str], scene: Scene) -> Shot:
        spec = self.file.spec
        return Shot(scene, [spec.concepts[name] for name in cast], lambda index: self._photos_of(cast[index]),
                    spec.settings.get("cfg_scale", _CFG_SCALE))

    def _photos_of(self, name: str) -> list[str]:
        if name not in self._photos:
            self._photos[name] = self.file.photos(name)
        return self._photos[name]


def _job(data: dict[str, Any], method: str, grid: Collection[str]) -> Job:
    """
    Args:
        method: its name in the spec.
        grid: the paths of its fields that are tried.

    Raises:
        OMGError: naming the spec's field.
    """
    try:
        return parse_job(data)
    except OMGError as error:
        path = _field_of(error.field)
        of_grid = next((tried for tried in grid if path == tried or path.startswith(f"{tried}.")), None)
        if not path.startswith("settings."):
            path = f"methods.{method}.{path if of_grid is None else f'grid.{of_grid}'}"
        raise OMGError(path, error.message) from None


def _field_of(field_of_job: str) -> str:
    """Where the spec's method or settings have what a job's field is made of."""
    concept = re.match(r"request\.concepts\[\d+\]\.(.*)", field_of_job)
    if concept:
        return f"concept.{concept[1]}"
    return field_of_job if field_of_job.startswith("request.") else f"settings.{field_of_job}"


def _file_name(method: str, cast: Sequence[str]) -> str:
    return _NOT_IN_NAMES.sub("", f"{method} {'+'.join(cast)}")[:80].strip()
