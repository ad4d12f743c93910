"""Who draws what next: nothing lost, nothing twice, nothing loaded in vain, by simulated workers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from omg_ext.jobs.artist import Failure, Made
from omg_ext.jobs.job import Job
from omg_ext.jobs.schedule import ATTEMPTS, FAILURES, WINDOW, Ended, Gone, NobodyLeftError, Ready, Schedule
from tests.jobs.fakes import SimulatedPool


def jobs(count: int, checkpoints: int = 1, loras: int = 1, run: int = 1) -> Iterator[Job]:
    """``run`` of the same models follow each other."""
    for number in range(count):
        turn = number // run
        lora = f" <lora:l{turn // checkpoints % loras}:1>" if loras else ""
        yield Job(prompt=f"a{lora}", seed=number, checkpoint=f"c{turn % checkpoints}")


def drawn(schedule: Schedule) -> list[int]:
    return [done.job.seed for done in schedule if isinstance(done.outcome, Made)]


@pytest.mark.parametrize("workers", [1, 3, 50])
def test_each_job_is_drawn_once(workers):
    assert sorted(drawn(Schedule(jobs(40, 2, 3), SimulatedPool(workers)))) == list(range(40))


def test_nothing_is_to_be_done_for_no_jobs():
    assert drawn(Schedule((), SimulatedPool(2))) == []
    assert drawn(Schedule((), SimulatedPool(0))) == []


def test_one_worker_loads_each_model_once_though_the_list_mixes_them():
    pool = SimulatedPool(1)
    assert len(drawn(Schedule(jobs(600, checkpoints=3, loras=4), pool))) == 600
    assert pool.loads == {"checkpoint": 3, "networks": 12}


def test_workers_share_checkpoints_among_them():
    pool = SimulatedPool(6)
    assert len(drawn(Schedule(jobs(1200, checkpoints=3), pool))) == 1200
    # two workers each at first; at the end those that are done help the others
    assert pool.loads["checkpoint"] <= 6 + 3


def test_a_fast_worker_draws_more():
    pool = SimulatedPool(2, seconds=lambda job, worker: {"w0": 1.0, "w1": 4.0}[worker])
    counts = Counter(done.worker for done in Schedule(jobs(100), pool))
    assert counts["w0"] == pytest.approx(80, abs=2)


def test_jobs_are_taken_from_the_list_as_they_are_needed():
    taken = 0

    def counted() -> Iterator[Job]:
        nonlocal taken
        for job in jobs(10 * WINDOW):
            taken += 1
            yield job

    schedule = iter(Schedule(counted(), SimulatedPool(4)))
    for _ in range(10):
        next(schedule)
    assert taken <= WINDOW + 20


def test_a_job_whose_worker_died_is_drawn_by_another():
    pool = SimulatedPool(5, dies=lambda start, job: start in (3, 7))
    schedule = Schedule(jobs(40), pool)
    assert sorted(drawn(schedule)) == list(range(40))
    assert len(schedule.gone) == 2
    assert pool.starts == 42


def test_a_job_over_which_workers_die_costs_no_more_of_them():
    pool = SimulatedPool(5, dies=lambda start, job: job.seed == 4)
    found = list(Schedule(jobs(40), pool))
    (failed, reason), = ((done.job.seed, done.outcome.reason) for done in found if isinstance(done.outcome, Failure))
    assert failed == 4
    assert "died" in reason
    assert (len(found), pool.starts) == (40, 39 + ATTEMPTS)


def test_a_worker_at_which_everything_fails_does_not_drain_the_list():
    pool = SimulatedPool(2, fails=lambda worker, job: worker == "w1")
    schedule = Schedule(jobs(200), pool)
    found = Counter(done.worker for done in schedule)
    assert (found["w1"], found["w0"]) == (FAILURES, 200 - FAILURES)
    assert schedule.gone == [f"w1: {FAILURES} jobs in a row failed there"]
    pool = SimulatedPool(1, fails=lambda worker, job: True)
    with pytest.raises(NobodyLeftError):
        list(Schedule(jobs(200), pool))
    assert pool.starts == FAILURES


def test_jobs_that_fail_now_and_then_cost_no_worker():
    pool = SimulatedPool(1, fails=lambda worker, job: job.seed % 3 > 0)
    assert len(list(Schedule(jobs(200), pool))) == 200


def test_an_idle_worker_takes_what_one_gives_back_that_dies_late():
    pool = SimulatedPool(2, seconds=lambda job, worker: 1.0 if job.seed else 100.0, dies=lambda start, job: start == 0)
    assert sorted(drawn(Schedule(jobs(5), pool))) == list(range(5))


def test_if_nobody_is_left_what_is_left_is_said():
    pool = SimulatedPool(2, dies=lambda start, job: start in (4, 5))
    with pytest.raises(NobodyLeftError, match="died"):
        list(Schedule(jobs(40), pool))
    with pytest.raises(NobodyLeftError):
        list(Schedule(jobs(1), SimulatedPool(0)))


def test_workers_may_come_and_go_while_it_draws():
    class Late(SimulatedPool):
        def __init__(self) -> None:
            super().__init__(1)
            self._coming.append((0.5, 10, Gone("w9", "never came up")))
            self._coming.append((2.5, 11, Ready("late")))

    schedule = Schedule(jobs(30), Late())
    workers = Counter(done.worker for done in schedule)
    assert sum(workers.values()) == 30
    assert workers["late"] > 10
    assert schedule.gone == ["w9: never came up"]


def test_events_come_in_groups():
    class Grouped(SimulatedPool):
        def wait(self):
            return [event for _ in range(3) for event in super(Grouped, self).wait()]

    pool = Grouped(4)
    found = drawn(Schedule(jobs(50), pool))
    assert sorted(found) == list(range(50))
    assert isinstance(Ended("w", Job(prompt="a"), Made({})), Ended)


@pytest.mark.slow
def test_a_million_jobs_for_a_thousand_workers_take_no_more_memory_than_the_first_thousands():
    pool = SimulatedPool(1000, seconds=lambda job, worker: 1 + job.seed % 7)
    blocks = []
    for number, _ in enumerate(Schedule(jobs(1_000_000, checkpoints=40, loras=0, run=20), pool), 1):
        if number % 10_000 == 0:
            blocks.append(sys.getallocatedblocks())
    assert number == 1_000_000
    # a block is an object, or a part of one: here a job is some ten of them
    assert max(blocks) - blocks[0] < 2000
    # twenty of a checkpoint follow each other, and a thousand workers look two thousand jobs ahead
    assert pool.loads["checkpoint"] < 1_000_000 / 20
