"""Who draws what next: jobs that need the same models go to a worker that has them loaded."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from .artist import Died, Failure, Made, Outcome
from .job import Job

WINDOW = 2048
"""How many jobs are looked at ahead, in the list's order."""
ATTEMPTS = 2
"""How many workers a job may cost."""
FAILURES = 20
"""After how many failed jobs in a row a worker gets none any more: what is wrong may be the worker."""
# groups of jobs that are compared when a worker needs other models
_COMPARED = 64

Models = tuple[str, ...]


@dataclass(frozen=True)
class Ready:
    """A worker can draw."""

    worker: str


@dataclass(frozen=True)
class Ended:
    """A worker is done with a job; it can draw the next one unless it died."""

    worker: str
    job: Job
    outcome: Outcome


@dataclass(frozen=True)
class Gone:
    """A worker that did not draw is not there any more."""

    worker: str
    reason: str


Event = Ready | Ended | Gone


class Pool(Protocol):
    """Workers, each of which draws one job at a time."""

    def start(self, worker: str, job: Job) -> None:
        """Lets a worker that is ready draw."""

    def wait(self) -> list[Event]:
        """What has happened since, at least one thing; nothing if nothing ever will: no worker is busy or to come."""


@dataclass(frozen=True)
class Done:
    """A job, and what came of it."""

    job: Job
    outcome: Made | Failure
    worker: str


class Window:
    """The jobs that come next, by the models that they need."""

    def __init__(self, jobs: Iterable[Job], size: int = WINDOW):
        self._jobs = iter(jobs)
        self._size = size
        self._groups: dict[Models, deque[Job]] = {}
        self._held = 0
        # by checkpoint: jobs here, and workers that have it
        self._waiting: Counter[str] = Counter()
        self._workers: Counter[str] = Counter()

    def loaded(self, before: Models | None, now: Models | None) -> None:
        """A worker has other models than before; None is none."""
        for models, change in ((before, -1), (now, 1)):
            if models is not None:
                self._workers[models[0]] += change

    def give_back(self, job: Job) -> None:
        """The job is to be drawn after all, before others."""
        models = job.models
        self._groups = {models: self._groups.pop(models, deque()), **self._groups}
        self._groups[models].appendleft(job)
        self._count(models, 1)

    def next(self, models: Models | None) -> tuple[Job, Models] | None:
        """The next job for a worker that has these models loaded, and those that it needs; None if there is none."""
        self._fill()
        if not self._groups:
            return None
        wanted = models if models in self._groups else self._others(models)
        group = self._groups[wanted]
        job = group.popleft()
        self._count(wanted, -1)
        if not group:
            del self._groups[wanted]
        return job, wanted

    def _others(self, models: Models | None) -> Models:
        """What a worker with these models should load: something for its own checkpoint if there are such jobs, else
        for that which has the fewest workers for its jobs. Of several what has waited longest."""
        if models is not None and self._waiting[models[0]]:
            return next(group for group in self._groups if group[0] == models[0])
        compared = islice(self._groups, _COMPARED)
        return min(compared, key=lambda group: self._workers[group[0]] / self._waiting[group[0]])

    def _fill(self) -> None:
        for job in islice(self._jobs, max(0, self._size - self._held)):
            models = job.models
            self._groups.setdefault(models, deque()).append(job)
            self._count(models, 1)

    def _count(self, models: Models, change: int) -> None:
        self._held += change
        self._waiting[models[0]] += change


class NobodyLeftError(Exception):
    """All workers are gone, and there are jobs left."""


class Schedule:
    """Draws jobs by a pool's workers.

    Args:
        jobs: they are asked for as workers need them.
        pool: of workers.
        window: how many jobs are looked at ahead.
    """

    def __init__(self, jobs: Iterable[Job], pool: Pool, window: int = WINDOW):
        self._window = Window(jobs, window)
        self._pool = pool
        # by worker, what it has loaded
        self._models: dict[str, Models | None] = {}
        self._idle: dict[str, None] = {}
        self._busy = 0
        # by worker, how many of its last jobs failed
        self._failed: Counter[str] = Counter()
        self._has_retired = False
        # by key, of jobs whose worker died
        self._attempts: Counter[str] = Counter()
        self.gone: list[str] = []
        """Why workers are not there any more."""

    def __iter__(self) -> Iterator[Done]:
        """What came of each job, in the order in which they end.

        Raises:
            NobodyLeftError: what is left can be drawn by another run.
        """
        while events := self._pool.wait():
            for event in events:
                yield from self._happened(event)
            if self._start() and not self._busy:
                return
            if not self._models and self._has_retired:
                break  # the pool knows of workers that could go on
        if self._window.next(None) is not None:
            raise NobodyLeftError("; ".join(self.gone[-3:]) or "there is no worker")

    def _happened(self, event: Event) -> Iterator[Done]:
        if isinstance(event, Ready):
            self._models.setdefault(event.worker, None)
            self._idle[event.worker] = None
        elif isinstance(event, Gone):
            self._leaves(event.worker, event.reason)
        else:
            self._busy -= 1
            if isinstance(event.outcome, Died):
                self._leaves(event.worker, event.outcome.reason)
                yield from self._again(event.job, event.worker, event.outcome)
            else:
                self._failed[event.worker] = self._failed[event.worker] + 1 if isinstance(event.outcome, Failure) else 0
                if self._failed[event.worker] < FAILURES:
                    self._idle[event.worker] = None
                else:
                    self._has_retired = True
                    self._leaves(event.worker, f"{FAILURES} jobs in a row failed there")
                yield Done(event.job, event.outcome, event.worker)

    def _again(self, job: Job, worker: str, died: Died) -> Iterator[Done]:
        self._attempts[job.key] += 1
        if self._attempts[job.key] < ATTEMPTS:
            self._window.give_back(job)
        else:
            yield Done(job, Failure(f"{ATTEMPTS} workers died over it; the last said: {died.reason}"), worker)

    def _leaves(self, worker: str, reason: str) -> None:
        self.gone.append(f"{worker}: {reason}")
        self._idle.pop(worker, None)
        self._window.loaded(self._models.pop(worker, None), None)

    def _start(self) -> bool:
        """Gives workers that are idle something to do. Returns whether there is no job left for any."""
        for worker in list(self._idle):
            before = self._models[worker]
            found = self._window.next(before)
            if found is None:
                return True
            job, after = found
            del self._idle[worker]
            self._window.loaded(before, after)
            self._models[worker] = after
            self._busy += 1
            self._pool.start(worker, job)
        return False
