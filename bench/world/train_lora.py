"""Trains identities' LoRAs on the small SDXL: ``python -m bench.world.train_lora [--identity NAME ...]``.

About four minutes each on a core of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor

from bench.world import checkpoint, kohya, model, subjects, weights
from bench.world.attributes import IDENTITIES
from bench.world.parallel import in_processes

RANK = 8
# With half the rows per step and half the steps the trigger means little.
RECIPE = subjects.Recipe(steps=600, rows=24, learning_rate=3e-3)
# convolutions too: colours of large areas are out of reach for attention alone
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2",
           "time_emb_proj")
_ADAPTER = "identity"


@contextmanager
def adapted(unet: UNet2DConditionModel, seed: int) -> Iterator[list[torch.nn.Parameter]]:
    """The UNet with an untrained LoRA, whose parameters it yields; afterwards it is without."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian",
                                    target_modules=list(TARGETS)), _ADAPTER)
    try:
        yield [weight for name, weight in unet.named_parameters() if f".{_ADAPTER}." in name]
    finally:
        unet.unload_lora()


def kohya_state(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The LoRA that an adapted UNet has, with kohya's keys."""
    state = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, LoraLayer):
            key = kohya.layer_key(name)
            state[f"{key}.lora_down.weight"] = layer.lora_A[_ADAPTER].weight.detach().clone()
            state[f"{key}.lora_up.weight"] = layer.lora_B[_ADAPTER].weight.detach().clone()
            state[f"{key}.alpha"] = torch.tensor(float(RANK))
    return state


def train(networks: model.Parts, name: str, seed: int = 0,
          recipe: subjects.Recipe = RECIPE) -> tuple[dict[str, Tensor], list[float]]:
    """A LoRA of the identity, with kohya's keys, and the loss of each step. ``networks`` are as before afterwards."""
    own, others = subjects.lessons(networks, IDENTITIES[name], seed)
    with adapted(networks.unet, seed) as parameters:
        losses = subjects.fit(
            parameters, lambda: subjects.preserving_loss(networks.unet, own, others, recipe.rows), recipe, seed)
        return kohya_state(networks.unet), losses


def metadata(name: str, seed: int, recipe: subjects.Recipe = RECIPE) -> dict[str, str]:
    """As sd-scripts write it for a LoRA that reaches convolutions."""
    return kohya.metadata(name, IDENTITIES[name], recipe, seed, **{
        "ss_network_module": "networks.lora", "ss_network_dim": str(RANK), "ss_network_alpha": str(float(RANK)),
        "ss_network_args": json.dumps({"conv_dim": str(RANK), "conv_alpha": str(RANK)}),
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora"})


def make(seed: int, name: str) -> str:
    """Trains and writes an identity's LoRA; returns a line on it."""
    start = time.perf_counter()
    state, losses = train(checkpoint.load(weights.CHECKPOINT), name, seed)
    path = weights.lora(name)
    kohya.save(state, path, metadata(name, seed))
    return subjects.report(path, losses, time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Trains identities' LoRAs on the small SDXL.")
    parser.add_argument("--identity", nargs="+", choices=list(IDENTITIES), default=list(IDENTITIES), metavar="NAME",
                        help=f"of {', '.join(IDENTITIES)}; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    for line in in_processes(partial(make, chosen.seed), chosen.identity):
        print(line, flush=True)


if __name__ == "__main__":
    main()
