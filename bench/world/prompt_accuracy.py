"""How well the small SDXL draws what a prompt asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline

from bench.world.attributes import KINDS
from bench.world.model import SIZE
from bench.world.pixels import Images
from bench.world.readers import FigureReader
from bench.world.scenes import SCENES
from bench.world.starts import noise
from omg_ext.evaluate.scene import listed

SEEDS = 64
STEPS = 25
CFG_SCALE = 4.5
_BATCH = 32
GROUPS = {"single": 1, "pair": 2, "triple": 3}
_PLACES = {"park": "in the park", "beach": "at the beach", "room": "in the room", "night": "at night"}


def prompts(number: int) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Every choice of so many classes, each in one scene in turn: the classes, the scene, the prompt."""
    for index, kinds in enumerate(combinations(KINDS, number)):
        scene = SCENES[index % len(SCENES)]
        yield kinds, scene, f"{listed([f'a {kind}' for kind in kinds])} {_PLACES[scene]}"


def draw(pipe: StableDiffusionXLPipeline, prompt: str, seeds: Sequence[int]) -> Images:
    """Ordinary pictures, uint8 [B, SIZE, SIZE, 3], one for each seed."""
    pictures = pipe([prompt] * len(seeds), height=SIZE, width=SIZE, num_inference_steps=STEPS,
                    guidance_scale=CFG_SCALE, latents=noise(seeds), output_type="np").images
    return np.rint(np.asarray(pictures) * 255).astype(np.uint8)


@torch.no_grad()
def prompt_report(pipe: StableDiffusionXLPipeline, reader: FigureReader,
                  seeds: int = SEEDS) -> Mapping[str, Mapping[str, float]]:
    """For each number of figures, the shares of pictures with the right scene and with exactly the right classes."""
    report = {}
    for name, number in GROUPS.items():
        scenes, classes = [], []
        for kinds, scene, prompt in prompts(number):
            for first in range(0, seeds, _BATCH):
                for reading in reader(draw(pipe, prompt, range(first, min(first + _BATCH, seeds)))):
                    scenes.append(reading.scene == scene)
                    classes.append(Counter(figure.kind for figure in reading.figures) == Counter(kinds))
        report[name] = {"scene": float(np.mean(scenes)), "classes": float(np.mean(classes))}
    return report
