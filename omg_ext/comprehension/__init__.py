"""Visual comprehension: where in the first-pass picture each concept goes. Detectors behind one small protocol."""

from __future__ import annotations

from ..errors import OMGError
from .attention import AttentionDetector
from .base import Detector, Find, FirstPicture, Instance, Query
from .grounding import GroundingDetector
from .models import Models, Need
from .painted import PaintedDetector
from .second_look import ContrastDetector
from .yolo import YoloDetector
from .zero_shot import ZeroShotDetector

__all__ = ["DETECTORS", "AttentionDetector", "ContrastDetector", "Detector", "Find", "FirstPicture", "Instance",
           "Models", "Need", "Query", "get_detector"]

DETECTORS: dict[str, Detector] = {detector.name: detector for detector in (
    AttentionDetector(), ContrastDetector(), GroundingDetector(), PaintedDetector(), YoloDetector(),
    ZeroShotDetector())}


def get_detector(name: str) -> Detector:
    """The detector of that name.

    Raises:
        OMGError: there is none; the message lists those there are.
    """
    if name not in DETECTORS:
        raise OMGError("detector", f"there is no detector `{name}`; known: {', '.join(sorted(DETECTORS))}")
    return DETECTORS[name]
