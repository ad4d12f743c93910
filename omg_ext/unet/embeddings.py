"""Each concept's own embedding of timestep, sizes and pooled prompt, in its place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .calls import Place, RegionalCall, UNetCall
from .patches import Patches
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
        concepts: those whose embedding is not the picture's.
    """

    def __init__(self, patches: Patches, layers: EmbeddingLayers, regions: Regions, concepts: Collection[int]):
        self._patches, self._layers, self._regions, self._concepts = patches, layers, regions, concepts
        # of the running call's places: their embeddings, and what the next block adds for them
        self._embeddings, self._shifts = (torch.empty(0) for _ in range(2))
        patches.on_output(layers.time, self._embed_time)
        if layers.pooled is not None:
            patches.on_output(layers.pooled, self._embed_pooled)
        for project, norm in layers.blocks:
            patches.on_output(project, self._project)
            patches.on_input(norm, self._add)

    def _embed_time(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if places := self._places(call):
            self._embeddings = self._own(call, places, layer, _of_rows(args[0], places))

    def _embed_pooled(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if places := self._places(call):
            assert isinstance(call, RegionalCall)
            pooled = torch.stack([call.pooled[call.rows[row], concept] for row, concept in places]).to(args[0])
            sizes = _of_rows(args[0], places)[:, pooled.shape[1]:]  # they are behind it
            self._embeddings = self._embeddings + self._own(call, places, layer, torch.cat([pooled, sizes], dim=1))

    def _project(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if places := self._places(call):
            given = silu(self._embeddings) if self._layers.is_activated else self._embeddings
            self._shifts = self._own(call, places, layer, given.to(args[0].dtype)) - _of_rows(output, places)

    def _add(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...]) -> None:
        if places := self._places(call):
            y = args[0]
            maps = self._regions.of_concepts(call, y)
            nothing = torch.zeros_like(self._shifts[0])
            of_places = dict(zip(places, self._shifts, strict=True))
            shifts = [of_places.get(Place(row, concept), nothing)
                      for row, concept in product(range(len(y)), range(maps.shape[1]))]
            of_rows = torch.stack(shifts).to(y.dtype).unflatten(0, (len(y), -1))
            y += torch.bmm(of_rows.transpose(1, 2), maps.flatten(2)).unflatten(2, tuple(y.shape[2:]))

    def _places(self, call: UNetCall) -> tuple[Place, ...]:
        if not isinstance(call, RegionalCall):
            return ()
        return tuple(place for place in call.places if place.concept in self._concepts)

    def _own(self, call: UNetCall, places: Sequence[Place], layer: nn.Module, x: Tensor) -> Tensor:
        """The layer's output on rows of the concepts' own."""
        rows = [call.rows[row]._replace(concept=concept) for row, concept in places]
        with self._patches.running(call.of_rows(rows)):
            output: Tensor = layer(x)
        return output


def _of_rows(values: Tensor, places: Sequence[Place]) -> Tensor:
    return torch.stack([values[place.row] for place in places])
