"""Forge as a host of the two passes: see :class:`omg_ext.host.Host`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from modules import shared
from torch import Tensor, nn

from .. import request
from ..comprehension.phrases import Stage
from ..errors import OMGError
from ..host import ConceptConditioning, ConceptPrompt, Prompts, Tap
from ..request.tags import also_in_main_prompt
from ..unet.calls import Row
from ..webui.batch import Batch, EncodedConcept, Kept, Sample
from ..webui.conditioning import encode, prompt_words
from ..webui.faces import Faces
from ..webui.neighbours import refuse_negative_weights
from ..webui.network_files import active_files, add_hashes, file_of, refuse_unknown
from ..webui.reach import refuse_unreachable
from ..webui.which import KIND
from . import control
from .backend import backend
from .denoiser import tapped
from .networks import Kept as KeptNetworks
from .networks import in_text_encoders, on_unet
from .refiner import refiner_of

UNET_NAMES = {"crossattn": "c_crossattn", "vector": "y"}
"""What Forge's models call the parts of conditioning"""


class ForgeHost(Batch):
    """One batch of Forge. The global prompt's networks are in the model's weights, so there is no style to add.

    Args:
        p, sample, kept, concept_prompts, asked: see :class:`omg_ext.webui.batch.Batch`.

    Raises:
        OMGError: the model, an extension or a wish is out of OMG's reach.
    """

    def __init__(self, p: Any, sample: Sample, kept: Kept, concept_prompts: Sequence[Prompts],
                 asked: request.Request):
        refuse_unreachable(shared.sd_model)
        super().__init__(p, sample, kept, concept_prompts, asked, refiner_of(p))
        self._refuse()
        self.tag_arguments: Collection[str] = ()

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = self._patcher.model.diffusion_model
        return unet

    @property
    def _patcher(self) -> Any:
        """The picture's own copy of what patches the UNet; other extensions have put theirs into it."""
        return shared.sd_model.forge_objects.unet

    def _refuse(self) -> None:
        if self.refiner.is_due and not backend.LEAVES_MODELS_WHOLE:
            raise OMGError("refiner", f"{KIND.value} does not keep the model that a refiner takes over from, which "
                                      "concepts need; take the refiner out, or turn OMG off")
        for index, concept in enumerate(self._asked.concepts):
            if concept.faces and not backend.DRAWS_FACES:
                raise OMGError(f"concepts[{index}].face", f"faces (InstantID) are not drawn in {KIND.value}; take "
                                                          "a LoRA for this concept, or Forge")
        control.refuse(self._patcher.controlnet_linked_list)
        self._refuse_attention(self._patcher.model_options["transformer_options"])

    def _refuse_attention(self, options: Mapping[str, Any]) -> None:
        """Refuse what other extensions have put in the place of attention, by what it would do to concepts' rows."""
        replaced = options.get("patches_replace", {})
        if replaced.get("attn1"):
            raise OMGError("other extensions", "one replaces self-attention (StyleAlign, SelfAttentionGuidance or a "
                                               "reference unit of ControlNet, say), which mixes or counts rows; turn "
                                               "it off for pictures with OMG")
        if {"attn2_patch", "attn2_output_patch"} & options.get("patches", {}).keys():
            raise OMGError("other extensions", "one changes what the prompt is attended to (Forge Couple, say), and "
                                               "concepts have prompts and places of their own; turn it off for "
                                               "pictures with OMG")
        if replaced.get("attn2") and self._asked.predict == "joint":
            raise OMGError("predict", "joint looks at each concept's place for itself, and another extension replaces "
                                      "cross-attention (as IP-Adapter does); choose shared, or turn it off")

    def load(self, concept: ConceptPrompt) -> EncodedConcept:
        refuse_negative_weights(self._p, [*concept.texts, *(concept.negatives or ())], concept.field)
        # as of the main prompt, tags do nothing where they are switched off
        tags = () if self._p.disable_extra_networks else concept.tags
        refuse_unknown(tags, concept.field)
        in_main_prompt = active_files()
        read = [(self._kept.read(shared.sd_model, tag, concept.field), tag) for tag in tags]
        # of one file Forge adds up different weights, and takes the same weight once
        in_text, in_unet = ([*dict.fromkeys((network, getattr(tag, part)) for network, tag in read)]
                            for part in ("te", "unet"))
        with in_text_encoders(shared.sd_model, in_text):
            prompts = encode(self._p, concept.texts, concept.negatives)
        bare = encode(self._p, concept.texts, concept.negatives) if concept.needs_bare and read else prompts
        networks = [*dict.fromkeys(network for network, _ in read)]
        add_hashes(self._p, networks)
        warnings = [also_in_main_prompt(concept.field, network.mentioned_name) for network in networks
                    if file_of(network) in in_main_prompt]
        warnings += [f"{concept.field}: {note}" for network in networks for note in network.notes]
        face, of_face = self._face(concept.index)
        return EncodedConcept(on_unet(self.unet, in_unet), bool(read) or face is not None, prompts, bare, None, face,
                              [*warnings, *of_face])

    def _tapped(self, tap: Tap) -> AbstractContextManager[None]:
        return tapped(self._patcher, self._p.sampler.model_wrap_cfg, tap, self.refiner, self._asked.control_concepts)

    def unet_input(self, cond: Mapping[str, Tensor], like: Any, rows: Sequence[Row]) -> dict[str, Any]:
        return {**like, **_by_unet_names(cond)}

    def prompt_words(self) -> Mapping[tuple[int, int], Sequence[Stage]]:
        return prompt_words(self._p, backend.reader(shared.sd_model))

    def reworded(self, prompts: Sequence[str]) -> ConceptConditioning:
        return encode(self._p, prompts, None).at(self._p.firstpass_steps)

    def look(self, latents: Tensor, noise: Tensor, at: float, cond: Mapping[str, Tensor]) -> Tensor:
        """See :class:`omg_ext.host.Host`. Nothing that other extensions have put into the model acts here."""
        patcher = self._patcher
        model, sigmas = patcher.model, backend.sigmas(patcher.model)
        sigma = sigmas[round((1 - at) * (len(sigmas) - 1))].to(latents)
        x = latents + sigma * noise
        concat = self._p.txt2img_image_conditioning(x)
        given = {"c_concat": concat} if concat.shape[2:] == x.shape[2:] else {}
        backend.prepare(patcher, x)
        try:
            denoised: Tensor = model.apply_model(x, sigma.expand(len(x)), **given, **_by_unet_names(cond),
                                                 transformer_options={})
        finally:
            backend.cleanup(patcher)
        return (x - denoised) / sigma


def kept() -> Kept:
    """See :class:`omg_ext.webui.engine.Engine`."""
    return Kept(KeptNetworks(), Faces(backend.identitynets()))


def open_host(p: Any, sample: Sample, kept: Kept, concept_prompts: Sequence[Prompts],
              asked: request.Request) -> ForgeHost:
    """See :class:`omg_ext.webui.engine.Engine`."""
    return ForgeHost(p, sample, kept, concept_prompts, asked)


def embeddings() -> list[Any]:
    """See :class:`omg_ext.webui.engine.Engine`."""
    return backend.embeddings(shared.sd_model)


def _by_unet_names(cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {UNET_NAMES[name]: tensor for name, tensor in cond.items()}
