"""A UNet in GGUF, written by a Forge Neo's own Python, whose package it takes.

    <webui>/venv/bin/python -m tests.webui.gguf_unet <webui> <checkpoint> <file>

writes the UNet of a checkpoint, its transformers' weights as Q8_0.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

PREFIX = "model.diffusion_model."


def write(gguf: Any, checkpoint: Path, file: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(file, arch="sdxl")
    for name, weight in load_file(checkpoint).items():
        values = weight.float().numpy()
        if "transformer_blocks" in name and values.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        elif name.startswith(PREFIX):
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    root, *files = map(Path, sys.argv[1:])
    sys.path.insert(0, str(root / "modules_forge" / "packages"))
    write(import_module("gguf"), *files)
