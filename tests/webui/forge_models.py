"""Runs inside Forge, as a script of a second extension: has it recognise the tiny checkpoints."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

configs = Path(os.environ["OMG_TEST_FORGE"])
model_list: Any = import_module("huggingface_guess.model_list")


class TinySDXL(model_list.SDXL):
    """SDXL with ``SDXL`` of ``checkpoints.py`` for its shape."""

    huggingface_repo = str(configs / "sdxl")  # a path that is absolute is taken for itself
    unet_config: ClassVar[dict[str, Any]] = {"model_channels": 32, "context_dim": 64, "adm_in_channels": 1568}
    unet_extra_config: ClassVar[dict[str, Any]] = {"num_heads": -1, "num_head_channels": 16}


class TinySD15(model_list.SD15):
    """SD 1.5 of ``checkpoints.py``."""

    huggingface_repo = str(configs / "sd15")
    unet_config: ClassVar[dict[str, Any]] = {"model_channels": 32, "context_dim": 32}


model_list.models[:0] = [TinySDXL, TinySD15]
for engine in import_module("backend.loader").possible_models:  # Neo takes no subclass for the class
    engine.matched_guesses += [tiny for tiny in (TinySDXL, TinySD15) if tiny.__base__ in engine.matched_guesses]
