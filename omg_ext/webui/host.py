"""The web UI as a host of the two passes: see :class:`omg_ext.host.Host`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from modules import devices, processing, sd_unet, shared
from torch import Tensor, nn

from ..errors import OMGError
from ..host import ConceptConditioning, ConceptPrompt, Tap
from ..unet.deltas import Deltas
from .conditioning import EncodedPrompts, as_host_conditioning, encode, phrase_tokens, prompt_tokens
from .denoiser import tapped
from .networks import Kept, add_hashes, on_unet, refuse_unknown

Sample = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Concept:
    """See :class:`omg_ext.host.LoadedConcept`.

    Attributes:
        denoiser: the web UI's, which knows how prompts are padded.
    """

    networks: Deltas
    prompts: EncodedPrompts
    denoiser: Any

    def conditioning(self, step: int) -> ConceptConditioning:
        return self.prompts.at(step, self.denoiser)


class WebUIHost:
    """One batch of the web UI. The global prompt's networks are in the model's weights, so there is no style to add.

    Args:
        p: the web UI's processing object.
        sample: runs the sampler that it is about to use once, from the start.
        kept: networks that were read before.

    Raises:
        OMGError: the model or a setting is out of OMG's reach.
    """

    def __init__(self, p: Any, sample: Sample, kept: Kept):
        _check(p)
        self._p, self._sample, self._kept = p, sample, kept
        self._samplings = 0
        self.style: Deltas = {}

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

    def load(self, concept: ConceptPrompt) -> Concept:
        refuse_unknown(concept.tags, concept.field)
        with self._kept.activated(concept.tags, concept.field) as nets:
            prompts = encode(self._p, concept.text, concept.negative)
        add_hashes(self._p, nets)
        return Concept(on_unet(nets, concept.field), prompts, self._p.sampler.model_wrap_cfg)

    def sample(self, tap: Tap) -> Tensor:
        self._samplings += 1
        if self._samplings > 1:
            shared.state.nextjob()
        with tapped(self._p.sampler.model_wrap_cfg, tap):
            return self._sample()

    def conditioning(self, cond: Mapping[str, Tensor], like: Any) -> dict[str, Any]:
        return as_host_conditioning(cond, like)

    def prompt_tokens(self) -> dict[tuple[int, int], list[int]]:
        return prompt_tokens(self._p)

    def phrase_tokens(self, phrase: str) -> list[int]:
        return phrase_tokens(phrase)

    def decode(self, latents: Tensor, picture: int) -> npt.NDArray[np.uint8]:
        # as the web UI, which decodes after sampling: its autoencoder may be lifted out of half precision
        with devices.without_autocast():
            decoded = processing.decode_latent_batch(shared.sd_model, latents[picture:picture + 1],
                                                     target_device=devices.cpu, check_for_nans=True)[0]
        pixels = ((decoded.float() + 1.0) / 2.0).clamp(0.0, 1.0)
        return (255.0 * pixels.permute(1, 2, 0).numpy()).astype(np.uint8)


def _check(p: Any) -> None:
    """Refuse what the second pass could not repeat or whose UNet it could not reach."""
    model = shared.sd_model
    if getattr(model, "is_sd3", False) or model.model.conditioning_key == "crossattn-adm":
        raise OMGError("checkpoint", f"{model.sd_checkpoint_info.name} has no UNet that OMG knows; "
                                     "load an SD 1.x, SD 2.x or SDXL checkpoint")
    if sd_unet.current_unet is not None:
        raise OMGError("SD Unet", "OMG cannot reach into a compiled UNet; set SD Unet to None")
    refiner, switch_at = p.refiner_checkpoint_info, p.refiner_switch_at
    if refiner not in (None, model.sd_checkpoint_info) and (switch_at is None or switch_at < 1):
        raise OMGError("refiner", "a refiner replaces the model in the middle of a pass, and the concepts' networks "
                                  "with it; turn the refiner off to use OMG")
