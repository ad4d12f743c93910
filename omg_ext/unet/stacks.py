"""Low-rank networks of several concepts as one.

``sum_i m_i up_i down_i x`` is ``up (m * down x)`` with all downs above each other and all ups side by side: as many
operations for five concepts as for one. On a fast GPU the number of operations, not their size, is what networks cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deltas import LowRank, Source, SourceSum, add_product, conv, like

Sizes = tuple[tuple[int, int], ...]
"""Whose the ranks of a stack are: (concept, how many), in their order"""


@dataclass(frozen=True, eq=False)
class Stack:
    """Ranks R of all concepts, in the dtype of the layer's output.

    Attributes:
        down: [R, in] or [R, in, kh, kw].
        up: [out, R] or [out, R, 1, 1], with the scales.
        sizes: whose they are.
    """

    down: Tensor
    up: Tensor
    sizes: Sizes

    @classmethod
    def of(cls, factors: Sequence[tuple[int, LowRank]], layer: nn.Module, y: Tensor) -> Stack:
        """For outputs like ``y`` of the layer.

        Args:
            factors: concepts and what is theirs, one at least.
        """
        deltas = [own.resolve(layer, y) for _, own in factors]
        return cls(torch.cat([delta.down for delta in deltas]), torch.cat([delta.up for delta in deltas], dim=1),
                   tuple((concept, len(own.down)) for concept, own in factors))

    def add_to(self, layer: nn.Module, x: Tensor, y: Tensor, weights: Tensor) -> None:
        """Add the effect for inputs ``x`` to the layer's outputs ``y`` in place.

        Args:
            weights: m, [rows, tokens or 1, R] for tokens, [rows, R, h, w] for feature maps.
        """
        if isinstance(layer, nn.Conv2d):
            y += F.conv2d(like(conv(layer, x, self.down), y).mul_(weights), self.up)
        else:
            add_product(like(F.linear(x, self.down), y).mul_(weights), self.up, y)


def stackable(source: Source) -> list[LowRank] | None:
    """The low-rank networks that a source is the sum of; None if it is anything else, too."""
    if isinstance(source, SourceSum):
        parts = [stackable(each) for each in source.sources]
        return None if None in parts else [each for part in parts for each in part or ()]
    return [source] if isinstance(source, LowRank) and source.mid is None else None
