"""A given picture in place of a first pass (img2img): what it is, and what the model attends to in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..comprehension.contrast import PLAN
from ..comprehension.heat import HeatMaps, StagePositions
from ..comprehension.masks import FloatArray
from ..comprehension.phrases import find
from ..host import Host
from ..unet.calls import Row, UNetCall
from ..unet.class_tokens import ClassTokenAttention
from ..unet.evaluator import Evaluator
from .second import FEW_STEPS

# of the noise: the same at every look, so that a preview and a generation see the same
_SEED = 0


@dataclass(frozen=True, eq=False)
class Given:
    """Pictures to draw the concepts over.

    Attributes:
        latents: of the pictures as they are, [B, C, h, w], whatever the host begins to sample with.
        pictures: themselves, uint8 [H, W, 3] each, as large as what is sampled.
        strength: of denoising: how much of the trajectory is drawn anew, 0 to 1.
        drawn: how much of each place is drawn anew, float32 [h, w] in 0..1; None is all of it.
        outside: reasons, by concept, why it has no place in them.
    """

    latents: Tensor
    pictures: Sequence[npt.NDArray[np.uint8]]
    strength: float = 1.0
    drawn: FloatArray | None = None
    outside: Mapping[int, str] = field(default_factory=dict)

    def picture(self, number: int) -> npt.NDArray[np.uint8]:
        """One of the batch."""
        return self.pictures[number]


def attended(host: Host, evaluator: Evaluator, latents: Tensor, phrases: Sequence[str]) -> HeatMaps:
    """What the model attends to in finished pictures: each is noised to a few timesteps, and its prompt, as it reads in
    the end, is looked at once at each.

    Args:
        evaluator: of patches that live, and that nothing else runs with.
        latents: the pictures', [B, C, h, w].
        phrases: what to look for.
    """
    positions = {part: [StagePositions(math.inf, [find(phrase, stages[-1].words) for phrase in phrases])]
                 for part, stages in host.prompt_words().items()}
    attention = ClassTokenAttention(evaluator.patches, phrases, positions)
    encoded = host.reworded(host.prompts)
    parts = [(Row(picture, part=part), number) for picture, rows in enumerate(encoded.parts)
             for part, (number, _) in enumerate(rows)]
    rows = tuple(row for row, _ in parts)
    cond = {name: tensor[[number for _, number in parts]] for name, tensor in encoded.cond.items()}
    seen, grid = latents[[row.picture for row in rows]], (latents.shape[-2], latents.shape[-1])
    generator = torch.Generator("cpu").manual_seed(_SEED)
    for time in PLAN.times:
        noise = torch.randn(latents.shape[1:], generator=generator).to(latents).expand_as(seen)
        evaluator(_look(host, 1 - time), UNetCall(rows, 1 - time, grid), seen, noise, cond)
    return attention.maps(grid)


def _look(host: Host, at: float) -> Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]:
    return lambda latents, noise, cond: host.look(latents, noise, at, cond)


def too_little(strength: float, steps: int) -> list[str]:
    """A warning if the denoising strength leaves the concepts hardly any steps.

    Args:
        strength: of denoising.
        steps: of the pass.
    """
    if strength >= 1 or steps >= FEW_STEPS:
        return []
    left = f"leaves only {steps} of the steps, so the concepts show little" if steps else \
        "leaves none of the steps, so the concepts were not drawn"
    return [f"denoising_strength: {strength:g} {left}; raise it, or take more steps"]
