"""A run into a folder: nothing lost, nothing twice, whole files alone, whatever breaks it off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from omg_ext.errors import OMGError
from omg_ext.jobs.artist import Artist, Failure, Made, files_of, write
from omg_ext.jobs.cost import rows, seconds_of_work, work_of
from omg_ext.jobs.draw import Drawn
from omg_ext.jobs.job import Job, parse_job
from omg_ext.jobs.ledger import Ledger
from omg_ext.jobs.lists import JobList
from omg_ext.jobs.manifest import entries
from omg_ext.jobs.run import Run, Share
from omg_ext.jobs.store import Store
from omg_ext.jobs.threads import Threads
from tests.jobs.fakes import FakeEngine, a_list

CONCEPTS = {"concepts": [{"phrase": "man", "prompt": "a man"}], "show": ["first_pass"]}


ALL = Share()


def run_of(path: Path, store: Store, share: Share = ALL) -> Run:
    run = Run(JobList(path, {}), store, share)
    assert not run.check(FakeEngine().check)
    store.open()
    run.look()
    return run


def draw(path: Path, store: Store, engine: FakeEngine | None = None, share: Share = ALL,
         workers: int = 1) -> Run:
    run = run_of(path, store, share)
    engine = engine or FakeEngine()
    run.draw(Threads({f"w{number}": Artist(engine, name=f"w{number}") for number in range(workers)}))
    return run


@pytest.fixture(params=["folder", "folder, spread", "memory"])
def store(request, tmp_path):
    """A place for pictures: here, and where files cannot be renamed or written on."""
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return Store("memory://pictures")
    return Store(str(tmp_path / "out"), spread="spread" in request.param)


def results(store: Store) -> list[str]:
    return sorted(name for _, name in store.pictures())


def test_each_picture_is_there_with_its_manifest(tmp_path, store):
    path = a_list(tmp_path, [{"prompt": "a, warn", "seeds": "0-4", "name": "five"},
                             {"prompt": "b", "request": CONCEPTS}])
    run = draw(path, store)
    assert (run.total, run.before, run.summary.drawn, run.summary.failed) == (6, 0, 6, 0)
    found = {entry["key"]: entry for entry in entries(store)}
    assert sorted(entry["file"] for entry in found.values()) == results(store)
    jobs = [job for _, job in JobList(path, {}) if isinstance(job, Job)]
    assert set(found) == {job.key for job in jobs}
    assert all(entry["job"] == {"prompt": "a, warn", **({"seed": job.seed} if job.seed else {}), "name": "five"}
               and entry["warnings"] == ["look"] and entry["worker"] == "w0"
               for job in jobs[:5] for entry in [found[job.key]])
    last = jobs[5]
    assert found[last.key]["extras"] == [f"{last.key}.first_pass.png"]
    assert store.read(store.place(f"{last.key}.first_pass.png", last.key))


def test_pictures_have_infotexts(tmp_path):
    store = Store(str(tmp_path / "out"))
    draw(a_list(tmp_path, [{"prompt": "eine Straße", "seed": 3}]), store)
    with Image.open(tmp_path / "out" / results(store)[0]) as picture:
        assert picture.info["parameters"] == "eine Straße\nSteps: 30, Seed: 3"
        assert picture.getpixel((0, 0)) == (3, 0, 0)


def test_what_is_there_is_not_drawn_again(tmp_path, store):
    path = a_list(tmp_path, [{"prompt": "a", "seeds": "0-4"}])
    draw(path, store)
    again = FakeEngine()
    run = draw(a_list(tmp_path, [{"prompt": "a", "seeds": "0-7"}], "more.jsonl"), store, again)
    assert (run.before, run.summary.drawn) == (5, 3)
    assert [job.seed for job in again.drawn] == [5, 6, 7]
    assert len(list(entries(store))) == 8


def test_a_picture_that_stands_twice_is_drawn_once(tmp_path, store):
    engine = FakeEngine()
    path = a_list(tmp_path, [{"prompt": "a", "seeds": [1, 1, 2]}, {"prompt": "a", "seed": 2, "name": "x"}])
    run = draw(path, store, engine)
    assert (run.total, run.repeated, len(engine.drawn)) == (2, 2, 2)


def test_what_fails_is_told_and_tried_again_by_the_next_run(tmp_path, store):
    path = a_list(tmp_path, [{"prompt": "a"}, {"prompt": "impossible"}, {"prompt": "crash", "name": "c"},
                             {"prompt": "b"}])
    run = draw(path, store)
    assert (run.summary.drawn, run.summary.failed, run.summary.left) == (2, 2, 0)
    assert [reason.split(": ", 1)[1] for reason in run.summary.reasons] == [
        "OMG: prompt: impossible", "ZeroDivisionError: by hand"]
    noted = [json.loads(line) for name in store.files("failures") if name.endswith("jsonl")
             for line in store.read(name).splitlines()]
    assert [(each["job"]["prompt"], each["reason"]) for each in noted] == [
        ("impossible", "OMG: prompt: impossible"), ("crash", "ZeroDivisionError: by hand")]
    assert (draw(path, store).before, len(results(store))) == (2, 2)


def test_if_all_workers_die_the_rest_is_left(tmp_path, store):
    path = a_list(tmp_path, [{"prompt": "a"}, {"prompt": "deadly"}, {"prompt": "b"}, {"prompt": "c"}])
    run = draw(path, store, workers=1)
    assert (run.summary.drawn, run.summary.failed, run.summary.left) == (1, 0, 3)
    assert run.summary.gone == ["w0: deadly"]
    run = draw(path, store, workers=3)
    assert (run.summary.drawn, run.summary.failed, run.summary.left) == (2, 1, 0)


def test_a_list_that_changes_meanwhile_leaves_something(tmp_path, store):
    path = a_list(tmp_path, [{"prompt": "a"}, {"prompt": "b"}])
    run = run_of(path, store)
    a_list(tmp_path, [{"prompt": "a"}, {"prompt": "c"}])
    run.draw(Threads({"w": Artist(FakeEngine())}))
    assert (run.summary.drawn, run.summary.left) == (1, 1)


def test_shares_are_the_whole_list_between_them(tmp_path, store):
    path = a_list(tmp_path, [{"prompt": "a", "seeds": "0-49"}])
    counts = [draw(path, store, share=Share(number, 3)).summary.drawn for number in (1, 2, 3)]
    assert sum(counts) == len(results(store)) == 50
    assert min(counts) > 5


def test_all_faults_are_found_before_anything_is_drawn(tmp_path):
    store = Store(str(tmp_path / "out"))
    path = a_list(tmp_path, [{"prompt": "a"}, {"prompt": "refused", "seeds": "0-9"}, {"prompt": "a", "steps": 0}])
    run = Run(JobList(path, {}), store)
    assert [(fault.line, fault.error.field) for fault in run.check(FakeEngine().check)] == [(2, "prompt"), (3, "steps")]
    assert not (tmp_path / "out").exists()


def test_a_picture_that_no_run_could_note_is_noted_by_the_next(tmp_path, store):
    store.open()
    jobs = [parse_job({"prompt": "a", "seed": seed}) for seed in range(3)]
    artist = Artist(FakeEngine())
    for job in jobs[:2]:
        made = artist(job)
        assert isinstance(made, Made)
        write(store, made)
    store.write(store.place(f"{jobs[2].stem}.png", jobs[2].key), b"")  # another program's, under this name
    draw_path = a_list(tmp_path, [{"prompt": "a", "seeds": "0-1"}, {"prompt": "b"}])
    draw(draw_path, store)
    draw(draw_path, store)
    assert sorted(entry["job"].get("seed", 0) for entry in entries(store) if entry["job"]["prompt"] == "a") == [0, 1]


def test_a_torn_line_of_a_manifest_does_no_harm(tmp_path):
    store = Store(str(tmp_path / "out"))
    path = a_list(tmp_path, [{"prompt": "a", "seeds": "0-2"}])
    draw(path, store)
    manifest, = (tmp_path / "out" / "manifest").glob("*.jsonl")
    manifest.write_bytes(manifest.read_bytes()[:-5])
    draw(a_list(tmp_path, [{"prompt": "a", "seeds": "0-3"}]), store)
    assert sorted(entry["job"].get("seed", 0) for entry in entries(store)) == [0, 1, 2, 3]


KILLED = """
import sys, time
from omg_ext.jobs import run
from tests.jobs import fakes, test_run
class Slow(fakes.FakeEngine):
    def draw(self, job):
        time.sleep(0.003)
        return super().draw(job)
