"""A list of jobs, drawn into a folder: all of it is checked first, then what is not there yet is drawn."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ..errors import OMGError
from .artist import Failure, Made, write
from .job import Job, noted
from .ledger import Ledger
from .lists import Fault
from .manifest import FAILURES, FOLDER, Entry, Lines, entries, entry_in
from .schedule import NobodyLeftError, Pool, Schedule
from .store import Store

_NAMED = 20
"""How many failures a summary tells of."""

Watch = Callable[[Job], object]


def _ignore(job: Job) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Share:
    """One of several runs, on as many machines, say, that draw one list between them: each those with its keys.

    Attributes:
        number: of this run, from 1.
        of: how many there are.
    """

    number: int = 1
    of: int = 1

    def __contains__(self, key: str) -> bool:
        return int(key, 16) % self.of == self.number - 1


@dataclass
class Summary:
    """How a run went.

    Attributes:
        drawn: how many pictures.
        failed: how many jobs could not be drawn; all are in the folder ``failures``.
        reasons: why, of the first of them.
        gone: why workers were lost.
        left: how many jobs nobody has drawn: no worker was left, or the list has changed meanwhile.
    """

    drawn: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    left: int = 0


class Run:
    """
    Args:
        jobs: what is to be drawn, each with its line, or what is wrong with that; it is gone through several times.
        store: where to.
        share: which of the jobs.
    """

    def __init__(self, jobs: Iterable[tuple[int, Job | OMGError]], store: Store, share: Share = Share()):
        self._jobs = jobs
        self._store = store
        self._share = share
        self._ledger = Ledger(())
        self.before = 0
        """How many pictures were there."""
        self.summary = Summary()
        """How drawing went so far."""

    @property
    def total(self) -> int:
        """How many different jobs there are."""
        return len(self._ledger)

    @property
    def repeated(self) -> int:
        """How many stand in the list again; they are drawn once."""
        return self._ledger.repeated

    def check(self, refuse: Watch, watch: Watch = _ignore) -> list[Fault]:
        """All lines that cannot be drawn; of each the first job that cannot.

        Args:
            refuse: raises an OMGError for a job that cannot be drawn.
            watch: is told of each job.
        """
        keys = array("Q")
        faults: dict[int, Fault] = {}
        for line, job in self._jobs:
            if isinstance(job, OMGError):
                faults.setdefault(line, Fault(line, job))
                continue
            watch(job)
            try:
                refuse(job)
            except OMGError as error:
                faults.setdefault(line, Fault(line, error))
            if (key := job.key) in self._share:
                keys.append(int(key, 16))
        self._ledger = Ledger(keys)
        return list(faults.values())

    def look(self) -> None:
        """Which pictures are there; to be called once, after :meth:`check`."""
        for key, _ in self._store.pictures():
            self.before += self._ledger.take(int(key, 16))

    def left(self) -> Iterator[Job]:
        """The jobs that are not done, each once; they are as good as done afterwards."""
        for _, job in self._jobs:
            if isinstance(job, Job) and self._ledger.take(int(job.key, 16)):
                yield job

    def draw(self, pool: Pool, watch: Watch = _ignore) -> Summary:
        """Draws what is left; what was drawn stays if this is broken off, and :attr:`summary` tells of it.

        Args:
            watch: is told of each job that ended.
        """
        manifest, failures = Lines(self._store, FOLDER), Lines(self._store, FAILURES)
        schedule = Schedule(self.left(), pool)
        try:
            self._recover(manifest)
            for done in schedule:
                if isinstance(done.outcome, Made):
                    write(self._store, done.outcome)
                    self._note(manifest, done.outcome.entry)
                    self.summary.drawn += 1
                else:
                    self._failed(failures, done.job, done.outcome)
                watch(done.job)
        except NobodyLeftError:
            pass  # the summary tells
        finally:
            manifest.close()
            failures.close()
            self.summary.gone = schedule.gone
            self.summary.left = self.total - self.before - self.summary.drawn - self.summary.failed
        return self.summary

    def _note(self, manifest: Lines, entry: Entry) -> None:
        manifest.add({**entry, "file": self._store.place(entry["file"], entry["key"])})

    def _failed(self, failures: Lines, job: Job, failure: Failure) -> None:
        failures.add({"key": job.key, "reason": failure.reason, "job": noted(job)})
        self.summary.failed += 1
        if self.summary.failed <= _NAMED:
            self.summary.reasons.append(f"{job.stem}: {failure.reason}")

    def _recover(self, manifest: Lines) -> None:
        """Notes pictures that a run wrote that was killed before it could note them."""
        known = Ledger(int(entry["key"], 16) for entry in entries(self._store))
        for key, name in self._store.pictures():
            if int(key, 16) in self._ledger and int(key, 16) not in known:
                entry = entry_in(self._store, name)
                if entry is not None:
                    self._note(manifest, entry)
