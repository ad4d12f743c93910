"""From an evaluation to jobs, each of which knows its place in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from ..errors import OMGError
from ..jobs.job import Job, parse_job, with_seed
from ..jobs.lists import seeds_of
from .files import SpecFile
from .scene import Scene, fits
from .spec import Method, Subject

_NOT_IN_NAMES = re.compile(r"[^\w .()+-]")
_EVERYWHERE = {"blend_start": 0, "layout": {"cross": 0, "self": 0}, "mask": {"grow": 0, "feather": 0},
               "predict": "separate"}
"""With a mask of the whole picture: an ordinary picture with the concept's prompt and face."""


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
        for method, cast in product(self.file.spec.methods, self.file.spec.casts):
            yield from self._with_lines(method, cast)

    def placed(self) -> Iterator[tuple[Place, Job]]:
        """The jobs and their places, in the same order; a job may have several places.

        Raises:
            OMGError: a job is none; iterating over the plan tells of all.
        """
        for method, cast in product(self.file.spec.methods, self.file.spec.casts):
            yield from self._of(method, cast)

    def _with_lines(self, method: str, cast: Sequence[str]) -> Iterator[tuple[int, Job | OMGError]]:
        try:
            for _, job in self._of(method, cast):
                yield self.file.line(f"methods.{method}"), job
        except OMGError as error:
            yield self.file.line(error.field), error

    def _of(self, name: str, cast: Sequence[str]) -> Iterator[tuple[Place, Job]]:
        spec = self.file.spec
        method = spec.methods[name]
        everyone = tuple(range(len(cast)))
        groups = [(index,) for index in everyone] if method.kind == "single" else [everyone]
        prompts = [number for number, template in enumerate(spec.prompts) if fits(template, len(cast))]
        for number, shown in product(prompts, groups):
            scene = spec.scene(cast, number)
            text = scene.prompt({})
            fields = self._fields(method, cast, scene, shown)
            job = _job({**spec.settings, **fields, "name": _file_name(name, cast)}, name)
            for seed in seeds_of(spec.seeds):
                yield Place(name, tuple(cast), number, seed, shown, text), with_seed(job, seed)

    def _fields(self, method: Method, cast: Sequence[str], scene: Scene, shown: Sequence[int]) -> dict[str, Any]:
        """Of a job: what the method makes of a scene."""
        subjects = [self.file.spec.concepts[name] for name in cast]
        plain = scene.prompt({})
        if method.kind == "plain":
            return {"prompt": plain}
        if method.kind == "omg":
            concepts = [{**self._concept(method, cast, scene, index), **method.concept} for index in shown]
            return {"prompt": plain, "request": _with_first_pass({**method.request, "concepts": concepts})}
        if method.by == "face":
            concepts = [{"prompt": plain, "where": {"box": [0, 0, 1, 1]}, "face": self._faces(cast[index])}
                        for index in shown]
            return {"prompt": plain, "request": {**_EVERYWHERE, "concepts": concepts}}
        named = scene.prompt({index: subjects[index].prompt for index in shown})
        return {"prompt": named + _tags([subjects[index] for index in shown])}

    def _concept(self, method: Method, cast: Sequence[str], scene: Scene, index: int) -> dict[str, Any]:
        """One of a request.

        Everyone of its class has its trigger in its prompt: so its model draws as many as there are, and this one in
        whichever place the mask is.
        """
        subject = self.file.spec.concepts[cast[index]]
        alike = scene.alike(index)
        concept: dict[str, Any] = {"phrase": subject.phrase}
        if method.by == "face":
            concept |= {"prompt": scene.prompt({}), "face": self._faces(cast[index])}
        else:
            concept["prompt"] = scene.prompt(dict.fromkeys(alike, subject.prompt)) + _tags([subject])
        if len(alike) > 1:
            concept["where"] = {"index": alike.index(index)}
        return concept

    def _faces(self, name: str) -> list[str]:
        if name not in self._photos:
            self._photos[name] = self.file.photos(name)
        return self._photos[name]


def _tags(subjects: Sequence[Subject]) -> str:
    return "".join(f" {subject.lora}" for subject in subjects)


def _with_first_pass(request: dict[str, Any]) -> dict[str, Any]:
    """Layout is measured against it; where only its beginning is drawn there is none."""
    shown = request.get("show", [])
    if request.get("first_pass") == "prefix" or not isinstance(shown, list) or "first_pass" in shown:
        return request
    return {**request, "show": [*shown, "first_pass"]}


def _job(data: dict[str, Any], method: str) -> Job:
    """
    Raises:
        OMGError: naming the spec's field.
    """
    try:
        return parse_job(data)
    except OMGError as error:
        raise OMGError(_field_of(error.field, method), error.message) from None


def _field_of(field_of_job: str, method: str) -> str:
    """Where the spec has what a job's field is made of."""
    concept = re.match(r"request\.concepts\[\d+\]\.(.*)", field_of_job)
    if concept:
        return f"methods.{method}.concept.{concept[1]}"
    if field_of_job.startswith("request."):
        return f"methods.{method}.{field_of_job}"
    return f"settings.{field_of_job}"


def _file_name(method: str, cast: Sequence[str]) -> str:
    return _NOT_IN_NAMES.sub("", f"{method} {'+'.join(cast)}")[:80].strip()
