"""A folder of pictures, here or on any file system that fsspec knows: what is in it is whole."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import fsspec

from ..errors import OMGError

_PICTURE = re.compile(r"[/-]([0-9a-f]{16})\.png$")
_PART = ".part"
# seconds after which nobody writes a file any more that was begun
_ABANDONED = 24 * 3600


class Store:
    """
    Args:
        url: a folder's path, or its address, such as ``s3://bucket/pictures``.
        spread: pictures lie in 256 folders, by their keys: file systems grow slow with very many files in one.

    Raises:
        OMGError: naming ``out``: nothing is known of such addresses.
    """

    def __init__(self, url: str, spread: bool = False):
        self.url = url
        self.spread = spread
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise OMGError("out", f"{url} is no place for pictures: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        # another process may run in another folder
        return Store, (self._root if self.is_local else self.url, self.spread)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine, which others may not see."""
        protocols = self._fs.protocol
        return "file" in ((protocols,) if isinstance(protocols, str) else protocols)

    def open(self) -> None:
        """Makes the folder, and clears away what was begun long ago and never finished.

        Raises:
            OMGError: naming ``out``: it cannot be written to.
        """
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self.write(".writable", b"")
            self._fs.rm(self._path(".writable"))
        except Exception as error:  # of whichever library stands behind the file system
            raise OMGError("out", f"{self.url} cannot be written to ({error}); name another folder") from None
        if self.is_local:
            for path, details in self._fs.find(self._root, detail=True).items():
                if path.endswith(_PART) and time.time() - details["mtime"] > _ABANDONED:
                    self._fs.rm(path)

    def place(self, name: str, key: str) -> str:
        """Where the file of a job lies, from this folder."""
        return f"{key[:2]}/{name}" if self.spread else name

    def write(self, name: str, data: bytes) -> None:
        """Writes a file; it is there when it is whole, and not before, whenever this is broken off."""
        path = self._path(name)
        if not self.is_local:
            self._fs.pipe_file(path, data)  # an object appears when it is whole
            return
        parent, base = path.rsplit("/", 1)
        self._fs.makedirs(parent, exist_ok=True)
        part = f"{parent}/.{base}-{uuid.uuid4().hex[:8]}{_PART}"
        self._fs.pipe_file(part, data)
        self._fs.mv(part, path)

    def read(self, name: str) -> bytes:
        """A file's content."""
        data: bytes = self._fs.cat_file(self._path(name))
        return data

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def append(self, name: str, text: str) -> None:
        """Writes behind what a file of a local folder has."""
        path = self._path(name)
        self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        with self._fs.open(path, "ab") as file:
            file.write(text.encode())

    def pictures(self) -> Iterator[tuple[str, str]]:
        """The key and the name of each result that is there."""
        for folder in self._folders():
            for path in self._fs.ls(folder, detail=False, refresh=True):
                match = _PICTURE.search(path)
                if match:
                    yield match[1], path[len(self._root):].lstrip("/")

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder of it, sorted."""
        path = self._path(folder)
        found = self._fs.ls(path, detail=False) if self._fs.isdir(path) else []
        return sorted(each[len(self._root):].lstrip("/") for each in found)

    def _folders(self) -> list[str]:
        spread = [f"{self._root}/{number:02x}" for number in range(256)]
        return [path for path in (spread if self.spread else [self._root]) if self._fs.isdir(path)]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
