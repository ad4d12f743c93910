"""Runs inside the web UI, as a script of a second extension: ADetailer sees two faces in every picture.

Its detectors need large packages, and would see none in random pictures. What it does with faces is its own.
"""

from __future__ import annotations

import sys
from typing import Any

from modules import script_callbacks, script_loading

# x0, y0, x1, y1 in pixels; the second is not the first from the left
FACES = [[76.0, 40.0, 108.0, 96.0], [16.0, 24.0, 48.0, 72.0]]


def find_faces(name: str, picture: Any, confidence: float) -> Any:
    """Stands in for its ``mediapipe_predict``."""
    common = sys.modules["adetailer.common"]
    return common.PredictOutput(FACES, common.create_mask_from_bbox(FACES, picture.size), [0.9, 0.8], picture)


def stand_in(demo: Any, app: Any) -> None:
    """Once all extensions are loaded, if it is among them."""
    for path, module in script_loading.loaded_scripts.items():
        if path.endswith("!adetailer.py"):
            module.mediapipe_predict = find_faces


script_callbacks.on_app_started(stand_in)
