"""All that the core asks of a host, and what a host's sampler asks of the core."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .comprehension.phrases import Stage
from .comprehension.places import Places
from .faces.base import ConceptFace, Face
from .request import Concept
from .request.tags import Tag
from .unet.calls import Row
from .unet.deltas import Sources
from .unet.patches import Patches
from .unet.regions import Regions

Evaluate = Callable[[Tensor, Tensor, Any], Tensor]
"""The host's UNet: ``(x [n, C, h, w], t [n], the host's conditioning of n rows) -> output [n, C, h, w]``"""

PromptParts = Sequence[Sequence[tuple[int, float]]]
"""For each picture, the conditional rows that make up its prompt, with their weights (several for ``AND``)"""


class ConceptConditioning(NamedTuple):
    """One concept's conditioning at one step.

    Attributes:
        cond: R conditional rows: tensors by the host's names (e.g. ``crossattn`` and ``vector``), rows first.
        parts: see :data:`PromptParts`.
        uncond: one unconditional row per picture.
    """

    cond: Mapping[str, Tensor]
    parts: PromptParts
    uncond: Mapping[str, Tensor]


class Guided(NamedTuple):
    """A prediction after classifier-free guidance, and the unconditional prediction alone: [B, C, h, w] each.

    Where no unconditional rows were evaluated the conditional ones stand in.
    """

    prediction: Tensor
    uncond: Tensor


class Guidance(Protocol):
    """The host's classifier-free guidance at one denoiser call."""

    def scale(self, own: float | None) -> float | None:
        """The guidance scale of a concept that asks for ``own`` (None: the picture's); None is to do without
        unconditional rows."""
        ...

    def guide(self, cond: Tensor, parts: PromptParts, uncond: Tensor, scale: float, pictures: Sequence[int]) -> Tensor:
        """Guided predictions [n, C, h, w], as the host makes them of the picture's own.

        Args:
            cond: predictions of R conditional rows.
            parts: of n pictures.
            uncond: their unconditional predictions, [n, C, h, w].
            scale: the guidance scale.
            pictures: which of the batch the n are.
        """
        ...

    def finished(self, prediction: Tensor) -> Tensor:
        """The finished latents as a prediction for all pictures has them (x_0), [B, C, h, w]."""
        ...


class Tap(Protocol):
    """What a host's sampler calls while it samples.

    Attributes:
        title: of the pass, for progress bars.
        patches: owns the pass's hooks on the UNet. They know which call is running; a host that has to do something
            to the UNet's rows adds its own.
    """

    title: str

    @property
    def patches(self) -> Patches: ...

    def begin(self, progress: float, step: int) -> None:
        """The sampler is about to call its denoiser.

        Args:
            progress: fraction of the trajectory that lies behind, in model timesteps.
            step: the host's number of the step, by which it schedules prompts.
        """
        ...

    def unet(self, evaluate: Evaluate, x: Tensor, t: Tensor, cond: Any, rows: Sequence[Row]) -> Tensor:
        """Stands in for one of the host's UNet evaluations of global rows; arguments as :data:`Evaluate`.

        Args:
            rows: what each row is.
        """
        ...

    def guided(self, plain: Guided, guidance: Guidance) -> Guided:
        """The host has combined the global predictions; it goes on with what is returned."""
        ...


class Prompts(NamedTuple):
    """One concept's prompts, one for each picture, as the host has made them.

    Attributes:
        prompts: with their network tags.
        negatives: None takes each picture's.
    """

    prompts: Sequence[str]
    negatives: Sequence[str] | None


@dataclass(frozen=True)
class ConceptPrompt:
    """What a host has to load for one concept.

    Attributes:
        index: which concept of the request.
        texts: for each picture, the prompt without its network tags.
        tags: the networks.
        negatives: for each picture its negative prompt; None takes the picture's own.
        field: how messages name the prompt.
        needs_bare: whether it is asked for :meth:`LoadedConcept.bare`.
    """

    index: int
    texts: Sequence[str]
    tags: Sequence[Tag]
    negatives: Sequence[str] | None
    field: str
    needs_bare: bool = False


class LoadedConcept(Protocol):
    """One concept, ready to be evaluated.

    Attributes:
        networks: by the UNet's layers.
        has_networks: whether any acts on it, in the UNet or in the text encoders; a face counts as one.
        face: its face; None if it has none.
        warnings: what the user should know.
    """

    @property
    def networks(self) -> Sources: ...

    @property
    def has_networks(self) -> bool: ...

    @property
    def face(self) -> ConceptFace | None: ...

    @property
    def warnings(self) -> Sequence[str]: ...

    def conditioning(self, step: int) -> ConceptConditioning:
        """The conditioning at a step."""
        ...

    def bare(self, step: int) -> ConceptConditioning:
        """The same encoded without its networks."""
        ...


