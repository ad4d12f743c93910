"""The detector `transformers`, through the real package: from model folders to masks at the picture's size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from omg_ext.comprehension import DETECTORS, FirstPicture, Models, Query
from omg_ext.comprehension.zero_shot import caption
from omg_ext.errors import OMGError
from omg_ext.request import Detect
from tests.detectors.eyes import assert_scores_of_sam3, find_things, name_in, open_owl, open_sam, overlap
from tests.models.tiny_detectors import (
    Eyes,
    place,
    scene,
    write_grounding_dino,
    write_owl,
    write_sam,
    write_sam3,
)

transformers = pytest.importorskip("transformers")
HAS_OWLV2 = hasattr(transformers, "Owlv2ForObjectDetection")
HAS_SAM3 = hasattr(transformers, "Sam3Model")
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


@pytest.fixture(scope="module")
def sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a SAM 3, and one for video, of which a part finds in pictures."""
    folder = tmp_path_factory.mktemp("sam3")
    write_sam3(folder / "tiny-sam3")
    write_sam3(folder / "video" / "tiny-sam3-video", "sam3_video")
    return folder


found = partial(find_things, "transformers")


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that see the scene: OWL-ViT and Grounding DINO its boxes, SAM the coloured pixels in a box."""
    def dino(self: Any, input_ids: Any, pixel_values: Any, **_: Any) -> Any:
        tokenizer = transformers.BertTokenizer.from_pretrained(self.name_or_path)
        text = tokenizer.decode(input_ids[0], skip_special_tokens=True)
        assert text.endswith(".")
        name, seen, (height, width) = name_in(text), Eyes(pixel_values[0]), pixel_values.shape[2:]
        logits = torch.full((1, 2, 256), -float("inf"))
        logits[0, 0, 1:3] = torch.tensor([1.0, -3]) if name else -8
        boxes = torch.stack([seen.box(name), torch.tensor([3.0, 3, 4, 4])]) / torch.tensor([width, height] * 2)
        return SimpleNamespace(logits=logits, pred_boxes=boxes[None])

    open_owl(monkeypatch, transformers)
    open_sam(monkeypatch, transformers)
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
        assert overlap(men[0].mask, place("man")) > 0.85
        assert overlap(dogs[0].mask, place("dog")) > 0.85
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
            assert overlap(instance.mask, place(name).T if turned else place(name)) > 0.8

    @pytest.mark.usefixtures("eyes")
    def test_grounding_dino(self, dino):
        men, dogs, robots = found(Models(folders=[dino]), "Man", "dog", "robot")
        assert [len(each) for each in (men, dogs, robots)] == [1, 1, 0]
        assert overlap(men[0].mask, place("man")) > 0.85
        assert overlap(dogs[0].mask, place("dog")) > 0.85

    def test_random_grounding_dino_runs(self, dino):
        men, dogs = found(Models(folders=[dino]), "man", "dog", threshold=0.0)
        assert men
        assert dogs


@pytest.mark.skipif(not HAS_SAM3, reason=f"transformers {transformers.__version__} has no SAM 3")
class TestSam3:
    """Shapes without a segmenter."""

    @pytest.fixture
    def sight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A network that sees the scene: what is there of a phrase's thing, and where; twice, and a nothing."""
        def look(self: Any, pixel_values: Any) -> Any:
            return pixel_values

        def tell(self: Any, vision_embeds: Any, input_ids: Any, attention_mask: Any) -> Any:
            tokenizer = transformers.CLIPTokenizer.from_pretrained(self.name_or_path)
            assert attention_mask.sum() < attention_mask.numel()  # the rest of the text is empty
            name, low = name_in(tokenizer.decode(input_ids[0], skip_special_tokens=True)), 28
            seen = Eyes(vision_embeds[0]).sees(name)[None, None].float()
            shape = 12 * torch.nn.functional.interpolate(seen, (low, low), mode="area")[0, 0] - 6
            masks = torch.stack([torch.full((low, low), -6.0), shape, shape])
            return SimpleNamespace(pred_logits=torch.tensor([[-3.0, 1.0, 2.0]]), pred_masks=masks[None],
                                   presence_logits=torch.tensor([[3.0 if name == "man" else 0.0 if name else -9.0]]))

        monkeypatch.setattr(transformers.Sam3Model, "get_vision_features", look)
        monkeypatch.setattr(transformers.Sam3Model, "forward", tell)

    @pytest.mark.parametrize("model", ["tiny-sam3", "tiny-sam3-video"])
    def test_random_networks_run_from_file_to_mask(self, sam3, model):
        """The larger one, of which a part is taken, has the same weights."""
        models = Models(folders=[sam3])
        assert [need.is_there for need in DETECTORS["transformers"].needs(Detect(model=model), models)] == [True, True]
        men, dogs = found(models, "an old man", "dog", threshold=0.0, model=model)
        assert men
        assert dogs
        assert {instance.mask.shape for instance in (*men, *dogs)} == {scene().shape[:2]}
        assert men[0].score == found(models, "an old man", threshold=0.0, model="tiny-sam3")[0][0].score
        assert men[0].score != dogs[0].score
        assert dogs[0].score == found(models, "dog", threshold=0.0, model=model)[0][0].score

    @pytest.mark.usefixtures("sight")
    @pytest.mark.parametrize("turned", [False, True])
    def test_masks_lie_where_things_are(self, sam3, turned):
        image = np.ascontiguousarray(scene().swapaxes(0, 1)) if turned else scene()
        with DETECTORS["transformers"].loaded(Detect(), Models(folders=[sam3])) as find:
            men, dogs, robots = find(FirstPicture.of(image), [Query("man"), Query("old dog"), Query("robot")])
        assert [len(each) for each in (men, dogs, robots)] == [1, 1, 0]
        for instance, name in ((men[0], "man"), (dogs[0], "dog")):
            assert overlap(instance.mask, place(name).T if turned else place(name)) > 0.8
            assert ((instance.mask > 0.1) & (instance.mask < 0.9)).any()  # a soft edge

    @pytest.mark.usefixtures("sight")
    def test_threshold(self, sam3):
        assert_scores_of_sam3(partial(found, Models(folders=[sam3])))

    def test_a_long_phrase_is_cut(self, sam3):
        assert found(Models(folders=[sam3]), "man " * 100, threshold=0.0)[0]


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

    @pytest.mark.parametrize(("kind", "is_here"), [("owlv2", HAS_OWLV2), ("sam3", HAS_SAM3), ("sam3_video", HAS_SAM3)])
    def test_a_model_that_this_transformers_does_not_know(self, folder, tmp_path, kind, is_here):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "config.json").write_text(f'{{"model_type": "{kind}"}}')
        (tmp_path / "new" / "model.safetensors").write_bytes(b"")
        models = Models(folders=[tmp_path, folder])
        needs = DETECTORS["transformers"].needs(Detect(), models)
        assert needs[1].path is not None
        assert needs[1].path.parent.name == ("new" if is_here else "tiny-owl")
        if not is_here:
            with pytest.raises(OMGError, match=rf"does not know '{kind}'"):
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
