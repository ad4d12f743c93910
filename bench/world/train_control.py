"""Trains a ControlNet that draws figures after their silhouettes: ``python -m bench.world.train_control``.

As by Zhang et al. 2023 (arXiv 2302.05543): a copy of the UNet's encoder beside the UNet, which stays as it is; what it
adds begins with nothing. Some minutes; the file is large, so it is made when needed and not kept in the repository.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor
from tqdm import tqdm

from bench.world import checkpoint, model, subjects, weights
from bench.world.diffusion import Task
from bench.world.parallel import Workers
from bench.world.render import Picture
from bench.world.silhouettes import of_picture
from bench.world.train_unet import Examples, prepare, random_picture

PICTURES = 5_000
# of the renderings, beyond those of the UNet's training
FIRST_PICTURE = 1_000_000
STEPS = 2_000
BATCH = 32
LEARNING_RATE = 1e-3
WARM_UP = 100
# Zhang et al. 2023, Sec. 3.4: so that it reads the condition, not the prompt
CAPTION_DROPOUT = 0.5
# of the hint's convolutions; all but the last halve the size
CHANNELS = (16, 32, 64, 96)


def untrained(networks: model.Parts) -> ControlNetModel:
    """A ControlNet that does nothing yet."""
    return ControlNetModel.from_unet(networks.unet, conditioning_embedding_out_channels=CHANNELS)


@cache
def load(path: Path = weights.CONTROL) -> ControlNetModel:
    """The trained one."""
    return ControlNetModel.from_pretrained(path).eval()


@dataclass(frozen=True)
class _Controlled:
    """A UNet with a ControlNet, called as a UNet: some rows' condition is float [B, 3, H, W] from 0 to 1."""

    unet: Any
    control: ControlNetModel
    condition: Tensor

    def __call__(self, x: Tensor, t: Tensor, **arguments: Any) -> Any:
        down, middle = self.control(x, t, controlnet_cond=self.condition, return_dict=False, **arguments)
        return self.unet(x, t, down_block_additional_residuals=down, mid_block_additional_residual=middle, **arguments)


def prepared(networks: model.Parts, pictures: Iterator[Picture]) -> tuple[Examples, Tensor]:
    """Encoded pictures, and their silhouettes, uint8 [N, 3, H, W]."""
    conditions: list[Tensor] = []

    def noted() -> Iterator[Picture]:
        for picture in pictures:
            conditions.append(torch.from_numpy(of_picture(picture)).movedim(-1, 0))
            yield picture

    examples = prepare(networks, noted())
    return examples, torch.stack(conditions)


def train(networks: model.Parts, seed: int = 0, pictures: int = PICTURES,
          steps: int = STEPS) -> tuple[ControlNetModel, list[float]]:
    """The trained ControlNet, and the loss of each step. ``networks`` stay as they are."""
    numbers = tqdm(range(FIRST_PICTURE, FIRST_PICTURE + pictures), desc="pictures", mininterval=30)
    examples, conditions = prepared(networks, map(random_picture, numbers))
    torch.manual_seed(seed)
    control = untrained(networks).train()
    networks.unet.requires_grad_(False)
    optimizer = torch.optim.AdamW(control.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP, 2 * max(0.01, 1 - step / steps)))
    losses = []
    with Workers() as workers:
        for _ in tqdm(range(steps), desc="ControlNet", mininterval=30):
            index = torch.randint(0, len(conditions), (BATCH,))
            drawn = examples.at(index)
            task = Task.draw(drawn.latents, drawn.conditioning, CAPTION_DROPOUT)
            condition = conditions[index].float() / 255
            losses.append(workers.backward(
                [partial(task[rows].loss, _Controlled(networks.unet, control, condition[rows]))
                 for rows in workers.parts(BATCH)], control.parameters()))
            torch.nn.utils.clip_grad_norm_(control.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return control.requires_grad_(False).eval(), losses


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Trains a ControlNet of the small SDXL on silhouettes.")
    parser.add_argument("folder", type=Path, nargs="?", default=weights.CONTROL, help="to write")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    start = time.perf_counter()
    control, losses = train(checkpoint.load(weights.CHECKPOINT), chosen.seed)
    control.save_pretrained(chosen.folder)
    print(subjects.report(chosen.folder, losses, time.perf_counter() - start))


if __name__ == "__main__":
    main()
