"""The detector `transformers`, through the real package: from model folders to masks at the picture's size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from omg_ext.comprehension import DETECTORS, FirstPicture, Instance, Models, Query
from omg_ext.comprehension.zero_shot import caption
from omg_ext.errors import OMGError
from omg_ext.request import Detect
from tests.models.tiny_detectors import Eyes, place, scene, write_grounding_dino, write_owl, write_sam

transformers = pytest.importorskip("transformers")
HAS_OWLV2 = hasattr(transformers, "Owlv2ForObjectDetection")
HAS_DINO = hasattr(transformers, "GroundingDinoForObjectDetection")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an OWL-ViT and a SAM, in which no test changes anything."""
    folder = tmp_path_factory.mktemp("models")
    write_owl(folder / "tiny-owl")
    write_sam(folder / "tiny-sam")
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a Grounding DINO and a SAM."""
    if not HAS_DINO:
        pytest.skip(f"transformers {transformers.__version__} has no Grounding DINO")
    folder = tmp_path_factory.mktemp("dino")
    write_grounding_dino(folder / "tiny-dino")
    write_sam(folder / "tiny-sam")
    return folder


def picture() -> FirstPicture:
    return FirstPicture.of(scene())


def found(models: Models, *phrases: str, **options: Any) -> list[list[Instance]]:
    with DETECTORS["transformers"].loaded(Detect(**options), models) as find:
        return find(picture(), [Query(phrase) for phrase in phrases])


def overlap(instance: Instance, name: str) -> float:
    mask, true = instance.mask >= 0.5, place(name)
    return float((mask & true).sum() / (mask | true).sum())


def name_in(text: str) -> str:
    return next((name for name in ("man", "dog") if name in text.rstrip(".").split()), "")


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that see the scene: OWL-ViT and Grounding DINO its boxes, SAM the coloured pixels in a box."""
    def owl(self: Any, input_ids: Any, pixel_values: Any, attention_mask: Any) -> Any:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(self.name_or_path)
        names = [name_in(text) for text in tokenizer.batch_decode(input_ids, skip_special_tokens=True)]
        eyes, (height, width) = Eyes(pixel_values[0]), pixel_values.shape[2:]
        # a place for each thing, then the same a little off and less sure, then one of nothing
        seen = [eyes.box("man"), eyes.box("dog"), eyes.box("man") + 0.5, torch.tensor([3.0, 3, 4, 4])]
        logits = torch.full((1, 4, len(names)), -8.0)
        sure = {"man": [2.0, -8, 1, -4], "dog": [-8.0, 1, -8, -4]}
        for query, name in enumerate(names):
            logits[0, :, query] = torch.tensor(sure.get(name, [-8.0] * 4))
        return SimpleNamespace(logits=logits, pred_boxes=torch.stack(seen)[None] / torch.tensor([width, height] * 2))

    def sam(self: Any, pixel_values: Any, input_boxes: Any, multimask_output: bool) -> Any:
        assert not multimask_output
        eyes, low = Eyes(pixel_values[0]), self.config.vision_config.image_size // 4
        masks = torch.full((1, input_boxes.shape[1], 1, low, low), -6.0)
        seen = eyes.sees("man") | eyes.sees("dog")
        for number, (x0, y0, x1, y1) in enumerate(input_boxes[0].round().int().tolist()):
            within = torch.zeros_like(seen)
            within[y0:y1, x0:x1] = seen[y0:y1, x0:x1]
            small = torch.nn.functional.interpolate(within[None, None].float(), (low, low), mode="area")
            masks[0, number] = 12 * small[0] - 6
        return SimpleNamespace(pred_masks=masks)

    def dino(self: Any, input_ids: Any, pixel_values: Any, **_: Any) -> Any:
        tokenizer = transformers.BertTokenizer.from_pretrained(self.name_or_path)
        text = tokenizer.decode(input_ids[0], skip_special_tokens=True)
        assert text.endswith(".")
        name, seen, (height, width) = name_in(text), Eyes(pixel_values[0]), pixel_values.shape[2:]
        logits = torch.full((1, 2, 256), -float("inf"))
        logits[0, 0, 1:3] = torch.tensor([1.0, -3]) if name else -8
        boxes = torch.stack([seen.box(name), torch.tensor([3.0, 3, 4, 4])]) / torch.tensor([width, height] * 2)
        return SimpleNamespace(logits=logits, pred_boxes=boxes[None])

    monkeypatch.setattr(transformers.OwlViTForObjectDetection, "forward", owl)
    monkeypatch.setattr(transformers.SamModel, "forward", sam)
    if HAS_OWLV2:
        monkeypatch.setattr(transformers.Owlv2ForObjectDetection, "forward", owl)
    if HAS_DINO:
        monkeypatch.setattr(transformers.GroundingDinoForObjectDetection, "forward", dino)


