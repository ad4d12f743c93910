"""The web UI as a host of the two passes: see :class:`omg_ext.host.Host`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from modules import devices, sd_hijack, sd_unet, shared
from torch import Tensor, nn

from .. import request
from ..comprehension.phrases import Stage
from ..errors import OMGError
from ..host import ConceptConditioning, ConceptPrompt, Prompts, Tap
from ..request.tags import also_in_main_prompt
from ..unet.calls import Row
from .batch import Batch, EncodedConcept, Kept, Sample
from .block_weights import ARGUMENTS
from .conditioning import as_host_conditioning, encode, prompt_words
from .controlnet import Units
from .denoiser import tapped
from .faces import Faces
from .neighbours import refuse_negative_weights, scripts_of
from .network_files import active_files, add_hashes, file_of, refuse_unknown
from .networks import Kept as KeptNetworks
from .networks import on_unet
from .refiner import Refiner
from .sgm_identitynets import SgmIdentityNets


class WebUIHost(Batch):
    """One batch of the web UI. The global prompt's networks are in the model's weights, so there is no style to add.

    Args:
        p, sample, kept, concept_prompts, asked: see :class:`.Batch`.

    Raises:
        OMGError: the model or a setting is out of OMG's reach.
    """

    def __init__(self, p: Any, sample: Sample, kept: Kept, concept_prompts: Sequence[Prompts],
                 asked: request.Request):
        _check(p)
        super().__init__(p, sample, kept, concept_prompts, asked, Refiner(p))
        self._units = Units(scripts_of(p), asked.control_concepts)
        self.tag_arguments: Collection[str] = ARGUMENTS

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = shared.sd_model.model.diffusion_model
        return unet

    def load(self, concept: ConceptPrompt) -> EncodedConcept:
        refuse_negative_weights(self._p, [*concept.texts, *(concept.negatives or ())], concept.field)
        # as of the main prompt, tags do nothing where they are switched off
        tags = () if self._p.disable_extra_networks else concept.tags
        refuse_unknown(tags, concept.field)
        in_main_prompt = active_files()
        with self._kept.activated(self._p, tags, concept.field) as nets:
            prompts = encode(self._p, concept.texts, concept.negatives)
        bare = encode(self._p, concept.texts, concept.negatives) if concept.needs_bare and nets else prompts
        add_hashes(self._p, nets)
        warnings = [also_in_main_prompt(concept.field, net.mentioned_name) for net in nets
                    if file_of(net) in in_main_prompt]
        face, of_face = self._face(concept.index)
        return EncodedConcept(on_unet(nets, concept.field), bool(nets) or face is not None, prompts, bare,
                              self._p.sampler.model_wrap_cfg, face, [*warnings, *of_face])

    @contextmanager
    def _tapped(self, tap: Tap) -> Iterator[None]:
        with tapped(self._p.sampler.model_wrap_cfg, tap, self.refiner), self._units.following(tap.patches):
            yield

    def unet_input(self, cond: Mapping[str, Tensor], like: Any, rows: Sequence[Row]) -> dict[str, Any]:
        return as_host_conditioning(cond, like, rows)

    def prompt_words(self) -> Mapping[tuple[int, int], Sequence[Stage]]:
        conditioner = shared.sd_model.cond_stage_model
        # SDXL has several encoders, and takes the first's tokens for all
        encoders = getattr(conditioner, "embedders", [conditioner])
        return prompt_words(self._p, next(each for each in encoders if hasattr(each, "process_texts")))

    def reworded(self, prompts: Sequence[str]) -> ConceptConditioning:
        return encode(self._p, prompts, None).at(self._p.firstpass_steps, self._p.sampler.model_wrap_cfg)

    def look(self, latents: Tensor, noise: Tensor, at: float, cond: Mapping[str, Tensor]) -> Tensor:
        model = shared.sd_model
        t = round((1 - at) * (len(model.alphas_cumprod) - 1))
        kept = model.alphas_cumprod[t].to(latents)
        x = latents * kept.sqrt() + noise * (1 - kept).sqrt()
        concat = self._p.txt2img_image_conditioning(x)
        own = getattr(self._p, "image_conditioning", None)
        if own is not None and own.shape[1] != concat.shape[1]:
            concat = own[:1].expand(len(x), -1, -1, -1)  # the depth of what was given, the same for all pictures
        given = ({**cond, "c_concat": [concat]} if model.is_sdxl
                 else {"c_crossattn": [cond["crossattn"]], "c_concat": [concat]})
        with devices.autocast(), self._units.resting():
            output: Tensor = model.apply_model(x, torch.full((len(x),), t, device=x.device), given)
        return output


def _check(p: Any) -> None:
    """Refuse what the second pass could not repeat or whose UNet it could not reach."""
    model = shared.sd_model
    if getattr(model, "is_sd3", False) or model.model.conditioning_key == "crossattn-adm":
        raise OMGError("checkpoint", f"{model.sd_checkpoint_info.name} has no UNet that OMG knows; "
                                     "load an SD 1.x, SD 2.x or SDXL checkpoint")
    if sd_unet.current_unet is not None:
        raise OMGError("SD Unet", "OMG cannot reach into a compiled UNet; set SD Unet to None")


def kept() -> Kept:
    """See :class:`.engine.Engine`."""
    return Kept(KeptNetworks(), Faces(SgmIdentityNets()))


def open_host(p: Any, sample: Sample, kept: Kept, concept_prompts: Sequence[Prompts],
              asked: request.Request) -> WebUIHost:
    """See :class:`.engine.Engine`."""
    return WebUIHost(p, sample, kept, concept_prompts, asked)


def embeddings() -> list[Any]:
    """See :class:`.engine.Engine`."""
    return sorted((name, each.shorthash) for name, each
                  in sd_hijack.model_hijack.embedding_db.word_embeddings.items())
