"""The models of the package ultralytics that find: from the files that users of ADetailer have to open vocabularies.

A ``.pt`` file is a pickle: loading it can run whatever its author put there. Take such files from sources you trust.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import OMGError
from ..request import Detect
from . import sam3, segmenters
from .base import Find, FirstPicture, Instance, Query
from .boxes import SAME_BOX, Boxes, Picture, Segment, box_shapes, instances, shapes
from .files import chosen, file_need, files, package, reading
from .masks import FloatArray
from .models import Models, Need, require
from .people import class_for
from .quiet import without_habits

NAME = "yolo"
# the least score that counts unless the request says; YOLO-World is less sure of everything
THRESHOLD, WORLD_THRESHOLD = 0.25, 0.1
# so many classes are named in a message
_NAMED = 60
# models of parts of figures, and others that are no detectors: taken only where the request names them
_PARTS = ("face", "hand", "eye", "pose", "deepfashion", "-cls", "-obb")
_BROKEN_HINT = ("get it again, choose another one, or update the package ultralytics if the file is newer than it; it "
                "was not downloaded or repaired automatically")


class YoloDetector:
    """Instances from models of ultralytics, by what the chosen file is.

    - SAM 3: any phrase, masks. See :mod:`.sam3`.
    - YOLOE: any phrase, boxes and masks. Its text encoder is a file of its own.
    - YOLO-World: any phrase, boxes; its text encoder is CLIP.
    - any other: phrases whose thing is one of the model's classes; masks if it has them (``-seg``).

    Boxes are turned into shapes by a segmenter, if there is one, else they are the masks.
    """

    name = NAME
    goes_by_prompt = needs_attention = False
    reads = ("threshold", "model", "segmenter")

    def needs(self, options: Detect, models: Models) -> Sequence[Need]:
        """The package, a model file, and for phrases of any kind what reads them."""
        path = _chosen(options, models)
        needs = [segmenters.ULTRALYTICS.needed(), file_need(models, path, "yoloe")]
        if options.segmenter:
            needs.extend(segmenters.needs(options, models))
        return tuple(dict.fromkeys(needs + _needs_of(path, models)))

    @contextmanager
    def loaded(self, options: Detect, models: Models) -> Iterator[Find]:
        """The detector, see :class:`.base.Detector`."""
        require(self.name, self.needs(options, models), models.remedy)
        path = _chosen(options, models)
        assert path is not None  # `require` has seen to it
        if sam3.is_sam3(path):
            with models.model((NAME, path, models.device), lambda: sam3.load(path, models.device)) as net:
                yield sam3.finder(net, path, options.threshold, models.device)
            return
        with ExitStack() as stack:
            net = stack.enter_context(models.model((NAME, path, models.device), lambda: _load(path, models.device)))
            text = None
            if is_open(path):
                encoder = _encoder_file(path, models)[0]
                assert encoder is not None  # as above
                text = stack.enter_context(models.model((NAME, encoder, models.device),
                                                        lambda: _load_text(encoder, models.device)))
            segment: Segment = box_shapes
            segmenter = segmenters.find(options, models, segmenters.ULTRALYTICS)
            if segmenter is not None and net.task == "detect":
                segment = stack.enter_context(segmenter.loaded(models))
            yield _Finder(path, net, text, segment, options.threshold, models.device).find


@dataclass(frozen=True)
class _Finder:
    """Finds with loaded models.

    Attributes:
        path: of the model.
        net: a model of ultralytics.
        text: the text encoder, ``tokens [1, 77] -> [1, D]``; None for a model with classes of its own.
        segment: for a model without masks.
    """

    path: Path
    net: Any
    text: Any
    segment: Segment
    threshold: float | None
    device: torch.device

    def find(self, picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        """See :data:`.base.Find`. Of a model with classes of its own a phrase that is none of them has a hint."""
        image, phrases = picture.picture(), [query.phrase for query in queries]
        with without_habits(), reading(self.path, _BROKEN_HINT):
            results = (self._by_class(image, phrases, picture.hints) if self.text is None
                       else self._by_text(image, phrases))
            if all(masks is None for _, masks in results):
                return shapes(image, [boxes.best(0, *image.shape[:2]) for boxes, _ in results], self.segment)
        return [instances(masks, boxes.scores) if masks is not None else [] for boxes, masks in results]

    def _by_class(self, image: Picture, phrases: Sequence[str],
                  hints: dict[str, str]) -> list[tuple[Boxes, FloatArray | None]]:
        """Boxes and masks of each phrase, from one look at the picture."""
        names: dict[int, str] = dict(self.net.names)
        numbers = [class_for(phrase, names) for phrase in phrases]
        for phrase, number in zip(phrases, numbers, strict=True):
            if number is None:
                hints[phrase] = _unknown(self.path, phrase, list(names.values()))
        least = THRESHOLD if self.threshold is None else self.threshold
        result = predict(self.net, image, least, self.device)
        boxes, masks = _boxes(result)
        classes = _numpy(result.boxes.cls).astype(int)
        own = [classes == (-1 if number is None else number) for number in numbers]
        return [(Boxes(boxes.corners[mine], boxes.scores[mine]), None if masks is None else masks[mine])
                for mine in own]

    def _by_text(self, image: Picture, phrases: Sequence[str]) -> list[tuple[Boxes, FloatArray | None]]:
        """The same, each phrase alone, so that none of several takes a box from another."""
        default = WORLD_THRESHOLD if is_world(self.net) else THRESHOLD
        least = default if self.threshold is None else self.threshold
        found = []
        for phrase in phrases:
            # a look fuses the phrase with the network: it is a copy's
            net = copy.deepcopy(self.net)
            set_phrase(net, phrase, self.text, self.device)
            found.append(_boxes(predict(net, image, least, self.device)))
        return found


def is_open(path: Path) -> bool:
    """Whether a file is a model for phrases of any kind, by its name as its makers give it."""
    name = path.name.lower()
    return ("yoloe" in name and "-pf" not in name) or "world" in name


def is_world(net: Any) -> bool:
    """Whether a loaded model is YOLO-World."""
    return type(net.model).__name__ == "WorldModel"


def predict(net: Any, image: Picture, threshold: float, device: torch.device) -> Any:
    """What a model of ultralytics sees in a picture: its ``Results``, with masks at the picture's size."""
    predictor = net.task_map[net.task]["predictor"](overrides={
        **net.overrides, "mode": "predict", "conf": threshold, "iou": SAME_BOX, "retina_masks": True,
        # no name of a device, for which the package changes CUDA_VISIBLE_DEVICES of the process
        "device": device, "verbose": False, "save": False, "batch": 1, "rect": True})
    predictor.setup_model(net.model, verbose=False)
    predictor.done_warmup = True  # it would be another look at a picture
    return predictor(np.ascontiguousarray(image[:, :, ::-1]))[0]


