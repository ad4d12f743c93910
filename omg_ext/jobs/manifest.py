"""What is known of the pictures in a folder: a line of JSON for each, in one file for each run."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from .artist import ENTRY
from .store import Store

FOLDER = "manifest"
FAILURES = "failures"
# lines that wait, where a file cannot be written on
_HELD = 1000

Entry = dict[str, Any]


class Lines:
    """Files of JSON lines that a run writes: one in a folder of this machine, elsewhere one for each thousand lines."""

    def __init__(self, store: Store, folder: str):
        self._store = store
        self._name = f"{folder}/{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self._held: list[str] = []
        self._written = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        if self._store.is_local:
            self._store.append(f"{self._name}.jsonl", line)
            return
        self._held.append(line)
        if len(self._held) == _HELD:
            self.close()

    def close(self) -> None:
        """Writes what waits."""
        if self._held:
            self._store.write(f"{self._name}-{self._written:05d}.jsonl", "".join(self._held).encode())
            self._held.clear()
            self._written += 1


def entries(store: Store) -> Iterator[Entry]:
    """All that former runs wrote, whole lines alone: the last of a run that was killed may be torn."""
    for name in store.files(FOLDER):
        if name.endswith(".jsonl"):
            for line in io.BytesIO(store.read(name)):
                if line.endswith(b"\n"):
                    yield json.loads(line)


def entry_in(store: Store, name: str) -> Entry | None:
    """The entry that a result's own file holds; None if it is none of ours."""
    with Image.open(io.BytesIO(store.read(name))) as picture:
        text = picture.info.get(ENTRY)
    entry: Entry | None = None if text is None else json.loads(text)
    return entry
