"""Each concept's own embedding of timestep, sizes and pooled prompt, in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .calls import RegionalCall, UNetCall
from .patches import Patches
from .regional import joint_with
from .regions import Regions


class EmbeddingLayers(NamedTuple):
    """Where a UNet makes its embedding, and where it uses it.

    Attributes:
        time: the module that embeds the timestep.
        pooled: the one that embeds the pooled prompt and sizes; None in models without.
        blocks: of each residual block the projection of the embedding, and the layer that the sum of features and
            projected embedding goes into.
        is_activated: whether the projection takes the embedding after its activation function.
    """

    time: nn.Module
    pooled: nn.Module | None
    blocks: Sequence[tuple[nn.Module, nn.Module]]
    is_activated: bool

    @classmethod
    def of(cls, unet: Any) -> EmbeddingLayers:
        """Those of diffusers' UNet, or of the original one."""
        if hasattr(unet, "time_embedding"):
            blocks = [(each.time_emb_proj, each.norm2) for each in unet.modules() if hasattr(each, "time_emb_proj")]
            return cls(unet.time_embedding, getattr(unet, "add_embedding", None), blocks, is_activated=True)
        blocks = [(each.emb_layers, each.out_layers[0]) for each in unet.modules() if hasattr(each, "emb_layers")]
        return cls(unet.time_embed, getattr(unet, "label_emb", None), blocks, is_activated=False)

    def modules(self) -> set[nn.Module]:
        """All layers without a place in the picture."""
        parts = [self.time, *([] if self.pooled is None else [self.pooled]), *(project for project, _ in self.blocks)]
        return {layer for part in parts for layer in part.modules()}


class RegionalEmbeddings:
    """``h + e + sum_i M_i (e_i - e)`` in place of ``h + e`` in the residual blocks, for the rows of
    :class:`omg_ext.unet.calls.RegionalCall`.

    e is the row's projected embedding, e_i that of concept i: of its pooled prompt, and with its networks.

    Args:
        patches: the UNet's.
        layers: of the UNet.
        regions: M_i.
        pictures: of each concept, those that it is in; empty for one whose embedding is the picture's.
    """

    def __init__(self, patches: Patches, layers: EmbeddingLayers, regions: Regions,
                 pictures: Sequence[Sequence[int]]):
        self._patches, self._layers, self._regions = patches, layers, regions
        self._which = [joint_with(own) for own in pictures]
        # of the running call, by concept and first row: the embedding, and what the next block adds for it
        self._embeddings: dict[tuple[int, int], Tensor] = {}
        self._shifts: dict[tuple[int, int], Tensor] = {}
        patches.on_output(layers.time, self._embed_time)
        if layers.pooled is not None:
            patches.on_output(layers.pooled, self._embed_pooled)
        for project, norm in layers.blocks:
            patches.on_output(project, self._project)
            patches.on_input(norm, self._add)

    def _embed_time(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._embeddings = {(concept, rows.start): self._own(call, concept, rows, layer, args[0][rows])
                            for concept, rows in self._places(call)}

    def _embed_pooled(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        for concept, rows in self._places(call):
            assert isinstance(call, RegionalCall)
            pooled = torch.stack([call.pooled[row, concept] for row in call.rows[rows]]).to(args[0])
            given = torch.cat([pooled, args[0][rows, pooled.shape[1]:]], dim=1)  # behind it are the sizes
            embedded = self._own(call, concept, rows, layer, given)
            self._embeddings[concept, rows.start] = self._embeddings[concept, rows.start] + embedded

    def _project(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        for concept, rows in self._places(call):
            embedding = self._embeddings[concept, rows.start]
            given = silu(embedding) if self._layers.is_activated else embedding
            own = self._own(call, concept, rows, layer, given.to(args[0].dtype))
            self._shifts[concept, rows.start] = own - output[rows]

    def _add(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...]) -> None:
        for concept, rows in self._places(call):
            self._regions.add_constant(concept, call, rows, self._shifts[concept, rows.start], args[0])

    def _places(self, call: UNetCall) -> list[tuple[int, slice]]:
        if not isinstance(call, RegionalCall):
            return []
        return [(concept, rows) for concept, which in enumerate(self._which) for rows in call.runs(which)]

    def _own(self, call: UNetCall, concept: int, rows: slice, layer: nn.Module, x: Tensor) -> Tensor:
        """The layer's output on rows of the concept's own."""
        with self._patches.running(call.of_rows([row._replace(concept=concept) for row in call.rows[rows]])):
            output: Tensor = layer(x)
        return output
