"""Ray's actors as workers: on this machine, on several nodes, and when any of them goes away."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import omg_ext.remote.ray as pools
from omg_ext.errors import OMGError
from omg_ext.jobs.artist import Died, Failure, Made
from omg_ext.jobs.job import Job
from omg_ext.jobs.schedule import Done, Ended, Event, Gone, NobodyLeftError, Ready, Schedule
from omg_ext.jobs.store import Store
from omg_ext.remote.cluster import connect, places_of, shares_of
from omg_ext.remote.ray import RayPool
from tests.jobs.engines import Painter, Unknown, dies, refuses

ROOT = Path(__file__).parents[2]
NODE = {"object_store_memory": 100 * 2**20}
# runs as a process of its own, which is then ended
DRIVER = """
import signal, sys
# whoever runs the tests in the background may have it ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
from functools import partial
from pathlib import Path
from omg_ext.jobs.schedule import Schedule
from omg_ext.jobs.store import Store
from omg_ext.remote.cluster import connect
from omg_ext.remote.ray import RayPool
from tests.jobs.engines import Painter
from tests.jobs.test_ray import jobs_of

address, notes, out = sys.argv[1:]
with connect(address), RayPool(partial(Painter, Path(notes), seconds=0.3), Store(out)) as pool:
    list(Schedule(jobs_of(100), pool))
"""


def jobs_of(count: int, **fields: Any) -> list[Job]:
    return [Job("a picture", seed=seed, **fields) for seed in range(count)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with two CPUs, to which this process is connected."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **NODE})
    with connect(cluster.address):
        yield cluster
    cluster.shutdown()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "out"))
    store.open()
    return store


def begun(notes: Path) -> Counter[str]:
    """How often each job was begun, and how many engines were made."""
    return Counter(path.name.split("-")[0] for path in notes.iterdir())


def outcomes(done: list[Done]) -> dict[str, Made | Failure]:
    """By the jobs' keys, each of which is there once."""
    assert len({each.job.key for each in done}) == len(done)
    return {each.job.key: each.outcome for each in done}


def assert_whole(store: Store, jobs: list[Job]) -> None:
    """Each job's picture is there once, and can be read."""
    found = dict(store.pictures())
    assert len(found) == len(list(store.pictures()))
    assert set(found) == {job.key for job in jobs}
    for name in found.values():
        Image.open(io.BytesIO(store.read(name))).load()


def test_pictures_come_back(cluster, notes):
    """Large ones, which pass through Ray's object store."""
    jobs = [*jobs_of(8), Job("refuses")]
    with RayPool(partial(Painter, notes, side=320), cpus=1) as pool:
        done = list(Schedule(jobs, pool))
    results = outcomes(done)
    refused = results.pop(jobs[-1].key)
    assert isinstance(refused, Failure)
    assert "not this one" in refused.reason
    for job in jobs[:-1]:
        made = results[job.key]
        assert isinstance(made, Made)
        assert Image.open(io.BytesIO(made.files[f"{job.key}.png"])).size == (320, 320)
    assert len({each.worker for each in done}) == 2
    assert {each.outcome.entry["worker"] for each in done if isinstance(each.outcome, Made)} <= {
        f"{os.uname().nodename}-1", f"{os.uname().nodename}-2"}
    assert begun(notes) == {**{job.key: 1 for job in jobs}, "engine": 2}


def test_actors_write(cluster, notes, store):
    jobs = jobs_of(6)
    with RayPool(partial(Painter, notes), store, workers=1, env={"OMG_TEST": "1"}) as pool:
        done = list(Schedule(jobs, pool))
    assert [outcome.files for outcome in outcomes(done).values() if isinstance(outcome, Made)] == [{}] * 6
    assert_whole(store, jobs)
    assert begun(notes)["engine"] == 1


def test_a_worker_that_dies(cluster, notes, store):
    """One job's worker is killed, one's each time, and one's says that it cannot go on."""
    jobs = [*jobs_of(4), Job("dies once"), Job("gives up"), Job("dies")]
    with RayPool(partial(Painter, notes), store, cpus=1) as pool:
        results = outcomes(list(Schedule(jobs, pool)))
    failure = results[jobs[-1].key]
    assert isinstance(failure, Failure)
    assert "2 workers died over it; the last said: The actor is dead because its worker process" in failure.reason
    assert_whole(store, jobs[:-1])
    assert begun(notes) - Counter(engine=9) == {**{job.key: 1 for job in jobs}, **{job.key: 2 for job in jobs[4:]}}


def test_an_engine_that_cannot_be_made(cluster, notes):
    """Each place is tried once."""
    with RayPool(partial(refuses, notes), cpus=1) as pool:
        schedule = Schedule(jobs_of(3), pool)
        with pytest.raises(NobodyLeftError, match=r"-\d: OMG: checkpoint: it is not on this node"):
            list(schedule)
        assert pool.wait() == []
    assert len(schedule.gone) == begun(notes)["engine"] == 2


def test_a_node_that_lacks_packages(cluster):
    with RayPool(Unknown(), workers=1) as pool:
        schedule = Schedule(jobs_of(1), pool)
        with pytest.raises(NobodyLeftError, match="No module named 'omg'"):
            list(schedule)
    assert len(schedule.gone) == 1


def test_crashes_without_end(cluster, notes, monkeypatch):
    monkeypatch.setattr(pools, "LIVES", 2)
    with RayPool(partial(dies, notes)) as pool, pytest.raises(NobodyLeftError, match="worker process has died"):
        list(Schedule(jobs_of(3), pool))
    assert begun(notes) == {"engine": 2}