@dataclass(frozen=True)
class SwitchedOff:
    """A :class:`LoadedConcept` of which nothing is loaded: it has no part in any picture."""

    networks: Sources = field(default_factory=dict)
    has_networks: bool = False
    face: None = None
    warnings: Sequence[str] = ()

    def conditioning(self, step: int) -> ConceptConditioning:
        return ConceptConditioning({}, (), {})

    bare = conditioning


class Host(Protocol):
    """One batch of pictures on one model.

    Attributes:
        unet: the UNet; cross-attention modules are named ``attn2``, self-attention ``attn1``.
        style: networks of the global prompt that are to act on every row; empty where the host has merged them.
        generators: the sampler's random generators, one per picture.
        prompts: the global prompt of each picture.
        size: height and width in pixels.
        latent_size: height and width of the latent.
        device: what the sampler works on.
        stopped: whether the user broke off what was sampled last.
        refines: whether the ordinary picture ends with another model, which the first pass is drawn without.
        tag_arguments: names of arguments in ``<lora:...>`` tags that this host understands besides the usual.
        context_name, pooled_name: what its conditioning calls the tokens that cross-attention attends to, and the
            pooled prompt (with or without the sizes behind it); the latter is None for models without.
    """

    @property
    def unet(self) -> nn.Module: ...

    @property
    def style(self) -> Sources: ...

    @property
    def generators(self) -> Sequence[Any]: ...

    @property
    def prompts(self) -> Sequence[str]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def latent_size(self) -> tuple[int, int]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def stopped(self) -> bool: ...

    @property
    def refines(self) -> bool: ...

    @property
    def tag_arguments(self) -> Collection[str]: ...

    @property
    def context_name(self) -> str: ...

    @property
    def pooled_name(self) -> str | None: ...

    def prompts_of(self, index: int, concept: Concept) -> Prompts:
        """A concept's prompts after all that the host does to the main prompt: styles, wildcards, comments."""
        ...

    def load(self, concept: ConceptPrompt) -> LoadedConcept:
        """Load a concept's networks and encode its prompts with them.

        Raises:
            OMGError: a network is missing, broken or made for another model.
        """
        ...

    def sample(self, tap: Tap) -> Tensor:
        """Run the sampler once from its start and return the final latents, [B, C, h, w]."""
        ...

    def unet_input(self, cond: Mapping[str, Tensor], like: Any, rows: Sequence[Row]) -> Any:
        """The host's conditioning of some rows, for its UNet.

        Args:
            cond: concepts' rows.
            like: conditioning of global rows of the same pictures, for what no prompt decides.
            rows: what the rows are.
        """
        ...

    def prompt_words(self) -> Mapping[tuple[int, int], Sequence[Stage]]:
        """What each (picture, part) of the global prompts says, stage after stage; positions in its conditioning."""
        ...

    def wordings(self, prompt: str) -> Sequence[str]:
        """How a global prompt reads in the course of sampling (prompt editing changes it), as it reads last first."""
        ...

    def reworded(self, prompts: Sequence[str]) -> ConceptConditioning:
        """Other global prompts, any number, encoded as the pictures' own are, as they read in the end."""
        ...

    def look(self, latents: Tensor, noise: Tensor, at: float, cond: Mapping[str, Tensor]) -> Tensor:
        """The UNet's output [n, C, h, w] for finished latents that are noised again, outside of sampling.

        Args:
            latents, noise: [n, C, h, w] each; the noise has unit variance.
            at: how far along the trajectory, as a fraction in model timesteps: 0 is all noise.
            cond: n rows of conditioning by the host's names.
        """
        ...

    def decode(self, latents: Tensor, picture: int) -> npt.NDArray[np.uint8]:
        """One picture of a batch of latents, uint8 [H, W, 3]."""
        ...

    def faces(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> Sequence[Sequence[Face]]:
        """All faces in each of some pictures [H, W, 3]. Asked only if a concept has an IdentityNet."""
        ...

    def pose(self, patches: Patches, faces: Sequence[ConceptFace | None], places: Places,
             regions: Regions | None) -> None:
        """Let IdentityNets act on the rows of concepts in whose places faces were found, while the hooks live.

        Args:
            patches: the UNet's.
            faces: of each concept; None if it has none.
            places: with the key points that were found.
            regions: where each concept acts in a row of all; None if they have rows of their own.
        """
        ...
