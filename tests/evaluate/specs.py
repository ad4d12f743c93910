"""A spec for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from omg_ext.evaluate.files import SpecFile


def a_spec(**fields: Any) -> dict[str, Any]:
    """Two characters and an object, four methods."""
    return {
        "concepts": {
            "ann": {"phrase": "woman", "prompt": "zwx woman", "lora": "<lora:ann:1>", "references": "ann"},
            "bob": {"phrase": "man", "prompt": "sks man", "lora": "<lora:bob:0.8>", "references": "bob"},
            "cup": {"phrase": "cup", "prompt": "qjv cup", "lora": "<lora:cup:1>", "references": "cup",
                    "kind": "object"}},
        "casts": [["ann"], ["bob", "cup"]],
        "prompts": ["a photo of a {0}", "a {0} with a {1}", "{all} in a park"],
        "methods": {"plain": {"kind": "plain"}, "single LoRA": {"kind": "single"},
                    "simultaneous": {"kind": "simultaneous"},
                    "OMG": {"kind": "omg", "request": {"blend_start": 0.3}}},
        "seeds": "3-4", "settings": {"steps": 5}, **fields}


def write(folder: Path, spec: dict[str, Any], name: str = "spec.json") -> Path:
    """The spec's file, with a folder of one reference, of its own colour, for each concept."""
    for number, each in enumerate(spec["concepts"].values()):
        place = folder / each["references"]
        place.mkdir(exist_ok=True)
        Image.new("RGB", (40, 32), (40 * number, 90, 200 - 60 * number)).save(place / "one.png")
    path = folder / name
    path.write_text(json.dumps(spec, indent=1))
    return path


def read(folder: Path, **fields: Any) -> SpecFile:
    """Written and read again."""
    return SpecFile.read(write(folder, a_spec(**fields)))
