"""Workers that are threads of this process: one for this machine's model, or one for each web UI."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from queue import SimpleQueue

from .artist import Artist, Died
from .job import Job
from .schedule import Ended, Event, Ready


class Threads:
    """A pool of artists, each in a thread of its own.

    Args:
        artists: by the workers' names.
    """

    def __init__(self, artists: Mapping[str, Artist]):
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._jobs: dict[str, SimpleQueue[Job]] = {name: SimpleQueue() for name in artists}
        for name, artist in artists.items():
            # a daemon: whoever breaks the run off does not wait for the picture
            threading.Thread(target=self._work, args=(name, artist), daemon=True).start()

    def start(self, worker: str, job: Job) -> None:
        """See :class:`~omg_ext.jobs.schedule.Pool`."""
        self._jobs[worker].put(job)

    def wait(self) -> list[Event]:
        """See :class:`~omg_ext.jobs.schedule.Pool`."""
        if not self._jobs:
            return []
        event = self._events.get()
        if isinstance(event, Ended) and isinstance(event.outcome, Died):
            del self._jobs[event.worker]
        return [event]

    def _work(self, name: str, artist: Artist) -> None:
        jobs = self._jobs[name]
        self._events.put(Ready(name))
        while True:
            job = jobs.get()
            outcome = artist(job)
            self._events.put(Ended(name, job, outcome))
            if isinstance(outcome, Died):
                return
