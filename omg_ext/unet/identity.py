"""InstantID's IdentityNet (Wang et al. 2024, arXiv 2401.07519) on rows of concepts in whose place a face was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..faces.base import ConceptFace
from .calls import RegionalCall, Row, UNetCall, select
from .image_prompts import COND, UNCOND
from .regions import Regions


class Ask(Protocol):
    """A host's ControlNet."""

    def __call__(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], pictures: Tensor,
                 scale: float) -> list[Tensor]:
        """What it adds to each skip connection and, at last, to the middle block, in the type of ``x``.

        Args:
            x, t, cond: the UNet's inputs in some rows.
            pictures: what it is shown in each, [n, channels, H, W].
            scale: of what it adds.
        """
        ...


@dataclass(frozen=True, eq=False)
class IdentityControl:
    """What IdentityNet adds in a pass.

    It attends to the tokens of the concept's face, not to a prompt. In a row of all concepts it is asked for each
    concept by itself, and acts in that one's place: ``sum_i M_i r_i``.

    Attributes:
        ask: the ControlNet.
        context_name, pooled_name: what the UNet's inputs call the tokens that cross-attention attends to, and the
            pooled prompt.
        faces: of each concept.
        pictures: of key points, by picture of the batch and concept: [channels, H, W], in the ControlNet's type and on
            its device.
        regions: M_i; None if concepts have rows of their own.
    """

    ask: Ask
    context_name: str
    pooled_name: str
    faces: Sequence[ConceptFace | None]
    pictures: Mapping[tuple[int, int], Tensor]
    regions: Regions | None

    def acts_in(self, call: UNetCall) -> bool:
        """Whether it has anything to say in a call."""
        return any(self._rows(call, concept) for concept in range(len(self.faces)))

    def residuals(self, call: UNetCall, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> list[Tensor]:
        """What it adds to each skip connection and, at last, to the middle block: zeros in rows it does not act on.

        Args:
            x, t, cond: the UNet's inputs, with the call's rows.
        """
        sums: list[Tensor] = []
        # one concept after the other: so the rows of one do not hang on the others, not even by rounding, and there are
        # no more of them at once than the UNet has
        for concept in range(len(self.faces)):
            rows = self._rows(call, concept)
            each = self._of_concept(call, concept, rows, *select([x, t, cond], rows)) if rows else []
            sums = sums or [residual.new_zeros(len(call.rows), *residual.shape[1:]) for residual in each]
            for total, residual in zip(sums, each, strict=bool(each)):
                maps = None if self.regions is None else self.regions.of_concepts(call, total)[:, concept].unsqueeze(1)
                for own, row in zip(residual, rows, strict=True):
                    total[row] += own if maps is None else own * maps[row]
        return sums

    def _of_concept(self, call: UNetCall, concept: int, rows: Sequence[int], x: Tensor, t: Tensor,
                    cond: Mapping[str, Tensor]) -> list[Tensor]:
        """Its residuals in some rows of the call, of which the inputs are."""
        face, chosen = self.faces[concept], [call.rows[row] for row in rows]
        assert face is not None
        tokens = torch.stack([face.tokens[UNCOND if row.part is None else COND] for row in chosen])
        own = {**cond, self.context_name: tokens}
        if isinstance(call, RegionalCall) and call.pooled:
            own[self.pooled_name] = torch.stack([call.pooled[row, concept] for row in chosen])
        pictures = torch.stack([self.pictures[row.picture, concept] for row in chosen])
        return self.ask(x, t, own, pictures, face.scale(call.step))

    def _rows(self, call: UNetCall, concept: int) -> list[int]:
        """A concept's rows in which it is asked, or those of all concepts in which this one has a place."""
        face = self.faces[concept]
        if face is None or not face.scale(call.step):
            return []
        rows = ([place.row for place in call.places if place.concept == concept] if isinstance(call, RegionalCall)
                else [number for number, row in enumerate(call.rows) if row.concept == concept])
        return [row for row in rows if self._is_shown(call.rows[row], concept)]

    def _is_shown(self, row: Row, concept: int) -> bool:
        return (row.picture, concept) in self.pictures and not row.is_bare
