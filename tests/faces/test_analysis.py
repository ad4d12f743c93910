"""Faces through insightface itself: its detection and alignment, on tiny models in its shapes."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from omg_ext.comprehension import Models
from omg_ext.errors import OMGError
from omg_ext.faces.analysis import SIZES, Face, FaceAnalyser, loaded
from omg_ext.faces.base import sides
from tests.models.tiny_faces import blank, box, paint, points, write_detector, write_recogniser

CPU = torch.device("cpu")


def assert_face(face: Face, x: float, y: float, half: float) -> None:
    np.testing.assert_allclose(face.box, box(x, y, half), atol=0.01)
    np.testing.assert_allclose(face.points, points(x, y, half), atol=0.01)


def test_box_and_points(analyser: FaceAnalyser) -> None:
    """The points in insightface's order: eyes, nose, mouth; what is on the picture's left first."""
    picture = blank()
    paint(picture, 320, 240)
    [face] = analyser.faces(picture)
    assert_face(face, 320, 240, 40)
    assert face.points.shape == (5, 2)
    assert face.points.dtype == face.box.dtype == np.float32
    assert 0.5 <= face.score <= 1
    assert sides(face) == pytest.approx((80, 80), rel=1e-4)


def test_several_from_left_to_right(analyser: FaceAnalyser) -> None:
    picture = blank()
    for x, y, half in ((520, 120, 50), (120, 480, 30), (320, 304, 60)):
        paint(picture, x, y, half)
    faces = analyser.faces(picture)
    for face, place in zip(faces, ((120, 480, 30), (320, 304, 60), (520, 120, 50)), strict=True):
        assert_face(face, *place)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 160), (960, 1280)])
def test_coordinates_are_the_pictures_own(analyser: FaceAnalyser, height: int, width: int) -> None:
    """The detector looks at a picture of 640 pixels; a face's half is given at that size."""
    scale = 640 / max(height, width)
    picture = blank(height, width)
    paint(picture, round(320 / scale * width / max(height, width)), round(160 / scale), side=round(50 / scale))
    [face] = analyser.faces(picture)
    # pixels' middles lie half a pixel beside their numbers when it is scaled
    np.testing.assert_allclose(face.box * scale, box(320 * width / max(height, width), 160, 40), atol=9)
    np.testing.assert_allclose(np.multiply(sides(face), scale), [80, 80], atol=0.1)


@pytest.mark.parametrize(("side", "size"), [(50, 640), (70, 576), (80, 448), (120, 320)])
def test_a_large_face_is_sought_in_a_smaller_picture(analyser: FaceAnalyser, side: int, size: int) -> None:
    picture = blank()
    paint(picture, 320, 320, side=side)
    [face] = analyser.faces(picture)
    assert sides(face)[0] == pytest.approx(80 * 640 / size, rel=0.01)
    np.testing.assert_allclose((face.box[:2] + face.box[2:]) / 2, [320, 320], atol=8)
    assert SIZES == (640, 576, 512, 448, 384, 320)


@pytest.mark.parametrize("shape", [(640, 640), (64, 48), (1, 1), (3000, 1), (2, 3000)])
def test_none(analyser: FaceAnalyser, shape: tuple[int, int]) -> None:
    assert analyser.faces(blank(*shape)) == []


def test_colours_are_not_swapped(analyser: FaceAnalyser) -> None:
    """Who takes RGB for BGR sees red faces as blue ones."""
    picture = blank()
    paint(picture, 200, 320)
    paint(picture, 440, 320, blue=True)
    [face] = analyser.faces(picture)
    assert_face(face, 200, 320, 40)


def test_the_same_as_insightfaces_own_analysis(analyser: FaceAnalyser, pack: Path) -> None:
    """Its ``FaceAnalysis`` gets BGR and loads a folder; to the bit."""
    from insightface.app import FaceAnalysis

    root = pack.parent / "root"
    shutil.copytree(pack, root / "models" / "antelopev2")
    picture = blank(480, 640)
    paint(picture, 160, 200, 45, mark=(-14, 12))
    paint(picture, 480, 300, 35, mark=(14, -12))
    own = FaceAnalysis("antelopev2", root=str(root), allowed_modules=["detection", "recognition"],
                       providers=["CPUExecutionProvider"])
    own.prepare(ctx_id=-1, det_size=(640, 640))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        expected = sorted(own.get(np.ascontiguousarray(picture[:, :, ::-1])), key=lambda face: float(face.bbox[0]))
    faces = analyser.faces(picture)
    for face, other in zip(faces, expected, strict=True):
        np.testing.assert_array_equal(face.box, other.bbox)
        np.testing.assert_array_equal(face.points, other.kps)
        np.testing.assert_array_equal(analyser.embedding(picture, face), other.embedding)
        assert face.score == other.det_score
    assert len(faces) == 2


