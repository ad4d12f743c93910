"""What the bench draws: two concepts side by side, each with a random LoRA of its own and a given place."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from omg_ext.comprehension.masks import encode_mask

PROMPT = "photo of a man and a woman in the park"
PROMPTS = {"man": "photo of sks man wearing a red hat", "woman": "photo of an old woman"}
# where the head is, in fractions of width and height; the second figure stands in front of the first
HEADS = {"man": (0.36, 0.3), "woman": (0.66, 0.38)}


def figure(head: tuple[float, float], size: int) -> npt.NDArray[np.float32]:
    """A person from the waist up: a round head on wide shoulders; float32 ``[size, size]`` of 0 and 1."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    in_head = ((x - head[0]) / 0.1) ** 2 + ((y - head[1]) / 0.13) ** 2 < 1
    in_body = ((x - head[0]) / 0.19) ** 2 + ((y - 1.05) / (0.95 - head[1])) ** 2 < 1
    return (in_head | in_body).astype(np.float32)


def masks(size: int) -> dict[str, npt.NDArray[np.float32]]:
    """The concepts' masks; what a nearer figure covers is not part of the farther one."""
    found = {name: figure(head, size) for name, head in HEADS.items()}
    found["man"] = found["man"] * (1 - found["woman"])
    return found


def request(size: int = 0, tags: bool = True, **options: Any) -> dict[str, Any]:
    """The request for both concepts.

    Args:
        size: of the given masks, in pixels; 0 gives none, so that the detector looks for them.
        tags: each concept has the LoRA of its name.
        options: further fields of the request.
    """
    where = {name: {"where": {"mask": encode_mask(mask)}} for name, mask in masks(size).items()} if size else {}
    concepts = [{"phrase": name, "prompt": prompt + f" <lora:{name}:1>" * tags, **where.get(name, {})}
                for name, prompt in PROMPTS.items()]
    return {"concepts": concepts, **options}


def random_lora(unet: nn.Module, rank: int, strength: float, seed: int) -> dict[str, torch.Tensor]:
    """A LoRA file's tensors on every attention and feed-forward Linear of the UNet.

    Args:
        strength: the Frobenius norm of each weight's change, in units of the weight's own.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear) and (".attn" in name or ".ff." in name):
            down = torch.randn(rank, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, rank, generator=generator)
            # the product's entries have the variance `rank`
            size = strength * layer.weight.detach().float().pow(2).mean().sqrt().item() / rank**0.5
            tensors[f"unet.{name}.lora_A.weight"] = down
            tensors[f"unet.{name}.lora_B.weight"] = up * size
    return tensors


def write_loras(unet: nn.Module, paths: Iterable[Path], rank: int, strength: float) -> None:
    """A random LoRA file at each of the paths, see :func:`random_lora`."""
    for seed, path in enumerate(paths, 1):
        save_file(random_lora(unet, rank, strength, seed), path)
