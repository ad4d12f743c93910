"""Runs inside Forge, as a script of a second extension: has it recognise the tiny checkpoints."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file

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


loader: Any = import_module("backend.loader")
read = loader.load_torch_file


def with_the_rest(path: Any, *args: Any, **kwargs: Any) -> Any:
    """A GGUF file holds a UNet alone; text encoders and autoencoder are those of the checkpoint that it was made of."""
    found = read(path, *args, **kwargs)
    if not str(path).endswith(".gguf"):
        return found
    state, metadata = found  # in Neo
    whole = load_file(Path(path).with_name("tiny-sdxl.safetensors"))
    return {**{name: value for name, value in whole.items() if not name.startswith("model.diffusion_model.")},
            **state}, metadata


model_list.models[:0] = [TinySDXL, TinySD15]
for engine in loader.possible_models:  # Neo takes no subclass for the class
    engine.matched_guesses += [tiny for tiny in (TinySDXL, TinySD15) if tiny.__base__ in engine.matched_guesses]
loader.load_torch_file = with_the_rest