@torch.inference_mode()
def set_phrase(net: Any, phrase: str, text: Any, device: torch.device) -> None:
    """Make a YOLOE or YOLO-World look for one phrase, without the package's own search for a text encoder.

    Args:
        text: the encoder, ``tokens int [1, 77] -> [1, D]``.
    """
    import clip

    weight = next(net.model.parameters())
    net.model.to(device)
    feature = text(clip.tokenize([phrase], truncate=True).to(device)).to(weight.dtype)
    feature = (feature / feature.norm(dim=-1, keepdim=True))[None]
    head = net.model.model[-1]
    if is_world(net):
        net.model.txt_feats, head.nc, net.model.names = feature, 1, [phrase]
    else:
        net.model.set_classes([phrase], head.get_tpe(feature))
    net.predictor = None


def _boxes(result: Any) -> tuple[Boxes, FloatArray | None]:
    boxes = Boxes(_numpy(result.boxes.xyxy), _numpy(result.boxes.conf))
    return boxes, None if result.masks is None else _numpy(result.masks.data)


def _numpy(values: Any) -> FloatArray:
    return np.asarray(values.float().cpu().numpy(), dtype=np.float32)


def _chosen(options: Detect, models: Models) -> Path | None:
    """The model's file: the named one, else the most capable one that has all it needs.

    Raises:
        OMGError: the named one is missing, or the installed packages are too old for it.
    """
    found = [path for path in files(models, {".pt"}) if not _is_other(path)]
    if options.model:
        path = chosen(found, options.model, "detect.model")
        if path is not None and sam3.is_sam3(path):
            sam3.refuse_unknown(path)
        return path
    usual = [path for path in found if not any(part in path.name.lower() for part in _PARTS)
             and (not sam3.is_sam3(path) or sam3.is_known())]
    usual.sort(key=lambda path: (not all(need.is_there for need in _needs_of(path, models)), _rank(path)))
    return chosen(usual, "", "detect.model")


def _rank(path: Path) -> int:
    """The lower the more it can: any phrase with masks, any phrase, masks, boxes."""
    name = path.name.lower()
    return 0 if sam3.is_sam3(path) or ("yoloe" in name and is_open(path)) else 1 if is_open(path) else \
        2 if "seg" in name else 3


def _is_other(path: Path) -> bool:
    """Whether a ``.pt`` file is known to be something else: a segmenter, a text encoder."""
    return segmenters.is_segmenter(path) or path.name.lower().startswith(("mobileclip", "vit-"))


def _needs_of(path: Path | None, models: Models) -> list[Need]:
    """What a model of that name takes beside itself."""
    clip = package("clip-anytorch>=2.6,<3", "clip")
    if path is not None and sam3.is_sam3(path):
        return [clip, package("timm>=1,<2", "timm")]
    if path is not None and not is_open(path):
        return []
    file, recommended = _encoder_file(path, models)
    return [clip, file_need(models, file, recommended)]


def _encoder_file(path: Path | None, models: Models) -> tuple[Path | None, str]:
    """The text encoder of a model, if it is there, and what it is."""
    name = path.name.lower() if path is not None else ""
    kind = "clip" if "world" in name else "mobileclip2" if "yoloe-26" in name else "mobileclip"
    file_name = {"clip": "vit-b-32.pt", "mobileclip2": "mobileclip2_b.ts", "mobileclip": "mobileclip_blt.ts"}[kind]
    return next((file for file in files(models, {".pt", ".ts"}) if file.name.lower() == file_name), None), kind


def _load(path: Path, device: torch.device) -> Any:
    with without_habits(), reading(path, _BROKEN_HINT):
        from ultralytics import YOLO

        net = YOLO(str(path.resolve()))
        if net.task not in ("detect", "segment"):
            raise OMGError("detect.model", f"{path} is a model for {net.task}, not for finding things; choose another")
        net.model.to(device)
        return net


def _load_text(path: Path, device: torch.device) -> Any:
    """The text encoder, ``tokens int [1, 77] -> [1, D]``."""
    with reading(path, _BROKEN_HINT):
        if path.suffix == ".ts":
            return torch.jit.load(str(path), map_location=device).eval()
        import clip

        return clip.load(str(path.resolve()), device=device)[0].eval().encode_text


def _unknown(path: Path, phrase: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (f"{path.name} does not know {phrase!r}; it knows: {', '.join(names[:_NAMED])}{more}. Name one of these in "
            "the concept's `phrase`, or take a model for any phrase (YOLOE, YOLO-World)")
