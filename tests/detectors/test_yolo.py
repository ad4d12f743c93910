"""The detector `yolo`, through the real package: from files to masks at the picture's size."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from omg_ext.comprehension import DETECTORS, FirstPicture, Models, Query
from omg_ext.comprehension.quiet import without_habits
from omg_ext.errors import OMGError
from omg_ext.request import Detect
from tests.detectors.eyes import find_things, open_yolo, overlap
from tests.models.tiny_detectors import (
    place,
    scene,
    write_clip,
    write_mobile_sam,
    write_text_encoder,
    write_yolo,
    write_yolo_world,
    write_yoloe,
)

if importlib.util.find_spec("ultralytics") is None:  # importing it here would be with its habits
    pytest.skip("ultralytics is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def clip() -> None:
    """The package, which needs torchvision; without it the test is skipped."""
    pytest.importorskip("clip", exc_type=ImportError)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With models that have classes of their own, of masks and of boxes; no test changes anything in it."""
    folder = tmp_path_factory.mktemp("models")
    with without_habits():
        write_yolo(folder / "tiny-seg.pt")
        write_yolo(folder / "boxes" / "tiny.pt", kind="yolo11n")
    return folder


@pytest.fixture(scope="module")
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With models for any phrase, and their text encoders."""
    folder = tmp_path_factory.mktemp("open")
    with without_habits():
        write_yoloe(folder / "yoloe-tiny-seg.pt")
        write_yolo_world(folder / "tiny-worldv2.pt")
        write_text_encoder(folder / "mobileclip_blt.ts")
        write_clip(folder / "ViT-B-32.pt")
    return folder


found = partial(find_things, "yolo")


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that see the scene in what they get: boxes, and masks a quarter as wide."""
    open_yolo(monkeypatch)


class TestFinding:
    def test_random_networks_run_from_file_to_mask(self, folder):
        men, dogs = found(Models(folders=[folder]), "man", "dog", threshold=0.0)
        assert men or dogs
        assert {instance.mask.shape for instance in (*men, *dogs)} == {scene().shape[:2]}
        assert all(instance.mask.dtype == np.float32 for instance in (*men, *dogs))

    @pytest.mark.usefixtures("eyes")
    @pytest.mark.parametrize("turned", [False, True])
    def test_masks_lie_where_things_are(self, folder, turned):
        image = scene().swapaxes(0, 1) if turned else scene()
        men, dogs = found(Models(folders=[folder]), "an old man", "dogs", image=image)
        assert [round(instance.score, 2) for instance in (*men, *dogs)] == [0.9, 0.6]
        for (instance, *others), name in ((men, "man"), (dogs, "dog")):
            assert not others
            assert overlap(instance.mask, place(name).T if turned else place(name)) > 0.9

    @pytest.mark.usefixtures("eyes")
    def test_boxes_alone_are_masks(self, folder):
        men, dogs = found(Models(folders=[folder]), "man", "dog", model="tiny.pt")
        assert [len(each) for each in (men, dogs)] == [1, 1]
        assert overlap(men[0].mask, place("man")) > 0.95
        assert overlap(dogs[0].mask, place("dog")) > 0.95

    @pytest.mark.usefixtures("eyes")
    def test_threshold(self, folder):
        assert [len(each) for each in found(Models(folders=[folder]), "man", "dog", threshold=0.8)] == [1, 0]

    @pytest.mark.usefixtures("eyes")
    def test_only_what_is_asked_for(self, folder):
        dogs, = found(Models(folders=[folder]), "dog")
        assert len(dogs) == 1
        assert overlap(dogs[0].mask, place("dog")) > 0.9

    @pytest.mark.usefixtures("eyes")
    def test_an_unknown_thing_is_not_found_and_the_others_are(self, folder):
        picture = FirstPicture.of(scene())
        with DETECTORS["yolo"].loaded(Detect(model="tiny-seg.pt"), Models(folders=[folder])) as find:
            men, castles = find(picture, [Query("man"), Query("castle")])
        assert (len(men), castles) == (1, [])
        assert "tiny-seg.pt does not know 'castle'; it knows: man, dog." in picture.hints["castle"]

    def test_people_before_clothes(self, tmp_path):
        for name in ("deepfashion2_yolov8s-seg.pt", "face_yolov8n.pt", "person_yolov8n-seg.pt"):
            (tmp_path / name).touch()
        file = DETECTORS["yolo"].needs(Detect(), Models(folders=[tmp_path]))[1]
        assert file.name == "person_yolov8n-seg.pt"