def test_embedding(analyser: FaceAnalyser) -> None:
    """Not normalised; the same for the same person elsewhere, another one for somebody else."""
    picture = blank()
    for x, mark in ((120, (-14, 12)), (320, (14, -12)), (520, (-14, 12))):
        paint(picture, x, 320, mark=mark)
    first, other, again = (analyser.embedding(picture, face) for face in analyser.faces(picture))
    assert first.shape == (512,)
    assert first.dtype == np.float32
    assert np.linalg.norm(first) > 10
    np.testing.assert_allclose(first, again, rtol=1e-3, atol=1e-3)
    assert np.abs(first - other).max() > 1


def test_nothing_is_printed(pack: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture = blank()
    paint(picture, 320, 320)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyser = FaceAnalyser.open(pack / "scrfd_10g_bnkps.onnx", pack / "glintr100.onnx", CPU, "face")
        analyser.embedding(picture, analyser.faces(picture)[0])
    assert capfd.readouterr() == ("", "")
    import insightface.model_zoo.model_zoo as zoo

    assert "print" not in vars(zoo)


def test_another_devices_provider_that_is_not_there(pack: Path) -> None:
    analyser = FaceAnalyser.open(pack / "scrfd_10g_bnkps.onnx", pack / "glintr100.onnx", torch.device("cuda"), "face")
    assert analyser.detector.session.get_providers()[-1] == "CPUExecutionProvider"


@pytest.mark.parametrize(("write", "words"), [
    (write_recogniser, "is a model for recognition, and should be one for detection"),
    (lambda path: write_recogniser(path, 96), "is a model for attribute_512, and should be one for detection"),
    (lambda path: write_recogniser(path, 64), "is a model for nothing that insightface knows"),
    (lambda path: write_detector(path, has_points=False), "finds no key points"),
    (lambda path: path.write_bytes(b"<!DOCTYPE html>"), "cannot be used"),
    (lambda path: path.write_bytes(b""), "cannot be used")])
def test_a_detector_that_is_none(pack: Path, tmp_path: Path, write, words: str) -> None:
    path = tmp_path / "scrfd_10g_bnkps.onnx"
    write(path)
    with pytest.raises(OMGError, match=words) as caught:
        FaceAnalyser.open(path, pack / "glintr100.onnx", CPU, "concepts[1].face")
    assert caught.value.field == "concepts[1].face"
    assert str(path) in caught.value.message
    assert "get it again" in caught.value.message


def test_a_recogniser_that_is_none(pack: Path, tmp_path: Path) -> None:
    path = tmp_path / "glintr100.onnx"
    write_detector(path)
    with pytest.raises(OMGError, match="is a model for detection, and should be one for recognition"):
        FaceAnalyser.open(pack / "scrfd_10g_bnkps.onnx", path, CPU, "face")
    whole = (pack / "glintr100.onnx").read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(OMGError, match="cannot be used"):
        FaceAnalyser.open(pack / "scrfd_10g_bnkps.onnx", path, CPU, "face")


def test_insightface_that_cannot_be_imported(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "insightface.model_zoo.model_zoo", None)
    with pytest.raises(OMGError, match=r"insightface cannot be imported .*; install it and onnxruntime again"):
        FaceAnalyser.open(pack / "scrfd_10g_bnkps.onnx", pack / "glintr100.onnx", CPU, "face")


@pytest.mark.parametrize("is_keeping", [False, True])
def test_kept_as_other_models_are(pack: Path, is_keeping: bool) -> None:
    models = Models(folders=[pack], is_keeping=is_keeping)
    with loaded(models, "face") as first:
        assert first.doubt
    with loaded(models, "face") as second:
        assert (first is second) is is_keeping
