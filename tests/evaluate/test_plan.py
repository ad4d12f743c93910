"""The jobs that an evaluation is."""

from __future__ import annotations

from typing import Any

import pytest

from omg_ext.errors import OMGError
from omg_ext.evaluate.plan import Plan
from omg_ext.jobs.job import Job
from tests.evaluate.specs import read

MEN = {name: {"phrase": "man", "prompt": f"{trigger} man", "lora": f"<lora:{name}:1>", "references": name}
       for name, trigger in (("bob", "sks"), ("dan", "zwx"))}


def request(job: Job) -> Any:
    """The job's, which has one."""
    assert job.request is not None
    return job.request


def jobs(plan: Plan, method: str, cast: tuple[str, ...], prompt: int) -> list[Job]:
    return [job for place, job in plan.placed() if (place.method, place.cast, place.prompt) == (method, cast, prompt)]


@pytest.fixture
def plan(tmp_path):
    return Plan(read(tmp_path))


def test_every_method_draws_every_cast_in_every_prompt_that_fits_with_every_seed(plan):
    places = [place for place, _ in plan.placed()]
    of_plain = [(place.cast, place.prompt, place.seed) for place in places if place.method == "plain"]
    assert of_plain == [(cast, prompt, seed) for cast, prompts in ((("ann",), (0, 2)), (("bob", "cup"), (1, 2)))
                        for prompt in prompts for seed in (3, 4)]
    # of two concepts a single method draws two pictures
    assert len(places) == 3 * 8 + 4 + 8
    assert [job for _, job in plan] == [job for _, job in plan.placed()]


def test_the_methods_prompts(plan):
    both = ("bob", "cup")
    assert {job.prompt for job in jobs(plan, "plain", both, 1)} == {"a man with a cup"}
    assert list(dict.fromkeys(job.prompt for job in jobs(plan, "single LoRA", both, 1))) == [
        "a sks man with a cup <lora:bob:0.8>", "a man with a qjv cup <lora:cup:1>"]
    assert {job.prompt for job in jobs(plan, "simultaneous", both, 2)} == {
        "a sks man and a qjv cup in a park <lora:bob:0.8> <lora:cup:1>"}
    omg = jobs(plan, "OMG", both, 1)[0]
    assert omg.prompt == "a man with a cup"
    assert [concept.prompt for concept in request(omg).concepts] == ["a sks man with a cup <lora:bob:0.8>",
                                                                    "a man with a qjv cup <lora:cup:1>"]
    assert (request(omg).blend_start, request(omg).show, omg.steps, omg.seed) == (0.3, ("first_pass",), 5, 3)


def test_everyone_of_a_class_is_the_concept_in_its_prompt_and_stands_from_left_to_right(tmp_path):
    plan = Plan(read(tmp_path, concepts=MEN, casts=[["bob", "dan"]], prompts=["{all}"]))
    concepts = request(jobs(plan, "OMG", ("bob", "dan"), 0)[0]).concepts
    assert [(concept.prompt, concept.where.index) for concept in concepts] == [
        ("a sks man and another sks man <lora:bob:1>", 0), ("a zwx man and another zwx man <lora:dan:1>", 1)]


def test_faces_instead_of_loras(tmp_path):
    plan = Plan(read(tmp_path, methods={"alone": {"kind": "single", "by": "face"}, "OMG": {
        "kind": "omg", "by": "face", "request": {"predict": "joint"}, "concept": {"face_scale": 1}}}))
    omg, alone = (jobs(plan, name, ("ann",), 0)[0] for name in ("OMG", "alone"))
    photo = tuple(plan.file.photos("ann"))
    assert [(each.prompt, each.faces, each.face_scale) for each in request(omg).concepts] == [
        ("a photo of a woman", photo, 1)]
    # an ordinary picture with the face everywhere, as the invariant "everywhere is plain" has it
    assert (request(alone).blend_start, request(alone).layout.cross, request(alone).layout.self_) == (0, 0, 0)
    assert request(alone).concepts[0].where.box == (0, 0, 1, 1)
    assert request(alone).concepts[0].faces == photo


