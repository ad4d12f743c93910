"""Grounding DINO (arXiv 2303.05499) and SAM (arXiv 2304.02643) in their authors' packages, as the paper names them.

The packages are groundingdino-py and segment-anything. Weights are read as tensors only, whatever else a file holds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..request import Detect
from .base import Find, FirstPicture, Instance, Query
from .boxes import Boxes, Picture, from_centres, shapes
from .files import chosen, file_need, files, model_folders, package, reading
from .masks import FloatArray
from .models import Models, Need, require
from .quiet import changed
from .zero_shot import caption

NAME = "grounding-dino+sam"
THRESHOLD = 0.3
# of the picture as the network is to see it, in pixels: the shorter side, and the longer one at most
SIDE, LONGEST = 800, 1333
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HINT = ("get it again, or choose another one; groundingdino-py works with transformers 4, of newer ones the detector "
         "`transformers` has Grounding DINO itself")


class GroundingDetector:
    """Boxes for any phrase from Grounding DINO, and their shapes from SAM."""

    name = NAME
    goes_by_prompt = needs_attention = False

    def needs(self, options: Detect, models: Models) -> Sequence[Need]:
        """Both packages, a file of each, and a folder of BERT, whose weights are in Grounding DINO's file."""
        dino, sam = _dino_file(options, models), _sam_file(options, models)
        bert = _bert_folder(models)
        return (package("groundingdino-py==0.4.0", "groundingdino"),
                package("segment-anything==1.0", "segment_anything"),
                file_need(models, dino, "dino"), file_need(models, sam, "segment-anything"),
                file_need(models, bert / "vocab.txt" if bert else None, "bert"))

    @contextmanager
    def loaded(self, options: Detect, models: Models) -> Iterator[Find]:
        """The detector, see :class:`.base.Detector`."""
        require(self.name, self.needs(options, models))
        dino, sam, bert = _dino_file(options, models), _sam_file(options, models), _bert_folder(models)
        assert dino is not None
        assert sam is not None
        assert bert is not None  # `require` has seen to all three
        threshold = THRESHOLD if options.threshold is None else options.threshold
        with ExitStack() as stack:
            net = stack.enter_context(models.model((NAME, dino, models.device),
                                                   lambda: _load_dino(dino, bert, models.device)))
            segmenter = stack.enter_context(models.model((NAME, sam, models.device),
                                                         lambda: _load_sam(sam, models.device)))

            def find(picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
                image = picture.picture()
                with reading(dino, _HINT):
                    found = _detected(net, image, [query.phrase for query in queries])
                best = [boxes.best(threshold, *image.shape[:2]) for boxes in found]
                with reading(sam):
                    return shapes(image, best, lambda whole, corners: segment(segmenter, whole, corners))

            yield find


def _detected(net: Any, image: Picture, phrases: Sequence[str]) -> list[Boxes]:
    """Boxes of each phrase; each alone, since all words of one text change each other's features."""
    pixels = prepared(image).to(next(net.parameters()).device)
    return [detect(net, pixels, phrase, *image.shape[:2]) for phrase in phrases]


def prepared(image: Picture) -> Tensor:
    """A picture ``[H, W, 3]`` as Grounding DINO takes it, float32 ``[1, 3, h, w]``."""
    height, width = image.shape[:2]
    scale = min(SIDE / min(height, width), LONGEST / max(height, width))
    resized = Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return ((pixels - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_DEVIATION)[:, None, None])[None]


@torch.inference_mode()
def detect(net: Any, pixels: Tensor, phrase: str, height: int, width: int) -> Boxes:
    """Boxes of a phrase in a picture of that size, whatever their scores.

    Args:
        net: Grounding DINO.
        pixels: see :func:`prepared`.
    """
    out = net(pixels, captions=[caption(phrase)])
    scores = out["pred_logits"][0].float().sigmoid().amax(-1)
    return Boxes(from_centres(out["pred_boxes"][0].float().cpu().numpy(), height, width), scores.cpu().numpy())


@torch.inference_mode()
def segment(segmenter: Any, image: Picture, corners: FloatArray) -> FloatArray:
    """Masks ``[N, H, W]`` in 0..1, one in each of the boxes ``[N, 4]``; see :data:`.boxes.Segment`.

    Args:
        segmenter: a ``SamPredictor``.
    """
    segmenter.set_image(image)
    boxes = segmenter.transform.apply_boxes_torch(torch.from_numpy(corners).to(segmenter.device), image.shape[:2])
    logits, _, _ = segmenter.predict_torch(None, None, boxes=boxes, multimask_output=False, return_logits=True)
    segmenter.reset_image()
    return np.asarray(logits[:, 0].float().sigmoid().cpu().numpy(), dtype=np.float32)


def _dino_file(options: Detect, models: Models) -> Path | None:
    return _file(models, options.model, "detect.model", lambda name: "groundingdino" in name)


def _sam_file(options: Detect, models: Models) -> Path | None:
    return _file(models, options.segmenter, "detect.segmenter", lambda name: name.startswith("sam_vit"))


def _file(models: Models, name: str, field: str, is_one: Callable[[str], bool]) -> Path | None:
    """The named file, or the first with such a name in lower case."""
    there = files(models, {".pth", ".pt"})
    return chosen(there if name else [path for path in there if is_one(path.name.lower())], name, field)


def _bert_folder(models: Models) -> Path | None:
    return next((folder for folder in model_folders(models, {"bert"}) if (folder / "vocab.txt").is_file()), None)


def _load_dino(path: Path, bert: Path, device: torch.device) -> Any:
    with reading(path, _HINT):
        from groundingdino.models import build_model
        from groundingdino.util import get_tokenlizer
        from groundingdino.util.misc import clean_state_dict
        from groundingdino.util.slconfig import SLConfig

        args = SLConfig.fromfile(str(_config(path)))
        args.device, args.text_encoder_type = str(device), str(bert)
        args.use_checkpoint = args.use_transformer_ckpt = False  # of activations: that is for training
        with changed(get_tokenlizer, "get_pretrained_language_model", _bert_without_weights):
            net = build_model(args)
        left = net.load_state_dict(clean_state_dict(_tensors(path)["model"]), strict=False).missing_keys
        if left:
            raise ValueError(f"it lacks {len(left)} weights, {left[0]} for one")
        return net.to(device).eval()


def _config(path: Path) -> Path:
    """The package's description of the network, by the file's name."""
    spec = importlib.util.find_spec("groundingdino")
    assert spec is not None  # as needed
    assert spec.submodule_search_locations is not None  # it is a package
    name = "GroundingDINO_SwinB_cfg.py" if "swinb" in path.name.lower() else "GroundingDINO_SwinT_OGC.py"
    return Path(spec.submodule_search_locations[0]) / "config" / name


def _bert_without_weights(folder: str) -> Any:
    """BERT as a folder describes it: its weights come with Grounding DINO's."""
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig.from_pretrained(folder, local_files_only=True))


def _load_sam(path: Path, device: torch.device) -> Any:
    with reading(path):
        from segment_anything import SamPredictor
        from segment_anything.build_sam import _build_sam

        weights = _tensors(path)
        sam = _build_sam(**encoder_shape(weights))
        sam.load_state_dict(weights)
        return SamPredictor(sam.to(device).eval())


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


def _tensors(path: Path) -> Any:
    # not torch.load, which the web UI replaces by one that gives None for what it refuses
    return torch.serialization.load(path, map_location="cpu", weights_only=True)
