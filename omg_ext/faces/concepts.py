"""Each concept's face for one run: whose it is, what is attended to, and when IdentityNet acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import OMGError
from ..request import Concept, IdentityNet
from .adapter import FaceAdapter
from .base import ConceptFace, DrawPoints, FloatArray, steps_between


class Source(Protocol):
    """A host's models of faces.

    Attributes:
        without_identitynet: what to do to have an IdentityNet, for a message; empty if there is one.
        doubt: what to tell people of what has read their photos; empty if it is what it should be.
    """

    @property
    def without_identitynet(self) -> str: ...

    @property
    def doubt(self) -> str: ...

    def adapter(self, field: str) -> FaceAdapter:
        """The image prompt adapter, which fits the UNet.

        Args:
            field: what asks for it.

        Raises:
            OMGError: there is none, or it is something else.
        """
        ...

    def check_identitynet(self, field: str) -> None:
        """Have it ready, and what finds the faces that it draws.

        Raises:
            OMGError: it does not fit, or nothing finds faces.
        """
        ...

    def tokens(self, concept: Concept, field: str) -> Tensor:
        """What the adapter makes of the face that a concept's photos show, see :meth:`.FaceAdapter.tokens`.

        Raises:
            OMGError: see :func:`.reference.embedding_of`.
        """
        ...


@dataclass(frozen=True, eq=False)
class ConceptFaces:
    """Loads the concepts' faces.

    Attributes:
        source: None if the host has no models of faces.
        unet: that draws them.
        concepts: what is asked for.
        embeds: embeddings by concept's index, [E], which stand for its pictures.
        steps: at how many steps the host asks the UNet.
    """

    source: Source | None
    unet: nn.Module
    concepts: Sequence[Concept]
    embeds: Mapping[int, Tensor]
    steps: int

    def load(self, index: int) -> ConceptFace | None:
        """One concept's; None if it has none, or all of it is off.

        Raises:
            OMGError: models are missing or unfit, or a picture has no face.
        """
        concept, field = self.concepts[index], f"concepts[{index}]"
        wished, scales = concept.identitynet, self._scales(concept.identitynet)
        if not self._has_face(index) or not (concept.face_scale or any(scales)):
            return None
        if self.source is None:
            raise OMGError(f"{field}.face", "there is no model that draws it; give OMGPipeline faces=FaceModels(...)")
        if self.source.without_identitynet and wished.scale and wished != IdentityNet():
            raise OMGError(f"{field}.identitynet",
                           f"there is no model for it; leave this out, or {self.source.without_identitynet}")
        adapter = self.source.adapter(f"{field}.face")
        if any(scales):
            self.source.check_identitynet(f"{field}.identitynet")
        if index in self.embeds:
            tokens = adapter.tokens(self.embeds[index], f"face_embeds[{index}]")
        else:
            tokens = self.source.tokens(concept, field)
        prompt = adapter.prompt(self.unet, tokens, concept.face_scale) if concept.face_scale else None
        return ConceptFace(tokens, prompt, scales)

    def warnings(self, index: int) -> list[str]:
        """What the user should know of a concept's face, once it is loaded."""
        concept, told = self.concepts[index], []
        if self.source is not None and self.source.doubt and concept.faces and index not in self.embeds:
            told.append(f"concepts[{index}].face: {self.source.doubt}")
        scales = self._scales(concept.identitynet)
        if self._has_face(index) and concept.identitynet.scale and scales and not any(scales):
            told.append(f"concepts[{index}].identitynet: none of the {self.steps} steps lies wholly between its start "
                        "and its end, so it did nothing; widen the span, or take more steps")
        return told

    def _has_face(self, index: int) -> bool:
        return bool(self.concepts[index].faces) or index in self.embeds

    def _scales(self, wished: IdentityNet) -> list[float]:
        has_one = self.source is not None and not self.source.without_identitynet
        return steps_between(self.steps, wished.start, wished.end, wished.scale) if has_one else []


def drawn_points(points: Sequence[Sequence[FloatArray | None]], size: tuple[int, int],
                 draw: DrawPoints) -> dict[tuple[int, int], Tensor]:
    """What an IdentityNet is shown: float32 [3, H, W] in 0..1, by picture of the batch and concept.

    Args:
        points: key points as fractions of the picture, see :class:`omg_ext.comprehension.places.Places`.
        size: of the pictures, height and width in pixels.
    """
    height, width = size
    shown: dict[tuple[int, int], Tensor] = {}
    for picture, of_picture in enumerate(points):
        for concept, own in enumerate(of_picture):
            if own is not None:
                drawn = draw(own * np.array([width, height], np.float32), size)
                shown[picture, concept] = torch.from_numpy(np.ascontiguousarray(drawn)).permute(2, 0, 1).float() / 255
    return shown
