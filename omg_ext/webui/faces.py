"""A web UI's models of faces: where they lie, and what is kept of them while one press of Generate lasts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from modules import devices, shared
from torch import Tensor, nn

from ..comprehension.places import Places
from ..errors import OMGError
from ..faces import analysis, files
from ..faces.adapter import FaceAdapter
from ..faces.base import ConceptFace, Face, Picture
from ..faces.concepts import drawn_points
from ..faces.keypoints import draw
from ..faces.reference import embedding_of
from ..request import Concept
from ..unet.identity import IdentityControl
from ..unet.patches import Patches
from ..unet.regions import Regions
from .identitynet import CONTEXT, POOLED, IdentityNet, IdentityNets
from .models import models

# what a note says of a face if there is no IdentityNet
_WITHOUT = "there is no IdentityNet, so the face is drawn without its pose, which looks less like it; {remedy}"


class Faces:
    """Models for one press of Generate, on one checkpoint: see :class:`omg_ext.faces.concepts.Source`.

    What is read stays in host memory as long as this object.

    Args:
        identitynets: of the web UI that runs.
    """

    def __init__(self, identitynets: IdentityNets) -> None:
        self._identitynets = identitynets
        self._tokens: dict[tuple[tuple[str, ...], int | None], Tensor] = {}
        self._adapter: FaceAdapter | None = None
        self._identitynet: IdentityNet | None = None
        self.doubt = ""

    @property
    def unet(self) -> nn.Module:
        """The loaded checkpoint's."""
        return self._identitynets.unet

    @cached_property
    def _files(self) -> tuple[Path | None, Path | None]:
        """Of adapter and IdentityNet."""
        return files.find_instantid(models())

    @property
    def without_identitynet(self) -> str:
        if self._files[1] is not None:
            return ""
        return f"get {files.identitynet_need(models(), None)}. {models().remedy}"

    @property
    def note(self) -> str:
        """What people should know who ask for a face as usual and have no IdentityNet; empty if they have one."""
        return _WITHOUT.format(remedy=self.without_identitynet) if self.without_identitynet else ""

    def adapter(self, field: str) -> FaceAdapter:
        if not shared.sd_model.is_sdxl:
            raise OMGError(field, "faces are drawn by InstantID, which is made for SDXL; load an SDXL checkpoint, or "
                                  "take a LoRA")
        if self._adapter is None:
            path = files.checked_adapter(models(), self._files[0], field)
            with models().model(("face adapter", path, path.stat().st_mtime_ns),
                                lambda: FaceAdapter.read(path, field)) as adapter:
                self._adapter = adapter
        self._adapter.check(self.unet, field)
        return self._adapter

    def check_identitynet(self, field: str) -> None:
        files.checked(models(), field)
        path = self._files[1]
        assert path is not None  # it is asked for only if there is one
        if self._identitynet is None:
            key = ("IdentityNet", path, path.stat().st_mtime_ns, self._identitynets.kind)
            with models().model(key, lambda: self._identitynets.read(path, field)) as net:
                self._identitynet = net

    def tokens(self, concept: Concept, field: str) -> Tensor:
        key = concept.faces, concept.face_index
        if key not in self._tokens:
            with analysis.loaded(models(), f"{field}.face") as analyser:
                embedding, self.doubt = embedding_of(concept, field, analyser), analyser.doubt
            self._tokens[key] = self.adapter(field).tokens(torch.from_numpy(embedding), f"{field}.face")
        return self._tokens[key]

    def find(self, pictures: Sequence[Picture]) -> list[Sequence[Face]]:
        """All faces in each of some pictures [H, W, 3].

        Raises:
            OMGError: packages or files are gone.
        """
        with analysis.loaded(models(), "face") as analyser:
            return [analyser.faces(picture) for picture in pictures]

    def pose(self, patches: Patches, faces: Sequence[ConceptFace | None], places: Places, size: tuple[int, int],
             regions: Regions | None) -> None:
        """Let IdentityNet act in a pass of this size, height and width in pixels: see
        :meth:`omg_ext.host.Host.pose`."""
        net = self._identitynet
        assert net is not None
        shown = drawn_points(places.points, size, draw)
        self._identitynets.act(patches, IdentityControl(
            self._identitynets.at_work(net), CONTEXT, POOLED, faces,
            {key: picture.to(devices.device) for key, picture in shown.items()}, regions))

    def rest(self) -> None:
        """A pass is over."""
        if self._identitynet is not None:
            self._identitynets.rest(self._identitynet, models().is_keeping)
