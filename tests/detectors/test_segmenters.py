"""Every kind of segmenter through its real package, from files to masks at the picture's size; which one is taken."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omg_ext.comprehension import DETECTORS, FirstPicture, Models, Query, segmenters
from omg_ext.comprehension.places import find_places, given_masks
from omg_ext.comprehension.quiet import without_habits
from omg_ext.errors import OMGError
from omg_ext.request import Concept, Detect, Mask, Request, Where
from tests.detectors.eyes import open_owl, open_parts, open_sam, open_yolo, overlap
from tests.models.tiny_detectors import (
    HEIGHT,
    THINGS,
    WIDTH,
    place,
    scene,
    write_mobile_sam,
    write_owl,
    write_sam,
    write_sam2,
    write_segment_anything,
    write_yolo,
)

transformers = pytest.importorskip("transformers")
HAS_SAM2 = hasattr(transformers, "Sam2Model")
WRITERS: dict[str, Callable[[Path], Path]] = {
    "sam": write_sam, "sam2": write_sam2, "sam2_video": lambda path: write_sam2(path, "sam2_video"),
    "sam_vit_tiny.pth": write_segment_anything, "mobile_sam.pt": write_mobile_sam}
PACKAGES = {"sam_vit_tiny.pth": "segment_anything", "mobile_sam.pt": "ultralytics"}


def is_here(name: str) -> bool:
    """Whether its package is, in a version that has it."""
    return importlib.util.find_spec(PACKAGES.get(name, "transformers")) is not None and (
        HAS_SAM2 or not name.startswith("sam2"))


HERE = [pytest.param(name, marks=pytest.mark.skipif(not is_here(name), reason=f"no package here has {name}"))
        for name in WRITERS]


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By its name a folder with each that can be here, and two of YOLO models; no test changes anything in it."""
    folder = tmp_path_factory.mktemp("segmenters")
    with without_habits() if is_here("mobile_sam.pt") else torch.no_grad():
        for name in filter(is_here, WRITERS):
            (folder / f"only-{name}").mkdir()
            WRITERS[name](folder / f"only-{name}" / name)
        if is_here("mobile_sam.pt"):
            write_yolo(folder / "boxes" / "tiny.pt", kind="yolo11n")
            write_yolo(folder / "masks" / "tiny-seg.pt")
    return folder


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All see the coloured pixels in a box."""
    open_sam(monkeypatch, transformers)
    if is_here("sam_vit_tiny.pth"):
        open_parts(monkeypatch, importlib.import_module("segment_anything.modeling"), ["ImageEncoderViT"])
    open_owl(monkeypatch, transformers)
    if is_here("mobile_sam.pt"):
        with without_habits():
            open_yolo(monkeypatch)
            build = importlib.import_module("ultralytics.models.sam.build")
        open_parts(monkeypatch, build, ["TinyViT", "ImageEncoderViT"])


def corners(*names: str) -> np.ndarray:
    """Boxes a little around things, in pixels; of what there is not, one of nothing but grey."""
    boxes = [THINGS[name][0] if name in THINGS else (0.02, 0.02, 0.1, 0.1) for name in names]
    return (np.array(boxes) * [WIDTH, HEIGHT, WIDTH, HEIGHT] + [-3, -3, 3, 3]).astype(np.float32)


def segmented(models: Models, image: np.ndarray, boxes: np.ndarray, **options: Any) -> np.ndarray:
    found = segmenters.find(Detect(**options), models)
    assert found is not None
    with found.loaded(models) as segment:
        return segment(image, boxes)


class TestShapes:
    @pytest.mark.parametrize("name", HERE)
    def test_random_networks_run_from_file_to_masks(self, all_of_them, name):
        masks = segmented(Models(folders=[all_of_them / f"only-{name}"]), scene(), corners("man", "dog"))
        assert masks.shape == (2, HEIGHT, WIDTH)
        assert masks.dtype == np.float32
        assert 0 <= masks.min() <= masks.max() <= 1

    @pytest.mark.usefixtures("eyes")
    @pytest.mark.parametrize("turned", [False, True])
    @pytest.mark.parametrize("name", HERE)
    def test_masks_lie_where_things_are(self, all_of_them, name, turned):
        image, boxes = scene(), corners("dog", "nothing", "man")
        if turned:
            image, boxes = np.ascontiguousarray(image.swapaxes(0, 1)), boxes[:, [1, 0, 3, 2]]
        dog, nothing, man = segmented(Models(folders=[all_of_them / f"only-{name}"]), image, boxes)
        assert overlap(man, place("man").T if turned else place("man")) > 0.85
        assert overlap(dog, place("dog").T if turned else place("dog")) > 0.85
        assert not (nothing >= 0.5).any()

    @pytest.mark.skipif(not HAS_SAM2, reason=f"transformers {transformers.__version__} has no SAM 2")
    def test_the_part_for_pictures_of_a_sam2_for_video_is_whole(self, all_of_them, tmp_path):
        """Its weights are another random draw; what counts is that none is left out and drawn anew."""
        name = "sam2_video"
        with (segmenter := _of(all_of_them / f"only-{name}")).loaded(Models()) as segment:
            first = segment(scene(), corners("man"))
        torch.manual_seed(1)
        with segmenter.loaded(Models()) as segment:
            np.testing.assert_array_equal(segment(scene(), corners("man")), first)

    @pytest.mark.parametrize(("kind", "build"), [
        ((768, 12, 12, [2, 5, 8, 11]), "vit_b"), ((1024, 24, 16, [5, 11, 17, 23]), "vit_l"),
        ((1280, 32, 16, [7, 15, 23, 31]), "vit_h")])
    def test_the_kind_of_sam_is_read_from_its_weights(self, kind, build):
        package = pytest.importorskip("segment_anything", exc_type=ImportError)
        with torch.device("meta"):
            weights = package.sam_model_registry[build]().state_dict()
        assert tuple(segmenters.encoder_shape(weights).values()) == kind


def _of(folder: Path) -> segmenters.Segmenter:
    found = segmenters.find(Detect(), Models(folders=[folder]))
    assert found is not None
    return found


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """One of each package, in name alone."""
    (tmp_path / "sam-vit-base").mkdir()
    (tmp_path / "sam-vit-base" / "config.json").write_text('{"model_type": "sam"}')
    for name in ("sam-vit-base/model.safetensors", "sam_vit_b_01ec64.pth", "mobile_sam.pt", "yolo11n.pt"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which packages are there."""
    def only(*modules: str) -> None:
        whole = importlib.util.find_spec
        monkeypatch.setattr("omg_ext.comprehension.files.importlib.util.find_spec", lambda name: whole(
            "transformers") if name in modules else None)

    return only


