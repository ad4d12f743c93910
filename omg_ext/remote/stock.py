"""What a web UI has to draw with."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from msgspec import Struct

from ..errors import OMGError
from ..jobs.job import Job
from ..request.tags import parse_tags, suggestion
from .connection import Connection, WebUIError

_HASH = re.compile(r" \[\w+\]$")
_NEW = "if it is new there, press Refresh on that web UI's page"


# what its routes answer, as far as it is read here


class _Options(Struct):
    samples_format: str = "png"


class _Sampler(Struct):
    name: str


class _Scheduler(Struct):
    name: str
    label: str


class _Model(Struct):
    title: str
    model_name: str
    filename: str
    hash: str | None = None
    sha256: str | None = None


class _Lora(Struct):
    name: str
    alias: str
    path: str


class _Need(Struct):
    name: str
    is_there: bool


class Detector(Struct):
    """One of OMG's, and what it needs."""

    name: str
    ready: bool
    needs: list[_Need]


class _Scripts(Struct):
    txt2img: list[str]


@dataclass(frozen=True)
class Checkpoint:
    """
    Attributes:
        name: under which that web UI knows it, whatever is known of its checksum.
        stem: what that web UI calls it in the pictures' infotext.
    """

    name: str
    stem: str


@dataclass(frozen=True)
class Stock:
    """
    Attributes:
        url: the web UI's, for messages.
        samplers, schedulers: the names that it knows.
        checkpoints: by all their names.
        loras: the files, by all their names.
        detectors: OMG's, as its ``/omg/v1/detectors`` describes them; None without OMG, or if it is too old for that.
        has_omg: whether OMG is there.
    """

    url: str
    samplers: frozenset[str]
    schedulers: frozenset[str]
    checkpoints: Mapping[str, Checkpoint]
    loras: Mapping[str, str]
    detectors: Mapping[str, Detector] | None
    has_omg: bool

    def check(self, job: Job) -> None:
        """Refuse what the web UI would replace, leave out or refuse.

        Of an unknown sampler it makes ``Euler a``, of an unknown scheduler the sampler's own, of an unknown checkpoint
        the one that it has loaded, and an unknown LoRA it leaves out.

        Raises:
            OMGError: naming the job's field.
        """
        if job.sampler not in self.samplers:
            raise self._unknown("sampler", job.sampler, self.samplers)
        if job.scheduler not in self.schedulers:
            raise self._unknown("scheduler", job.scheduler, self.schedulers)
        self.checkpoint(job)
        for field, prompt in job.prompts:
            self._check_loras(field, prompt)
        if job.asks_for_omg:
            self._check_omg(job)

    def checkpoint(self, job: Job) -> Checkpoint | None:
        """The one that a job names; None for the web UI's own.

        Raises:
            OMGError: there is no such checkpoint.
        """
        if not job.checkpoint:
            return None
        found = self.checkpoints.get(job.checkpoint) or self.checkpoints.get(_last(job.checkpoint))
        if found is None:
            raise self._unknown("checkpoint", job.checkpoint, {each.stem for each in self.checkpoints.values()}, _NEW)
        return found

    def _check_loras(self, field: str, prompt: str) -> None:
        for tag in parse_tags(prompt, field)[1]:
            if tag.name not in self.loras:
                raise OMGError(field, f"there is no LoRA {tag.name!r} at {self.url}"
                                      f"{suggestion(tag, self.loras) or f'; {_NEW}'}")

    def _check_omg(self, job: Job) -> None:
        if not self.has_omg:
            raise OMGError("request", f"{self.url} does not have the OMG extension")
        if self.detectors is None:
            raise OMGError("request", f"the OMG extension at {self.url} is too old; update it")
        if job.request is None or not any(concept.needs_detection for concept in job.request.concepts):
            return
        detector = self.detectors.get(job.request.detector)
        if detector is None:
            raise self._unknown("request.detector", job.request.detector, self.detectors)
        if not detector.ready:
            missing = ", ".join(need.name for need in detector.needs if not need.is_there)
            raise OMGError("request.detector", f"`{job.request.detector}` is not ready at {self.url}, which lacks "
                                               f"{missing}; its Settings > OMG says where to get it")

    def _unknown(self, field: str, name: str, known: Iterable[str], advice: str = "") -> OMGError:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known there: {', '.join(sorted(known)[:50])}"
        return OMGError(field, f"{name!r} is unknown at {self.url}; {'; '.join(filter(None, (hint, advice)))}")


def look(web: Connection) -> Stock:
    """Asks a web UI for all of it.

    Raises:
        OMGError, WorkerDiedError: see :meth:`Connection.get`.
        WebUIError: also if its answers would be pictures that have lost something.
    """
    samplers = web.get("/sdapi/v1/samplers", list[_Sampler])
    form = web.get("/sdapi/v1/options", _Options).samples_format
    if form.lower() != "png":
        raise WebUIError(f"{web.name} answers with {form} pictures, which have lost detail; choose png there in "
                         "Settings > Saving images/grids > File format for images")
    detectors = web.find("/omg/v1/detectors", list[Detector])
    return Stock(
        web.name, frozenset(each.name for each in samplers),
        frozenset(name for each in web.get("/sdapi/v1/schedulers", list[_Scheduler])
                  for name in (each.name, each.label)),
        {name: checkpoint for each in web.get("/sdapi/v1/sd-models", list[_Model])
         for name, checkpoint in _checkpoint(each)},
        _loras(web.find("/sdapi/v1/loras", list[_Lora]) or []),
        None if detectors is None else {each.name: each for each in detectors},
        "omg" in web.get("/sdapi/v1/scripts", _Scripts).txt2img)


def _checkpoint(model: _Model) -> Iterator[tuple[str, Checkpoint]]:
    """A checkpoint under each of the names that the web UI takes."""
    file = _last(model.filename)
    stem = file.rpartition(".")[0] or file
    name = _HASH.sub("", model.title)  # the checksum comes into the title when it is first loaded
    for each in (file, stem, model.model_name, name, model.title, model.hash, model.sha256):
        if each:
            yield each, Checkpoint(name, stem)


def _loras(listed: list[_Lora]) -> dict[str, str]:
    """By alias too, where it stands for one file alone: others the web UI does not take."""
    count = Counter(each.alias.lower() for each in listed)
    aliases = {each.alias: each.path for each in listed if count[each.alias.lower()] == 1}
    return {**aliases, **{each.name: each.path for each in listed}}


def _last(path: str) -> str:
    """The file's or folder's name, of a path on any system."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
