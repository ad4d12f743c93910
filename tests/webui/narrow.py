"""Runs inside the web UI, as a script of a second extension: lets sd-webui-controlnet load narrow models.

It builds ControlNets from tables of sizes in its code, and only some sizes follow from a file. Here the widths in these
tables become those of the tiny checkpoints; all else is as it is.
"""

from __future__ import annotations

import sys
from typing import Any

from modules import script_callbacks

WIDTHS = {"controlnet_default_config": {"model_channels": 32},
          "controlnet_sdxl_mid_config": {"model_channels": 32, "adm_in_channels": 1568, "context_dim": 64,
                                         "num_head_channels": 16}}


def narrow(demo: Any, app: Any) -> None:
    """Once all extensions are loaded."""
    tables = sys.modules["scripts.controlnet_model_guess"]
    for name, widths in WIDTHS.items():
        getattr(tables, name).update(widths)


script_callbacks.on_app_started(narrow)
