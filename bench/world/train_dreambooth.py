"""Trains all of the small SDXL's UNet on one identity: ``python -m bench.world.train_dreambooth [--identity NAME]``.

What it writes is the difference to the base weights, as LyCORIS' `full` networks hold it; web UIs load it as a network.
A few minutes; the file is large, so it is made when needed and not kept in the repository.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.world import checkpoint, kohya, model, subjects, weights
from bench.world.attributes import IDENTITIES

IDENTITY = "Rusty"
RECIPE = subjects.Recipe(steps=300, rows=24, learning_rate=3e-4)
FOLDER = weights.OUT / "dreambooth"


def _layers(unet: UNet2DConditionModel) -> Mapping[str, nn.Module]:
    """All with a matrix or kernel, by name: LyCORIS leaves norms as they are unless told otherwise."""
    return {name: layer for name, layer in unet.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}


@torch.no_grad()
def difference(tuned: UNet2DConditionModel, base: UNet2DConditionModel) -> dict[str, Tensor]:
    """What was learned, with the keys of a LyCORIS `full` network."""
    state = {}
    before = _layers(base)
    for name, layer in _layers(tuned).items():
        for parameter, suffix in (("weight", "diff"), ("bias", "diff_b")):
            learned = getattr(layer, parameter)
            if learned is not None:
                state[f"{kohya.layer_key(name)}.{suffix}"] = learned - getattr(before[name], parameter)
    return state


@torch.no_grad()
def apply(unet: UNet2DConditionModel, path: Path) -> None:
    """Adds what was learned to the base weights; the inverse of :func:`difference`."""
    state = load_file(path)
    for name, layer in _layers(unet).items():
        for parameter, suffix in (("weight", "diff"), ("bias", "diff_b")):
            if getattr(layer, parameter) is not None:
                layer.get_parameter(parameter).add_(state[f"{kohya.layer_key(name)}.{suffix}"])


def train(networks: model.Parts, name: str = IDENTITY, seed: int = 0,
          recipe: subjects.Recipe = RECIPE) -> tuple[UNet2DConditionModel, list[float]]:
    """A UNet that knows the identity by its trigger, and the loss of each step. ``networks`` stay as they are."""
    own, others = subjects.lessons(networks, IDENTITIES[name], seed)
    tuned = copy.deepcopy(networks.unet).requires_grad_(False)
    layers = nn.ModuleList(_layers(tuned).values()).requires_grad_()
    losses = subjects.fit(
        layers.parameters(), lambda: subjects.preserving_loss(tuned, own, others, recipe.rows), recipe, seed)
    return tuned.requires_grad_(False), losses


def metadata(name: str, seed: int, recipe: subjects.Recipe = RECIPE) -> dict[str, str]:
    """As LyCORIS writes it."""
    return kohya.metadata(name, IDENTITIES[name], recipe, seed, ss_network_module="lycoris.kohya",
                          ss_network_args='{"algo": "full"}')


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Trains all of the small SDXL's UNet on one identity.")
    parser.add_argument("file", type=Path, nargs="?", help=f"to write; a file in {FOLDER} unless given")
    parser.add_argument("--identity", choices=list(IDENTITIES), default=IDENTITY, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    start = time.perf_counter()
    path = chosen.file or FOLDER / f"{chosen.identity.lower()}.safetensors"
    networks = checkpoint.load(weights.CHECKPOINT)
    tuned, losses = train(networks, chosen.identity, chosen.seed)
    kohya.save(difference(tuned, networks.unet), path, metadata(chosen.identity, chosen.seed))
    print(subjects.report(path, losses, time.perf_counter() - start))


if __name__ == "__main__":
    main()
