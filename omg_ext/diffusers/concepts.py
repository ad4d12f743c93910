"""Loads what prompts name: networks, and prompts encoded with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from ..faces.base import ConceptFace
from ..faces.concepts import ConceptFaces
from ..host import ConceptConditioning, ConceptPrompt
from ..request import Request
from ..request.tags import Tag, also_in_main_prompt
from ..unet.deltas import Sources, summed
from .loras import LoraFiles, on_text_encoders, on_unet
from .prompts import PromptEmbeds, check_embeds, encode, time_ids


@dataclass(frozen=True, eq=False)
class DiffusersConcept:
    """See :class:`omg_ext.host.LoadedConcept`; its prompts are the same at every step."""

    networks: Sources
    has_networks: bool
    encoded: ConceptConditioning
    encoded_bare: ConceptConditioning
    face: ConceptFace | None = None
    warnings: Sequence[str] = ()

    def conditioning(self, step: int) -> ConceptConditioning:
        return self.encoded

    def bare(self, step: int) -> ConceptConditioning:
        return self.encoded_bare


@dataclass(frozen=True, eq=False)
class Loader:
    """Loads for one call of the pipeline.

    Attributes:
        pipe: the models.
        files: where LoRA files are.
        request: the concepts' own guidance scales decide whether they need a negative prompt.
        size: height and width in pixels.
        negative_prompt: the global one.
        style: the global prompt's networks in the text encoders, which act on concepts' prompts too.
        style_tags: what the global prompt names.
        embeds: concepts' prompts that come encoded, by index.
        faces: loads the concepts' faces.
    """

    pipe: DiffusionPipeline
    files: LoraFiles
    request: Request
    size: tuple[int, int]
    negative_prompt: str | None
    style: Sources
    style_tags: Sequence[Tag]
    embeds: Mapping[int, PromptEmbeds]
    faces: ConceptFaces

    def load(self, concept: ConceptPrompt, batch: int, cfg_scale: float) -> DiffusersConcept:
        """One concept for a batch of so many pictures.

        Raises:
            OMGError: a file is missing, broken or made for another model, or embeddings lack a part.
        """
        unet, text = networks(self.pipe, self.files, concept.tags, concept.field)
        encoded = self._encoded(concept, text, batch, cfg_scale)
        bare = self._encoded(concept, {}, batch, cfg_scale) if concept.needs_bare else encoded
        own, everywhere = ({tag.name: None for tag in tags} for tags in (concept.tags, self.style_tags))
        warnings = [also_in_main_prompt(concept.field, name) for name in own if name in everywhere]
        face = self.faces.load(concept.index)
        return DiffusersConcept(unet, bool(concept.tags) or face is not None, encoded, bare, face,
                                [*warnings, *self.faces.warnings(concept.index)])

    def _encoded(self, concept: ConceptPrompt, networks: Sources, batch: int, cfg_scale: float) -> ConceptConditioning:
        """Its prompts, with networks in the text encoders, for a batch of so many pictures."""
        embeds = self.embeds.get(concept.index)
        if embeds is None:
            negative = self.negative_prompt if concept.negatives is None else concept.negatives[0]
            embeds = encode(self.pipe, concept.texts[0], negative, summed([self.style, networks]))
        own = self.request.concepts[concept.index].cfg_scale
        highest = cfg_scale if own is None else max(own) if isinstance(own, tuple) else own
        check_embeds(self.pipe, embeds, f"concept_embeds[{concept.index}]", highest > 1)
        embeds = embeds.to(self.pipe._execution_device, self.pipe.unet.dtype)
        return embeds.conditioning(batch, time_ids(*self.size, embeds))

    def reworded(self, prompts: Sequence[str]) -> ConceptConditioning:
        """Global prompts with other words, one for each picture."""
        embeds = encode(self.pipe, prompts[0], self.negative_prompt, self.style)
        embeds = embeds.to(self.pipe._execution_device, self.pipe.unet.dtype)
        return embeds.conditioning(len(prompts), time_ids(*self.size, embeds))


def networks(pipe: DiffusionPipeline, files: LoraFiles, tags: Sequence[Tag], field: str) -> tuple[Sources, Sources]:
    """What the tags' files do to the UNet and to the text encoders.

    Raises:
        OMGError: see :meth:`LoraFiles.load`.
    """
    loras = [(files.load(pipe, tag, field), tag) for tag in tags]
    return (summed([on_unet(pipe, lora, tag.unet, tag.dyn) for lora, tag in loras]),
            summed([on_text_encoders(pipe, lora, tag.te, tag.dyn) for lora, tag in loras]))
