"""SAM 3 (arXiv 2511.16719) of the package ultralytics: any phrase, with masks, from the file ``sam3.pt``.

The network alone is the package's: its predictor gives hard masks. Weights are read as tensors only.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import OMGError
from .base import Find, FirstPicture, Instance, Query
from .boxes import Picture, instances, surest
from .files import reading
from .masks import FloatArray
from .pixels import EVEN, resized, soft_masks
from .quiet import changed, without_habits

# of the square that the network sees, in pixels: what it was trained on
SIDE = 1008
THRESHOLD = 0.3
# in files of the authors before the names of its weights; the others are for video
_PREFIX = "detector."
# of its weights; what lacks more is something else
_MAY_LACK = 0.1


def is_sam3(path: Path) -> bool:
    """Whether a file is a SAM 3, by its name as its makers give it."""
    return path.name.lower().startswith("sam3") and path.suffix.lower() == ".pt"


def is_known() -> bool:
    """Whether the installed packages can run it: ultralytics from 8.3.237 on, torch from 2.3 on. Imports neither."""
    spec = importlib.util.find_spec("ultralytics")
    is_there = any((Path(place) / "models/sam/build_sam3.py").is_file()
                   for place in (spec.submodule_search_locations or () if spec else ()))
    return is_there and hasattr(getattr(torch.nn, "attention", None), "sdpa_kernel")


def load(path: Path, device: torch.device) -> Any:
    """The network.

    Raises:
        OMGError: the file is broken, or something else.
    """
    import clip

    with without_habits(), reading(path):
        build = importlib.import_module("ultralytics.models.sam.build_sam3")
        with changed(build, "_load_checkpoint", _with_weights):
            net = build.build_sam3_image_model(str(path))
        # the package's own clip has a tokenizer that others lack
        net.backbone.language_backbone.tokenizer = lambda phrases, context_length: clip.tokenize(
            phrases, context_length, truncate=True)
        net.to(device).eval().set_imgsz([SIDE, SIDE])
        return net


def _with_weights(net: Any, path: str, **_: Any) -> Any:
    """In place of the package's, which takes any file."""
    weights = torch.serialization.load(path, map_location="cpu", weights_only=True)
    weights = weights.get("model", weights)
    own = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    missing = set(net.load_state_dict(own, strict=False).missing_keys)
    names = [name for name, _ in net.named_parameters()]
    if len(lacking := [name for name in names if name in missing]) > _MAY_LACK * len(names):
        raise ValueError(f"it lacks {len(lacking)} of {len(names)} weights, {lacking[0]} for one")
    return net


def finder(net: Any, path: Path, threshold: float | None, device: torch.device) -> Find:
    """What finds with it.

    Args:
        net: see :func:`load`.
        path: of its file, for errors.
    """
    least = THRESHOLD if threshold is None else threshold

    def find(picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        image = picture.picture()
        with without_habits(), reading(path):
            return [instances(masks, scores)
                    for masks, scores in _detected(net, image, [query.phrase for query in queries], least, device)]

    return find


@torch.inference_mode()
def _detected(net: Any, image: Picture, phrases: Sequence[str], threshold: float,
              device: torch.device) -> list[tuple[FloatArray, FloatArray]]:
    """By phrase masks ``[N, H, W]`` in 0..1 and scores ``[N]``, the surest first; each phrase alone."""
    seen = net.backbone.forward_image(resized(image, SIDE, SIDE, EVEN).to(device))
    found = []
    for phrase in phrases:
        net.set_classes([phrase])
        out = net.forward_grounding(dict(seen), torch.zeros(1, dtype=torch.long, device=device))
        scores = (out["pred_logits"][0, :, 0].sigmoid() * out["presence_logit_dec"][0].sigmoid()).cpu().numpy()
        best = surest(scores, threshold)
        found.append((soft_masks(out["pred_masks"][0, best], *image.shape[:2]), scores[best]))
    return found


def refuse_unknown(path: Path) -> None:
    """
    Raises:
        OMGError: the installed packages cannot run it.
    """
    if not is_known():
        raise OMGError("detect.model", f"{path.name} is a SAM 3, for which ultralytics from 8.3.237 and torch from 2.3 "
                                       "on are needed; update them, or choose another model")
