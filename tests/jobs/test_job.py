"""One picture as a value: what it depends on, what it needs, and what is refused."""

from __future__ import annotations

import json

import msgspec
import pytest

from omg_ext.errors import OMGError
from omg_ext.jobs.job import Job, dump_job, noted, parse_job
from omg_ext.request import Request
from tests.jobs.fakes import FACE

REQUEST = {"concepts": [{"phrase": "man", "prompt": "old man <lora:rusty:1>"},
                        {"phrase": "woman", "prompt": "a woman <lora:azura:0.5>"}]}


def refusal(**data: object) -> str:
    with pytest.raises(OMGError) as caught:
        parse_job({"prompt": "a", **data})
    return str(caught.value)


def test_a_job_comes_back_from_its_data():
    data = {"prompt": "a <lora:style:1>", "request": REQUEST, "seed": 2**32 - 1, "cfg_scale": 4.5, "sampler": "Euler a",
            "name": "two men"}
    job = parse_job(data)
    assert dump_job(job) == data
    assert parse_job(json.loads(json.dumps(dump_job(job)))) == job
    assert isinstance(job.request, Request)


def test_its_models_are_its_checkpoint_and_all_loras_of_its_prompts():
    job = parse_job({"prompt": "a <lora:style:1>", "checkpoint": "xl", "request": REQUEST})
    assert job.models == ("xl", "azura", "rusty", "style")
    assert parse_job({"prompt": "a", "request": {**REQUEST, "enabled": False}}).models == ("",)


def test_the_key_tells_all_but_the_name():
    job = parse_job({"prompt": "a", "request": REQUEST})
    changes = {"prompt": "b", "negative_prompt": "c", "seed": 1, "steps": 31, "cfg_scale": 8.0, "width": 512,
               "height": 512, "sampler": "Euler", "scheduler": "Karras", "checkpoint": "xl", "request": None}
    assert set(changes) == {field.name for field in msgspec.structs.fields(Job)} - {"name"}
    keys = {msgspec.structs.replace(job, **{name: value}).key for name, value in changes.items()}
    assert len(keys) == len(changes)
    assert job.key not in keys
    named = msgspec.structs.replace(job, name="rusty")
    assert named.key == job.key
    assert named.stem == f"rusty-{job.key}"
    assert job.stem == job.key


def test_the_key_goes_by_what_is_meant_not_by_how_it_is_written():
    written = parse_job({"prompt": "a", "steps": 30, "cfg_scale": 7})
    assert written.key == parse_job({"cfg_scale": 7.0, "prompt": "a"}).key


def test_notes_have_no_photos():
    concept = {"prompt": "a", "face": FACE, "where": {"mask": FACE}}
    two = {"phrase": "man", "prompt": "a", "face": [FACE, FACE]}
    found = noted(parse_job({"prompt": "a", "request": {"concepts": [concept, two]}}))["request"]["concepts"]
    assert found[0]["face"].startswith("sha256:")
    assert found[0]["where"]["mask"] == found[0]["face"]
    assert found[1]["face"] == [found[0]["face"]] * 2
    assert FACE not in json.dumps(found)


@pytest.mark.parametrize(("data", "field"), [
    ({"width": 100}, "width"), ({"steps": 0}, "steps"), ({"seed": -1}, "seed"), ({"seed": 2**32}, "seed"),
    ({"name": "../a"}, "name"), ({"name": "a/b"}, "name"), ({"stepz": 3}, "did you mean `steps`"),
    ({"request": {"concepts": []}}, "request.concepts"),
    ({"request": {"concepts": [{"prompt": "a", "phrase": "man", "strenght": 1}]}}, "request.concepts[0].strenght"),
])
def test_what_is_no_job_is_refused_by_name(data, field):
    assert field in refusal(**data)
