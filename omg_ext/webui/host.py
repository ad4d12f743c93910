"""The web UI as a host of the two passes: see :class:`omg_ext.host.Host`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from modules import devices, processing, sd_unet, shared
from torch import Tensor, nn

from .. import request
from ..comprehension.phrases import Stage
from ..comprehension.places import Places
from ..errors import OMGError
from ..faces.base import ConceptFace, Face
from ..faces.concepts import ConceptFaces
from ..host import ConceptConditioning, ConceptPrompt, Prompts, Tap
from ..passes.first import FirstTap
from ..request.tags import also_in_main_prompt
from ..unet.calls import Row
from ..unet.deltas import Sources
from ..unet.patches import Patches
from ..unet.regions import Regions
from .block_weights import ARGUMENTS
from .conditioning import EncodedPrompts, as_host_conditioning, encode, prompt_words, steps_of_pass, wordings
from .controlnet import Units
from .denoiser import tapped
from .faces import Faces
from .neighbours import Counters, refuse, refuse_negative_weights, refuse_tiles, scripts_of
from .networks import Kept, active_files, add_hashes, file_of, on_unet, refuse_unknown
from .refiner import Refiner

Sample = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class WebUIConcept:
    """See :class:`omg_ext.host.LoadedConcept`.

    Attributes:
        prompts, bare_prompts: encoded with its networks and without.
        denoiser: the web UI's, which knows how prompts are padded.
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


class WebUIHost:
    """One batch of the web UI. The global prompt's networks are in the model's weights, so there is no style to add.

    Args:
        p: the web UI's processing object.
        sample: runs the sampler that it is about to use once, from the start.
        kept: networks that were read before.
        models_of_faces: those that were read before.
        concept_prompts: each concept's for all pictures of all batches.
        asked: what the user asks for.

    Attributes:
        refiner: the pass's.

    Raises:
        OMGError: the model or a setting is out of OMG's reach.
    """

    def __init__(self, p: Any, sample: Sample, kept: Kept, models_of_faces: Faces, concept_prompts: Sequence[Prompts],
                 asked: request.Request):
        _check(p)
        refuse(p, asked)
        self._p, self._sample, self._kept, self._concept_prompts = p, sample, kept, concept_prompts
        self._asked, self._models_of_faces = asked, models_of_faces
        self._faces = ConceptFaces(models_of_faces, self.unet, asked.concepts, {}, steps_of_pass(p))
        self._samplings = 0
        self._counters, self._units = Counters(p), Units(scripts_of(p), asked.control_concepts)
        self.refiner = Refiner(p)
        self.style: Sources = {}
        self.tag_arguments: Collection[str] = ARGUMENTS
        self.context_name = "crossattn"
        self.pooled_name = "vector" if shared.sd_model.is_sdxl else None

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = shared.sd_model.model.diffusion_model
        return unet

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

    def load(self, concept: ConceptPrompt) -> WebUIConcept:
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
        face = self._faces.load(concept.index)
        warnings += self._faces.warnings(concept.index)
        if face is not None and self._asked.concepts[concept.index].identitynet.scale and self._models_of_faces.note:
            warnings.append(f"concepts[{concept.index}].identitynet: {self._models_of_faces.note}")
        return WebUIConcept(on_unet(nets, concept.field), bool(nets) or face is not None, prompts, bare,
                            self._p.sampler.model_wrap_cfg, face, warnings)

    def sample(self, tap: Tap) -> Tensor:
        self._samplings += 1
        if self._samplings > 1:
            shared.state.nextjob()
            self._counters.put_back()
        refuse_tiles(tap.patches)
        left_out = self.refiner.left_out() if isinstance(tap, FirstTap) else nullcontext()
        with (tapped(self._p.sampler.model_wrap_cfg, tap, self.refiner),
              self._units.following(tap.patches), left_out):
            try:
                return self._sample()
            except Exception:
                self.refiner.undo()
                raise
            finally:
                self._models_of_faces.rest()

    def unet_input(self, cond: Mapping[str, Tensor], like: Any, rows: Sequence[Row]) -> dict[str, Any]:
        return as_host_conditioning(cond, like, rows)

    def prompt_words(self) -> Mapping[tuple[int, int], Sequence[Stage]]:
        return prompt_words(self._p)

    def wordings(self, prompt: str) -> Sequence[str]:
        return wordings(prompt, self._p.firstpass_steps)

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


def _check(p: Any) -> None:
    """Refuse what the second pass could not repeat or whose UNet it could not reach."""
    model = shared.sd_model
    if getattr(model, "is_sd3", False) or model.model.conditioning_key == "crossattn-adm":
        raise OMGError("checkpoint", f"{model.sd_checkpoint_info.name} has no UNet that OMG knows; "
                                     "load an SD 1.x, SD 2.x or SDXL checkpoint")
    if sd_unet.current_unet is not None:
        raise OMGError("SD Unet", "OMG cannot reach into a compiled UNet; set SD Unet to None")
