"""Trains a YOLO-seg on what the autoencoder makes of renderings: ``python -m bench.world.train_detector``.

Writes ``weights.DETECTOR``, a file as users of detectors have them, and prints as JSON how well it finds figures in
pictures that it has not seen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from bench.world import weights
from bench.world.attributes import KINDS
from bench.world.detector_accuracy import detector_report
from bench.world.pixels import scaled
from bench.world.reader_data import Samples, make_samples, random_people
from bench.world.train_readers import PEOPLE, batches, degraded, fit
from omg_ext.comprehension.quiet import without_habits

PICTURES = 2400
STEPS, BATCH = 1600, 8
# pixels; more than the pictures have, since the network's masks are four times coarser than what it sees
SIZE = 192
# of the network's channels; the smallest that its makers train is 0.25
WIDTH = 0.125
_TINT = 0.15
# of the picture; less of a figure is not to be found
_LEAST_SHOWN = 0.01


def network() -> nn.Module:
    """An untrained YOLO11-seg for the world's classes."""
    with without_habits():
        from ultralytics.cfg import get_cfg
        from ultralytics.nn.tasks import SegmentationModel, yaml_model_load

        recipe = yaml_model_load("yolo11-seg.yaml")
        net = SegmentationModel({**recipe, "scales": {"w": [0.5, WIDTH, 1024]}, "scale": "w"}, nc=len(KINDS),
                                verbose=False)
        net.names, net.task, net.args = dict(enumerate(KINDS)), "segment", get_cfg()
        return net


def targets(samples: Samples) -> dict[str, Tensor]:
    """What the loss of ultralytics asks for: every figure that shows, by picture and then by its number.

    Returns:
        ``batch_idx`` [N], ``cls`` [N, 1], ``bboxes`` [N, 4] as centre and size in fractions, of what shows; ``masks``
        [B, H, W]: the figure's place among those of its picture, from 1 on; 0 is none.
    """
    height, width = samples.owner.shape[1:]
    owner = samples.owner.long()
    masks = torch.zeros_like(owner, dtype=torch.float32)
    pictures, kinds, boxes = [], [], []
    for picture, owned in enumerate(owner):
        place = 0
        for number in range(1, int(owned.max()) + 1):
            shown = owned == number
            if shown.float().mean() < _LEAST_SHOWN:
                continue
            place += 1
            masks[picture][shown] = place
            rows, columns = shown.any(1).nonzero()[:, 0], shown.any(0).nonzero()[:, 0]
            x0, x1, y0, y1 = columns[0] / width, (columns[-1] + 1) / width, rows[0] / height, (rows[-1] + 1) / height
            pictures.append(picture)
            kinds.append(samples.kinds[picture, number] - 1)
            boxes.append(torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]))
    return {"batch_idx": torch.tensor(pictures), "cls": torch.stack(kinds)[:, None].float(),
            "bboxes": torch.stack(boxes), "masks": masks}


def detector_loss(net: Any, samples: Samples) -> Tensor:
    """Boxes, masks and classes as YOLO learns them, by picture."""
    pictures = degraded(scaled(samples.pictures), _TINT).add(1).div(2).clamp(0, 1)
    out = net(F.interpolate(pictures, SIZE, mode="bilinear"))
    with torch.autocast("cpu", enabled=False):  # its assignment of boxes needs full precision
        return net.loss(targets(samples), _float(out))[0].sum() / len(samples)


def _float(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.float()
    if isinstance(values, Mapping):
        return {name: _float(value) for name, value in values.items()}
    return type(values)(_float(value) for value in values)


def train(vae: AutoencoderKL, seed: int = 0, pictures: int = PICTURES, steps: int = STEPS) -> nn.Module:
    """Draws from torch's global generator."""
    torch.manual_seed(seed)
    samples = make_samples(vae, random_people(Random(seed), PEOPLE), pictures, seed)
    net = network().train()
    following = batches(len(samples), min(BATCH, len(samples)))

    def loss(_: float) -> Tensor:
        batch = samples[following()]
        return detector_loss(net, batch.mirrored() if torch.rand(()) < 0.5 else batch)

    with without_habits():
        fit([*net.parameters()], steps, loss)
    return net.eval()


def save(net: Any, path: Path) -> None:
    """Writes the network as ultralytics keeps its checkpoints: pickled, in half precision."""
    from ultralytics import __version__

    path.parent.mkdir(parents=True, exist_ok=True)
    net.criterion = None  # holds what training needs
    for parameter in net.parameters():
        parameter.grad = None
    torch.save({"model": net.half(), "train_args": {"task": "segment", "imgsz": SIZE}, "version": __version__,
                "license": "AGPL-3.0"}, path)


def make(vae: AutoencoderKL, seed: int = 0) -> dict[str, Any]:
    """Trains the detector, writes its file, and returns what the model card says of it."""
    started = time.monotonic()
    net = train(vae, seed)
    seconds = round(time.monotonic() - started)
    save(net, weights.DETECTOR)
    return {"seed": seed, "pictures": PICTURES, "steps": STEPS, "training_seconds": seconds,
            "parameters": sum(parameter.numel() for parameter in net.parameters()), **detector_report(vae)}
