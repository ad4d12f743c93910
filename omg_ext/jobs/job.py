"""One picture to be drawn."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ..request import Request, dump_request
from ..request.pictures import mark_of
from ..request.schema import Scale
from ..request.tags import parse_tags
from ..request.validate import check

Side = Annotated[int, Meta(ge=64, le=8192, multiple_of=8)]


class Job(Struct, frozen=True, forbid_unknown_fields=True):
    """A picture, by everything that it depends on but the models' files.

    Attributes:
        prompt: the main prompt; its ``<lora:...>`` tags act everywhere.
        name: begins the names of its files; says nothing about the picture.
        request: concepts and options of OMG; None is an ordinary picture.
        negative_prompt: of the picture.
        seed: of its noise.
        steps: of the sampling.
        cfg_scale: classifier-free guidance scale; 1 is none.
        width, height: in pixels.
        sampler: by its name in the web UI, such as ``Euler a`` or ``DPM++ 2M``.
        scheduler: which noise levels the steps have, by its name in the web UI; ``Automatic`` is the sampler's own.
        checkpoint: the model's file or folder, or the name under which a worker knows it; empty is the worker's own.
    """

    prompt: str
    name: Annotated[str, Meta(pattern=r"^[\w .()+-]{0,80}$")] = ""
    request: Request | None = None
    negative_prompt: str = ""
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    steps: Annotated[int, Meta(ge=1, le=1000)] = 30
    cfg_scale: Scale = 7.0
    width: Side = 1024
    height: Side = 1024
    sampler: str = "DPM++ 2M"
    scheduler: str = "Automatic"
    checkpoint: str = ""

    @property
    def concepts(self) -> int:
        """How many concepts are drawn."""
        return len(self.request.drawn) if self.request is not None and self.request.enabled else 0

    @property
    def asks_for_omg(self) -> bool:
        """Whether it has a request that is not switched off, even if all concepts in it are."""
        return self.request is not None and self.request.enabled and bool(self.request.concepts)

    @property
    def prompts(self) -> tuple[tuple[str, str], ...]:
        """What its prompts are, after the fields in which they stand; but for negative ones."""
        concepts = self.request.concepts if self.request is not None and self.request.enabled else ()
        return (("prompt", self.prompt), *((f"request.concepts[{index}].prompt", concept.prompt)
                                           for index, concept in enumerate(concepts) if concept.enabled))

    @property
    def networks(self) -> tuple[str, ...]:
        """The LoRAs that its prompts name, sorted.

        Raises:
            OMGError: a tag cannot be read.
        """
        return tuple(sorted({tag.name for field, prompt in self.prompts for tag in parse_tags(prompt, field)[1]}))

    @property
    def models(self) -> tuple[str, ...]:
        """What must be loaded to draw it: jobs with the same are best drawn one after the other."""
        return (self.checkpoint, *self.networks)

    @property
    def key(self) -> str:
        """What tells it from every other: 16 digits of a checksum of all but its name."""
        request = "" if self.request is None else _text_of(self.request)
        data = dump_job(msgspec.structs.replace(self, name="", request=None))
        return hashlib.sha256((json.dumps(data, sort_keys=True) + request).encode()).hexdigest()[:16]

    @property
    def stem(self) -> str:
        """The names of its files, without what follows the dot."""
        return f"{self.name.strip()}-{self.key}" if self.name.strip() else self.key


@lru_cache(64)
def _text_of(request: Request) -> str:
    """Jobs that differ in their seeds share it."""
    return json.dumps(dump_request(request), sort_keys=True)


def parse_job(data: Any) -> Job:
    """Validate a job given as a dict.

    Raises:
        OMGError: naming the field, for unknown or missing fields, wrong types and numbers out of range.
    """
    check(data, Job)
    return msgspec.convert(data, Job)


def with_seed(job: Job, seed: Any) -> Job:
    """The same with another seed, which alone is checked: there may be millions of them.

    Raises:
        OMGError: naming ``seed``.
    """
    parse_job({"prompt": "", "seed": seed})
    return msgspec.structs.replace(job, seed=seed)


def dump_job(job: Job) -> dict[str, Any]:
    """The job as JSON data, defaults left out: ``parse_job(dump_job(job)) == job``."""
    data = {field.name: getattr(job, field.name) for field in msgspec.structs.fields(job)
            if field.name != "request" and getattr(job, field.name) != field.default}
    if job.request is not None:
        data["request"] = dump_request(job.request)
    return data


def noted(job: Job) -> dict[str, Any]:
    """The job as JSON data for people to read: of its pictures the checksums alone."""
    data = dump_job(job)
    for concept in data.get("request", {}).get("concepts", ()):
        if "face" in concept:
            face = concept["face"]
            concept["face"] = mark_of(face) if isinstance(face, str) else [mark_of(each) for each in face]
        if "mask" in concept.get("where", {}):
            concept["where"]["mask"] = mark_of(concept["where"]["mask"])
    return data