def test_all_faces_at_once(tmp_path):
    plan = Plan(read(tmp_path, methods={"all": {"kind": "simultaneous", "by": "face"}}, settings={"cfg_scale": 4.5}))
    both, one = (request(jobs(plan, "all", cast, 2)[0]) for cast in (("bob", "cup"), ("ann",)))
    # each has all of the picture, of which the row that they share gives each a half
    assert [(each.where.box, each.face_scale, each.cfg_scale, each.prompt, each.faces) for each in both.concepts] == [
        ((0, 0, 1, 1), 1.6, 4.5, "a man and a cup in a park", tuple(plan.file.photos(name))) for name in ("bob", "cup")]
    assert (both.predict, both.blend_start) == ("joint", 0)
    assert (one.predict, one.concepts[0].face_scale) == ("separate", 0.8)


def test_regionally_controllable_sampling(tmp_path):
    plan = Plan(read(tmp_path, methods={"regions": {"kind": "regional", "request": {"detector": "yolo"},
                                                    "concept": {"strength": 0.5}}}))
    job = jobs(plan, "regions", ("bob", "cup"), 2)[0]
    assert job.prompt == "a man and a cup in a park <lora:bob:0.8> <lora:cup:1>"
    *concepts, rest = request(job).concepts
    assert [(each.prompt, each.phrase, each.cfg_scale, each.strength) for each in concepts] == [
        ("a sks man in a park", "man", 7, 0.5), ("a qjv cup in a park", "cup", 7, 0.5)]
    assert (rest.prompt, rest.where.rest, rest.cfg_scale, rest.strength) == ("a man and a cup in a park", True, 7, 1)
    assert (request(job).predict, request(job).blend_start, request(job).detector) == ("joint", 0, "yolo")
    # its own first pass has the LoRAs, too
    assert request(job).show == ()


def test_latent_blending(tmp_path):
    plan = Plan(read(tmp_path, methods={"blended": {"kind": "blending", "request": {"blend_start": 0.1}}}))
    job = jobs(plan, "blended", ("bob", "cup"), 1)[0]
    assert job.prompt == "a man with a cup"
    assert [each.prompt for each in request(job).concepts] == ["a sks man <lora:bob:0.8>", "a qjv cup <lora:cup:1>"]
    assert (request(job).predict, request(job).blend_start, request(job).layout.cross, request(job).mask.grow,
            request(job).show) == ("separate", 0.1, 0, 0, ("first_pass",))


def test_methods_of_some_casts_and_of_a_grid(tmp_path):
    methods = {"plain": {"kind": "plain"},
               "OMG": {"kind": "omg", "casts": [1], "grid": {"request.blend_start": [0.2, 0.4]}}}
    plan = Plan(read(tmp_path, methods=methods))
    found = {(place.method, place.cast) for place, _ in plan.placed()}
    assert found == {("plain", ("ann",)), ("plain", ("bob", "cup")), ("OMG, blend_start 0.2", ("bob", "cup")),
                     ("OMG, blend_start 0.4", ("bob", "cup"))}
    job = jobs(plan, "OMG, blend_start 0.4", ("bob", "cup"), 1)[0]
    assert (request(job).blend_start, job.name) == (0.4, "OMG blend_start 0.4 bob+cup")
    assert plan.file.line("methods.OMG") in {line for line, _ in plan}


def test_a_prefix_has_no_first_pass_to_show(tmp_path):
    plan = Plan(read(tmp_path, methods={"early": {"kind": "omg", "request": {"first_pass": "prefix"}}}))
    assert request(next(plan.placed())[1]).show == ()


@pytest.mark.parametrize(("fields", "field", "beside"), [
    ({"settings": {"stepz": 3}}, "settings.stepz", "stepz"),
    ({"methods": {"OMG": {"kind": "omg", "request": {"blend_start": 3}}}}, "methods.OMG.request.blend_start",
     "blend_start"),
    ({"methods": {"OMG": {"kind": "omg", "concept": {"strength": 3}}}}, "methods.OMG.concept.strength", "strength"),
    ({"methods": {"OMG": {"kind": "omg", "grid": {"request.blend_start": [3]}}}},
     "methods.OMG.grid.request.blend_start", "grid")])
def test_what_is_wrong_with_jobs_is_named_as_the_spec_has_it(tmp_path, fields, field, beside):
    plan = Plan(read(tmp_path, **fields))
    line, error = next(iter(plan))
    assert isinstance(error, OMGError)
    assert error.field == field
    assert beside in plan.file.path.read_text().split("\n")[line - 1]
