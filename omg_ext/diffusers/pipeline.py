"""Both passes on a diffusers pipeline."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from ..comprehension import Models
from ..comprehension.overlay import overlay
from ..comprehension.places import Finding
from ..errors import OMGError
from ..faces.concepts import ConceptFaces
from ..passes.memory import Memory
from ..passes.session import Drawn, Session
from ..request import Layout, Request, parse_request
from ..request.tags import parse_tags, refuse_tags
from .concepts import Loader, networks
from .controls import Control, never_acting, row_controls
from .faces import FaceModels, PipelineFaces
from .host import DiffusersHost, decode, scheduler_of
from .loras import LoraFiles, LoraSource
from .prompts import PromptEmbeds, check_embeds, encode, time_ids

# runs on one model take turns: the scheduler's progress, the autoencoder's dtype and the UNet's hooks are shared
_LOCKS: WeakKeyDictionary[nn.Module, threading.Lock] = WeakKeyDictionary()


@dataclass
class OMGOutput:
    """What a call gives back.

    Attributes:
        images: the results (PIL pictures, or None if latents were asked for).
        latents: the final latents, [B, C, h, w].
        first_pass: the first pass's pictures, if ``request.show`` names them.
        first_pass_latents: the first pass's final latents, [B, C, h, w].
        overlay: the same with all that was found coloured and named, if ``request.show`` names it or for a preview.
        masks: float32 [H, W] by picture and concept; None where a concept was not found.
        findings: by picture what the detector saw, from left to right.
        warnings: what the user should know.
    """

    images: list[Image.Image] | None
    latents: Tensor
    first_pass_latents: Tensor
    masks: list[list[np.ndarray | None]]
    first_pass: list[Image.Image] = field(default_factory=list)
    overlay: list[Image.Image] = field(default_factory=list)
    findings: list[list[Finding]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class OMGPipeline:
    """Multi-concept generation on an SDXL or SD 1.5 pipeline.

    Args:
        pipe: the diffusers pipeline; its scheduler is used. It is left as it was after every call.
        loras: the folder of the files that ``<lora:name>`` tags name, or a mapping from names to files. What was read
            stays in memory with this object, or with a :class:`LoraFiles` given instead.
        device_budget, host_budget: bytes for stored attention queries on the UNet's device and in host memory; what
            fits in neither is recomputed.
        rows_per_call: at most so many concept rows in one UNet call; 0 for all.
        detectors: folders with the model files of detectors.
        keep_detectors: whether these models stay in memory between calls.
        faces: what draws concepts by a face.
    """

    def __init__(self, pipe: DiffusionPipeline, loras: LoraSource | LoraFiles | None = None, *,
                 device_budget: int = 2 << 30, host_budget: int = 8 << 30, rows_per_call: int = 0,
                 detectors: Sequence[str | Path] = (), keep_detectors: bool = False, faces: FaceModels | None = None):
        self.pipe = pipe
        self._faces = faces
        self._models = Models(folders=[Path(folder) for folder in detectors], is_keeping=keep_detectors)
        self._files = loras if isinstance(loras, LoraFiles) else LoraFiles(loras)
        self._memory = Memory(device_budget, host_budget, rows_per_call=rows_per_call)

    @classmethod
    def from_folder(cls, folder: str | Path, loras: LoraSource | LoraFiles | None = None, *,
                    dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any) -> OMGPipeline:
        """Load a diffusers pipeline folder; ``options`` are those of the constructor."""
        pipe = DiffusionPipeline.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
        return cls(pipe.to(device), loras, **options)

    @torch.no_grad()
    def __call__(self, request: Request | dict[str, Any] | None, prompt: str | None = None, *,
                 negative_prompt: str | None = None, prompt_embeds: PromptEmbeds | None = None,
                 concept_embeds: Mapping[int, PromptEmbeds] | None = None,
                 face_embeds: Mapping[int, Tensor] | None = None, steps: int = 50, cfg_scale: float = 7.5,
                 height: int | None = None, width: int | None = None, batch_size: int = 1, seed: int = 0,
                 latents: Tensor | None = None, eta: float = 0.0, controls: Sequence[Control] = (),
                 output_type: str = "pil") -> OMGOutput:
        """Generate. Calls on one model, from several threads too, take turns.

        Args:
            request: concepts and options, see :class:`omg_ext.request.Request`; None, or one that is not enabled, gives
                the ordinary picture.
            prompt: the global prompt p; its ``<lora:...>`` tags act everywhere (style). May be left out if
                ``prompt_embeds`` are given and no concept is to be found by attention.
            negative_prompt: the global negative prompt.
            prompt_embeds: instead of encoding ``prompt``.
            concept_embeds: by concept index, instead of encoding the concepts' prompts and negative prompts (their tags
                still count).
            face_embeds: by concept index, the embedding [E] of its face, not normalised, instead of reading its
                pictures.
            steps: sampling steps.
            cfg_scale: classifier-free guidance scale; 1 evaluates no unconditional rows.
            height, width: in pixels; None takes the pipeline's default.
            batch_size: pictures.
            seed: picture i is seeded with ``seed + i``.
            latents: initial noise of unit variance, [B, C, h, w], instead of noise from the seed; it decides size and
                number of the pictures.
            eta: for schedulers that take it.
            controls: ControlNets that act on all of it; what several add is summed. One that belongs to the pipeline
                is asked only if it is given here.
            output_type: "pil" or "latent".

        Raises:
            OMGError: anything the user can mend; the pipeline is as it was.
        """
        request = None if request is None else parse_request(request)
        if request is None or not request.enabled:
            request = Request(concepts=(), layout=Layout(cross=0, self_=0))
        for index in face_embeds or {} if request.concepts else ():
            if index not in range(len(request.concepts)):
                raise OMGError(f"face_embeds[{index}]", f"there is no such concept, only {len(request.concepts)}, "
                                                        "counted from 0")
        if prompt is None and prompt_embeds is None:
            raise OMGError("prompt", "give the global prompt or prompt_embeds")
        factor = self.pipe.vae_scale_factor
        if latents is not None:
            batch_size, height, width = len(latents), latents.shape[2] * factor, latents.shape[3] * factor
        size = self._side(height, "height"), self._side(width, "width")
        generators = [torch.Generator("cpu").manual_seed(seed + index) for index in range(batch_size)]
        # some samplers ask the UNet more often than once a step, and diffusers counts each time
        asked = len(scheduler_of(self.pipe, steps, self._device).timesteps) if controls or self._faces else 0
        acting = row_controls(self.pipe, controls, size, batch_size, asked, request.control_concepts)
        with _LOCKS.setdefault(self.pipe.unet, threading.Lock()):
            text, tags = parse_tags(prompt or "", "prompt")
            refuse_tags(negative_prompt or "", "negative_prompt")
            style_unet, style_text = networks(self.pipe, self._files, tags, "prompt")
            embeds = prompt_embeds or encode(self.pipe, text, negative_prompt, style_text)
            check_embeds(self.pipe, embeds, "prompt_embeds", cfg_scale > 1)
            embeds = embeds.to(self._device, self.pipe.unet.dtype)
            if latents is None:
                shape = (batch_size, self.pipe.unet.config.in_channels, size[0] // factor, size[1] // factor)
                latents = randn_tensor(shape, generators, device=self._device, dtype=self.pipe.unet.dtype)
            request = _with_negatives(request, concept_embeds or {}, embeds)
            self._models.device = self._device
            drawing = None if self._faces is None else PipelineFaces(self.pipe, self._faces)
            loader = Loader(self.pipe, self._files, request, size, negative_prompt, style_text, tags,
                            concept_embeds or {},
                            ConceptFaces(drawing, self.pipe.unet, request.concepts, face_embeds or {}, asked))
            host = DiffusersHost(self.pipe, loader, text, embeds.conditioning(batch_size, time_ids(*size, embeds)),
                                 style_unet, steps, eta, cfg_scale, generators,
                                 latents.to(self._device, self.pipe.unet.dtype), size, acting, drawing)
            session = Session(host, request, self._memory, self._models)
            drawn = _drawn(session, request)
            drawn.warnings.extend(never_acting(controls, asked))
            return self._output(request, drawn, output_type)

    def _output(self, request: Request, drawn: Drawn, output_type: str) -> OMGOutput:
        wants_overlay = "overlay" in request.show or request.preview
        first = decode(self.pipe, drawn.first) if "first_pass" in request.show or wants_overlay else []
        output = OMGOutput(None if output_type == "latent" else decode(self.pipe, drawn.latents), drawn.latents,
                           drawn.first, [], first if "first_pass" in request.show else [], warnings=drawn.warnings)
        if drawn.places is not None:
            output.masks, output.findings = drawn.places.masks, drawn.places.findings
        if wants_overlay and drawn.places is not None:
            names = [concept.phrase for concept in request.concepts]
            output.overlay = [Image.fromarray(overlay(np.asarray(picture), findings, masks, names, request.rest)) for
                              picture, findings, masks in zip(first, output.findings, output.masks, strict=True)]
        return output

    @property
    def _device(self) -> torch.device:
        return self.pipe._execution_device

    def _side(self, pixels: int | None, field_name: str) -> int:
        factor: int = self.pipe.vae_scale_factor
        pixels = pixels or self.pipe.unet.config.sample_size * factor
        if pixels % factor:
            raise OMGError(field_name, f"expected a multiple of {factor}, got {pixels}")
        return pixels


def _with_negatives(request: Request, concept_embeds: Mapping[int, PromptEmbeds], embeds: PromptEmbeds) -> Request:
    """The request with a negative prompt for each concept whose embeddings bring another than the picture's."""
    concepts = list(request.concepts)
    for index, concept in enumerate(concepts):
        own = concept_embeds.get(index)
        if own is not None and own.uncond is not None and concept.negative_prompt is None and not (
                embeds.uncond is not None and torch.equal(own.uncond.to(embeds.uncond), embeds.uncond)):
            concepts[index] = msgspec.structs.replace(concept, negative_prompt="")
    return msgspec.structs.replace(request, concepts=tuple(concepts))


def _drawn(session: Session, request: Request) -> Drawn:
    """Both passes, or the first alone if the request is a preview."""
    if not request.preview:
        return session.draw()
    drawn, first = session.preview()
    if first is not None:
        first.layout.store.clear()
    return drawn
