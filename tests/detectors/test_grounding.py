"""The detector `grounding-dino+sam`, through the real packages: from files to masks at the picture's size."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omg_ext.comprehension import DETECTORS, Models, grounding
from omg_ext.errors import OMGError
from omg_ext.request import Detect
from tests.detectors.eyes import find_things, open_parts, open_sam, overlap
from tests.models.tiny_detectors import (
    Eyes,
    place,
    scene,
    small_dino,
    write_bert,
    write_dino,
    write_sam,
    write_segment_anything,
)

dino_package = pytest.importorskip("groundingdino.models", exc_type=ImportError)
segment_anything = pytest.importorskip("segment_anything", exc_type=ImportError)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With all files; no test changes anything in it."""
    folder = tmp_path_factory.mktemp("models")
    write_bert(folder / "bert-tiny")
    write_dino(folder / "groundingdino_swint_tiny.pth", folder / "bert-tiny")
    write_segment_anything(folder / "sam" / "sam_vit_tiny.pth")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's description of the network, with fewer layers, and a smaller picture."""
    from groundingdino.util.slconfig import SLConfig

    whole = SLConfig.fromfile
    monkeypatch.setattr(SLConfig, "fromfile", staticmethod(lambda name: small_dino(whole(name))))
    monkeypatch.setattr(grounding, "SIDE", 96)


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that see the scene: Grounding DINO its boxes, SAM the coloured pixels in a box."""
    from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO

    def dino(self: Any, samples: Any, captions: Any) -> Any:
        text, = captions
        assert text.endswith(".")
        name = next((name for name in ("man", "dog") if name in text[:-1].split()), "")
        sizes = torch.tensor([samples.shape[3], samples.shape[2]] * 2)
        logits = torch.full((1, 2, 256), -float("inf"))
        logits[0, 0, 1:3] = torch.tensor([1.0, -3.0]) if name else -8.0
        return {"pred_logits": logits,
                "pred_boxes": (torch.stack([Eyes(samples[0]).box(name), torch.tensor([3.0, 3, 4, 4])]) / sizes)[None]}

    monkeypatch.setattr(GroundingDINO, "forward", dino)
    open_parts(monkeypatch, segment_anything.modeling, ["ImageEncoderViT"])


found = partial(find_things, "grounding-dino+sam")


def test_random_networks_run_from_file_to_mask(folder):
    men, dogs = found(Models(folders=[folder]), "an old man", "dog", threshold=0.0)
    assert men
    assert dogs
    assert {instance.mask.shape for instance in (*men, *dogs)} == {scene().shape[:2]}
    assert all(instance.mask.dtype == np.float32 and 0 <= instance.mask.min() <= instance.mask.max() <= 1
               for instance in men)


@pytest.mark.usefixtures("eyes")
def test_masks_lie_where_things_are(folder):
    men, dogs, robots = found(Models(folders=[folder]), "Man", "an old dog", "robot")
    assert [len(each) for each in (men, dogs, robots)] == [1, 1, 0]
    assert overlap(men[0].mask, place("man")) > 0.95
    assert overlap(dogs[0].mask, place("dog")) > 0.95
    assert men[0].score == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-5)
    assert found(Models(folders=[folder]), "man", threshold=0.8) == [[]]


def test_the_picture_keeps_its_shape():
    assert grounding.prepared(scene()).shape == (1, 3, 96, 154)


@pytest.mark.usefixtures("eyes")
def test_another_package_gives_the_shapes(folder, tmp_path, monkeypatch):
    (tmp_path / "dino.pth").symlink_to(folder / "groundingdino_swint_tiny.pth")
    (tmp_path / "bert").symlink_to(folder / "bert-tiny")
    write_sam(tmp_path / "tiny-sam")
    open_sam(monkeypatch, pytest.importorskip("transformers"))
    models = Models(folders=[tmp_path])
    assert [need.name for need in DETECTORS["grounding-dino+sam"].needs(Detect(model="dino"), models)][1:4:2] == \
        ["transformers>=4.30,<6", "model.safetensors"]
    men, dogs = found(models, "man", "dog", model="dino")
    assert overlap(men[0].mask, place("man")) > 0.85
    assert overlap(dogs[0].mask, place("dog")) > 0.85


class TestFiles:
    def test_what_is_missing_is_named(self, tmp_path):
        with pytest.raises(OMGError, match=r"groundingdino_swint_ogc\.pth \(694 MB\), from http.*sam_vit_b_01ec64\.pth "
                                           r"\(375 MB\).*bert-base-uncased/vocab\.txt"):
            found(Models(folders=[tmp_path]), "man")

    def test_another_network_is_refused(self, folder, tmp_path):
        torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "groundingdino_other.pth")
        with pytest.raises(OMGError, match=r"groundingdino_other\.pth cannot be used.*it lacks \d+ weights"):
            found(Models(folders=[tmp_path, folder]), "man")

    def test_only_tensors_are_read(self, folder, tmp_path):
        torch.save({"model": Path("x")}, tmp_path / "groundingdino_bad.pth")
        with pytest.raises(OMGError, match=r"groundingdino_bad\.pth cannot be used \(UnpicklingError"):
            found(Models(folders=[tmp_path, folder]), "man")

    def test_names(self, folder):
        models = Models(folders=[folder])
        assert found(models, "man", model="groundingdino_swint_tiny", segmenter="SAM_vit_tiny.pth", threshold=0.0)[0]
        with pytest.raises(OMGError, match=r"detect\.segmenter: there is no model `sam`"):
            DETECTORS["grounding-dino+sam"].needs(Detect(segmenter="sam"), models)


@pytest.mark.parametrize("is_keeping", [False, True])
def test_memory_is_free_unless_kept(folder, is_keeping):
    models = Models(folders=[folder], is_keeping=is_keeping)
    with DETECTORS["grounding-dino+sam"].loaded(Detect(), models):
        assert len(models._kept) == 2
    assert len(models._kept) == (2 if is_keeping else 0)
