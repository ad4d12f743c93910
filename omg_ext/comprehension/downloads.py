"""Getting model files, which happens only when somebody asks for it."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ..errors import OMGError
from .catalog import Download
from .models import Need

_CHUNK = 1024 * 1024
_TIMEOUT_S = 30


def wanted(needs: Sequence[Need]) -> list[tuple[Download, Path]]:
    """Each file that is missing, with its path; those that a broken-off attempt has got already are left out."""
    files = [(download, need.folder / download.path) for need in needs if not need.is_there and need.folder is not None
             for download in need.downloads]
    return [(download, path) for download, path in files if not path.is_file()]


def download(file: Download, path: Path) -> Generator[tuple[int, int], None, None]:
    """Get a file. Until it is whole and its checksum is right it has another name; broken off, it leaves nothing.

    Args:
        file: what to get.
        path: of the file when it is there. Its folder is made.

    Yields:
        the bytes so far and those in all, 0 if that is unknown.

    Raises:
        OMGError: it could not be had whole; the message says how to get it by hand.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        request = urllib.request.Request(file.url, headers={"User-Agent": "omg-webui"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as source:
            yield from _keep(source, int(source.headers.get("Content-Length") or 0), file, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise OMGError("download", f"{file.name} could not be downloaded ({error}); get it from {file.page} and put it "
                                   f"in {path.parent}") from error


def _keep(source: BinaryIO, size: int, file: Download, path: Path) -> Iterator[tuple[int, int]]:
    if not size and not file.sha256:
        raise ValueError("the server does not say how long it is, and no checksum of it is known")
    if size > shutil.disk_usage(path.parent).free:
        raise ValueError(f"it has {size / 1e6:.0f} MB, and there is not so much room in {path.parent}")
    checksum = hashlib.sha256()
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as target:
            while chunk := source.read(_CHUNK):
                checksum.update(chunk)
                target.write(chunk)
                yield target.tell(), size
            done = target.tell()
        if size and done != size:
            raise ValueError(f"the connection ended after {done} of {size} bytes")
        if file.sha256 and checksum.hexdigest() != file.sha256:
            raise ValueError(f"its SHA-256 is {checksum.hexdigest()} and should be {file.sha256}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
