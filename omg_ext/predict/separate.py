"""The paper's way: every concept has rows of its own, conditional and unconditional, with its networks on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from ..host import ConceptConditioning, Guidance, Guided, Host, LoadedConcept
from ..unet.calls import Row, UNetCall, select
from ..unet.evaluator import Evaluator
from .base import Point


@dataclass(frozen=True, eq=False)
class Separate:
    """2K rows for K concepts, in one call if they fit and their prompts are of equal length.

    Attributes:
        host: puts conditioning into the form that its UNet takes.
        evaluator: for concepts' rows; their networks act on them.
        concepts: loaded.
        pictures: for each concept, the pictures of the batch it has a mask in.
        scales: the guidance scale that each concept asks for; None is the picture's.
    """

    host: Host
    evaluator: Evaluator
    concepts: Sequence[LoadedConcept]
    pictures: Sequence[Sequence[int]]
    scales: Sequence[float | None]

    def __call__(self, point: Point, guidance: Guidance) -> Guided:
        conditionings = [concept.conditioning(point.step) for concept in self.concepts]
        scales = [guidance.scale(own) for own in self.scales]
        rows = [row for index, conditioning in enumerate(conditionings)
                for row in _rows_of(index, conditioning, self.pictures[index], scales[index] is not None)]
        outputs: dict[Row, Tensor] = {}
        for call in _calls(rows, conditionings):
            outputs |= zip(call, self._evaluate(point, call, conditionings), strict=True)
        shape = (len(self.concepts), *point.x.shape)
        guided = Guided(*(next(iter(outputs.values())).new_zeros(shape) for _ in range(2)))
        for index, conditioning in enumerate(conditionings):
            for_concept = self._guide(index, conditioning, outputs, guidance, scales[index])
            for whole, ours in zip(guided, for_concept, strict=True):
                for number, picture in enumerate(self.pictures[index]):
                    whole[index, picture] = ours[number]
        return guided

    def _evaluate(self, point: Point, rows: Sequence[Row], conditionings: Sequence[ConceptConditioning]) -> Tensor:
        pictures = [row.picture for row in rows]
        conds = [_conditioning_of(row, conditionings) for row in rows]
        cond = {name: torch.stack([each[name] for each in conds]) for name in conds[0]}
        call = UNetCall(tuple(rows), point.progress, point.grid, step=point.step)
        return self.evaluator(point.evaluate, call, select(point.x, pictures), select(point.t, pictures),
                              self.host.unet_input(cond, select(point.cond, pictures), rows))

    def _guide(self, index: int, conditioning: ConceptConditioning, outputs: Mapping[Row, Tensor], guidance: Guidance,
               scale: float | None) -> Guided:
        """One concept's predictions in its pictures, [n, C, h, w]."""
        cond: list[Tensor] = []
        parts: list[list[tuple[int, float]]] = []
        uncond: list[Tensor] = []
        for picture in self.pictures[index]:
            weights = [weight for _, weight in conditioning.parts[picture]]
            parts.append([(len(cond) + part, weight) for part, weight in enumerate(weights)])
            cond += [outputs[Row(picture, index, part)] for part in range(len(weights))]
            # without unconditional rows the first part stands in, and the scale is 1, as in the web UI
            uncond.append(outputs[Row(picture, index, None if scale is not None else 0)])
        if not uncond:
            return Guided(torch.empty(0), torch.empty(0))
        base = torch.stack(uncond)
        return Guided(guidance.guide(torch.stack(cond), parts, base, 1.0 if scale is None else scale), base)


def _rows_of(index: int, conditioning: ConceptConditioning, pictures: Sequence[int], guided: bool) -> list[Row]:
    rows = [Row(picture, index, part) for picture in pictures for part in range(len(conditioning.parts[picture]))]
    return rows + ([Row(picture, index, None) for picture in pictures] if guided else [])


def _conditioning_of(row: Row, conditionings: Sequence[ConceptConditioning]) -> dict[str, Tensor]:
    cond, parts, uncond = conditionings[row.concept or 0]
    if row.part is None:
        return {name: tensor[row.picture] for name, tensor in uncond.items()}
    number = parts[row.picture][row.part][0]
    return {name: tensor[number] for name, tensor in cond.items()}


def _calls(rows: Sequence[Row], conditionings: Sequence[ConceptConditioning]) -> Iterator[list[Row]]:
    """Rows of equal prompt length (75 tokens, 150, ...) together, concepts side by side."""
    def signature(row: Row) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(tensor.shape) for tensor in _conditioning_of(row, conditionings).values())

    signatures = {row: signature(row) for row in rows}
    ordered = sorted(rows, key=lambda row: (signatures[row], row.concept))
    for _, group in groupby(ordered, key=signatures.__getitem__):
        yield list(group)
