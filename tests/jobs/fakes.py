"""Engines and pools that draw nothing."""

from __future__ import annotations

import base64
import heapq
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from omg_ext.errors import OMGError
from omg_ext.jobs.artist import Died, Failure, Made, Outcome
from omg_ext.jobs.draw import Drawn, WorkerDiedError, png
from omg_ext.jobs.job import Job
from omg_ext.jobs.schedule import Ended, Event, Ready

FACE_FILE = png(Image.new("RGB", (8, 8), "red"), {})
FACE = base64.b64encode(FACE_FILE).decode()


class FakeEngine:
    """Draws a picture of one colour; a prompt may say what is to go wrong."""

    def __init__(self) -> None:
        self.drawn: list[Job] = []
        self.options: dict[str, Any] = {}

    def check(self, job: Job) -> None:
        if "refused" in job.prompt:
            raise OMGError("prompt", "refused")

    def draw(self, job: Job) -> Drawn:
        self.drawn.append(job)
        if "impossible" in job.prompt:
            raise OMGError("prompt", "impossible")
        if "crash" in job.prompt:
            raise ZeroDivisionError("by hand")
        if "deadly" in job.prompt:
            raise WorkerDiedError("deadly")
        picture = Image.new("RGB", (8, 8), (job.seed % 256, 0, 0))
        extras = {"first_pass": picture} if job.request is not None and job.request.show else {}
        return Drawn(picture, f"{job.prompt}\nSteps: {job.steps}, Seed: {job.seed}", extras,
                     ["look"] if "warn" in job.prompt else [])


class SimulatedPool:
    """Workers in simulated time.

    Args:
        workers: how many there are.
        seconds: that a job takes a worker.
        dies: whether a worker dies of a job, which is the start of this number.
        fails: whether a job fails at a worker.
    """

    def __init__(self, workers: int, seconds: Callable[[Job, str], float] = lambda job, worker: 1.0,
                 dies: Callable[[int, Job], bool] = lambda start, job: False,
                 fails: Callable[[str, Job], bool] = lambda worker, job: False):
        self.time = 0.0
        self.loads = {"checkpoint": 0, "networks": 0}
        self.starts = 0
        self._seconds = seconds
        self._dies = dies
        self._fails = fails
        self._loaded: dict[str, tuple[str, ...]] = {}
        self._coming: list[tuple[float, int, Event]] = [(0.0, number, Ready(f"w{number}")) for number in range(workers)]
        self._number = workers

    def start(self, worker: str, job: Job) -> None:
        models, before = job.models, self._loaded.get(worker, ("none",))
        self.loads["checkpoint"] += models[0] != before[0]
        self.loads["networks"] += models != before
        self._loaded[worker] = models
        outcome: Outcome = (Died("died") if self._dies(self.starts, job) else
                            Failure("failed") if self._fails(worker, job) else Made({}))
        self.starts += 1
        self._number += 1
        ended = Ended(worker, job, outcome)
        heapq.heappush(self._coming, (self.time + self._seconds(job, worker), self._number, ended))

    def wait(self) -> list[Event]:
        if not self._coming:
            return []
        self.time, _, event = heapq.heappop(self._coming)
        return [event]


def a_list(folder: Path, lines: Iterable[dict[str, Any]], name: str = "jobs.jsonl") -> Path:
    """A file of JSON lines."""
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
