"""What faces take. To read them: the package insightface, and of its models antelopev2 the two that InstantID needs.
To draw them, in a host that looks for files itself: InstantID's two.

The recogniser decides: InstantID's image prompt has learnt from the embeddings of antelopev2's, and reads no other's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..comprehension.catalog import CATALOG, Download
from ..comprehension.files import below, file_need, named, package
from ..comprehension.models import Models, Need, require
from ..errors import OMGError

NAME = "face"
"""What the models for faces go by where detectors go by theirs."""
DETECTION, RECOGNITION = CATALOG["scrfd"][0], CATALOG["glintr100"][0]
# the same file in the models buffalo_l
_DETECTORS = (DETECTION.name, "det_10g.onnx")
# by their size in bytes: what people have under the same name, or give it
_OTHERS = {260_694_151: "AuraFace's recogniser", 174_383_860: "the recogniser of buffalo_l (w600k_r50.onnx)"}


# InstantID's files are told by "instant ID" in their name or their folder's
_INSTANTID = re.compile(r"instant[-_ ]?id", re.IGNORECASE)
_ADAPTER, _FACE_ID = re.compile(r"ip[-_]adapter", re.IGNORECASE), re.compile(r"face[-_]?id", re.IGNORECASE)
_ADAPTERS, _IDENTITYNETS = (".bin", ".safetensors"), (".safetensors",)


def drawing_needs(models: Models) -> list[Need]:
    """All that a face takes, to be read and to be drawn."""
    adapter, identitynet = find_instantid(models)
    return [*needs(models), file_need(models, adapter, "instantid-adapter"), identitynet_need(models, identitynet)]


def identitynet_need(models: Models, path: Path | None) -> Need:
    """InstantID's ControlNet, if it was found."""
    return file_need(models, path, "identitynet")


def find_instantid(models: Models) -> tuple[Path | None, Path | None]:
    """The files of image prompt adapter and IdentityNet; of several those of the right size, or the first.

    None for what is missing.
    """
    paths = [path for folder in (*models.folders, *models.control_folders) for path in below(folder)
             if _INSTANTID.search(f"{folder.name}/{path.relative_to(folder)}")]
    return (_best([path for path in paths if path.suffix in _ADAPTERS and _ADAPTER.search(path.name)
                   and not _FACE_ID.search(path.name)], CATALOG["instantid-adapter"][0]),
            _best([path for path in paths if path.suffix in _IDENTITYNETS and not _ADAPTER.search(path.name)],
                  CATALOG["identitynet"][0]))


def checked_adapter(models: Models, path: Path | None, field: str) -> Path:
    """The file of the image prompt adapter, if it was found.

    Args:
        field: of the request, for the error.

    Raises:
        OMGError: it was not.
    """
    require(NAME, [file_need(models, path, "instantid-adapter")], models.remedy, field)
    assert path is not None  # `require` has seen to it
    return path


def needs(models: Models) -> list[Need]:
    """What reading takes: the packages and the two files. A recogniser that is known to be another one is none."""
    detector, recogniser = find(models)
    return [package("insightface>=1,<3", "insightface"), package("onnxruntime>=1.17,<2", "onnxruntime"),
            file_need(models, detector, "scrfd"), file_need(models, recogniser, "glintr100")]


def find(models: Models) -> tuple[Path | None, Path | None]:
    """The files of detector and recogniser; of several those of the right size. None for what is missing."""
    folders = _folders(models)
    return (_best(named(folders, _DETECTORS), DETECTION),
            _best([path for path in named(folders, [RECOGNITION.name]) if _other(path) is None], RECOGNITION))


def checked(models: Models, field: str) -> tuple[Path, Path]:
    """The files of detector and recogniser, both whole.

    Args:
        field: of the request, for the error.

    Raises:
        OMGError: something is missing, or a file is another one or damaged.
    """
    detector, recogniser = find(models)
    wrong = named(_folders(models), [RECOGNITION.name]) if recogniser is None else []
    if wrong:
        raise OMGError(field, f"{wrong[0]} is {_other(wrong[0])}, whose embeddings InstantID does not read. It reads "
                              f"those of antelopev2: {_in_words(RECOGNITION)}; put that one in its place. "
                              f"{models.remedy}")
    require(NAME, needs(models), models.remedy, field)
    assert detector is not None  # `require` has seen to it
    assert recogniser is not None
    for path, wanted in ((detector, DETECTION), (recogniser, RECOGNITION)):
        if path.stat().st_size == wanted.size and _sha256(path) != wanted.sha256:
            raise OMGError(field, f"{path} is damaged: it should be {_in_words(wanted)}, and has the SHA-256 "
                                  f"{_sha256(path)}. Delete it and get it again from {wanted.page}")
    return detector, recogniser


def doubt(recogniser: Path) -> str:
    """What to tell people of a recogniser that nobody knows; empty for antelopev2's."""
    size = recogniser.stat().st_size
    return "" if size == RECOGNITION.size else (
        f"{recogniser} has {size} bytes and is not antelopev2's {_in_words(RECOGNITION)}; InstantID's own files read "
        "no other's embeddings")


def _folders(models: Models) -> Sequence[Path]:
    return [*models.folders, *models.face_folders, Path.home() / ".insightface" / "models"]


def _best(paths: Sequence[Path], wanted: Download) -> Path | None:
    return min(paths, key=lambda path: path.stat().st_size != wanted.size, default=None)


def _other(path: Path) -> str | None:
    return _OTHERS.get(path.stat().st_size)


def _in_words(wanted: Download) -> str:
    return f"{wanted.name} of {wanted.size} bytes (SHA-256 {wanted.sha256})"


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


# a second or so for the recogniser: once for a file as it is
@lru_cache
def _hashed(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
