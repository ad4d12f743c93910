"""What Forge must be told of checkpoints that are smaller than SDXL and SD 1.5, and its classes for their parts.

Forge knows a model by its sizes, and reads the sizes of text encoders and autoencoder from folders of its own. It gets
copies of these with other numbers, which ``tests/webui/forge_models.py`` has it look into.
"""

from __future__ import annotations

import importlib
import json
import shutil
from itertools import repeat
from pathlib import Path
from typing import Any

from . import sgm_config
from .sgm_config import Shape

REPOSITORIES = {"sdxl": "stabilityai/stable-diffusion-xl-base-1.0", "sd15": "runwayml/stable-diffusion-v1-5"}


def write(installation: Path, folder: Path, shape: Shape) -> None:
    """Forge's folders for SDXL and SD 1.5 with the sizes of a shape.

    Args:
        installation: Forge.
        folder: gets ``sdxl`` and ``sd15``.
    """
    text: dict[str, Any] = sgm_config.clip(shape)
    second = {**text, "hidden_act": "gelu", "intermediate_size": 4 * shape.text_width}
    autoencoder = {"block_out_channels": [shape.vae_channels] * 4, "layers_per_block": shape.vae_blocks}
    for name, repository in REPOSITORIES.items():
        shutil.copytree(installation / "backend" / "huggingface" / repository, folder / name)
        for part, sizes in (("text_encoder", text), ("text_encoder_2", second), ("vae", autoencoder)):
            file = folder / name / part / "config.json"
            if file.is_file():
                kept = ("architectures", "bos_token_id", "eos_token_id", "pad_token_id")
                known = json.loads(file.read_text())
                changed = {key: value for key, value in sizes.items() if key not in kept}
                file.write_text(json.dumps({**known, **changed}))


def write_for_reforge(folder: Path, shape: Shape) -> None:
    """The same for reForge: its two files on text encoders, and what its autoencoder's class takes.

    Args:
        folder: gets them.
    """
    first: dict[str, Any] = sgm_config.clip(shape)
    second = {**first, "hidden_act": "gelu", "intermediate_size": 4 * shape.text_width, "pad_token_id": 1}
    folder.mkdir(parents=True)
    for name, config in (("sd1_clip_config", first), ("clip_config_bigg", second), ("vae", sgm_config.vae(shape))):
        (folder / f"{name}.json").write_text(json.dumps(config))


def build(config: dict[str, Any]) -> Any:
    """A UNet or autoencoder of Forge's class, for a config with the ``target`` and ``params`` of the original's."""
    params = config["params"]
    if "ddconfig" in params:
        sizes = params["ddconfig"]
        return importlib.import_module("backend.nn.vae").IntegratedAutoencoderKL(
            block_out_channels=[sizes["ch"] * factor for factor in sizes["ch_mult"]],
            layers_per_block=sizes["num_res_blocks"])
    levels, blocks = len(params["channel_mult"]), params["num_res_blocks"]
    depth = params["transformer_depth"]
    by_level = [(depth[level] if isinstance(depth, list) else depth) if 2 ** level in params["attention_resolutions"]
                else 0 for level in range(levels)]
    taken = ("in_channels", "out_channels", "model_channels", "num_res_blocks", "channel_mult", "context_dim",
             "use_spatial_transformer", "num_heads", "num_head_channels", "num_classes", "adm_in_channels")
    return importlib.import_module("backend.nn.unet").IntegratedUNet2DConditionModel(
        **{name: params[name] for name in taken if name in params},
        use_linear_in_transformer=params.get("use_linear_in_transformer", False),
        transformer_depth=[each for level in by_level for each in repeat(level, blocks)],
        transformer_depth_middle=depth[-1] if isinstance(depth, list) else depth,
        transformer_depth_output=[each for level in by_level for each in repeat(level, blocks + 1)])
