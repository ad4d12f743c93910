"""What turns boxes into shapes: every kind of SAM, for every detector, and for boxes that the request gives.

- SAM (arXiv 2304.02643) and SAM 2 (arXiv 2408.00714) of transformers, the second where transformers has it.
- SAM in its authors' package, segment-anything. Weights are read as tensors only, whatever else a file holds.
- SAM, MobileSAM and SAM 2 of ultralytics. Its ``.pt`` files are pickles: take them from sources you trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..request import Detect
from . import pretrained
from .boxes import Picture, Segment
from .files import chosen, file_need, files, package, reading
from .masks import FloatArray
from .models import Models, Need
from .pixels import IMAGENET, resized, soft_masks
from .quiet import without_habits

FIELD = "detect.segmenter"
_TRANSFORMERS = {
    "sam": pretrained.Kind("SamModel", "SamProcessor"),
    # its processor needs torchvision, and does no more than what stands here
    "sam2": pretrained.Kind("Sam2Model"),
    "sam2_video": pretrained.Kind("Sam2Model"),
}
# the ends of file names by which ultralytics itself knows these models
_ULTRALYTICS = ("sam_b.pt", "sam_l.pt", "mobile_sam.pt", *(f"sam{version}_{size}.pt" for version in ("2", "2.1")
                                                          for size in "tsbl"))


@dataclass(frozen=True)
class Kind:
    """Segmenters of one package.

    Attributes:
        needed: the package, as a need.
        there: all files, or folders, that are such segmenters.
        load: a segmenter from one of them onto a device.
        recommended: the key in :data:`.catalog.CATALOG` of what to get where there is none.
        is_known: whether the installed package is new enough for a file or folder.
        weights: the file to name of what ``there`` finds.
    """

    needed: Callable[[], Need]
    there: Callable[[Models], list[Path]]
    load: Callable[[Path, torch.device], Segment]
    recommended: str
    is_known: Callable[[Path], bool] = lambda path: True
    weights: Callable[[Path], Path | None] = lambda path: path


@dataclass(frozen=True)
class Segmenter:
    """One that was found, in a file or folder."""

    kind: Kind
    path: Path

    @contextmanager
    def loaded(self, models: Models) -> Iterator[Segment]:
        """It, ready within the block. After it its memory is free, unless ``models`` keeps it.

        Raises:
            OMGError: it is broken.
        """
        with models.model(("segmenter", self.path, models.device),
                          lambda: self.kind.load(self.path, models.device)) as segment:
            yield segment


def find(options: Detect, models: Models, first: Kind | None = None) -> Segmenter | None:
    """The segmenter for a request: the named one, else the first whose package is there; None if there is none.

    Args:
        first: the kind to prefer; without, in the order of :data:`KINDS`.

    Raises:
        OMGError: naming :data:`FIELD`: the named one is missing, or the installed package is too old for it.
    """
    if options.segmenter:
        return _named(options.segmenter, models)
    return next((Segmenter(kind, path) for kind in _in_order(first) if kind.needed().is_there
                 for path in kind.there(models) if kind.is_known(path)), None)


def needs(options: Detect, models: Models, first: Kind | None = None) -> tuple[Need, Need]:
    """The package and the file of the segmenter that :func:`find` takes, or of one to get.

    Raises:
        OMGError: as :func:`find`.
    """
    found = find(options, models, first)
    kind = found.kind if found is not None else _in_order(first)[0]
    path = found.path if found is not None else next(filter(kind.is_known, kind.there(models)), None)
    return kind.needed(), file_need(models, kind.weights(path) if path is not None else None, kind.recommended)


def is_segmenter(path: Path) -> bool:
    """Whether a file is known to be a segmenter, by its name."""
    return _is_of_ultralytics(path) or _is_of_segment_anything(path)


def _in_order(first: Kind | None) -> Sequence[Kind]:
    return sorted(KINDS, key=lambda kind: kind is not first)


def _named(name: str, models: Models) -> Segmenter:
    """See :func:`find`. A SAM of segment-anything may have any name, if it is asked for."""
    kinds = {path: kind for kind in KINDS for path in kind.there(models)}
    others = [path for path in files(models, {".pth"}) if name.lower() in (path.name.lower(), path.stem.lower())]
    path = chosen([*kinds, *others], name, FIELD)
    assert path is not None  # as it is named
    if path.is_dir():
        pretrained.chosen_folder(models, _TRANSFORMERS, name, FIELD)  # refuses what is too new
    return Segmenter(kinds.get(path, SEGMENT_ANYTHING), path)


def _load_folder(folder: Path, device: torch.device) -> Segment:
    loaded = pretrained.load(folder, _TRANSFORMERS, device)
    segment = segment_with_sam if loaded.type == "sam" else segment_with_sam2

    @torch.inference_mode()
    def shapes(picture: Picture, corners: FloatArray) -> FloatArray:
        with reading(folder):
            return segment(loaded, picture, corners)

    return shapes


def segment_with_sam(sam: pretrained.Pretrained, picture: Picture, corners: FloatArray) -> FloatArray:
    """Masks ``[N, H, W]`` in 0..1 by transformers' SAM, one in each of the boxes ``[N, 4]``."""
    inputs = sam.reader(images=Image.fromarray(picture), input_boxes=[corners.tolist()], return_tensors="pt")
    # boxes come as float64, which not every device has
    given = {name: inputs[name].to(sam.device, torch.float32) for name in ("pixel_values", "input_boxes")}
    masks = sam.model(**given, multimask_output=False).pred_masks.float().cpu()
    logits = sam.reader.post_process_masks(masks, inputs["original_sizes"], inputs["reshaped_input_sizes"],
                                           binarize=False)[0]
    return np.asarray(logits[:, 0].sigmoid().numpy(), dtype=np.float32)


