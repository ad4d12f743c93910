"""Occlusion layout preservation (Eq. 7): the second pass's global rows attend as the first pass's did.

The paper overwrites the attention maps of the second pass by the stored ones. Prompt and weights are those of the
first pass, so keys and values of cross-attention are the same, and overwriting softmax(Q K^T) is overwriting Q: the
maps are never materialised. For self-attention Q and K are overwritten, at the UNet's deepest attention level only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..request import Layout
from .calls import RecordingCall, ReplayingCall, UNetCall, is_global_cond, repeats_first
from .patches import Patches, modules_named
from .query_store import Entry, QueryStore, size_of


def cross_attention_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """The layers whose outputs Eq. 7 replaces in cross-attention, by name."""
    return {f"{name}.to_q": layer for name, layer in modules_named(unet, "attn2", "to_q").items()}


def self_attention_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """The same for self-attention: queries and keys."""
    return {f"{name}.{part}": layer for part in ("to_q", "to_k")
            for name, layer in modules_named(unet, "attn1", part).items()}


@dataclass(frozen=True, eq=False)
class LayoutRecord:
    """What the first pass leaves for the second to keep its layout.

    Attributes:
        until: until which fraction of the trajectory each kind of attention is replayed.
        deepest: the self-attention layers that are replayed, those with the fewest tokens.
        store: holds the queries of the calls whose record has an :class:`Entry`.
    """

    until: Layout
    deepest: frozenset[str]
    store: QueryStore

    def wants(self, name: str, progress: float) -> bool:
        """Whether a layer is replayed at this fraction of the trajectory."""
        if name in self.deepest:
            return progress < self.until.self_
        return name.endswith("attn2.to_q") and progress < self.until.cross

    def wants_any(self, progress: float) -> bool:
        """Whether calls at this fraction of the trajectory are replayed."""
        return progress < max(self.until.cross, self.until.self_)

    def covers(self, recorded: float, progress: float) -> bool:
        """Whether a call recorded at one fraction of the trajectory leaves all that is replayed at another."""
        return all(recorded < end or progress >= end for end in (self.until.cross, self.until.self_))


class LayoutRecorder:
    """Leaves the queries of the global conditional rows in the running call, if that is a recording one.

    Args:
        patches: the UNet's; its ``attn1`` and ``attn2`` modules have ``to_q`` and ``to_k`` layers.
        until: see :class:`LayoutRecord`.
        store: where :meth:`put` keeps them.
    """

    def __init__(self, patches: Patches, until: Layout, store: QueryStore):
        self._until, self._store = until, store
        self._tokens: dict[str, int] = {}  # of the self-attention layers: known once they have run
        self._fewest = 1 << 62
        self._sizes: dict[tuple[int, bool], int] = {}  # bytes, by number of rows and whether self-attention is in it
        if until.cross:
            for name, layer in cross_attention_layers(patches.network).items():
                patches.on_output(layer, partial(self._leave, name))
        if until.self_:
            for name, layer in self_attention_layers(patches.network).items():
                patches.on_output(layer, partial(self._leave_self, name))

    def record(self) -> LayoutRecord:
        """The record of all that was recorded."""
        deepest = frozenset(name for name, tokens in self._tokens.items() if tokens == self._fewest)
        return LayoutRecord(self._until, deepest, self._store)

    def wants_any(self, progress: float) -> bool:
        """See :meth:`LayoutRecord.wants_any`."""
        return self.record().wants_any(progress)

    def has_room(self, progress: float, rows: int) -> bool:
        """Whether a call of so many global conditional rows is wanted and fits.

        Once a call of this size was turned away there is no point in copying its tensors.
        """
        size = self._sizes.get((rows, progress < self._until.self_), 1)
        return rows > 0 and self.wants_any(progress) and self._store.place_for(size) is not None

    def put(self, call: RecordingCall) -> Entry | None:
        """Keep what a finished call recorded, if there is room."""
        record = self.record()
        recorded = {name: tensor for name, tensor in call.queries.items() if record.wants(name, call.progress)}
        if recorded:
            rows = sum(is_global_cond(row) for row in call.rows)
            self._sizes[rows, call.progress < self._until.self_] = size_of(recorded)
        return self._store.put(recorded)

    def give_up_device(self, call: UNetCall) -> bool:
        """Graphics memory ran out in a call: drop what is kept there, and take no more.

        Returns:
            Whether that may have freed anything.
        """
        recorded = isinstance(call, RecordingCall) and bool(call.queries)
        if isinstance(call, RecordingCall):
            call.queries.clear()
        return self._store.drop_device() or recorded

    def _leave(self, name: str, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(call, RecordingCall) and call.progress < self._until.cross:
            call.queries[name] = _joined(output, call.runs(is_global_cond, output.shape[0])).clone()

    def _leave_self(self, name: str, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if name not in self._tokens:
            # of a whole row: HyperTile cuts rows into tiles
            self._tokens[name] = output.shape[0] * output.shape[1] // len(call.rows)
            self._fewest = min(self._fewest, self._tokens[name])
        wanted = self._tokens[name] == self._fewest and call.progress < self._until.self_
        if isinstance(call, RecordingCall) and wanted:
            call.queries[name] = _joined(output, call.runs(is_global_cond, output.shape[0])).clone()


class LayoutReplay:
    """Lets the global conditional rows of the running call attend with the first pass's queries.

    They come with the call, or from rows of the call that repeat the first pass.

    Attributes:
        warnings: what the user should know after the pass.
    """

    def __init__(self, patches: Patches, record: LayoutRecord):
        self._record = record
        self.warnings: set[str] = set()
        layers = cross_attention_layers(patches.network) if record.until.cross else {}
        layers |= {name: layer for name, layer in self_attention_layers(patches.network).items()
                   if name in record.deepest}
        for name, layer in layers.items():
            patches.on_output(layer, partial(self._replay, name))

    def _replay(self, name: str, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not self._record.wants(name, call.progress):
            return
        mine = call.runs(is_global_cond, output.shape[0])
        first = call.runs(repeats_first, output.shape[0])
        if mine and isinstance(call, ReplayingCall) and name in call.queries:
            self._copy(output, mine, call.queries[name])
        elif mine and first:
            self._copy(output, mine, _joined(output, first))

    def _copy(self, output: Tensor, runs: tuple[slice, ...], stored: Tensor) -> None:
        rows = sum(run.stop - run.start for run in runs)
        if stored.shape != (rows, *output.shape[1:]):
            self.warnings.add(f"layout: a layer saw {stored.shape[1]} tokens in the first pass and {output.shape[1]} "
                              "in the second, so its layout is not preserved; turn off token merging or tiling")
            return
        start = 0
        for run in runs:
            stop = start + run.stop - run.start
            output[run].copy_(stored[start:stop])
            start = stop


def _joined(output: Tensor, runs: tuple[slice, ...]) -> Tensor:
    """Rows of a layer's output: a view where they lie side by side."""
    return output[runs[0]] if len(runs) == 1 else torch.cat([output[run] for run in runs])
