"""Runs inside Forge, as the script of a small extension that :mod:`bench.world.webui` writes.

It has the small world's checkpoint recognised, by its sizes as any.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

model_list: Any = import_module("huggingface_guess.model_list")


class World(model_list.SDXL):
    """SDXL with ``SHAPE`` of :mod:`bench.world.webui`."""

    # an absolute path is taken for itself
    huggingface_repo = str(Path(__file__).resolve().parents[1] / "forge" / "sdxl")
    unet_config: ClassVar[dict[str, Any]] = {"model_channels": 64, "context_dim": 64, "adm_in_channels": 1568}
    unet_extra_config: ClassVar[dict[str, Any]] = {"num_heads": -1, "num_head_channels": 16}


model_list.models.insert(0, World)