from pathlib import Path
from omg_ext.jobs.store import Store
test_run.draw(Path(sys.argv[1]), Store(sys.argv[2]), Slow(), workers=2)
"""


def test_killed_again_and_again_nothing_is_lost_torn_or_twice(tmp_path):
    path = a_list(tmp_path, [{"prompt": "a", "seeds": "0-299", "request": CONCEPTS}])
    store = Store(str(tmp_path / "out"))
    kills = 0
    for attempt in range(5):
        child = subprocess.Popen([sys.executable, "-c", KILLED, path, tmp_path / "out"])
        before = time.monotonic()
        while child.poll() is None and len(results(store)) <= 50 * (attempt + 1) and time.monotonic() < before + 60:
            time.sleep(0.005)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
    assert kills > 2
    for name in results(store):
        with Image.open(tmp_path / "out" / name) as picture:
            picture.load()
        assert (tmp_path / "out" / name.replace(".png", ".first_pass.png")).stat().st_size
    engine = FakeEngine()
    before = len(results(store))
    run = draw(path, store, engine)
    assert (run.before, run.summary.drawn, len(engine.drawn)) == (before, 300 - before, 300 - before)
    assert len(results(store)) == 300
    keys = [entry["key"] for entry in entries(store)]
    assert len(keys) == len(set(keys)) == 300


def test_what_was_begun_long_ago_is_cleared_away(tmp_path):
    store = Store(str(tmp_path))
    old, new = tmp_path / ".a.png-1.part", tmp_path / ".b.png-1.part"
    for file in (old, new):
        file.write_bytes(b"")
    os.utime(old, (0, 0))
    store.open()
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OMGError) as caught:
        Store(str(tmp_path / "file")).open()
    assert caught.value.field == "out"
    with pytest.raises(OMGError) as caught:
        Store("nosuch://bucket")
    assert caught.value.field == "out"


def test_a_ledger_holds_ten_million_jobs_in_nine_bytes_each():
    ledger = Ledger([3, 2**64 - 1, 3, 2**63 + 1])
    assert (len(ledger), ledger.repeated, ledger.done) == (3, 1, 0)
    assert ledger.take(2**64 - 1)
    assert not ledger.take(2**64 - 1)
    # nearer than a float can tell
    assert not ledger.take(2**63)
    assert 2**63 + 1 in ledger
    assert 2**63 not in ledger
    assert ledger.done == 1


def test_files_of_a_job_end_with_its_result():
    job = Job(prompt="a", name="x")
    picture = Image.new("RGB", (8, 8))
    made = files_of(job, Drawn(picture, "a", {"mask-0": picture, "overlay": picture}), {})
    assert list(made.files) == [f"x-{job.key}.mask-0.png", f"x-{job.key}.overlay.png", f"x-{job.key}.png"]


def test_what_kind_of_failure_it_is_is_told():
    artist = Artist(FakeEngine())
    assert artist(Job(prompt="crash")) == Failure("ZeroDivisionError: by hand")


# README's table, for 50 steps and a blend start of 0.4
@pytest.mark.parametrize(("predict", "first_pass", "concepts", "expected"), [
    ("joint", "whole", 1, 190), ("joint", "whole", 3, 190), ("joint", "prefix", 2, 130),
    ("shared", "whole", 1, 190), ("shared", "whole", 2, 220), ("shared", "prefix", 2, 160),
    ("separate", "whole", 2, 280), ("separate", "prefix", 3, 280)])
def test_rows_are_those_of_the_table(predict, first_pass, concepts, expected):
    boxes = [{"prompt": "a", "where": {"box": [0, 0, 0.5, 1]}}] * concepts
    request = {"concepts": boxes, "predict": predict, "first_pass": first_pass}
    assert rows(parse_job({"prompt": "a", "steps": 50, "request": request})) == expected
    sought = {**request, "concepts": [{"prompt": "a", "phrase": "man"}] * concepts}
    assert rows(parse_job({"prompt": "a", "steps": 50, "request": sought})) == expected + 8 * (concepts + 1)


def test_time_is_reckoned_from_what_was_drawn():
    job = {"prompt": "a", "steps": 50, "width": 512, "height": 512}
    assert work_of(parse_job(job)) == 25
    assert seconds_of_work([{"job": job, "seconds": 10}, {"job": job, "seconds": 40}]) == 1
    assert seconds_of_work([]) is None