class TestWhichOne:
    @pytest.mark.parametrize(("modules", "first", "expected"), [
        (["transformers", "segment_anything", "ultralytics"], None, "sam-vit-base"),
        (["transformers", "segment_anything", "ultralytics"], segmenters.ULTRALYTICS, "mobile_sam.pt"),
        (["transformers", "segment_anything", "ultralytics"], segmenters.SEGMENT_ANYTHING, "sam_vit_b_01ec64.pth"),
        (["transformers", "ultralytics"], segmenters.SEGMENT_ANYTHING, "sam-vit-base"),
        (["ultralytics"], segmenters.TRANSFORMERS, "mobile_sam.pt"),
        ([], None, None)])
    def test_the_preferred_one_or_any_whose_package_is_there(self, there, packages, modules, first, expected):
        packages(*modules)
        found = segmenters.find(Detect(), Models(folders=[there]), first)
        assert (found.path.name if found is not None else None) == expected

    @pytest.mark.parametrize(("name", "expected"), [
        ("MOBILE_SAM", segmenters.ULTRALYTICS), ("sam-vit-base", segmenters.TRANSFORMERS),
        ("sam_vit_b_01ec64.pth", segmenters.SEGMENT_ANYTHING), ("mine", segmenters.SEGMENT_ANYTHING)])
    def test_the_named_one_whatever_its_package(self, there, name, expected):
        (there / "mine.pth").write_bytes(b"")
        found = segmenters.find(Detect(segmenter=name), Models(folders=[there]), segmenters.TRANSFORMERS)
        assert found is not None
        assert found.kind is expected

    def test_a_wrong_name_lists_those_there_are(self, there):
        with pytest.raises(OMGError, match=r"detect\.segmenter: there is no model `sam-9`.*: sam-vit-base, sam_vit_b_"
                                           r"01ec64\.pth, mobile_sam\.pt$"):
            segmenters.find(Detect(segmenter="sam-9"), Models(folders=[there]))

    def test_the_package_of_the_named_one_is_needed(self, there, packages):
        packages("transformers")
        package, file = segmenters.needs(Detect(segmenter="mobile_sam"), Models(folders=[there]))
        assert (package.name, package.is_there) == ("ultralytics>=8.3.75,<9", False)
        assert (file.name, file.is_there) == ("mobile_sam.pt", True)

    def test_of_none_the_preferred_one_is_to_be_got(self, tmp_path):
        for first, name in ((None, "sam-vit-base/model.safetensors"),
                            (segmenters.SEGMENT_ANYTHING, "sam_vit_b_01ec64.pth"),
                            (segmenters.ULTRALYTICS, "mobile_sam.pt")):
            file = segmenters.needs(Detect(), Models(folders=[tmp_path]), first)[1]
            assert (file.name, file.is_there, file.folder) == (name, False, tmp_path)
            assert file.downloads

    def test_a_model_that_this_transformers_does_not_know(self, tmp_path):
        for kind in ("sam2", "sam9"):
            (tmp_path / kind).mkdir()
            (tmp_path / kind / "config.json").write_text(f'{{"model_type": "{kind}"}}')
            (tmp_path / kind / "model.safetensors").write_bytes(b"")
        found = segmenters.find(Detect(), Models(folders=[tmp_path]))
        assert (found is not None) == HAS_SAM2
        if not HAS_SAM2:
            with pytest.raises(OMGError, match=r"detect\.segmenter: .*does not know 'sam2'"):
                segmenters.find(Detect(segmenter="sam2"), Models(folders=[tmp_path]))
        with pytest.raises(OMGError, match=r"detect\.segmenter: there is no model `sam9`"):
            segmenters.find(Detect(segmenter="sam9"), Models(folders=[tmp_path]))

    @pytest.mark.parametrize("name", HERE)
    def test_a_broken_file_is_named(self, tmp_path, name):
        path = WRITERS[name](tmp_path / name) if "." not in name else tmp_path / name
        (path / "model.safetensors" if path.is_dir() else path).write_bytes(b"not weights")
        with pytest.raises(OMGError, match=rf"{name} cannot be used"):
            segmented(Models(folders=[tmp_path]), scene(), corners("man"))


