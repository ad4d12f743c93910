"""The models that detectors work with: where their files may lie, what is missing, and how long they are kept."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from ..errors import OMGError
from .catalog import Download

T = TypeVar("T")


@dataclass(frozen=True)
class Need:
    """Something that a detector takes.

    Attributes:
        kind: a Python package, a model file, or something that the request has to say of concepts' places.
        name: the package's requirement, with its bounds, the file's name, or what the request has to say.
        is_there: whether it was found.
        path: where the file was found.
        size: of the file in bytes, as far as it is known.
        page: where it comes from, for people.
        folder: where to put the file; None if there are no folders for such files.
        downloads: what to put there, as far as it is known: the file, and those that belong to it.
    """

    kind: Literal["package", "file", "place"]
    name: str
    is_there: bool
    path: Path | None = None
    size: int = 0
    page: str = ""
    folder: Path | None = None
    downloads: tuple[Download, ...] = ()

    def __str__(self) -> str:
        """What is missing and how to get it, for a message."""
        if self.kind == "package":
            return f"the Python package {self.name}"
        if self.kind == "place":
            return self.name
        size = f" ({self.size / 1e6:.0f} MB)" if self.size else ""
        others = ", ".join(download.name for download in self.downloads[1:])
        folder = self.folder or "a folder that `detectors` names (--detectors)"
        return f"the file {self.name}{size}{f' with {others}' if others else ''}, from {self.page}, in {folder}"


@dataclass
class Models:
    """What detectors have to work with.

    Attributes:
        device: for their models.
        folders: where model files may lie, the first is OMG's own, into which new ones are put.
        face_folders: where those of insightface may lie besides.
        control_folders: where those of InstantID may.
        is_keeping: whether models stay in memory after use.
        remedy: where people get what is missing, for messages.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    folders: Sequence[Path] = ()
    face_folders: Sequence[Path] = ()
    control_folders: Sequence[Path] = ()
    is_keeping: bool = False
    remedy: str = "Install packages with pip into the environment that runs this, with opencv-python<4.12 and numpy<2"
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    @contextmanager
    def model(self, key: Hashable, load: Callable[[], T]) -> Iterator[T]:
        """A model for use within the block: a kept one, or what ``load`` gives.

        Args:
            key: tells this model, with its files and device, from others.
            load: loads it.
        """
        model = self._kept.get(key)
        if model is None:
            model = self._kept[key] = load()
        try:
            yield model
        finally:
            if not self.is_keeping:
                self.drop()

    def drop(self) -> None:
        """Free what is kept."""
        self._kept.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def require(user: str, needs: Sequence[Need], remedy: str, field: str = "detector") -> None:
    """Refuse a detector, or whatever else uses models, that lacks something.

    Args:
        user: what lacks it, for the message.
        remedy: where to get it, see :class:`Models`.
        field: of the request, for the error.

    Raises:
        OMGError: naming all that is missing, and how to get it.
    """
    missing = [need for need in needs if not need.is_there]
    if missing:
        get = "" if all(need.kind == "place" for need in missing) else f". {remedy}"
        raise OMGError(field, f"`{user}` needs {'; and '.join(map(str, missing))}{get}")
