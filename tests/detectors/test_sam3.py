"""SAM 3 in the detector `yolo`, through the real package: from ``sam3.pt`` to masks at the picture's size.

The package takes two others for it, clip and timm. Where these cannot be imported (the second needs a torchvision that
fits) the little that it takes of them stands here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from omg_ext.comprehension import DETECTORS, Models, sam3
from omg_ext.comprehension.quiet import changed, without_habits
from omg_ext.errors import OMGError
from omg_ext.request import Detect
from tests.detectors.eyes import assert_scores_of_sam3, find_things, overlap
from tests.models.tiny_detectors import SAM3_SIDE, Eyes, place, scene, small_sam3, write_ultralytics_sam3

if importlib.util.find_spec("ultralytics") is None:  # importing it here would be with its habits
    pytest.skip("ultralytics is not installed", allow_module_level=True)
needs_sam3 = pytest.mark.skipif(not sam3.is_known(), reason="ultralytics or torch is too old for SAM 3")


def tokenize(texts: list[str], context_length: int = 77, truncate: bool = False) -> torch.Tensor:
    """As clip's: a number for each word, between a start and an end, zeros behind."""
    tokens = torch.zeros(len(texts), context_length, dtype=torch.int32)
    for row, text in zip(tokens, texts, strict=True):
        words = [1 + sum(map(ord, word)) % 40_000 for word in text.lower().split()]
        numbers = [49_406, *words[:context_length - 2], 49_407]
        assert truncate
        row[:len(numbers)] = torch.tensor(numbers)
    return tokens


