"""Detectors and segmenters that see the scene of :mod:`tests.models.tiny_detectors`: its boxes, the pixels in a box.

The ``open_`` functions put sight in at the lowest place of one package; all that it does around the network is real.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from omg_ext.comprehension import DETECTORS, FirstPicture, Instance, Models, Query
from omg_ext.request import Detect
from tests.models.tiny_detectors import Eyes, scene


def find_things(detector: str, models: Models, *phrases: str, image: Any = None,
                **options: Any) -> list[list[Instance]]:
    """What a detector finds of some phrases in the scene, or in another picture; options are those of ``detect``."""
    with DETECTORS[detector].loaded(Detect(**options), models) as find:
        return find(FirstPicture.of(scene() if image is None else image), [Query(phrase) for phrase in phrases])


def overlap(mask: Any, true: Any) -> float:
    """The intersection over the union of a mask ``[H, W]`` and where a thing is."""
    solid = mask >= 0.5
    return float((solid & true).sum() / (solid | true).sum())


def assert_scores_of_sam3(found: Callable[..., list[list[Instance]]]) -> None:
    """A score is the thing's times that of the phrase's thing being there; a network with sight is sure of the man."""
    men, dogs = found("man", "dog")
    assert men[0].score == pytest.approx(1 / (1 + np.exp(-2)) / (1 + np.exp(-3)), abs=1e-5)
    assert dogs[0].score == pytest.approx(0.5 / (1 + np.exp(-2)), abs=1e-5)
    assert [len(each) for each in found("man", "dog", threshold=0.5)] == [1, 0]


def in_boxes(pixels: Tensor, boxes: Tensor, low: int) -> Tensor:
    """What is seen in each of some boxes, as the logits ``[N, low, low]`` of a network that is sure of it.

    Args:
        pixels: ``[3, h, w]``, see :class:`Eyes`.
        boxes: ``[N, 4]`` corners in these pixels.
    """
    eyes = Eyes(pixels)
    things = eyes.sees("man") | eyes.sees("dog")
    masks = torch.full((len(boxes), low, low), -6.0)
    for number, (x0, y0, x1, y1) in enumerate(boxes.round().int().tolist()):
        within = torch.zeros_like(things)
        within[y0:y1, x0:x1] = things[y0:y1, x0:x1]
        masks[number] = 12 * torch.nn.functional.interpolate(within[None, None].float(), (low, low), mode="area")[0] - 6
    return masks


def open_sam(monkeypatch: pytest.MonkeyPatch, transformers: Any) -> None:
    """Of transformers: SAM, and SAM 2 where it is."""
    def sam(self: Any, pixel_values: Tensor, input_boxes: Tensor, multimask_output: bool) -> Any:
        assert not multimask_output
        masks = in_boxes(pixel_values[0], input_boxes[0], pixel_values.shape[-1] // 4)
        return SimpleNamespace(pred_masks=masks[None, :, None])

    for name in ("SamModel", "Sam2Model"):
        if hasattr(transformers, name):
            monkeypatch.setattr(getattr(transformers, name), "forward", sam)


def open_parts(monkeypatch: pytest.MonkeyPatch, parts: ModuleType, encoders: Sequence[str]) -> None:
    """Of a package with SAM in its authors' parts: segment-anything, ultralytics.

    Args:
        parts: the module that has them.
        encoders: the names of the parts that see pictures.
    """
    seen: list[Tensor] = []

    def encode(self: Any, pixels: Tensor) -> Tensor:
        seen[:] = [pixels[0]]
        return torch.zeros(1, 256, 64, 64)

    def prompt(self: Any, points: Any, boxes: Any, masks: Any) -> Any:
        return boxes, None

    def decode(self: Any, sparse_prompt_embeddings: Tensor, **_: Any) -> Any:
        masks = in_boxes(seen[0], sparse_prompt_embeddings, 256)[:, None]
        return masks, torch.ones(len(masks), 1)

    for name in encoders:
        monkeypatch.setattr(getattr(parts, name), "forward", encode)
    monkeypatch.setattr(parts.PromptEncoder, "forward", prompt)
    monkeypatch.setattr(parts.MaskDecoder, "forward", decode)


def open_owl(monkeypatch: pytest.MonkeyPatch, transformers: Any) -> None:
    """Of transformers: OWL-ViT, and OWLv2 where it is. A man is surer than a dog."""
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

    for name in ("OwlViTForObjectDetection", "Owlv2ForObjectDetection"):
        if hasattr(transformers, name):
            monkeypatch.setattr(getattr(transformers, name), "forward", owl)


def name_in(text: str) -> str:
    """What of the scene a text names, if anything."""
    return next((name for name in ("man", "dog") if name in text.rstrip(".").split()), "")


def open_yolo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ultralytics: the models with classes of their own. Their masks are a quarter as wide as what they get."""
    from ultralytics.nn.tasks import BaseModel

    scores = {"man": 0.9, "dog": 0.6}

    def predict(self: Any, pixels: Any, *_: Any, **__: Any) -> Any:
        eyes, names = Eyes(pixels[0]), list(self.names.values())
        out = torch.zeros(1, 4 + len(names) + 32, 3)
        protos = torch.full((1, 32, pixels.shape[2] // 4, pixels.shape[3] // 4), -8.0)
        for number, name in enumerate(names[:3]):
            out[0, :4, number] = eyes.box(name)
            out[0, 4 + number, number] = scores.get(name, 0.0)
            out[0, 4 + len(names) + number, number] = 1
            shown = torch.nn.functional.interpolate(eyes.sees(name)[None, None].float(), protos.shape[2:], mode="area")
            protos[0, number] = 16 * shown - 8
        if self.task == "detect":
            return out[:, :4 + len(names)], []
        return (out, protos), []

    monkeypatch.setattr(BaseModel, "predict", predict)
