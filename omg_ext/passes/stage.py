"""The UNet as the concepts are drawn: what acts on it, and what is blended in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import torch
from torch import Tensor

from ..comprehension.masks import spread
from ..comprehension.places import Places, latent_weights
from ..host import Host, LoadedConcept
from ..predict.base import LEAD, Cast
from ..predict.joint import Joint
from ..predict.own_rows import OwnRows
from ..request import Request
from ..unet.calls import every_row
from ..unet.deltas import Deltas
from ..unet.evaluator import Evaluator
from ..unet.image_prompts import ImagePrompts
from ..unet.networks import RowNetworks, of_concept
from ..unet.patches import Patches
from ..unet.regions import Regions
from .memory import Memory
from .second import Blending


class Stage:
    """Networks and faces on the rows of those that they belong to; they act while ``patches`` live.

    Args:
        relieve: see :class:`omg_ext.unet.evaluator.Evaluator`.

    Attributes:
        evaluator: for the global rows.
    """

    def __init__(self, host: Host, request: Request, memory: Memory, patches: Patches,
                 concepts: Sequence[LoadedConcept], relieve: Callable[[], bool] = lambda: False):
        self._host, self._request, self._patches, self._concepts = host, request, patches, concepts
        own = [(of_concept(index), concept.networks) for index, concept in enumerate(concepts)]
        self._deltas = Deltas(memory.full_budget)
        RowNetworks(patches, [(every_row, host.style), *own], self._deltas)
        self.evaluator, self._of_concepts = (Evaluator(patches, memory.limit(of_concepts, host.latent_size), relieve)
                                             for of_concepts in (False, True))

    def blending(self, places: Places) -> Blending:
        """What is blended in, with the concepts in these places."""
        request, host = self._request, self._host
        weights = places.weights
        if tuple(weights.shape[-2:]) != tuple(host.latent_size):
            weights = self._weights(places)
        # of strength 0 nothing is drawn, so it has no part in others either
        pictures = [own if concept.strength else [] for concept, own in
                    zip(request.concepts, places.pictures, strict=True)]
        cast = Cast(host, self._of_concepts, request.concepts, self._concepts, pictures, request.blend_start,
                    1.0 if request.predict == "separate" else LEAD, request.control_concepts)
        regions = Regions(self._regions(places)) if request.predict == "joint" else None
        predict = (OwnRows(cast, request.predict == "shared") if regions is None
                   else Joint.of(cast, self._patches, self._deltas, regions))
        self._add_faces(places, regions)
        return Blending(weights.to(host.device), predict)

    def _add_faces(self, places: Places, regions: Regions | None) -> None:
        """Concepts' faces act on their rows, or in their places."""
        faces = [concept.face for concept in self._concepts]
        ImagePrompts(self._patches, [None if face is None else face.prompt for face in faces])
        if places.points and any(face is not None and face.is_posed for face in faces):
            self._host.pose(self._patches, faces, places, regions)

    def _regions(self, places: Places) -> Tensor:
        """Where in a row of all each concept acts, [K, B, 1, h, w]: more than its mask.

        A concept is itself in its place, however much of that is blended in, and around it: what is seen of it in the
        end has all its neighbourhood, as in a row of its own. (Measured: with all space around the masks given to the
        nearest concept, likeness is as high as in rows of their own.)
        """
        shares = self._weights(places, is_whole=True)
        return torch.stack([spread(of_picture) for of_picture in shares[:, :, 0].unbind(1)], dim=1).unsqueeze(2)

    def _weights(self, places: Places, is_whole: bool = False) -> Tensor:
        """[K, B, 1, h, w].

        Args:
            is_whole: whatever part of a concept is blended in, all of it.
        """
        concepts = [msgspec.structs.replace(concept, strength=float(concept.strength > 0)) if is_whole else concept
                    for concept in self._request.concepts]
        return latent_weights(concepts, places.masks, self._host.latent_size).to(self._host.device)
