"""Networks that act on some rows of a UNet's batch: a concept's on that concept's rows, a style on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from .calls import Row, UNetCall, Which
from .deltas import Delta, Source, Sources
from .patches import Patches
from .regions import Regions


def of_concept(concept: int) -> Which:
    """Picks a concept's rows on which its networks act."""
    def is_mine(row: Row) -> bool:
        return row.concept == concept and not row.is_bare

    return is_mine


class Within(NamedTuple):
    """Where in a picture networks act: one concept's place."""

    regions: Regions
    concept: int


class _Acting(NamedTuple):
    which: Which
    source: Source
    within: Within | None


class RowNetworks:
    """Adds networks' deltas to the outputs of the rows that they act on.

    Args:
        patches: the UNet's.
        networks: (rows, networks) pairs; on rows of several pairs all of them act, in this order.
        full_budget: bytes that deltas as large as their layer's weight may take in all. What is beyond is resolved
            again in every call, which costs time. Low-rank deltas are always kept.
    """

    def __init__(self, patches: Patches, networks: Sequence[tuple[Which, Sources]], full_budget: int = 1 << 62):
        self._left = full_budget
        self._by_layer: dict[nn.Module, list[_Acting]] = {}
        self._resolved: dict[tuple[nn.Module, Source], tuple[Delta, Tensor]] = {}
        self._patches = patches
        for which, sources in networks:
            self.add(which, sources)

    def add(self, which: Which, sources: Sources, within: Within | None = None) -> None:
        """Let more networks act.

        Args:
            within: a layer ``W`` then gives ``W x + M delta(x)``, M the concept's weights on the layer's own grid.
        """
        for layer, source in sources.items():
            if layer not in self._by_layer:
                self._by_layer[layer] = []
                self._patches.on_output(layer, self._act)
            self._by_layer[layer].append(_Acting(which, source, within))

    def _act(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        for which, source, within in self._by_layer[layer]:
            for rows in call.runs(which, output.shape[0]):
                delta = self._delta(source, layer, output)
                if within is None:
                    delta.add_to(layer, args[0][rows], output[rows])
                else:
                    within.regions.add(within.concept, call, rows, delta, layer, args[0], output)

    def _delta(self, source: Source, layer: nn.Module, output: Tensor) -> Delta:
        kept = self._resolved.get((layer, source))
        if kept is not None and (kept[1].dtype, kept[1].device) == (output.dtype, output.device):
            return kept[0]
        if kept is not None:
            self._left += _full_bytes(self._resolved.pop((layer, source))[0])
        delta = source.resolve(layer, output)
        size = _full_bytes(delta)
        if size <= self._left:
            self._left -= size
            self._resolved[layer, source] = (delta, output.new_empty(0))
        return delta


def _full_bytes(delta: Delta) -> int:
    """Of a delta as large as its layer's weight; a low-rank one does not count."""
    return delta.nbytes if delta.is_full else 0
