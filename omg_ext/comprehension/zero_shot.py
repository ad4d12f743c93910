"""Zero-shot detectors and SAM of transformers, which the web UI has installed: nothing but model folders is needed.

OWL-ViT (arXiv 2205.06230) and SAM (arXiv 2304.02643) run with its version 4.30.2; OWLv2 (arXiv 2306.09683) and
Grounding DINO (arXiv 2303.05499) where transformers is newer. Weights are read as safetensors only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import OMGError
from ..request import Detect
from .base import Find, FirstPicture, Instance, Query
from .boxes import Boxes, Picture, Segment, from_centres, shapes
from .files import chosen, file_need, model_folders, model_type, package, reading
from .masks import FloatArray
from .models import Models, Need, require

NAME = "transformers"
_WEIGHTS = "model*.safetensors"
# what the tokenizer of CLIP takes in OWL-ViT's training
_PROMPT = "a photo of a {}"


@dataclass(frozen=True)
class _Kind:
    """One kind of model in transformers: its classes, and the least score that counts unless the request says."""

    model: str
    processor: str
    threshold: float = 0.0


_DETECTORS = {
    "owlvit": _Kind("OwlViTForObjectDetection", "OwlViTProcessor", 0.1),
    "owlv2": _Kind("Owlv2ForObjectDetection", "Owlv2Processor", 0.2),
    "grounding-dino": _Kind("GroundingDinoForObjectDetection", "GroundingDinoProcessor", 0.3),
}
_SEGMENTERS = {
    "sam": _Kind("SamModel", "SamProcessor"),
}


@dataclass(frozen=True)
class _Loaded:
    """A model with its processor."""

    folder: Path
    type: str
    model: Any
    processor: Any

    @property
    def device(self) -> torch.device:
        return self.model.device


class ZeroShotDetector:
    """Boxes for any phrase from a zero-shot detector, and their shapes from SAM."""

    name = NAME
    goes_by_prompt = needs_attention = False

    def needs(self, options: Detect, models: Models) -> Sequence[Need]:
        """The package, a folder of each model. Those that this transformers is too old for do not count."""
        return (package("transformers>=4.30,<6", "transformers"), *(
            file_need(models, _with_weights(folder), recommended)
            for folder, recommended in ((_folder(models, _DETECTORS, options.model, "detect.model"), "owlvit"),
                                        (_folder(models, _SEGMENTERS, options.segmenter, "detect.segmenter"), "sam"))))

    @contextmanager
    def loaded(self, options: Detect, models: Models) -> Iterator[Find]:
        """The detector, see :class:`.base.Detector`."""
        require(self.name, self.needs(options, models))
        with ExitStack() as stack:
            detector = stack.enter_context(_model(models, _DETECTORS, options.model, "detect.model"))
            segmenter = stack.enter_context(_model(models, _SEGMENTERS, options.segmenter, "detect.segmenter"))
            least = options.threshold if options.threshold is not None else _DETECTORS[detector.type].threshold
            yield _find(detector, lambda picture, corners: segment(segmenter, picture, corners), least)


def _find(detector: _Loaded, segment_boxes: Segment, threshold: float) -> Find:
    def find(picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        image = picture.picture()
        with reading(detector.folder):
            found = detect(detector, image, [query.phrase for query in queries])
            return shapes(image, [boxes.best(threshold, *image.shape[:2]) for boxes in found], segment_boxes)

    return find


@torch.inference_mode()
def detect(detector: _Loaded, image: Picture, phrases: Sequence[str]) -> list[Boxes]:
    """Boxes of each phrase in a picture ``[H, W, 3]``, whatever their scores. No phrase changes another's."""
    look = _look_with_dino if detector.type == "grounding-dino" else _look_with_owl
    height, width = image.shape[:2]
    # OWLv2 pads a picture to a square, to the right and below; the others stretch or keep it
    sides = (max(height, width),) * 2 if detector.type == "owlv2" else (height, width)
    return [Boxes(from_centres(boxes.float().cpu().numpy(), *sides), scores.float().cpu().numpy())
            for scores, boxes in look(detector, image, phrases)]


