"""Draws jobs on diffusers pipelines, of which one at a time is loaded."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ..comprehension import Models
from ..comprehension.outlines import outlined
from ..comprehension.places import require_finders
from ..errors import OMGError
from ..jobs.draw import Drawn
from ..jobs.job import Job
from ..request import Request
from ..request.tags import Tag, parse_tags, refuse_tags
from . import loading, samplers
from .checkpoints import FIELD, Checkpoints, Kind, kind_of
from .faces import FaceModels
from .loras import LoraFiles, LoraSource
from .parameters import infotext
from .pipeline import OMGOutput, OMGPipeline

Load = Callable[[Path, torch.dtype], DiffusionPipeline]
"""Loads a checkpoint in a precision, into host memory"""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
OFFLOADS = ("none", "model", "sequential")
# weights, prompt editing, and words that part a prompt
_OF_WEB_UI = re.compile(r"\([^()]+:\s*[\d.]+\s*\)|\[[^][]*:[^][]*\]|\b(?:BREAK|AND)\b")
# bytes of LoRAs that are kept for the next job
_LORA_BUDGET = 4 << 30


@dataclass(eq=False)
class DiffusersEngine:
    """See :class:`omg_ext.jobs.draw.Engine`.

    Attributes:
        checkpoint: for jobs that name none: a folder of diffusers', or a file of SDXL's or SD 1.5's.
        checkpoints: the folder in which jobs' names of checkpoints are looked up.
        loras: see :class:`.LoraFiles`.
        config: what single files lack, see :func:`.loading.load`.
        dtype: of :data:`DTYPES`; empty takes ``float16`` on a GPU.
        device: as torch names it; empty takes a GPU if there is one.
        offload: what waits in host memory until it is needed: nothing, each model, or each layer.
        detectors: folders with detectors' model files.
        keep_detectors: whether these stay in memory between jobs.
        faces: what draws concepts by a face.
        load: instead of :func:`.loading.load`: then files are taken for what it can load.

    Raises:
        OMGError: an option is unknown.
    """

    checkpoint: str | Path | None = None
    checkpoints: str | Path | None = None
    loras: LoraSource | None = None
    config: str | Path | None = None
    dtype: str = ""
    device: str = ""
    offload: Literal["none", "model", "sequential"] = "none"
    detectors: Sequence[str | Path] = ()
    keep_detectors: bool = False
    faces: FaceModels | None = None
    load: Load | None = None
    _omg: OMGPipeline | None = field(default=None, init=False)
    _loaded: Path | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name, value, known in (("dtype", self.dtype, ("", *DTYPES)), ("offload", self.offload, OFFLOADS)):
            if value not in known:
                raise OMGError(name, f"{value!r} is not known here; known: {', '.join(filter(None, known))}")
        self.device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._files = LoraFiles(self.loras, _LORA_BUDGET)
        self._places = Checkpoints(self.checkpoint, self.checkpoints)
        self._config = None if self.config is None else Path(self.config)
        self._known_tags: dict[str, Path] = {}
        self._finders = Models(folders=[Path(folder) for folder in self.detectors])
        self._known_finders: set[Hashable] = set()

    def check(self, job: Job) -> None:
        """See :class:`omg_ext.jobs.draw.Engine`. What was found is not looked for again."""
        samplers.sampling(job.sampler, job.scheduler)
        self._kind(self._places.find(job.checkpoint))
        refuse_tags(job.negative_prompt, "negative_prompt")
        request = _request(job)
        if request is not None:
            self._check_request(request)
        self._networks(job)

    def draw(self, job: Job) -> Drawn:
        """See :class:`omg_ext.jobs.draw.Engine`. On a lack of memory the pipeline stays usable."""
        self.check(job)
        path = self._places.find(job.checkpoint)
        try:
            output = self._draw(job, path)
        except OMGError as error:
            raise _of_job(error) from error.__cause__
        except torch.cuda.OutOfMemoryError:
            output = None
        if output is None:  # what the error's frames held is let go of by now
            _free()
            if self._omg is None:
                raise OMGError(FIELD, f"{path.name} does not fit into the GPU's memory; {self._advice()}")
            raise OMGError("width", f"the GPU's memory does not suffice for {job.width}x{job.height}; draw a smaller "
                                    f"picture{', fewer concepts' if job.concepts else ''}, or {self._advice()}")
        return self._drawn(job, path, output)

    def _draw(self, job: Job, path: Path) -> OMGOutput:
        omg = self._pipeline(path)
        pipe, before = omg.pipe, omg.pipe.scheduler
        sampling = samplers.sampling(job.sampler, job.scheduler)
        pipe.scheduler = samplers.scheduler(sampling, before.config, is_sdxl=hasattr(pipe, "text_encoder_2"),
                                            seed=job.seed)
        try:
            return omg(_request(job), job.prompt,
                       # a negative prompt that is empty is none: SDXL takes zeros for it, as in the web UI
                       negative_prompt=job.negative_prompt or None, steps=job.steps, cfg_scale=job.cfg_scale,
                       height=job.height, width=job.width, seed=job.seed)
        finally:
            pipe.scheduler = before

    def _pipeline(self, path: Path) -> OMGPipeline:
        """The loaded one, or after it is gone another one."""
        if self._omg is None or self._loaded != path:
            self._omg, self._loaded = None, None
            _free()
            load = self.load or partial(loading.load, config=self._config)
            pipe = self._placed(load(path, self._dtype))
            pipe.set_progress_bar_config(disable=True)
            self._omg = OMGPipeline(pipe, self._files, detectors=self.detectors, keep_detectors=self.keep_detectors,
                                    faces=self.faces)
            self._loaded = path
        return self._omg

    def _placed(self, pipe: DiffusionPipeline) -> DiffusionPipeline:
        if self.offload == "model":
            pipe.enable_model_cpu_offload(device=self.device)
        elif self.offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=self.device)
        else:
            pipe.to(self.device)
        return pipe

    def _drawn(self, job: Job, path: Path, output: OMGOutput) -> Drawn:
        assert output.images is not None
        show = job.request.show if job.request is not None and job.request.enabled else ()
        extras: dict[str, Image.Image] = {name: pictures[0] for name, pictures in
                                          (("first_pass", output.first_pass), ("overlay", output.overlay)) if pictures}
        for index, mask in enumerate(output.masks[0] if "masks" in show and output.masks else ()):
            if mask is not None:
                extras[f"mask-{index}"] = Image.fromarray((mask * 255).round().astype("uint8"))
        warnings = [*self._doubts(job), *output.warnings]
        found = [finding.data() for finding in output.findings[0]] if output.findings else []
        networks = {tag.name: file for tag, file in self._networks(job)}
        return Drawn(output.images[0], infotext(job, path, networks, found, warnings), extras, warnings, found)

    def _doubts(self, job: Job) -> Iterator[str]:
        """What is made of the job that somebody might not expect."""
        assert self._omg is not None
        for name, prompt in job.prompts:
            written = _OF_WEB_UI.search(parse_tags(prompt, name)[0])
            if written is not None:
                yield f"{name}: {written[0]} is plain text here; only the web UI reads it as more"
        sampler = samplers.sampling(job.sampler, job.scheduler).sampler
        if sampler.has_own_timesteps and job.scheduler not in ("", samplers.AUTOMATIC):
            yield f"scheduler: {sampler.name} has timesteps of its own, so that {job.scheduler} has no effect"
        if self._omg.pipe.scheduler.config.get("rescale_betas_zero_snr") and not sampler.knows_zero_snr:
            yield (f"sampler: {sampler.name} does not begin from noise alone, as this checkpoint was trained to; "
                   "Euler, Euler a, DPM++ 2M and DDIM do")

    def _kind(self, path: Path) -> Kind | None:
        """What the checkpoint is; None if only the given loader can tell."""
        if self.load is not None:
            return None
        kind = kind_of(path)
        loading.check_tokenizer(kind, self._config)
        return kind

    def _check_request(self, request: Request) -> None:
        self._check_finders(request)
        for index, concept in enumerate(request.concepts):
            if not concept.enabled:
                continue
            refuse_tags(concept.negative_prompt or "", f"request.concepts[{index}].negative_prompt")
            if concept.face is not None and self.faces is None:
                raise OMGError(f"request.concepts[{index}].face", "nothing here draws faces; give InstantID's adapter "
                                                                  "(--face-adapter), or leave it out")

    def _check_finders(self, request: Request) -> None:
        """Refuse a request whose concepts cannot be found; nothing is looked for again that was there."""
        asked = (request.detector, request.detect, any(each.needs_detection for each in request.concepts),
                 bool(outlined(request.concepts)))
        if asked in self._known_finders:
            return
        try:
            require_finders(request, self._finders)
        except OMGError as error:
            raise _of_job(error) from None
        self._known_finders.add(asked)

    def _networks(self, job: Job) -> list[tuple[Tag, Path]]:
        """The job's tags, with their files."""
        return [(tag, self._file(tag, name)) for name, prompt in job.prompts for tag in parse_tags(prompt, name)[1]]

    def _file(self, tag: Tag, field_name: str) -> Path:
        if tag.name not in self._known_tags:
            self._known_tags[tag.name] = self._files.find(tag, field_name)
        return self._known_tags[tag.name]

    @property
    def _dtype(self) -> torch.dtype:
        return DTYPES[self.dtype or ("float16" if torch.device(self.device).type == "cuda" else "float32")]

    def _advice(self) -> str:
        advice = [f"offload {name}" for name in OFFLOADS[OFFLOADS.index(self.offload) + 1:]]
        if self._dtype == torch.float32:
            advice.append("dtype float16")
        return f"start with {' or '.join(advice)}" if advice else "take a GPU with more"


def _request(job: Job) -> Request | None:
    """None for an ordinary picture."""
    return job.request if job.request is not None and job.request.enabled else None


def _of_job(error: OMGError) -> OMGError:
    """The same, where a field of the request is named, as a field of the job."""
    names = {known.encode_name for known in msgspec.structs.fields(Request)}
    if error.field.split(".")[0].split("[")[0] in names:
        return OMGError(f"request.{error.field}", error.message)
    return error


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
