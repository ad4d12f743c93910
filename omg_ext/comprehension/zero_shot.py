"""Zero-shot detectors of transformers, which the web UI has installed: nothing but model folders is needed.

OWL-ViT (arXiv 2205.06230) runs with its version 4.30.2; OWLv2 (arXiv 2306.09683), Grounding DINO (arXiv 2303.05499) and
SAM 3 (arXiv 2511.16719), which finds shapes by itself, where transformers is newer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..request import Detect
from . import pretrained, segmenters
from .base import Find, FirstPicture, Instance, Query
from .boxes import Boxes, Picture, Segment, from_centres, instances, shapes, surest
from .files import file_need, model_type, reading
from .masks import FloatArray
from .models import Models, Need, require
from .pixels import EVEN, resized, soft_masks
from .pretrained import Kind, Pretrained

NAME = "transformers"
FIELD = "detect.model"
# what the tokenizer of CLIP takes in OWL-ViT's training
_PROMPT = "a photo of a {}"

# SAM 3's processor needs torchvision, and makes masks hard: of it the tokenizer alone is taken
_SAM3 = Kind("Sam3Model", "CLIPTokenizer", 0.3)
_MASKED = {"sam3": _SAM3, "sam3_video": _SAM3}
_KINDS = {
    "owlvit": Kind("OwlViTForObjectDetection", "OwlViTProcessor", 0.1),
    "owlv2": Kind("Owlv2ForObjectDetection", "Owlv2Processor", 0.2),
    "grounding-dino": Kind("GroundingDinoForObjectDetection", "GroundingDinoProcessor", 0.3),
    **_MASKED,
}


class ZeroShotDetector:
    """Boxes for any phrase from a zero-shot detector, and their shapes from a segmenter; or both from SAM 3."""

    name = NAME
    goes_by_prompt = needs_attention = False
    reads = ("threshold", "model", "segmenter")

    def needs(self, options: Detect, models: Models) -> Sequence[Need]:
        """The package, a folder of each model. Those that this transformers is too old for do not count."""
        folder = _folder(options, models)
        own = (pretrained.needed(), file_need(models, pretrained.weights_in(folder) if folder else None, "owlvit"))
        segmenter = () if _finds_shapes(folder) else segmenters.needs(options, models, segmenters.TRANSFORMERS)
        return tuple(dict.fromkeys((*own, *segmenter)))

    @contextmanager
    def loaded(self, options: Detect, models: Models) -> Iterator[Find]:
        """The detector, see :class:`.base.Detector`."""
        require(self.name, self.needs(options, models), models.remedy)
        folder = _folder(options, models)
        assert folder is not None  # `require` has seen to it
        with models.model((NAME, folder, models.device),
                          lambda: pretrained.load(folder, _KINDS, models.device)) as detector:
            least = _KINDS[detector.type].threshold if options.threshold is None else options.threshold
            if _finds_shapes(folder):
                yield _find_masks(detector, least)
                return
            segmenter = segmenters.find(options, models, segmenters.TRANSFORMERS)
            assert segmenter is not None  # as above
            with segmenter.loaded(models) as segment:
                yield _find(detector, segment, least)


def _folder(options: Detect, models: Models) -> Path | None:
    return pretrained.chosen_folder(models, _KINDS, options.model, FIELD)


def _finds_shapes(folder: Path | None) -> bool:
    return folder is not None and model_type(folder) in _MASKED


def _find(detector: Pretrained, segment: Segment, threshold: float) -> Find:
    def find(picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        image = picture.picture()
        with reading(detector.folder):
            found = detect(detector, image, [query.phrase for query in queries])
        return shapes(image, [boxes.best(threshold, *image.shape[:2]) for boxes in found], segment)

    return find


def _find_masks(detector: Pretrained, threshold: float) -> Find:
    def find(picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        image = picture.picture()
        with reading(detector.folder):
            return [instances(masks, scores) for masks, scores in
                    detect_masks(detector, image, [query.phrase for query in queries], threshold)]

    return find


@torch.inference_mode()
def detect(detector: Pretrained, image: Picture, phrases: Sequence[str]) -> list[Boxes]:
    """Boxes of each phrase in a picture ``[H, W, 3]``, whatever their scores. No phrase changes another's."""
    look = _look_with_dino if detector.type == "grounding-dino" else _look_with_owl
    height, width = image.shape[:2]
    # OWLv2 pads a picture to a square, to the right and below; the others stretch or keep it
    sides = (max(height, width),) * 2 if detector.type == "owlv2" else (height, width)
    return [Boxes(from_centres(boxes.float().cpu().numpy(), *sides), scores.float().cpu().numpy())
            for scores, boxes in look(detector, image, phrases)]


def _look_with_owl(detector: Pretrained, image: Picture, phrases: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """By phrase scores [N] and boxes [N, 4] as centre and size, in fractions."""
    length = detector.model.config.text_config.max_position_embeddings
    # what is too long is cut: the model reads 16 tokens
    texts = detector.reader.tokenizer([_PROMPT.format(phrase) for phrase in phrases], padding="max_length",
                                      max_length=length, truncation=True, return_tensors="pt")
    pixels = detector.reader.image_processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
    out = detector.model(input_ids=texts["input_ids"].to(detector.device),
                         attention_mask=texts["attention_mask"].to(detector.device),
                         pixel_values=pixels.to(detector.device))
    # each phrase has scores of its own: the package's post-processing would give a box to its best phrase alone
    return [(scores, out.pred_boxes[0]) for scores in out.logits[0].sigmoid().unbind(-1)]


def _look_with_dino(detector: Pretrained, image: Picture, phrases: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """As :func:`_look_with_owl`; each phrase alone, since all words of one text change each other's features."""
    found = []
    for phrase in phrases:
        inputs = detector.reader(images=Image.fromarray(image), text=caption(phrase), return_tensors="pt")
        out = detector.model(**inputs.to(detector.device))
        found.append((out.logits[0].sigmoid().amax(-1), out.pred_boxes[0]))
    return found


def caption(phrase: str) -> str:
    """The phrase as Grounding DINO learnt to read: in lower case, with a full stop."""
    return f"{phrase.lower().strip().rstrip('.')}."


@torch.inference_mode()
def detect_masks(detector: Pretrained, image: Picture, phrases: Sequence[str],
                 threshold: float) -> list[tuple[FloatArray, FloatArray]]:
    """What SAM 3 finds of each phrase alone, the surest first: masks ``[N, H, W]`` in 0..1 and scores ``[N]``.

    Args:
        threshold: the least score. It is a thing's share in the phrase, times that the phrase's thing is there at all.
    """
    config = detector.model.config
    pixels = resized(image, config.image_size, config.image_size, EVEN).to(detector.device)
    seen = detector.model.get_vision_features(pixel_values=pixels)
    found = []
    for phrase in phrases:
        # what is too long is cut: the model reads 32 tokens
        text = detector.reader([phrase], padding="max_length", max_length=config.text_config.max_position_embeddings,
                               truncation=True, return_tensors="pt").to(detector.device)
        out = detector.model(vision_embeds=seen, input_ids=text["input_ids"], attention_mask=text["attention_mask"])
        scores = (out.pred_logits[0].sigmoid() * out.presence_logits[0].sigmoid()).cpu().numpy()
        best = surest(scores, threshold)
        found.append((soft_masks(out.pred_masks[0, best], *image.shape[:2]), scores[best]))
    return found
