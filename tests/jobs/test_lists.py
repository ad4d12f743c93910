"""Lists of jobs: the same jobs from each kind of file, grids, seeds, settings, and faults with line and field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omg_ext.errors import OMGError
from omg_ext.jobs.job import Job, dump_job
from omg_ext.jobs.lists import JobList, put
from omg_ext.request import Request
from tests.jobs.fakes import FACE, FACE_FILE, a_list

CSV = """prompt,steps,cfg_scale,seeds,request.concepts.0.phrase,request.concepts.0.prompt,request.concepts.0.cfg_scale,\
request.concepts.1.phrase,request.concepts.1.prompt,request.predict
"a man, a woman",20,4.5,"0-1, 7",man,sks man <lora:rusty:1>,"[8, 4]",woman,12,separate
a dog,,,3,,,,,,
"""
YAML = """
defaults: {cfg_scale: 4.5, steps: 20}
jobs:
  - prompt: a man, a woman
    seeds: 0-1, 7
    request:
      concepts:
        - {phrase: man, prompt: "sks man <lora:rusty:1>", cfg_scale: [8, 4]}
        - {phrase: woman, prompt: "12"}
      predict: separate
  - prompt: a dog
    seed: 3
    cfg_scale: 7
    steps: 30
"""
LINES = [{"prompt": "a man, a woman", "seeds": [0, 1, 7], "steps": 20, "cfg_scale": 4.5, "request": {
    "concepts": [{"phrase": "man", "prompt": "sks man <lora:rusty:1>", "cfg_scale": [8, 4]},
                 {"phrase": "woman", "prompt": "12"}], "predict": "separate"}},
         {"prompt": "a dog", "seed": 3}]


def read(path, **settings) -> list[Job]:
    found = []
    for _, job in JobList(path, settings):
        assert isinstance(job, Job), job
        found.append(job)
    return found


def request_of(job: Job) -> Request:
    assert job.request is not None
    return job.request


def faults(path, **settings) -> list[tuple[int, str]]:
    return [(line, error.field) for line, error in JobList(path, settings) if isinstance(error, OMGError)]


def lines(tmp_path, *entries):
    return a_list(tmp_path, entries)


def test_each_kind_of_file_means_the_same(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "a.yaml").write_text(YAML)
    jobs = read(lines(tmp_path, *LINES))
    assert [job.seed for job in jobs] == [0, 1, 7, 3]
    assert read(tmp_path / "a.csv") == read(tmp_path / "a.yaml") == jobs


def test_a_list_of_yaml_needs_no_defaults(tmp_path):
    (tmp_path / "a.yml").write_text("- prompt: a\n- prompt: b\n")
    assert [job.prompt for job in read(tmp_path / "a.yml")] == ["a", "b"]


def test_a_grid_is_all_combinations(tmp_path):
    jobs = read(lines(tmp_path, {**LINES[0], "grid": {"request.concepts[1].strength": [0.5, 1],
                                                      "request.layout.self": [0, 0.4]}}))
    found = [(request_of(job).concepts[1].strength, request_of(job).layout.self_, job.seed) for job in jobs]
    assert found == [(strength, kept, seed) for strength in (0.5, 1) for kept in (0, 0.4) for seed in (0, 1, 7)]
    assert len({job.key for job in jobs}) == 12


def test_settings_are_for_jobs_that_do_not_say(tmp_path):
    first, *_, last = read(lines(tmp_path, *LINES), steps=11, sampler="Euler",
                           **{"request.blend_start": 0.2, "request.concepts.1.strength": 0.5, "seed": 9})
    assert (first.steps, last.steps, first.sampler, last.sampler) == (20, 11, "Euler", "Euler")
    assert (request_of(first).blend_start, request_of(first).concepts[1].strength) == (0.2, 0.5)
    assert (request_of(first).concepts[0].strength, last.request, first.seed, last.seed) == (1, None, 0, 3)


def test_pictures_are_named_by_their_files(tmp_path):
    (tmp_path / "ann.png").write_bytes(FACE_FILE)
    concept = {"prompt": "a", "face": "file:ann.png", "where": {"mask": "file:ann.png"}}
    both = {**concept, "face": ["file:ann.png", FACE]}
    job, = read(lines(tmp_path, {"prompt": "a", "request": {"concepts": [concept, both]}}))
    ann, two = request_of(job).concepts
    assert ann.where is not None
    assert ann.face == ann.where.mask == FACE
    assert two.face == (FACE, FACE)
    assert faults(lines(tmp_path, {"prompt": "a", "request": {"concepts": [{**concept, "face": "file:bob.png"}]}})) == [
        (1, "request.concepts[0].face")]


def test_every_line_at_fault_is_named_with_its_field(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps({"prompt": "a"})
    path.write_text("\n".join([good, "{", "", "[1]", json.dumps({"prompt": "a", "steps": 0}), json.dumps({}), good,
                               json.dumps({"prompt": "a", "seeds": "5-1"}),
                               json.dumps({"prompt": "a", "seed": 1, "seeds": [1]}),
                               json.dumps({"prompt": "a", "grid": {"steps": 3}}),
                               json.dumps({"prompt": "a", "grid": [3]}),
                               json.dumps({"prompt": "a", "grid": {"prompt.x": [3]}}),
                               json.dumps({"prompt": "a", "grid": {"steps": [3, 0]}})]))
    assert faults(path) == [(2, "job"), (4, "job"), (5, "steps"), (6, "prompt"), (8, "seeds"), (9, "seeds"),
                            (10, "grid.steps"), (11, "grid"), (12, "prompt.x"), (13, "steps")]


def test_faults_in_csv_and_yaml_have_their_lines(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,steps\na,3\nb,many\nc,3,4\n\"d\ne\",0\n")
    assert faults(tmp_path / "a.csv") == [(3, "steps"), (4, "job"), (6, "steps")]
    (tmp_path / "a.yaml").write_text("- prompt: a\n  steps: 3\n-\n  prompt: b\n  steps: 0\n- c\n"
                                     "- prompt: 2026-11-25\n  seed: 2026-11-25\n")
    assert faults(tmp_path / "a.yaml") == [(4, "steps"), (6, "job"), (7, "seed")]


@pytest.mark.parametrize(("name", "text"), [
    ("a.txt", ""), ("a.jsonl", None), ("a.yaml", "{"), ("a.yaml", "a: b"), ("a.yaml", "jobs: 3"), ("a.yaml", ""),
    ("a.jsonl", b"\xff\xfe")])
def test_what_is_no_list_is_refused(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OMGError) as caught:
        list(JobList(tmp_path / name, {}))
    assert caught.value.field == "jobs"
    assert name in str(caught.value) or "list" in str(caught.value)


def test_lists_are_read_as_they_come(tmp_path):
    path = lines(tmp_path, {"prompt": "a", "seeds": "0-9999999"})
    jobs = iter(JobList(path, {}))
    assert [next(jobs)[1] for _ in range(3)] == [Job(prompt="a", seed=seed) for seed in range(3)]


def test_settings_do_not_leak_from_one_job_into_another(tmp_path):
    path = lines(tmp_path, {"prompt": "a", "grid": {"request.concepts.0.strength": [0.5, 1]}}, {"prompt": "b"})
    jobs = read(path, request={"concepts": [{"phrase": "man", "prompt": "a"}]})
    assert [request_of(job).concepts[0].strength for job in jobs] == [0.5, 1, 1]


def test_put_makes_what_is_on_the_way():
    entry: dict[str, Any] = {}
    put(entry, "request.concepts.0.cfg_scale", [1, 2])
    put(entry, "request.concepts[0].cfg_scale.1", 3)
    put(entry, "request.concepts.0.cfg_scale", 4, is_default=True)
    assert entry == {"request": {"concepts": [{"cfg_scale": [1, 3]}]}}
    for path in ("request.concepts.2.x", "request.concepts.x", "request.concepts.0.cfg_scale.0.x"):
        with pytest.raises(OMGError):
            put(entry, path, 1)


def test_a_job_of_a_list_is_the_job_of_its_data(tmp_path):
    job, = read(lines(tmp_path, LINES[1]))
    assert dump_job(job) == LINES[1]