def test_no_room(cluster, notes):
    """A cluster without GPUs, and one whose CPUs are another's."""
    make = partial(Painter, notes)
    with RayPool(make, gpus=1, patience=0.1) as pool, pytest.raises(NobodyLeftError, match="no node had 1 GPU"):
        list(Schedule(jobs_of(1), pool))
    with RayPool(make, cpus=2) as first:
        assert [type(event) for event in first.wait()] == [Ready]
        with RayPool(make, cpus=2, patience=2) as pool, pytest.raises(NobodyLeftError, match="0 GPU and 2 CPU"):
            list(Schedule(jobs_of(1), pool))


def test_an_idle_worker_that_died(cluster, notes):
    """A job whose worker died would be given to it at once, and would count as failed twice."""
    with RayPool(partial(Painter, notes), cpus=1) as pool:
        ready: list[Event] = []
        while len(ready) < 2:
            ready += pool.wait()
        busy, idle = (event.worker for event in ready)
        pool._ray.kill(pool._workers[idle].actor)
        pool.start(busy, Job("dies"))
        ended, gone = pool.wait()
        assert isinstance(ended, Ended)
        assert isinstance(ended.outcome, Died)
        assert isinstance(gone, Gone)
        assert gone.worker == idle


@pytest.mark.parametrize("to_store", [False, True])
def test_nodes_come_and_go(cluster, notes, store, to_store):
    """One node dies with what its workers draw; another one joins later and gets work."""
    node, later = cluster.add_node(num_cpus=2, **NODE), None
    jobs, done = jobs_of(60), []
    try:
        with RayPool(partial(Painter, notes, seconds=0.25, side=320), store if to_store else None, cpus=1) as pool:
            for each in Schedule(jobs, pool):
                done.append(each)
                places = {worker.name: worker.place.node for worker in pool._workers.values()}
                if node and Counter(places.get(one.worker) for one in done)[node.node_id] >= 4:
                    cluster.remove_node(node, allow_graceful=False)
                    node, later = None, cluster.add_node(num_cpus=2, **NODE)
            workers_of_later = {name for name, place in places.items() if later and place == later.node_id}
    finally:
        for left in filter(None, (node, later)):
            cluster.remove_node(left)
    assert node is None
    results = outcomes(done)
    assert all(isinstance(outcome, Made) for outcome in results.values())
    assert set(results) == {job.key for job in jobs}
    assert {each.worker for each in done} & workers_of_later
    if to_store:
        assert_whole(store, jobs)
    assert sum(begun(notes)[job.key] for job in jobs) <= len(jobs) + 2


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends(cluster, notes, store, kind):
    """Its actors end with it, and another one draws what is missing."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, cluster.address, str(notes), store.url], cwd=ROOT,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    try:
        while len(list(store.pictures())) < 3:
            assert driver.poll() is None
            time.sleep(0.1)
        driver.send_signal(kind)
        driver.wait(60)
    finally:
        driver.kill()
    kept = {key for key, _ in store.pictures()}
    assert len(kept) < 50
    jobs = jobs_of(len(kept) + 4)
    with RayPool(partial(Painter, notes), store) as pool:  # needs the CPUs of those actors
        done = list(Schedule([job for job in jobs if job.key not in {key for key, _ in store.pictures()}], pool))
    assert len(done) >= 3
    assert_whole(store, jobs)
    assert sum(begun(notes)[job.key] for job in jobs) <= len(jobs) + 2


def test_ray_on_this_machine(notes):
    """Started and ended by a process of its own."""
    code = ("import sys, time; from functools import partial; from pathlib import Path; import ray\n"
            "from tests.jobs.test_ray import *\n"
            "with connect(None, num_cpus=2, object_store_memory=100 * 2**20):\n"
            "    with RayPool(partial(Painter, Path(sys.argv[1]))) as pool:\n"
            "        done = list(Schedule(jobs_of(3), pool))\n"
            "print(len(done), ray.is_initialized())\n")
    ended = subprocess.run([sys.executable, "-c", code, str(notes)], cwd=ROOT, timeout=300, check=False, text=True,
                           capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.stdout.splitlines() == ["3 False"], ended.stderr
    assert begun(notes)["engine"] == 1


@pytest.mark.parametrize(("address", "words"), [
    ("127.0.0.1:1", "no connection to 127.0.0.1:1: .*refused.* Is the cluster running"),
    ("nonsense", "an address is host:port"), ("head:port", "an address is host:port")])
def test_no_cluster(address, words):
    with pytest.raises(OMGError, match=f"ray: .*{words}"), connect(address):
        pass


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OMGError, match=r"ray: Ray is not installed: pip install .*ray\]"), connect():
        pass


def node_of(name: str, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "NodeManagerHostname": name, "Resources": resources}


@pytest.mark.parametrize(("nodes", "asked", "shares", "places"), [
    ([node_of("a", CPU=8), node_of("b", CPU=8, GPU=2), node_of("c", CPU=4, GPU=1)], (None, None), (1, 1),
     ["b0", "c0", "b1"]),
    ([node_of("b", CPU=8, GPU=2)], (0.5, None), (0.5, 1), ["b0", "b1", "b2", "b3"]),
    ([node_of("b", CPU=8, GPU=1)], (0.1, 4), (0.1, 4), ["b0", "b1"]),
    ([node_of("a", CPU=5)], (None, None), (0, 2), ["a0", "a1"]),
    ([node_of("a", CPU=1), node_of("b")], (None, None), (0, 1), ["a0"]),
    ([node_of("a", CPU=4)], (1, None), (1, 1), []), ([], (None, None), (0, 1), [])])
def test_where_workers_fit(nodes, asked, shares, places):
    assert shares_of(nodes, *asked) == shares
    assert [f"{place.host}{place.number}" for place in places_of(nodes, shares)] == places