def _look_with_owl(detector: _Loaded, image: Picture, phrases: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """By phrase scores [N] and boxes [N, 4] as centre and size, in fractions."""
    length = detector.model.config.text_config.max_position_embeddings
    # what is too long is cut: the model reads 16 tokens
    texts = detector.processor.tokenizer([_PROMPT.format(phrase) for phrase in phrases], padding="max_length",
                                         max_length=length, truncation=True, return_tensors="pt")
    pixels = detector.processor.image_processor(images=_pil(image), return_tensors="pt")["pixel_values"]
    out = detector.model(input_ids=texts["input_ids"].to(detector.device),
                         attention_mask=texts["attention_mask"].to(detector.device),
                         pixel_values=pixels.to(detector.device))
    # each phrase has scores of its own: the package's post-processing would give a box to its best phrase alone
    return [(scores, out.pred_boxes[0]) for scores in out.logits[0].sigmoid().unbind(-1)]


def _look_with_dino(detector: _Loaded, image: Picture, phrases: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """As :func:`_look_with_owl`; each phrase alone, since all words of one text change each other's features."""
    found = []
    for phrase in phrases:
        inputs = detector.processor(images=_pil(image), text=caption(phrase), return_tensors="pt").to(detector.device)
        out = detector.model(**inputs)
        found.append((out.logits[0].sigmoid().amax(-1), out.pred_boxes[0]))
    return found


def caption(phrase: str) -> str:
    """The phrase as Grounding DINO learnt to read: in lower case, with a full stop."""
    return f"{phrase.lower().strip().rstrip('.')}."


@torch.inference_mode()
def segment(segmenter: _Loaded, image: Picture, corners: FloatArray) -> FloatArray:
    """Masks ``[N, H, W]`` in 0..1, one in each of the boxes ``[N, 4]``; see :data:`.boxes.Segment`."""
    inputs = segmenter.processor(images=_pil(image), input_boxes=[corners.tolist()], return_tensors="pt")
    given = {name: _to(inputs[name], segmenter.device) for name in ("pixel_values", "input_boxes")}
    masks = segmenter.model(**given, multimask_output=False).pred_masks.float().cpu()
    logits = segmenter.processor.post_process_masks(
        masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False)[0]
    return np.asarray(logits[:, 0].sigmoid().numpy(), dtype=np.float32)


def _to(values: Tensor, device: torch.device) -> Tensor:
    return values.to(device, torch.float32)  # boxes come as float64, which not every device has


def _pil(image: Picture) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def _folder(models: Models, kinds: dict[str, _Kind], name: str, field: str) -> Path | None:
    """The model's folder.

    Raises:
        OMGError: the named one is missing, or this transformers is too old for it.
    """
    folders = [folder for folder in model_folders(models, kinds) if _with_weights(folder)]
    folder = chosen(folders if name else [each for each in folders if _is_known(each)], name, field)
    if folder is not None and not _is_known(folder):
        raise OMGError(field, f"the installed transformers does not know {model_type(folder)!r}, the kind of model in "
                              f"{folder}; choose another one")
    return folder


def _with_weights(folder: Path | None) -> Path | None:
    """A folder's weights as safetensors; of several parts the first."""
    return next(iter(sorted(folder.glob(_WEIGHTS))), None) if folder else None


def _is_known(folder: Path) -> bool:
    """Whether the installed transformers has that kind of model. Looks without importing it."""
    spec = importlib.util.find_spec("transformers")
    kind = model_type(folder).replace("-", "_")
    return any((Path(place) / "models" / kind).is_dir()
               for place in (spec.submodule_search_locations or () if spec else ()))


@contextmanager
def _model(models: Models, kinds: dict[str, _Kind], name: str, field: str) -> Iterator[_Loaded]:
    folder = _folder(models, kinds, name, field)
    assert folder is not None  # `require` has seen to it
    with models.model((NAME, folder, models.device), lambda: _load(folder, kinds, models.device)) as model:
        yield model


def _load(folder: Path, kinds: dict[str, _Kind], device: torch.device) -> _Loaded:
    import transformers

    name = model_type(folder)
    load: Callable[..., Any] = getattr(transformers, kinds[name].model).from_pretrained
    with reading(folder):
        processor = getattr(transformers, kinds[name].processor).from_pretrained(folder, local_files_only=True)
        model = load(folder, local_files_only=True, use_safetensors=True)
        return _Loaded(folder, name, model.to(device).eval(), processor)