@pytest.mark.usefixtures("clip")
class TestAnyPhrase:
    def test_yoloe_finds_masks(self, open_folder):
        things, = found(Models(folders=[open_folder]), "castle", threshold=0.0)
        assert things
        assert {instance.mask.shape for instance in things} == {scene().shape[:2]}

    @pytest.mark.parametrize("model", ["yoloe-tiny-seg", "tiny-worldv2"])
    def test_the_phrase_counts_and_phrases_keep_to_themselves(self, open_folder, model):
        models = Models(folders=[open_folder])
        together = found(models, "castle", "an old man", threshold=0.0, model=model)
        alone = [found(models, phrase, threshold=0.0, model=model)[0] for phrase in ("castle", "an old man")]
        assert together[0][0].score != together[1][0].score
        for one, other in zip(together, alone, strict=True):
            assert [each.score for each in one] == [each.score for each in other]

    def test_a_kept_model_takes_new_phrases(self, open_folder):
        models = Models(folders=[open_folder], is_keeping=True)
        first = found(models, "castle", threshold=0.0)[0]
        found(models, "man", threshold=0.0)
        assert [each.score for each in found(models, "castle", threshold=0.0)[0]] == [each.score for each in first]
        assert len(models._kept) == 2

    def test_a_segmenter_turns_boxes_into_shapes(self, open_folder, tmp_path):
        with without_habits():
            write_mobile_sam(tmp_path / "mobile_sam.pt")
        shapes, = found(Models(folders=[open_folder, tmp_path]), "castle", threshold=0.0, model="tiny-worldv2")
        boxes, = found(Models(folders=[open_folder]), "castle", threshold=0.0, model="tiny-worldv2")
        assert shapes
        assert shapes[0].mask.shape == scene().shape[:2]
        assert any(shape.mask.sum() not in {box.mask.sum() for box in boxes} for shape in shapes)


