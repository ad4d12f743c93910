"""The checksums by which model sites know files, as the web UI writes them into infotexts."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import safetensors

_BLOCK = 1 << 20


def model_hash(path: Path) -> str:
    """Ten digits, of the whole file. Read once, unless the file changes."""
    return _sha256(path, path.stat().st_mtime_ns, False)[:10]


def lora_hash(path: Path) -> str:
    """Twelve digits, of a safetensors file's weights without its header, or what the header says they are."""
    with safetensors.safe_open(str(path), framework="pt") as file:
        said: str = (file.metadata() or {}).get("sshs_model_hash", "")
    return (said or _sha256(path, path.stat().st_mtime_ns, True))[:12]


@lru_cache(maxsize=10_000)
def _sha256(path: Path, changed: int, without_header: bool) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        if without_header:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
