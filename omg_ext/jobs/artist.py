"""A worker's work: draws a job and makes its files."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from ..errors import OMGError
from .draw import Drawn, Engine, WorkerDiedError, png
from .job import Job, noted
from .store import Store

ENTRY = "omg"
"""The text chunk of a result's PNG that holds its entry in the manifest."""


@dataclass(frozen=True)
class Made:
    """What came of a job.

    Attributes:
        entry: about it, as the manifest has it.
        files: to be written, by name, the result last; none if that is done.
    """

    entry: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A job that could not be drawn.

    Attributes:
        reason: why, and what to do.
    """

    reason: str


@dataclass(frozen=True)
class Died:
    """The worker is gone, and nothing came of the job.

    Attributes:
        reason: as far as it is known.
    """

    reason: str


Outcome = Made | Failure | Died


class Artist:
    """Draws jobs and makes their files.

    Args:
        engine: draws them.
        store: to write into; None leaves that to whoever asked.
        name: of the worker.
    """

    def __init__(self, engine: Engine, store: Store | None = None, name: str = ""):
        self.engine = engine
        self._store = store
        self._name = name or socket.gethostname()

    def __call__(self, job: Job) -> Outcome:
        try:
            return self._made(job)
        except WorkerDiedError as error:
            return Died(str(error))
        except OMGError as error:
            return Failure(str(error))
        except Exception as error:  # of whichever kind, the store's too: the next job may well succeed
            return Failure(f"{type(error).__name__}: {error}")

    def _made(self, job: Job) -> Made:
        start = time.perf_counter()
        drawn = self.engine.draw(job)
        made = files_of(job, drawn, {"seconds": round(time.perf_counter() - start, 2), "worker": self._name})
        if self._store is None:
            return made
        write(self._store, made)
        return Made(made.entry)


def files_of(job: Job, drawn: Drawn, about: dict[str, Any]) -> Made:
    """A job's pictures as files, and its entry.

    Args:
        about: further things for the entry.
    """
    extras = {f"{job.stem}.{title}.png": png(picture, {}) for title, picture in drawn.extras.items()}
    name = f"{job.stem}.png"
    entry = {"key": job.key, "file": name, **({"extras": list(extras)} if extras else {}), "job": noted(job), **about,
             **({"warnings": drawn.warnings} if drawn.warnings else {}),
             **({"found": drawn.found} if drawn.found else {})}
    texts = {"parameters": drawn.infotext, ENTRY: json.dumps(entry)}
    return Made(entry, {**extras, name: png(drawn.picture, texts)})


def write(store: Store, made: Made) -> None:
    """Writes the files, the result last: what has a result has everything."""
    for name, data in made.files.items():
        store.write(store.place(name, made.entry["key"]), data)
