"""What a job costs before it is drawn: rows that the model evaluates; see the cost model in README."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import OMGError
from ..request import Concept, Request
from ..request.tags import parse_tags
from .job import Job, parse_job

# rows for each concept, and once more, with which the detector of that name looks
_LOOKS: Mapping[str, int] = {"contrast": 8}
_TWICE = {"Heun", "DPM2", "DPM2 a", "DPM++ SDE"}
"""Samplers that ask the model twice a step."""


def rows(job: Job) -> int:
    """About how many rows the model evaluates for a job."""
    guided = 1 if job.cfg_scale == 1 else 2
    calls = (2 if job.sampler.removesuffix(" Karras") in _TWICE else 1) * job.steps
    request = job.request
    if not job.concepts or request is None:
        return guided * calls
    start = math.ceil(request.blend_start * calls)
    first = guided * (start if request.first_pass == "prefix" else calls)
    looks = _LOOKS.get(request.detector, 0)
    wanted = sum(concept.needs_detection for concept in request.concepts)
    found = looks * (wanted + 1) if wanted else 0
    if request.preview:
        return first + found
    return first + found + (calls - start) * (guided + _of_concepts(request, guided))


def _of_concepts(request: Request, guided: int) -> int:
    """Rows of a step."""
    concepts = request.drawn
    further = sum(map(_is_pushed, concepts))
    if request.predict == "separate":
        return guided * len(concepts) + further
    own = sum(concept.negative_prompt is not None for concept in concepts)
    if request.predict == "shared":
        return len(concepts) + own + further
    return 1 + min(own, 1) + min(further, 1)


def _is_pushed(concept: Concept) -> bool:
    return concept.lora_guidance > 0 and bool(concept.faces or parse_tags(concept.prompt, "prompt")[1])


def seconds_of_work(entries: Iterable[Mapping[str, Any]]) -> float | None:
    """Seconds for a row of a megapixel, by what has been drawn; None if nothing has."""
    seconds = work = 0.0
    for entry in entries:
        try:
            work += work_of(parse_job(entry["job"]))
        except OMGError:
            continue
        seconds += entry["seconds"]
    return seconds / work if work else None


def work_of(job: Job) -> float:
    """Rows times megapixels."""
    return rows(job) * job.width * job.height / 2**20
