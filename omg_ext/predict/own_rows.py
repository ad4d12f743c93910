"""Rows of each concept's own: the paper's way, and a cheaper one that shares the picture's unconditional row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..host import Guidance, Guided
from ..unet.calls import Row, UNetCall
from .base import Cast, Part, Point, gathered, of_equal_shape


@dataclass(frozen=True, eq=False)
class OwnRows:
    """Rows of K concepts, in one call if they fit and their prompts are of equal length.

    *Separate* (the paper's): 2K rows, ``C_i = u_i + s_i (c_i - u_i)``, with concept i's networks on both.

    *Shared*: K rows, ``C_i = u + s_i (c_i - u)``. u is the global unconditional prediction, in which no concept's
    networks act, so guidance leads towards these as well (LoRAtorio, arXiv 2508.11624, guides so, too). A concept with
    a negative prompt of its own has a row for it, without its networks.

    LoRA guidance adds ``w (c_i - b_i)`` and a row: b_i is c_i without its networks.

    Attributes:
        cast: the concepts.
        is_shared: which of the two.
    """

    cast: Cast
    is_shared: bool = False

    def __call__(self, point: Point, plain: Guided, guidance: Guidance) -> Guided:
        parts = self.cast.at(point, guidance)
        is_guided = guidance.scale(None) is not None
        uncond = [self._uncond_rows(part, is_guided) for part in parts]
        rows = [row for part, own in zip(parts, uncond, strict=True) for row in part.asked(part.index, own)]
        outputs: dict[Row, Tensor] = {}
        for call in of_equal_shape(rows, lambda row: _shape(_conditioning_of(row, parts))):
            outputs |= zip(call, self._evaluate(point, call, parts), strict=True)
        return gathered(parts, [part.guided(outputs, part.index, own, plain.uncond, guidance) if part.pictures else None
                                for part, own in zip(parts, uncond, strict=True)], plain.prediction)

    def _uncond_rows(self, part: Part, is_guided: bool) -> list[Row]:
        """Its own unconditional rows; none if it has no use for them, or takes the picture's."""
        if part.scale is None or (self.is_shared and self.cast.shares_uncond(part, is_guided)):
            return []
        return [Row(picture, part.index, None, is_bare=self.is_shared) for picture in part.pictures]

    def _evaluate(self, point: Point, rows: Sequence[Row], parts: Sequence[Part]) -> Tensor:
        conds = [_conditioning_of(row, parts) for row in rows]
        cond = {name: torch.stack([each[name] for each in conds]) for name in conds[0]}
        call = UNetCall(tuple(rows), point.progress, point.grid, step=point.step)
        x, t, like = point.inputs([Row(row.picture) for row in rows])
        return self.cast.evaluator(point.evaluate, call, x, t, self.cast.host.unet_input(cond, like, rows))


def _conditioning_of(row: Row, parts: Sequence[Part]) -> dict[str, Tensor]:
    part = parts[row.concept or 0]
    cond, numbers, uncond = part.bare if row.is_bare else part.conditioning
    if row.part is None:
        return {name: tensor[row.picture] for name, tensor in uncond.items()}
    number = numbers[row.picture][row.part][0]
    return {name: tensor[number] for name, tensor in cond.items()}


def _shape(conditioning: Mapping[str, Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in conditioning.values())
