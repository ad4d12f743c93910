"""Engines for tests of pools: what a job's prompt says happens to them. Workers in other processes can import this."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from omg_ext.errors import OMGError
from omg_ext.jobs.draw import Drawn, WorkerDiedError
from omg_ext.jobs.job import Job

SIDE = 64


@dataclass
class Painter:
    """Draws noise.

    Attributes:
        notes: a folder in which it leaves a file for each job that it begins, and for itself.
        seconds: that a picture takes.
        side: of the pictures.
    """

    notes: Path
    seconds: float = 0.05
    side: int = SIDE

    def __post_init__(self) -> None:
        self._note("engine")

    def check(self, job: Job) -> None:
        """Refuses nothing."""

    def draw(self, job: Job) -> Drawn:
        first = not list(self.notes.glob(f"{job.key}*"))
        self._note(job.key)
        time.sleep(self.seconds)
        if job.prompt == "dies" or (job.prompt == "dies once" and first):
            os._exit(1)
        if job.prompt == "gives up" and first:
            raise WorkerDiedError("no more")
        if job.prompt == "refuses":
            raise OMGError("prompt", "not this one")
        pixels = np.random.default_rng(job.seed).integers(0, 256, (self.side, self.side, 3), np.uint8)
        return Drawn(Image.fromarray(pixels), "infotext")

    def _note(self, subject: str) -> None:
        (self.notes / f"{subject}-{os.getpid()}-{uuid.uuid4().hex[:8]}").touch()


def refuses(notes: Path) -> Painter:
    """An engine that cannot be made."""
    Painter(notes)
    raise OMGError("checkpoint", "it is not on this node")


def dies(notes: Path) -> Painter:
    """An engine whose making ends the process."""
    Painter(notes)
    os._exit(1)


class Unknown:
    """A callable that can be pickled here, and not read there."""

    def __call__(self) -> Painter:
        raise AssertionError

    def __reduce__(self):
        return _unknown, ()


def _unknown():
    raise ModuleNotFoundError("No module named 'omg'")