def segment_with_sam2(sam: pretrained.Pretrained, picture: Picture, corners: FloatArray) -> FloatArray:
    """The same by SAM 2, which sees the picture stretched to a square."""
    height, width = picture.shape[:2]
    high, wide = sam.model.config.vision_config.backbone_config.image_size
    boxes = torch.from_numpy(corners * np.array([wide / width, high / height] * 2, np.float32))
    out = sam.model(pixel_values=resized(picture, high, wide, IMAGENET).to(sam.device),
                    input_boxes=boxes[None].to(sam.device), multimask_output=False)
    return soft_masks(out.pred_masks[0, :, 0], height, width)


def _is_of_segment_anything(path: Path) -> bool:
    return path.name.lower().startswith("sam_vit") and path.suffix.lower() in (".pth", ".pt")


def _load_segment_anything(path: Path, device: torch.device) -> Segment:
    with reading(path):
        from segment_anything import SamPredictor
        from segment_anything.build_sam import _build_sam

        # not torch.load, which the web UI replaces by one that gives None for what it refuses
        weights = torch.serialization.load(path, map_location="cpu", weights_only=True)
        sam = _build_sam(**encoder_shape(weights))
        sam.load_state_dict(weights)
        predictor = SamPredictor(sam.to(device).eval())

    @torch.inference_mode()
    def shapes(picture: Picture, corners: FloatArray) -> FloatArray:
        with reading(path):
            predictor.set_image(picture)
            boxes = predictor.transform.apply_boxes_torch(torch.from_numpy(corners).to(device), picture.shape[:2])
            logits, _, _ = predictor.predict_torch(None, None, boxes=boxes, multimask_output=False, return_logits=True)
            predictor.reset_image()
            return np.asarray(logits[:, 0].float().sigmoid().cpu().numpy(), dtype=np.float32)

    return shapes


def encoder_shape(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What ``_build_sam`` has to know of the picture encoder, from a SAM's weights: ViT-B, L and H, or any other.

    A head's width is that of its relative positions ``[2 s - 1, width]``, where s is the side of what a block looks at:
    the whole picture in those blocks where it is longest, else a window.
    """
    blocks = "image_encoder.blocks"
    depth = len({name.split(".")[2] for name in weights if name.startswith(f"{blocks}.")})
    positions = [weights[f"{blocks}.{number}.attn.rel_pos_h"] for number in range(depth)]
    longest = max(len(each) for each in positions)
    width = len(weights["image_encoder.patch_embed.proj.weight"])
    return {"encoder_embed_dim": width, "encoder_depth": depth, "encoder_num_heads": width // positions[0].shape[1],
            "encoder_global_attn_indexes": [number for number, each in enumerate(positions) if len(each) == longest]}


def _is_of_ultralytics(path: Path) -> bool:
    return path.name.lower().endswith(_ULTRALYTICS)


def _load_ultralytics(path: Path, device: torch.device) -> Segment:
    with without_habits(), reading(path):
        from ultralytics import SAM

        sam = SAM(str(path.resolve()))

    def shapes(picture: Picture, corners: FloatArray) -> FloatArray:
        """A box in which it is sure of nothing gets no place."""
        with without_habits(), reading(path):
            result = sam.predict(np.ascontiguousarray(picture[:, :, ::-1]), bboxes=corners.tolist(), conf=0.0,
                                 device=device, verbose=False, save=False)[0]
            masks = np.zeros((len(corners), *picture.shape[:2]), np.float32)
            if result.masks is not None:  # the class is the box's number
                masks[result.boxes.cls.int().cpu().numpy()] = result.masks.data.float().cpu().numpy()
            return masks

    return shapes


TRANSFORMERS = Kind(pretrained.needed, lambda models: pretrained.folders(models, _TRANSFORMERS), _load_folder, "sam",
                    pretrained.is_known, pretrained.weights_in)
SEGMENT_ANYTHING = Kind(
    lambda: package("segment-anything==1.0", "segment_anything"),
    lambda models: [path for path in files(models, {".pth", ".pt"}) if _is_of_segment_anything(path)],
    _load_segment_anything, "segment-anything")
ULTRALYTICS = Kind(
    lambda: package("ultralytics>=8.3.75,<9", "ultralytics"),
    lambda models: [path for path in files(models, {".pt"}) if _is_of_ultralytics(path)],
    _load_ultralytics, "mobile-sam")

KINDS = (TRANSFORMERS, SEGMENT_ANYTHING, ULTRALYTICS)
"""The one that most have the package of comes first."""
