"""The small world for a real web UI: ``python -m bench.world.webui WEBUI [--data-dir DIR]``.

Into the web UI's data folder, which is its own unless it is started with ``--data-dir``, go the checkpoint ``world``
with its yaml, the identities' LoRAs and textual inversions under their names in lower case, and an extension
``omg-world``. That extension is what is special: a web UI takes the architecture of a second text encoder by name
alone, so its one script gives open_clip a name for this one's; in Forge, which knows a model by its sizes, it tells
these. Deleting these files undoes everything.

Pictures of the model are 128x128, and words that no caption of the world has mean nothing to it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from bench.world import model, weights
from bench.world.attributes import IDENTITIES
from tests.models import forge_configs, sgm_config

EXTENSION = "omg-world"
ARCHITECTURE = "omg-world-openclip"
SHAPE = sgm_config.Shape(
    unet_channels=model.UNET_CHANNELS, unet_blocks=model.UNET_LAYERS, unet_depth=(1,) * len(model.UNET_CHANNELS),
    head_channels=model.HEAD_DIM, vae_channels=model.VAE_CHANNELS, vae_blocks=model.VAE_LAYERS,
    text_width=model.TEXT_WIDTH, text_layers=model.TEXT_LAYERS, text_heads=model.TEXT_HEADS,
    text_hidden=model.TEXT_HIDDEN[0])


def find_merges(webui: Path) -> Path:
    """CLIP's merges in the web UI's own Python environment.

    Raises:
        FileNotFoundError: the folder is no web UI that has been started once.
    """
    for packages in ("lib/python*/site-packages", "Lib/site-packages"):
        for found in webui.glob(f"venv/{packages}/open_clip/{sgm_config.MERGES}"):
            return found
    raise FileNotFoundError(f"{webui}: no open_clip in venv/; give the folder of a web UI that has been started once")


def install(data_dir: Path, webui: Path) -> None:
    """Put everything where a web UI with this data folder finds it at its next start.

    Args:
        data_dir: need not exist.
        webui: the folder of a web UI that has been started once, or of a Forge.

    Raises:
        FileNotFoundError: weights are missing, or the folder is none.
    """
    extension, checkpoints = data_dir / "extensions" / EXTENSION, data_dir / "models" / "Stable-diffusion"
    _copy(weights.CHECKPOINT, checkpoints)
    if (webui / "modules_forge").is_dir():
        forge_configs.write(webui, extension / "forge", SHAPE)
        _copy(Path(__file__).with_name("forge_script.py"), extension / "scripts")
    else:
        clip = extension / "clip"
        sgm_config.write_clip(clip, SHAPE, find_merges(webui))
        sgm_config.write_openclip(extension / "openclip", SHAPE, ARCHITECTURE)
        sgm_config.write_yaml(checkpoints / weights.CHECKPOINT.with_suffix(".yaml").name,
                              sgm_config.sdxl(SHAPE, clip.absolute(), ARCHITECTURE))
        _copy(Path(__file__).with_name("webui_script.py"), extension / "scripts")
    for identity in IDENTITIES:
        _copy(weights.lora(identity), data_dir / "models" / "Lora")
        if weights.embedding(identity).exists():  # not every identity has one
            _copy(weights.embedding(identity), data_dir / "embeddings")


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Puts the small world's checkpoint and networks into a web UI.")
    parser.add_argument("webui", type=Path, help="folder of a web UI v1.10 that has been started once, or of a Forge")
    parser.add_argument("--data-dir", type=Path, help="its data folder, if that is another one")
    arguments = parser.parse_args()
    data_dir: Path = arguments.data_dir or arguments.webui
    install(data_dir, arguments.webui)
    print(f"In {data_dir.absolute()}: the checkpoint {weights.CHECKPOINT.stem}, its networks and the extension "
          f"{EXTENSION}. (Re)start the web UI and choose 128x128 pixels.")


if __name__ == "__main__":
    main()
