"""What is asked of whoever draws."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .job import Job


@dataclass(frozen=True)
class Drawn:
    """One job's pictures.

    Attributes:
        picture: the result.
        infotext: of the result, as the web UI writes it.
        extras: further pictures that ``request.show`` names, by what they are: ``first_pass``, ``overlay``, and
            ``mask-0`` and so on by concept.
        warnings: what the user should know.
        found: what the detector saw, as in the infotext's ``OMG found``.
    """

    picture: Image.Image
    infotext: str
    extras: Mapping[str, Image.Image] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)


class Engine(Protocol):
    """Draws jobs, one at a time, and keeps what it has loaded for the next one."""

    def check(self, job: Job) -> None:
        """Refuse what can be refused without loading a model: files that are not there, samplers that are not known.

        Raises:
            OMGError: naming the job's field.
        """

    def draw(self, job: Job) -> Drawn:
        """
        Raises:
            OMGError: the job cannot be drawn; another one may.
            WorkerDiedError: nothing more can be drawn here.
        """


class WorkerDiedError(Exception):
    """Whoever draws is gone; the job may be drawn by another one."""


def png(picture: Image.Image, texts: Mapping[str, str]) -> bytes:
    """A PNG file with text chunks."""
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text) if not text.isascii() else info.add_text(name, text)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=info)
    return file.getvalue()
