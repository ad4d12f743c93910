"""Where the models for faces lie, and whether they are the right ones."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omg_ext.comprehension import Models
from omg_ext.comprehension.catalog import CATALOG
from omg_ext.comprehension.downloads import wanted
from omg_ext.errors import OMGError
from omg_ext.faces import files
from omg_ext.faces.analysis import loaded
from omg_ext.faces.files import needs

AURAFACE, BUFFALO, ANTELOPE = 260_694_151, 174_383_860, 260_665_334
FIELD = "concepts[2].face"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: nobody's own models are found."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    return folder


def put(path: Path, size: int = 7) -> Path:
    """A file of some size, of zeros, that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def put_pack(folder: Path, detector: str = "scrfd_10g_bnkps.onnx") -> tuple[Path, Path]:
    return put(folder / detector), put(folder / "glintr100.onnx")


def models(tmp_path: Path) -> Models:
    return Models(folders=[tmp_path / "omg"], face_folders=[tmp_path / "insightface" / "models"], remedy="Get it")


@pytest.mark.parametrize("folder", [
    "omg", "omg/antelopev2", "insightface/models/antelopev2", "insightface/models/antelopev2/antelopev2",
    "home/.insightface/models/antelopev2", "home/.insightface/models/antelopev2/antelopev2"])
def test_where_they_lie(tmp_path: Path, folder: str) -> None:
    pair = put_pack(tmp_path / folder)
    assert files.find(models(tmp_path)) == pair
    packages, found = needs(models(tmp_path))[:2], needs(models(tmp_path))[2:]
    assert [need.name for need in packages] == ["insightface>=1,<3", "onnxruntime>=1.17,<2"]
    assert all(need.is_there for need in (*packages, *found))
    assert [need.path for need in found] == list(pair)


def test_the_same_detector_under_its_other_name(tmp_path: Path) -> None:
    pair = put_pack(tmp_path / "omg", "det_10g.onnx")
    assert files.find(models(tmp_path)) == pair


def test_of_several_the_one_of_the_right_size(tmp_path: Path) -> None:
    put_pack(tmp_path / "omg")
    whole = put(tmp_path / "insightface" / "models" / "antelopev2" / "glintr100.onnx", ANTELOPE)
    assert files.find(models(tmp_path))[1] == whole


def test_what_is_missing_can_be_got(tmp_path: Path) -> None:
    lacking = wanted(needs(models(tmp_path)))
    folder = tmp_path / "omg" / "antelopev2"
    assert [path for _, path in lacking] == [folder / "scrfd_10g_bnkps.onnx", folder / "glintr100.onnx"]
    assert [file.size for file, _ in lacking] == [16_923_827, ANTELOPE]
    assert all(len(file.sha256 or "") == 64 and file.url.endswith(file.name) for file, _ in lacking)
    with pytest.raises(OMGError) as caught, loaded(models(tmp_path), FIELD):
        pass
    assert caught.value.field == FIELD
    for part in ("`face` needs", "antelopev2/glintr100.onnx (261 MB)", str(tmp_path / "omg"), "Get it"):
        assert part in caught.value.message
    for _, path in lacking:
        put(path)
    assert wanted(needs(models(tmp_path))) == []


@pytest.mark.parametrize("missing", ["insightface", "onnxruntime"])
def test_a_missing_package(tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_pack(tmp_path / "omg")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == missing else find_spec(name, *rest))
    with pytest.raises(OMGError, match=f"needs the Python package {missing}>.*Get it"), loaded(models(tmp_path), FIELD):
        pass


@pytest.mark.parametrize(("size", "words"), [(AURAFACE, "AuraFace"), (BUFFALO, "buffalo_l")])
def test_another_recogniser_is_named(tmp_path: Path, size: int, words: str) -> None:
    _, path = put_pack(tmp_path / "insightface" / "models" / "antelopev2")
    put(path, size)
    assert [need.is_there for need in needs(models(tmp_path))] == [True, True, True, False]
    with pytest.raises(OMGError, match=words) as caught, loaded(models(tmp_path), FIELD):
        pass
    assert caught.value.field == FIELD
    for part in (str(path), "antelopev2", str(ANTELOPE), CATALOG["glintr100"][0].sha256 or "", "Get it"):
        assert part in caught.value.message
    # beside the right one it does not matter
    right = put(tmp_path / "omg" / "antelopev2" / "glintr100.onnx")
    assert files.find(models(tmp_path))[1] == right


def test_a_damaged_file_of_the_right_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, recogniser = put_pack(tmp_path / "omg")
    right = replace(CATALOG["glintr100"][0], size=7, sha256=hashlib.sha256(bytes(7)).hexdigest())
    monkeypatch.setattr(files, "RECOGNITION", right)
    assert files.checked(models(tmp_path), FIELD) == (detector, recogniser)
    assert files.doubt(recogniser) == ""
    recogniser.write_bytes(b"damaged")
    with pytest.raises(OMGError, match=r"is damaged: it should be glintr100.onnx of 7 bytes .* Delete it") as caught:
        files.checked(models(tmp_path), FIELD)
    assert caught.value.field == FIELD


def test_read_once_for_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, recogniser = put_pack(tmp_path / "omg")
    right = replace(CATALOG["glintr100"][0], size=7, sha256=hashlib.sha256(bytes(7)).hexdigest())
    monkeypatch.setattr(files, "RECOGNITION", right)
    opened: list[Path] = []
    real = Path.open

    def counting(path: Path, mode: str) -> Any:
        opened.append(path)
        return real(path, mode)

    monkeypatch.setattr(Path, "open", counting)
    for _ in range(3):
        files.checked(models(tmp_path), FIELD)
    assert opened == [recogniser]
    os.utime(recogniser, ns=(1, 1))
    files.checked(models(tmp_path), FIELD)
    assert opened == [recogniser] * 2


def test_an_unknown_recogniser_is_doubted(tmp_path: Path, pack: Path) -> None:
    with loaded(Models(folders=[pack]), FIELD) as analyser:
        assert "is not antelopev2's glintr100.onnx of 260665334 bytes" in analyser.doubt


def test_instantids_files_among_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told by "instant ID" in their name or their folder's; of several the one of the right size is taken."""
    folder = tmp_path / "InstantID"
    folder.mkdir()
    for name in ("ip-adapter-faceid_sdxl.bin", "ip-adapter.bin", "another.safetensors", "ip-adapter-faceid.safetensors",
                 "ip-adapter.txt"):
        (folder / name).touch()
    control = tmp_path / "ControlNet"
    control.mkdir()
    for name in ("ip-adapter_xl.pth", "canny.safetensors"):
        (control / name).touch()
    models = Models(folders=[tmp_path / "omg"], control_folders=[control, folder])
    assert files.find_instantid(models) == (folder / "ip-adapter.bin", folder / "another.safetensors")
    right = control / "control_instant_id_sdxl.safetensors"
    right.write_bytes(b"1234567")
    monkeypatch.setitem(CATALOG, "identitynet", (replace(CATALOG["identitynet"][0], size=7),))
    first = folder / "control.safetensors"
    first.touch()
    assert files.find_instantid(replace(models, control_folders=[folder, control]))[1] == right