class Mlp(torch.nn.Module):
    """As timm's."""

    def __init__(self, in_features: int, hidden_features: int, act_layer: Callable[[], Any], **_: Any) -> None:
        super().__init__()
        self.fc1, self.act = torch.nn.Linear(in_features, hidden_features), act_layer()
        self.fc2 = torch.nn.Linear(hidden_features, in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


def is_broken(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError):  # what a torchvision of another torch raises
        return True
    return False


def stand_in(name: str, **parts: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(parts)
    return module


@pytest.fixture(scope="module", autouse=True)
def packages() -> Iterator[None]:
    """The two others, and SAM 3 with small parts."""
    clip = stand_in("clip", tokenize=tokenize, simple_tokenizer=SimpleNamespace(SimpleTokenizer=object))
    layers = stand_in("timm.layers", Mlp=Mlp, DropPath=torch.nn.Identity)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, modules in (("clip", [clip]), ("timm.layers", [stand_in("timm", layers=layers), layers])):
            if is_broken(name):
                for module in modules:
                    patch.setitem(sys.modules, module.__name__, module)
        patch.setattr(sam3, "SIDE", SAM3_SIDE)
        if sam3.is_known():
            with without_habits():
                build = importlib.import_module("ultralytics.models.sam.build_sam3")
            for name, part in small_sam3().items():
                stack.enter_context(changed(build, name, part))
        yield


@pytest.fixture(scope="module")
def folder(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a SAM 3; no test changes anything in it."""
    folder = tmp_path_factory.mktemp("sam3")
    with without_habits():
        write_ultralytics_sam3(folder / "sam3.pt")
    return folder


found = partial(find_things, "yolo")


@needs_sam3
class TestFinding:
    @pytest.fixture
    def eyes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A network that sees the scene: a nothing, the thing, and the thing again, of which it is less sure."""
        from ultralytics.models.sam.sam3.sam3_image import SAM3SemanticModel
        from ultralytics.models.sam.sam3.vl_combiner import SAM3VLBackbone

        def look(self: Any, pixels: torch.Tensor) -> dict[str, Any]:
            assert pixels.shape == (1, 3, SAM3_SIDE, SAM3_SIDE)
            return {"seen": Eyes(pixels[0])}

        def tell(self: Any, backbone_out: dict[str, Any], text_ids: torch.Tensor) -> dict[str, Any]:
            phrase, = (self.names[number] for number in text_ids.tolist())
            name = next((name for name in ("man", "dog") if name in phrase.split()), "")
            shown = torch.nn.functional.interpolate(backbone_out["seen"].sees(name)[None, None].float(), (28, 28),
                                                    mode="area")[0]
            masks = torch.cat([torch.full((1, 28, 28), -6.0), 12 * shown - 6, 12 * shown - 6])
            is_there = {"man": 3.0, "dog": 0.0}.get(name, -9.0)
            return {"pred_logits": torch.tensor([[[-3.0], [2.0], [1.0]]]), "pred_masks": masks[None],
                    "presence_logit_dec": torch.tensor([[is_there]])}

        monkeypatch.setattr(SAM3VLBackbone, "forward_image", look)
        monkeypatch.setattr(SAM3SemanticModel, "forward_grounding", tell)

    def test_random_networks_run_from_file_to_mask(self, folder):
        men, dogs = found(Models(folders=[folder]), "an old man", "dog", threshold=0.0)
        assert men
        assert dogs
        assert {instance.mask.shape for instance in (*men, *dogs)} == {scene().shape[:2]}
        assert all(instance.mask.dtype == np.float32 and 0 <= instance.mask.min() <= instance.mask.max() <= 1
                   for instance in (*men, *dogs))

    def test_the_phrase_counts_and_phrases_keep_to_themselves(self, folder):
        models = Models(folders=[folder], is_keeping=True)
        together = found(models, "castle", "an old man", threshold=0.0)
        alone = [found(models, phrase, threshold=0.0)[0] for phrase in ("an old man", "castle")][::-1]
        assert together[0][0].score != together[1][0].score
        for one, other in zip(together, alone, strict=True):
            assert [each.score for each in one] == [each.score for each in other]
        assert len(models._kept) == 1

    @pytest.mark.usefixtures("eyes")
    @pytest.mark.parametrize("turned", [False, True])
    def test_masks_lie_where_things_are(self, folder, turned):
        image = np.ascontiguousarray(scene().swapaxes(0, 1)) if turned else scene()
        men, dogs, robots = found(Models(folders=[folder]), "old man", "dog", "robot", image=image)
        assert [len(each) for each in (men, dogs, robots)] == [1, 1, 0]
        for instance, name in ((men[0], "man"), (dogs[0], "dog")):
            assert overlap(instance.mask, place(name).T if turned else place(name)) > 0.8

    @pytest.mark.usefixtures("eyes")
    def test_threshold(self, folder):
        assert_scores_of_sam3(partial(found, Models(folders=[folder])))

    def test_memory_is_free_afterwards(self, folder):
        models = Models(folders=[folder])
        with DETECTORS["yolo"].loaded(Detect(), models):
            assert len(models._kept) == 1
        assert not models._kept


@needs_sam3
class TestFiles:
    def test_needs(self, folder):
        needs = DETECTORS["yolo"].needs(Detect(), Models(folders=[folder]))
        assert [(need.name.partition(">")[0], need.is_there) for need in needs] == [
            ("ultralytics", True), ("sam3.pt", True), ("clip-anytorch", True), ("timm", True)]

    def test_another_network_is_refused(self, tmp_path):
        torch.save({"detector.weight": torch.zeros(1)}, tmp_path / "sam3.pt")
        with pytest.raises(OMGError, match=r"sam3\.pt cannot be used.*it lacks \d+ of \d+ weights"):
            found(Models(folders=[tmp_path]), "man")

    def test_only_tensors_are_read(self, tmp_path):
        torch.save({"model": Path("x")}, tmp_path / "sam3.pt")
        with pytest.raises(OMGError, match=r"sam3\.pt cannot be used \(UnpicklingError"):
            found(Models(folders=[tmp_path]), "man")


def test_where_it_cannot_run_it_is_no_candidate(tmp_path, monkeypatch):
    monkeypatch.setattr(sam3, "is_known", lambda: False)
    for name in ("sam3.pt", "yolo11n.pt"):
        (tmp_path / name).write_bytes(b"")
    models = Models(folders=[tmp_path])
    assert DETECTORS["yolo"].needs(Detect(), models)[1].name == "yolo11n.pt"
    with pytest.raises(OMGError, match=r"detect\.model: sam3\.pt is a SAM 3, for which ultralytics.*are needed"):
        DETECTORS["yolo"].needs(Detect(model="sam3"), models)