@pytest.mark.usefixtures("eyes")
@pytest.mark.skipif(not is_here("mobile_sam.pt"), reason="ultralytics is not installed")
class TestWithAnyDetector:
    def test_owlvit_with_mobile_sam(self, all_of_them, tmp_path):
        write_owl(tmp_path / "owl")
        models = Models(folders=[tmp_path, all_of_them / "only-mobile_sam.pt"])
        assert all(need.is_there for need in DETECTORS["transformers"].needs(Detect(), models))
        with DETECTORS["transformers"].loaded(Detect(), models) as find:
            (man,), (dog,) = find(FirstPicture.of(scene()), [Query("man"), Query("dog")])
        assert overlap(man.mask, place("man")) > 0.9
        assert overlap(dog.mask, place("dog")) > 0.9

    @pytest.mark.parametrize("name", HERE)
    def test_yolo_with_every_one(self, all_of_them, name):
        models = Models(folders=[all_of_them / "boxes", all_of_them / f"only-{name}"])
        with DETECTORS["yolo"].loaded(Detect(), models) as find:
            assert len(models._kept) == 2
            (man,), (dog,) = find(FirstPicture.of(scene()), [Query("man"), Query("dog")])
        assert not models._kept
        assert overlap(man.mask, place("man")) > 0.85
        assert overlap(dog.mask, place("dog")) > 0.85

    def test_no_segmenter_is_loaded_for_a_model_with_masks(self, all_of_them):
        models = Models(folders=[all_of_them / "masks", all_of_them / "only-mobile_sam.pt"])
        with DETECTORS["yolo"].loaded(Detect(), models):
            assert len(models._kept) == 1


@pytest.mark.usefixtures("eyes")
@pytest.mark.parametrize("name", HERE)
def test_the_shape_in_a_box_of_the_request(all_of_them, name):
    """With the detector that finds nothing."""
    x0, y0, x1, y1 = (corners("man")[0] / [WIDTH, HEIGHT, WIDTH, HEIGHT]).tolist()
    request = Request(concepts=(Concept(prompt="p", where=Where(outline=(x0, y0, x1, y1))),), detector="painted",
                      mask=Mask(grow=0, feather=0))
    sizes, models = ((HEIGHT, WIDTH), (HEIGHT // 8, WIDTH // 8)), Models(folders=[all_of_them / f"only-{name}"])
    given = given_masks(request, *sizes, models)
    assert given == [None]
    places = find_places(request, given, [FirstPicture.of(scene())], *sizes, models)
    mask = places.masks[0][0]
    assert mask is not None
    assert overlap(mask, place("man")) > 0.85
    assert not models._kept
