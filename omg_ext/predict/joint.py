"""One row for all concepts: every network and every prompt acts in its concept's place, within each layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..host import Guidance, Guided
from ..unet.calls import JOINT, RegionalCall, Row
from ..unet.deltas import Deltas
from ..unet.embeddings import EmbeddingLayers, RegionalEmbeddings
from ..unet.patches import Patches
from ..unet.regional import RegionalAttention, RegionalNetworks
from ..unet.regions import Regions
from .base import Cast, Part, Point, gathered, of_equal_shape


@dataclass(frozen=True, eq=False)
class Joint:
    """One row r for all K concepts, ``C_i = u + s_i (r - u)``, blended in concept i's place as any C_i (Eq. 6).

    It starts from the global prompt's conditional row. In it a layer with networks gives
    ``W x + sum_i M_i delta_i(x)``, and cross-attention attends to concept i's prompt in its place
    (:mod:`omg_ext.unet.regional`); the residual blocks add the embedding of its pooled prompt there
    (:mod:`omg_ext.unet.embeddings`). So the concepts see each other as they will be, and a further concept costs no
    further row; one that is everywhere has what its own row would have.

    LoRA guidance adds ``w (r - b)``, and negative prompts of concepts' own a ``u``: rows of the same kind in which no
    concept's networks act. With ``AND`` there are as many rows r as the longest of the prompts has parts.

    Attributes:
        cast: the concepts.
    """

    cast: Cast

    @classmethod
    def of(cls, cast: Cast, patches: Patches, deltas: Deltas, regions: Regions) -> Joint:
        """
        Args:
            patches: the UNet's.
            deltas: of its networks.
            regions: where in the row each concept acts.
        """
        regions.follow(patches)
        deltas.forget_low_rank()  # from here on they are kept all together
        RegionalNetworks(patches, regions, [concept.networks for concept in cast.concepts], deltas)
        RegionalAttention(patches, regions)
        layers = EmbeddingLayers.of(patches.network)
        embedding = layers.modules()
        own = [index for index, concept in enumerate(cast.concepts)
               if layers.pooled is not None or any(layer in embedding for layer in concept.networks)]
        if own:
            RegionalEmbeddings(patches, layers, regions, own)
        return cls(cast)

    def __call__(self, point: Point, plain: Guided, guidance: Guidance) -> Guided:
        parts = self.cast.at(point, guidance)
        is_guided = guidance.scale(None) is not None
        outputs: dict[Row, Tensor] = {}
        uncond = [self._uncond_rows(part, is_guided) for part in parts]
        asked = (row for part, own in zip(parts, uncond, strict=True) for row in part.asked(JOINT, own))
        rows = list(dict.fromkeys(asked))
        places = [(row, part) for row in rows for part in parts if row.picture in part.pictures]
        host = self.cast.host
        contexts = {(row, part.index): _prompt(host.context_name, row, part) for row, part in places}
        pooled = {} if host.pooled_name is None else {
            (row, part.index): _prompt(host.pooled_name, row, part) for row, part in places}

        for alike in of_equal_shape(rows, lambda row: point.source(_global(row))):
            call = RegionalCall(tuple(alike), point.progress, point.grid, point.step, contexts=contexts, pooled=pooled)
            inputs = point.inputs([_global(row) for row in alike])
            outputs |= zip(alike, self.cast.evaluator(point.evaluate, call, *inputs), strict=True)
        return gathered(parts, [part.guided(outputs, JOINT, own, plain.uncond, guidance) if part.pictures else None
                                for part, own in zip(parts, uncond, strict=True)], plain.prediction)

    def _uncond_rows(self, part: Part, is_guided: bool) -> list[Row]:
        if self.cast.shares_uncond(part, is_guided):
            return []
        return [Row(picture, JOINT, None, is_bare=True) for picture in part.pictures]


def _prompt(name: str, row: Row, part: Part) -> Tensor:
    """What a row has of a concept's conditioning by the host's name."""
    cond, numbers, uncond = part.bare if row.is_bare else part.conditioning
    if row.part is None:
        return uncond[name][row.picture]
    of_picture = numbers[row.picture]
    return cond[name][of_picture[min(row.part, len(of_picture) - 1)][0]]


def _global(row: Row) -> Row:
    """The global row that a joint one starts from."""
    return Row(row.picture, None, row.part)
