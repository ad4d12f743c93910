"""Runs inside reForge, as a script of a second extension: has it recognise the tiny checkpoints."""

from __future__ import annotations

import gc
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from transformers import CLIPTextConfig

configs = Path(os.environ["OMG_TEST_FORGE"])
supported: Any = import_module("ldm_patched.modules.supported_models")
text: Any = import_module("ldm_patched.modules.sd1_clip")
loader: Any = import_module("modules_forge.forge_loader")
sd_models: Any = import_module("modules.sd_models")
read_vae = loader.VAE


class TinySDXL(supported.SDXL):
    """SDXL with ``SDXL`` of ``checkpoints.py`` for its shape."""

    unet_config: ClassVar[dict[str, Any]] = {"model_channels": 32, "context_dim": 64, "adm_in_channels": 1568}
    unet_extra_config: ClassVar[dict[str, Any]] = {"num_heads": -1, "num_head_channels": 16}


class TinySD15(supported.SD15):
    """SD 1.5 of ``checkpoints.py``."""

    unet_config: ClassVar[dict[str, Any]] = {"model_channels": 32, "context_dim": 32}


class TinyTextConfig(CLIPTextConfig):
    """Reads the tiny text encoders' sizes in place of the files of the same names."""

    @classmethod
    def from_json_file(cls, json_file: str) -> Any:
        return CLIPTextConfig.from_json_file(configs / Path(json_file).name)


def tiny_vae(sd: Any, metadata: Any = None) -> Any:
    """An autoencoder of the tiny width; reForge knows that of all others."""
    return read_vae(sd=sd, metadata=metadata, config={"params": {
        name: json.loads((configs / "vae.json").read_text())[name] for name in ("ddconfig", "embed_dim")}})


# before each checkpoint it goes through all objects that there are, at the start in a thread beside the one that makes
# the page: either may then fail
sd_models.force_memory_deallocation = gc.collect
supported.models[:0] = [TinySDXL, TinySD15]
text.CLIPTextConfig = TinyTextConfig
loader.VAE = tiny_vae