class TestFiles:
    def test_what_is_missing_is_named(self, tmp_path):
        with pytest.raises(OMGError, match=r"the file yoloe-11s-seg\.pt.*and the file mobileclip_blt\.ts \(572 MB\)"):
            found(Models(folders=[tmp_path]), "man")

    def test_a_text_encoder_is_missing(self, tmp_path):
        (tmp_path / "yoloe-11l-seg.pt").write_bytes(b"")
        with pytest.raises(OMGError, match=r"`yolo` needs.*the file mobileclip_blt\.ts"):
            found(Models(folders=[tmp_path]), "man")

    @pytest.mark.parametrize(("names", "expected"), [
        (["person_yolov8n-seg.pt", "face_yolov8n.pt"], "person_yolov8n-seg.pt"),
        (["face_yolov8n.pt"], None),
        (["yoloe-11s-seg.pt", "person_yolov8n-seg.pt"], "person_yolov8n-seg.pt"),
        (["yoloe-11s-seg.pt", "person_yolov8n-seg.pt", "mobileclip_blt.ts"], "yoloe-11s-seg.pt"),
        (["yoloe-26s-seg.pt", "yolov8x-worldv2.pt", "mobileclip_blt.ts", "ViT-B-32.pt"], "yolov8x-worldv2.pt"),
        (["yolo11n.pt", "mobile_sam.pt", "sam_b.pt", "sam_vit_b_01ec64.pt", "yolo11n-seg.pt"], "yolo11n-seg.pt"),
        (["yoloe-11s-seg-pf.pt", "yolo11n.pt"], "yoloe-11s-seg-pf.pt")])
    def test_the_most_capable_that_has_all_it_needs_is_taken(self, tmp_path, monkeypatch, names, expected):
        monkeypatch.setattr("omg_ext.comprehension.files.importlib.util.find_spec", lambda name: True)
        for name in names:
            (tmp_path / name).write_bytes(b"")
        need = DETECTORS["yolo"].needs(Detect(), Models(folders=[tmp_path]))[1]
        assert (need.path.name if need.path is not None else None) == expected

    def test_a_named_one_is_taken(self, folder):
        need = DETECTORS["yolo"].needs(Detect(model="TINY"), Models(folders=[folder]))[1]
        assert need.path == folder / "boxes" / "tiny.pt"
        with pytest.raises(OMGError, match=r"detect\.model: there is no model `big`.*tiny-seg\.pt, tiny\.pt"):
            DETECTORS["yolo"].needs(Detect(model="big"), Models(folders=[folder]))

    def test_a_broken_file_is_named(self, tmp_path):
        (tmp_path / "x-seg.pt").write_bytes(b"no pickle")
        with pytest.raises(OMGError, match=r"x-seg\.pt cannot be used"):
            found(Models(folders=[tmp_path]), "man")

    def test_a_model_for_something_else(self, folder, tmp_path):
        with without_habits():
            from ultralytics import YOLO

            YOLO("yolo11n-cls.yaml").save(str(tmp_path / "kinds.pt"))
        with pytest.raises(OMGError, match=r"a model for classify"):
            found(Models(folders=[tmp_path]), "man")


class TestHabits:
    def test_leaves_nothing_behind(self, folder, tmp_path):
        """In a process of its own: no settings, no folders, no changed switches; it reads in spite of safe loading."""
        code = f"""
import os, torch
from PIL import Image
before, opened = dict(os.environ), Image.open
def refuse(*args, **kwargs): raise RuntimeError("unsafe")
torch.load = refuse
from tests.detectors.test_yolo import found, Models
from pathlib import Path
assert found(Models(folders=[Path({str(folder)!r})]), "man", "dog", threshold=0.0)
assert torch.load is refuse
left = {{name: value for name, value in os.environ.items() if before.get(name) != value and "YOLO" in name}}
assert not left, left
from ultralytics.utils import SETTINGS
from ultralytics.utils.checks import AUTOINSTALL, ONLINE
assert not AUTOINSTALL and not ONLINE
assert Image.open is opened
"""
        clean = {name: value for name, value in os.environ.items() if "YOLO" not in name and not name.startswith("XDG")}
        done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True,
                              text=True, check=False, env={**clean, "HOME": str(tmp_path), "PYTHONPATH": "."})
        assert done.returncode == 0, done.stderr
        assert "Ultralytics" not in done.stdout
        assert not [path for path in tmp_path.rglob("*") if "ltralytics" in path.name]

    def test_nothing_is_installed_or_sent_though_another_imported_it(self, folder, monkeypatch):
        from ultralytics.utils import checks

        monkeypatch.setattr(checks, "AUTOINSTALL", True)
        monkeypatch.setattr(checks, "ONLINE", True)
        with without_habits():
            assert not checks.AUTOINSTALL
            assert not checks.ONLINE
        assert checks.AUTOINSTALL
        assert checks.ONLINE


class TestMemory:
    @pytest.mark.parametrize("is_keeping", [False, True])
    def test_is_free_unless_kept(self, folder, is_keeping):
        models = Models(folders=[folder], is_keeping=is_keeping)
        found(models, "man", threshold=0.0)
        assert bool(models._kept) == is_keeping
        models.drop()
        assert not models._kept
