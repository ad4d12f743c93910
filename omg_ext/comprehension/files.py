"""Where detectors' model files and folders lie, what is named and what is taken, and errors while reading them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import OMGError
from .catalog import CATALOG
from .models import Models, Need

# how deep below a search folder a file may lie
_DEPTH = 3


def files(models: Models, suffixes: Collection[str]) -> list[Path]:
    """All files with one of these suffixes, in the order of the search folders, then by name."""
    return [path for folder in models.folders for path in below(folder)
            if path.suffix.lower() in suffixes]


def named(folders: Sequence[Path], names: Collection[str]) -> list[Path]:
    """All files of one of these names, in the order of the folders."""
    return [path for folder in folders for path in below(folder) if path.name in names]


def model_folders(models: Models, types: Collection[str]) -> list[Path]:
    """All folders as ``save_pretrained`` of transformers writes them, of one of these ``model_type``."""
    return [path.parent for folder in models.folders for path in below(folder)
            if path.name == "config.json" and model_type(path.parent) in types]


def model_type(folder: Path) -> str:
    """What ``config.json`` calls the model; empty if it does not say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""  # no config of transformers
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def below(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """The files of a folder, then those of the folders in it."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name.lower())
    except OSError:
        return  # a search folder may be missing
    yield from (path for path in entries if path.is_file())
    if depth > 1:
        for path in entries:
            if path.is_dir():
                yield from below(path, depth - 1)


def chosen(paths: Sequence[Path], name: str, field: str) -> Path | None:
    """The path that a request names, or the first; None if there is none.

    Args:
        name: a file or folder name, with or without its suffix, in any case; empty names none.
        field: of the request, for the error.

    Raises:
        OMGError: the named one is not among them.
    """
    if not name:
        return paths[0] if paths else None
    wanted = name.lower()
    for path in paths:
        if wanted in (path.name.lower(), path.stem.lower()):
            return path
    there = ", ".join(dict.fromkeys(path.name for path in paths)) or "none"
    raise OMGError(field, f"there is no model `{name}` in the folders for detectors' models; there are: {there}")


def package(requirement: str, module: str) -> Need:
    """A Python package as a need. It is looked for, not imported.

    Args:
        requirement: its name and bounds, as pip takes it.
        module: what Python imports.
    """
    return Need("package", requirement, importlib.util.find_spec(module) is not None)


def file_need(models: Models, path: Path | None, recommended: str) -> Need:
    """A model file as a need.

    Args:
        path: the one that was found, if any.
        recommended: the key in :data:`.catalog.CATALOG` of what to get if there is none.
    """
    if path is not None:
        return Need("file", path.name, True, path, path.stat().st_size, folder=path.parent)
    downloads = CATALOG[recommended]
    get = downloads[0]
    return Need("file", get.path, False, None, get.size, get.page, models.folders[0] if models.folders else None,
                downloads)


@contextmanager
def reading(path: Path, hint: str = "get it again, or choose another model",
            field: str = "detector") -> Iterator[None]:
    """Within the block what a package says of a broken model becomes an error that names its file.

    Args:
        hint: what to do.
        field: of the request, for the error.

    Raises:
        OMGError: see above. That memory is short is not the file's fault, and stays what it is.
    """
    try:
        yield
    except (OMGError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # packages raise anything for a file that is damaged or made for another version
        said = str(error).strip().splitlines()
        raise OMGError(field, f"{path} cannot be used ({type(error).__name__}: {said[0] if said else 'no reason'}); "
                              f"{hint}") from error
