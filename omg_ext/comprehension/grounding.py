"""Grounding DINO (arXiv 2303.05499) in its authors' package, with SAM (arXiv 2304.02643), as the paper names them.

The package is groundingdino-py. Weights are read as tensors only, whatever else a file holds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..request import Detect
from . import segmenters
from .base import Find, FirstPicture, Instance, Query
from .boxes import Boxes, Picture, from_centres, shapes
from .files import chosen, file_need, files, model_folders, package, reading
from .models import Models, Need, require
from .pixels import IMAGENET, resized
from .quiet import changed
from .zero_shot import caption

NAME = "grounding-dino+sam"
THRESHOLD = 0.3
# of the picture as the network is to see it, in pixels: the shorter side, and the longer one at most
SIDE, LONGEST = 800, 1333
_HINT = ("get it again, or choose another one; groundingdino-py works with transformers 4, of newer ones the detector "
         "`transformers` has Grounding DINO itself")


class GroundingDetector:
    """Boxes for any phrase from Grounding DINO, and their shapes from a segmenter: the authors' own SAM, or another."""

    name = NAME
    goes_by_prompt = needs_attention = False
    reads = ("threshold", "model", "segmenter")

    def needs(self, options: Detect, models: Models) -> Sequence[Need]:
        """Both packages, a file of each, and a folder of BERT, whose weights are in Grounding DINO's file."""
        bert = _bert_folder(models)
        segmenter_package, segmenter = segmenters.needs(options, models, segmenters.SEGMENT_ANYTHING)
        return (package("groundingdino-py==0.4.0", "groundingdino"), segmenter_package,
                file_need(models, _dino_file(options, models), "dino"), segmenter,
                file_need(models, bert / "vocab.txt" if bert else None, "bert"))

    @contextmanager
    def loaded(self, options: Detect, models: Models) -> Iterator[Find]:
        """The detector, see :class:`.base.Detector`."""
        require(self.name, self.needs(options, models), models.remedy)
        dino, bert = _dino_file(options, models), _bert_folder(models)
        segmenter = segmenters.find(options, models, segmenters.SEGMENT_ANYTHING)
        assert dino is not None
        assert bert is not None
        assert segmenter is not None  # `require` has seen to all three
        threshold = THRESHOLD if options.threshold is None else options.threshold
        with models.model((NAME, dino, models.device), lambda: _load_dino(dino, bert, models.device)) as net, \
                segmenter.loaded(models) as segment:
            def find(picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
                image = picture.picture()
                with reading(dino, _HINT):
                    found = _detected(net, image, [query.phrase for query in queries])
                return shapes(image, [boxes.best(threshold, *image.shape[:2]) for boxes in found], segment)

            yield find


def _detected(net: Any, image: Picture, phrases: Sequence[str]) -> list[Boxes]:
    """Boxes of each phrase; each alone, since all words of one text change each other's features."""
    pixels = prepared(image).to(next(net.parameters()).device)
    return [detect(net, pixels, phrase, *image.shape[:2]) for phrase in phrases]


def prepared(image: Picture) -> Tensor:
    """A picture ``[H, W, 3]`` as Grounding DINO takes it, float32 ``[1, 3, h, w]``."""
    height, width = image.shape[:2]
    scale = min(SIDE / min(height, width), LONGEST / max(height, width))
    return resized(image, round(height * scale), round(width * scale), IMAGENET)


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


def _dino_file(options: Detect, models: Models) -> Path | None:
    """The named file, or the first with such a name."""
    there = files(models, {".pth", ".pt"})
    return chosen(there if options.model else [path for path in there if "groundingdino" in path.name.lower()],
                  options.model, "detect.model")


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
        # not torch.load, which the web UI replaces by one that gives None for what it refuses
        weights: Any = torch.serialization.load(path, map_location="cpu", weights_only=True)
        with changed(get_tokenlizer, "get_pretrained_language_model", _bert_without_weights):
            net = build_model(args)
        left = net.load_state_dict(clean_state_dict(weights["model"]), strict=False).missing_keys
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
