"""Pictures that a list of jobs names by their files."""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import OMGError

PREFIX = "file:"


def with_pictures(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The entry with the pictures themselves where ``file:NAME`` stands for a concept's face or mask; in place.

    Args:
        folder: of the list, from which names go out.

    Raises:
        OMGError: naming the field: there is no such file.
    """
    request = entry.get("request")
    concepts = request.get("concepts") if isinstance(request, dict) else None
    for index, concept in enumerate(concepts if isinstance(concepts, list) else ()):
        if not isinstance(concept, dict):
            continue
        field = f"request.concepts[{index}]"
        if isinstance(concept.get("face"), list):
            concept["face"] = [_read(face, folder, f"{field}.face[{number}]")
                               for number, face in enumerate(concept["face"])]
        elif "face" in concept:
            concept["face"] = _read(concept["face"], folder, f"{field}.face")
        where = concept.get("where")
        if isinstance(where, dict) and "mask" in where:
            where["mask"] = _read(where["mask"], folder, f"{field}.where.mask")
    return entry


def _read(value: Any, folder: Path, field: str) -> Any:
    if not (isinstance(value, str) and value.startswith(PREFIX)):
        return value
    path = folder / value.removeprefix(PREFIX)
    try:
        return encoded(path)
    except OSError as error:
        raise OMGError(field, f"{path} cannot be read: {error.strerror}") from None


def encoded(path: Path) -> str:
    """A picture's file as requests take it; the last few are not read again unless they change."""
    return _encoded(path, path.stat().st_mtime_ns)


@lru_cache(64)
def _encoded(path: Path, changed: int) -> str:
    return base64.b64encode(path.read_bytes()).decode()
