"""One batch of pictures as both web UIs have it: what a host knows without looking at the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from modules import devices, processing, shared
from torch import Tensor

from .. import request
from ..comprehension.places import Places
from ..faces.base import ConceptFace, Face
from ..faces.concepts import ConceptFaces
from ..host import ConceptConditioning, Host, Prompts, Tap
from ..unet.deltas import Sources
from ..unet.patches import Patches
from ..unet.regions import Regions
from .conditioning import EncodedPrompts, steps_of_pass, wordings
from .faces import Faces
from .neighbours import Counters, refuse, refuse_tiles
from .refiner import Refiner

Sample = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class EncodedConcept:
    """See :class:`omg_ext.host.LoadedConcept`.

    Attributes:
        prompts, bare_prompts: encoded with its networks and without.
        denoiser: see :meth:`.EncodedPrompts.at`.
    """

    networks: Sources
    has_networks: bool
    prompts: EncodedPrompts
    bare_prompts: EncodedPrompts
    denoiser: Any
    face: ConceptFace | None
    warnings: Sequence[str] = ()

    def conditioning(self, step: int) -> ConceptConditioning:
        return self.prompts.at(step, self.denoiser)

    def bare(self, step: int) -> ConceptConditioning:
        return self.bare_prompts.at(step, self.denoiser)


@dataclass(frozen=True)
class Kept:
    """What was read for one press of Generate, on one checkpoint.

    Attributes:
        networks: of concepts; each host has its own.
        faces: models of faces.
    """

    networks: Any
    faces: Faces


class OpenHost(Host, Protocol):
    """A web UI's host of one batch.

    Attributes:
        refiner: the pass's.
    """

    @property
    def refiner(self) -> Refiner: ...


class Batch(ABC):
    """What :class:`omg_ext.host.Host` asks for, as far as it lies in the processing object.

    Args:
        p: the web UI's processing object.
        sample: runs the sampler that it is about to use once, from the start.
        kept: what was read before.
        concept_prompts: each concept's for all pictures of all batches.
        asked: what the user asks for.
        refiner: see :class:`OpenHost`.

    Raises:
        OMGError: another extension or a setting is out of OMG's reach.
    """

    def __init__(self, p: Any, sample: Sample, kept: Kept, concept_prompts: Sequence[Prompts], asked: request.Request,
                 refiner: Refiner):
        self._p, self._sample, self._concept_prompts, self._asked = p, sample, concept_prompts, asked
        self.refiner, self._kept, self._models_of_faces = refiner, kept.networks, kept.faces
        unet = kept.faces.unet
        self._faces = ConceptFaces(kept.faces, unet, asked.concepts, {}, steps_of_pass(p))
        refuse(p, asked, unet)
        self._samplings, self._counters = 0, Counters(p, unet)
        self.style: Sources = {}
        self.context_name = "crossattn"
        self.pooled_name = "vector" if shared.sd_model.is_sdxl else None

    @property
    def generators(self) -> Sequence[Any]:
        generators: Sequence[Any] = self._p.rng.generators
        return generators

    @property
    def prompts(self) -> Sequence[str]:
        prompts: Sequence[str] = self._p.prompts
        return prompts

    @property
    def size(self) -> tuple[int, int]:
        return self._p.height, self._p.width

    @property
    def latent_size(self) -> tuple[int, int]:
        return self._p.rng.shape[1], self._p.rng.shape[2]

    @property
    def device(self) -> torch.device:
        device: torch.device = devices.device
        return device

    @property
    def stopped(self) -> bool:
        return bool(shared.state.interrupted or shared.state.skipped)

    @property
    def refines(self) -> bool:
        return self.refiner.is_due

    def prompts_of(self, index: int, concept: request.Concept) -> Prompts:
        made, first = self._concept_prompts[index], self._p.iteration * self._p.batch_size
        here = slice(first, first + len(self._p.prompts))
        return Prompts(made.prompts[here], None if made.negatives is None else made.negatives[here])

    def wordings(self, prompt: str) -> Sequence[str]:
        return wordings(prompt, self._p.firstpass_steps)

    def sample(self, tap: Tap) -> Tensor:
        self._samplings += 1
        if self._samplings > 1:
            shared.state.nextjob()
            self._counters.put_back()
        refuse_tiles(tap.patches)
        with self._tapped(tap), self.refiner.sampling(tap):
            try:
                return self._sample()
            finally:
                self._models_of_faces.rest()

    @abstractmethod
    def _tapped(self, tap: Tap) -> AbstractContextManager[None]:
        """Within the block the host's sampling goes through the tap."""

    def decode(self, latents: Tensor, picture: int) -> npt.NDArray[np.uint8]:
        # as the web UI, which decodes after sampling: its autoencoder may be lifted out of half precision
        with devices.without_autocast():
            decoded = processing.decode_latent_batch(shared.sd_model, latents[picture:picture + 1],
                                                     target_device=devices.cpu, check_for_nans=True)[0]
        pixels = ((decoded.float() + 1.0) / 2.0).clamp(0.0, 1.0)
        return (255.0 * pixels.permute(1, 2, 0).numpy()).astype(np.uint8)

    def faces(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> Sequence[Sequence[Face]]:
        return self._models_of_faces.find(pictures)

    def pose(self, patches: Patches, faces: Sequence[ConceptFace | None], places: Places,
             regions: Regions | None) -> None:
        height, width = self.latent_size  # of this pass, unlike `size`, which is that of the first
        size = height * processing.opt_f, width * processing.opt_f
        self._models_of_faces.pose(patches, faces, places, size, regions)

    def _face(self, index: int) -> tuple[ConceptFace | None, list[str]]:
        """One concept's face, and what the user should know of it.

        Raises:
            OMGError: see :meth:`.ConceptFaces.load`.
        """
        face, note = self._faces.load(index), self._models_of_faces.note
        told = self._faces.warnings(index)
        if face is not None and self._asked.concepts[index].identitynet.scale and note:
            told.append(f"concepts[{index}].identitynet: {note}")
        return face, told