class TestFinding:
    def test_random_networks_run_from_file_to_mask(self, folder):
        men, dogs = found(Models(folders=[folder]), "an old man", "dog", threshold=0.0)
        assert men
        assert dogs
        assert {instance.mask.shape for instance in (*men, *dogs)} == {scene().shape[:2]}
        assert all(instance.mask.dtype == np.float32 and 0 <= instance.mask.min() <= instance.mask.max() <= 1
                   for instance in men)

    @pytest.mark.usefixtures("eyes")
    def test_masks_lie_where_things_are(self, folder):
        men, dogs, robots = found(Models(folders=[folder]), "man", "dog", "robot")
        assert [len(each) for each in (men, dogs, robots)] == [1, 1, 0]
        assert overlap(men[0], "man") > 0.85
        assert overlap(dogs[0], "dog") > 0.85
        assert men[0].score == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-5)

    @pytest.mark.usefixtures("eyes")
    def test_phrases_keep_to_themselves(self, folder):
        alone = [found(Models(folders=[folder]), phrase)[0] for phrase in ("old man", "man", "dog")]
        together = found(Models(folders=[folder]), "old man", "man", "dog")
        assert [len(each) for each in together] == [1, 1, 1]
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0].mask, all_[0].mask)

    @pytest.mark.usefixtures("eyes")
    def test_threshold(self, folder):
        assert [len(each) for each in found(Models(folders=[folder]), "man", "dog", threshold=0.8)] == [1, 0]
        assert [len(each) for each in found(Models(folders=[folder]), "man", "dog", threshold=0.9)] == [0, 0]

    @pytest.mark.skipif(not HAS_OWLV2, reason=f"transformers {transformers.__version__} has no OWLv2")
    @pytest.mark.usefixtures("eyes")
    @pytest.mark.parametrize("turned", [False, True])
    def test_owlv2_pads_to_a_square(self, folder, tmp_path, turned):
        write_owl(tmp_path / "tiny-owlv2", "owlv2")
        image = scene().swapaxes(0, 1) if turned else scene()
        with DETECTORS["transformers"].loaded(Detect(model="tiny-owlv2"), Models(folders=[tmp_path, folder])) as find:
            (man,), (dog,) = find(FirstPicture.of(image), [Query("man"), Query("dog")])
        for instance, name in ((man, "man"), (dog, "dog")):
            mask, true = instance.mask >= 0.5, place(name).T if turned else place(name)
            assert (mask & true).sum() / (mask | true).sum() > 0.8

    @pytest.mark.usefixtures("eyes")
    def test_grounding_dino(self, dino):
        men, dogs, robots = found(Models(folders=[dino]), "Man", "dog", "robot")
        assert [len(each) for each in (men, dogs, robots)] == [1, 1, 0]
        assert overlap(men[0], "man") > 0.85
        assert overlap(dogs[0], "dog") > 0.85

    def test_random_grounding_dino_runs(self, dino):
        men, dogs = found(Models(folders=[dino]), "man", "dog", threshold=0.0)
        assert men
        assert dogs


def test_caption():
    assert caption(" An Old Man. ") == "an old man."


class TestFiles:
    def test_what_is_missing_is_named(self, tmp_path):
        with pytest.raises(OMGError, match=r"owlvit-base-patch32/model\.safetensors.*from http.*in .*omg"):
            found(Models(folders=[tmp_path / "omg"]), "man")

    def test_only_the_segmenter_is_missing(self, tmp_path):
        write_owl(tmp_path / "owl")
        with pytest.raises(OMGError, match=r"`transformers` needs the file sam-vit-base/model\.safetensors \(375 MB\)"):
            found(Models(folders=[tmp_path]), "man")

    def test_a_wrong_name_lists_those_there_are(self, folder):
        with pytest.raises(OMGError, match=r"detect\.model: there is no model `owl-9`.*tiny-owl"):
            found(Models(folders=[folder]), "man", model="owl-9")
        assert found(Models(folders=[folder]), "man", model="Tiny-OWL", segmenter="tiny-sam", threshold=0.0)[0]

    def test_a_broken_file_is_named(self, tmp_path):
        write_owl(tmp_path / "owl")
        write_sam(tmp_path / "sam")
        (tmp_path / "owl" / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(OMGError, match=r"owl cannot be used"):
            found(Models(folders=[tmp_path]), "man")

    def test_a_model_that_this_transformers_does_not_know(self, folder, tmp_path):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "config.json").write_text('{"model_type": "owlv2"}')
        (tmp_path / "new" / "model.safetensors").write_bytes(b"")
        models = Models(folders=[tmp_path, folder])
        needs = DETECTORS["transformers"].needs(Detect(), models)
        assert needs[1].path is not None
        assert needs[1].path.parent.name == ("new" if HAS_OWLV2 else "tiny-owl")
        if not HAS_OWLV2:
            with pytest.raises(OMGError, match=r"does not know 'owlv2'"):
                DETECTORS["transformers"].needs(Detect(model="new"), models)

    def test_needs_import_nothing(self, folder):
        needs: Sequence[Any] = DETECTORS["transformers"].needs(Detect(), Models(folders=[folder]))
        assert [need.is_there for need in needs] == [True, True, True]
        assert [need.kind for need in needs] == ["package", "file", "file"]


class TestMemory:
    def test_is_free_afterwards(self, folder):
        models = Models(folders=[folder])
        with DETECTORS["transformers"].loaded(Detect(), models):
            assert len(models._kept) == 2
        assert not models._kept

    def test_is_free_after_an_error(self, folder):
        models = Models(folders=[folder])
        with pytest.raises(ZeroDivisionError), DETECTORS["transformers"].loaded(Detect(), models):
            raise ZeroDivisionError
        assert not models._kept

    def test_is_kept_if_so_set(self, folder, monkeypatch):
        models = Models(folders=[folder], is_keeping=True)
        first = found(models, "man", threshold=0.0)
        assert len(models._kept) == 2
        monkeypatch.setattr(transformers.SamModel, "from_pretrained", None)
        second = found(models, "man", threshold=0.0)
        np.testing.assert_array_equal(first[0][0].mask, second[0][0].mask)
