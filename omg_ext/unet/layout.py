"""Occlusion layout preservation (Eq. 7): the second pass's global rows attend as the first pass's did.

The paper overwrites the attention maps of the second pass by the stored ones. Prompt and weights are those of the
first pass, so keys and values of cross-attention are the same, and overwriting softmax(Q K^T) is overwriting Q: the
maps are never materialised. For self-attention Q and K are overwritten, at the UNet's deepest attention level only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..request import Layout
from .patches import Hooks, batch_rows, modules_named
from .query_store import Entry, QueryStore, Tensors, size_of


class LayoutPreservation(Hooks):
    """Records queries of conditional global rows in the first pass and replays them in the second.

    Args:
        unet: the UNet whose ``attn1`` and ``attn2`` modules have ``to_q`` and ``to_k`` layers.
        layout: until which fraction of the trajectory each kind of attention is replayed.
        store: where the recorded tensors go.
    """

    def __init__(self, unet: nn.Module, layout: Layout, store: QueryStore):
        super().__init__()
        self._layout, self._store = layout, store
        self._cross = modules_named(unet, "attn2", "to_q") if layout.cross else {}
        self._self = {f"{name}.{part}": layer for part in ("to_q", "to_k")
                      for name, layer in modules_named(unet, "attn1", part).items()} if layout.self_ else {}
        self._tokens: dict[str, int] = {}
        self._wanted: set[str] = set()
        self._sizes: dict[tuple[int, int], int] = {}  # bytes, by numbers of rows and layers
        self._total = 0
        self._rows = slice(0, 0)
        self._carried = slice(0, 0)
        self._recorded: Tensors = {}
        self._replayed: Tensors | None = None
        self._mode = ""
        self.warnings: set[str] = set()

    def __enter__(self) -> LayoutPreservation:
        for name, layer in {**self._cross, **self._self}.items():
            self.on_output(layer, partial(self._on_output, name))
        return self

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self._store.clear()
        self._cross, self._self, self._recorded, self._replayed = {}, {}, {}, None

    def wanted(self, progress: float) -> set[str]:
        """The layers to be replayed at this fraction of the trajectory."""
        names = set(self._cross) if progress < self._layout.cross else set()
        if progress < self._layout.self_:
            names |= self._deepest()
        return names

    def _deepest(self) -> set[str]:
        """The self-attention layers with the fewest tokens; all of them before the first call has shown how many."""
        if not self._tokens:
            return set(self._self)
        fewest = min(self._tokens.values())
        return {name for name, tokens in self._tokens.items() if tokens == fewest}

    @contextmanager
    def recording(self, progress: float, rows: slice, total: int, keep: bool) -> Iterator[list[Entry]]:
        """Within the block the UNet is called once with ``total`` rows, of which ``rows`` are conditional.

        Yields a list that holds the recorded :class:`Entry` after the block, if one was kept.
        """
        entries: list[Entry] = []
        self._mode, self._rows, self._total, self._recorded = "record", rows, total, {}
        wanted, count = self.wanted(progress), rows.stop - rows.start
        # once a call of this size was turned away there is no point in copying its tensors
        has_room = self._store.place_for(self._sizes.get((count, len(wanted)), 1)) is not None
        self._wanted = wanted if keep and has_room else set()
        try:
            yield entries
            recorded = {name: tensor for name, tensor in self._recorded.items() if name in self.wanted(progress)}
            if recorded:
                self._sizes[count, len(recorded)] = size_of(recorded)
            entry = self._store.put(recorded)
            if entry is not None:
                entries.append(entry)
        finally:
            self._mode, self._recorded = "", {}

    @contextmanager
    def replaying(self, progress: float, rows: slice, total: int, entry: Entry | None, following: Entry | None,
                  carried: slice, like: Tensor) -> Iterator[None]:
        """Within the block the UNet is called once; its ``rows`` attend as in the first pass.

        Args:
            progress: fraction of the trajectory.
            rows: the conditional global rows of the call.
            total: all rows of the call.
            entry: what the first pass recorded for this call; None takes the queries from the ``carried`` rows.
            following: the entry of the next call, to be fetched ahead.
            carried: rows of this call that repeat the first pass (recompute mode); empty if ``entry`` is given.
            like: a tensor on the UNet's device.
        """
        self._mode, self._rows, self._total, self._carried = "replay", rows, total, carried
        self._wanted = self.wanted(progress)
        self._replayed = self._store.get(entry, like.device, following) if entry is not None else None
        try:
            yield
        finally:
            self._mode, self._replayed = "", None

    def _on_output(self, name: str, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not self._mode:
            return
        if name in self._self and name not in self._tokens:
            # of a whole row: HyperTile cuts rows into tiles
            self._tokens[name] = output.shape[0] * output.shape[1] // self._total
        if name not in self._wanted or self._rows.stop == self._rows.start:
            return
        mine = batch_rows(self._rows, self._total, output.shape[0])
        if self._mode == "record":
            self._recorded[name] = output[mine].clone()
        elif self._replayed is None:
            output[mine] = output[batch_rows(self._carried, self._total, output.shape[0])]
        elif name in self._replayed:
            self._replay(output[mine], self._replayed[name])

    def _replay(self, output: Tensor, stored: Tensor) -> None:
        if output.shape == stored.shape:
            output.copy_(stored)
        else:
            self.warnings.add(f"layout: a layer saw {stored.shape[1]} tokens in the first pass and {output.shape[1]} "
                              "in the second, so its layout is not preserved; turn off token merging or tiling")
