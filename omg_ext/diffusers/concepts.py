"""Loads what prompts name: networks, and prompts encoded with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from ..host import ConceptConditioning, ConceptPrompt
from ..request import Request
from ..request.tags import Tag
from ..unet.deltas import Deltas, summed
from .loras import LoraFiles, on_text_encoders, on_unet
from .prompts import PromptEmbeds, check_embeds, encode, time_ids


@dataclass(frozen=True, eq=False)
class Concept:
    """See :class:`omg_ext.host.LoadedConcept`; its prompts are the same at every step."""

    networks: Deltas
    encoded: ConceptConditioning

    def conditioning(self, step: int) -> ConceptConditioning:
        return self.encoded


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
        embeds: concepts' prompts that come encoded, by index.
    """

    pipe: DiffusionPipeline
    files: LoraFiles
    request: Request
    size: tuple[int, int]
    negative_prompt: str | None
    style: Deltas
    embeds: Mapping[int, PromptEmbeds]

    def load(self, concept: ConceptPrompt, batch: int, cfg_scale: float) -> Concept:
        """One concept for a batch of so many pictures.

        Raises:
            OMGError: a file is missing, broken or made for another model, or embeddings lack a part.
        """
        unet, text = networks(self.pipe, self.files, concept.tags, concept.field)
        embeds = self.embeds.get(concept.index)
        if embeds is None:
            negative = self.negative_prompt if concept.negative is None else concept.negative
            embeds = encode(self.pipe, concept.text, negative, summed([self.style, text]))
        own_scale = self.request.concepts[concept.index].cfg_scale
        check_embeds(self.pipe, embeds, f"concept_embeds[{concept.index}]",
                     (cfg_scale if own_scale is None else own_scale) > 1)
        return Concept(unet, embeds.conditioning(batch, time_ids(*self.size, embeds)))


def networks(pipe: DiffusionPipeline, files: LoraFiles, tags: Sequence[Tag], field: str) -> tuple[Deltas, Deltas]:
    """What the tags' files do to the UNet and to the text encoders.

    Raises:
        OMGError: see :meth:`LoraFiles.load`.
    """
    loras = [(files.load(pipe, tag.name, field), tag) for tag in tags]
    return (summed([on_unet(pipe, lora, tag.unet, tag.dyn) for lora, tag in loras]),
            summed([on_text_encoders(pipe, lora, tag.te, tag.dyn) for lora, tag in loras]))
