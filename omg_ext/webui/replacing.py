"""Attributes of the web UI's objects, replaced for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the block an object's attribute is ``value``; what stood on the object before is put back.

    Other extensions patch the same objects, and theirs has to be there afterwards.
    """
    before = vars(owner).get(name, _ABSENT)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _ABSENT:
            vars(owner).pop(name, None)
        else:
            setattr(owner, name, before)
