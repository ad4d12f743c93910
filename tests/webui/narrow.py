"""Runs inside the web UI, as a script of a second extension: lets sd-webui-controlnet load narrow models.

It builds ControlNets from tables of sizes in its code, and only some sizes follow from a file. Here the widths in these
tables become those of the tiny checkpoints; all else is as it is.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

from modules import script_callbacks

WIDTHS = {"controlnet_default_config": {"model_channels": 32, "context_dim": 32},
          "controlnet_sdxl_mid_config": {"model_channels": 32, "adm_in_channels": 1568, "context_dim": 64,
                                         "num_head_channels": 16}}


def narrow(demo: Any, app: Any) -> None:
    """Once all extensions are loaded."""
    tables = sys.modules["scripts.controlnet_model_guess"]
    for name, widths in WIDTHS.items():
        getattr(tables, name).update(widths)


def narrow_motion() -> None:
    """SparseCtrl takes its motion modules from the extension AnimateDiff, and the number of pictures in its film.

    That film is one picture here, and of AnimateDiff only this module is there, beside this folder.
    """
    motion = import_module("motion_module")
    wide = motion.MotionModule
    vars(motion)["MotionModule"] = lambda width, **kwargs: wide(width // 10, **kwargs)
    stand_in = ModuleType("scripts.animatediff_mm")
    vars(stand_in).update(MotionWrapper=motion.MotionWrapper, MotionModuleType=motion.MotionModuleType,
                          mm_animatediff=SimpleNamespace(ad_params=SimpleNamespace(batch_size=1)))
    sys.modules[stand_in.__name__] = stand_in


if find_spec("motion_module"):
    narrow_motion()
script_callbacks.on_app_started(narrow)
