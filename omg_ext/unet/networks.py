"""Networks that act on some rows of a UNet's batch: a concept's on that concept's rows, a style on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .calls import Row, UNetCall, Which
from .deltas import Deltas, Source, Sources
from .patches import Patches


def of_concept(concept: int) -> Which:
    """Picks a concept's rows on which its networks act."""
    def is_mine(row: Row) -> bool:
        return row.concept == concept and not row.is_bare

    return is_mine


class RowNetworks:
    """Adds networks' deltas to the outputs of the rows that they act on.

    Args:
        patches: the UNet's.
        networks: (rows, networks) pairs; on rows of several pairs all of them act, in this order.
        deltas: where they are kept; by default, without a limit.
    """

    def __init__(self, patches: Patches, networks: Sequence[tuple[Which, Sources]], deltas: Deltas | None = None):
        self._deltas = deltas or Deltas()
        self._by_layer: dict[nn.Module, list[tuple[Which, Source]]] = {}
        for which, sources in networks:
            for layer, source in sources.items():
                self._by_layer.setdefault(layer, []).append((which, source))
        for layer in self._by_layer:
            patches.on_output(layer, self._act)

    def _act(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        for which, source in self._by_layer[layer]:
            runs = call.runs(which, output.shape[0])
            if runs:
                delta = self._deltas.of(source, layer, output)
                for rows in runs:
                    delta.add_to(layer, args[0][rows], output[rows])
