"""A job's infotext."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..infotext import FOUND, KEY, WARNINGS, infotext_value, parameters
from ..jobs.job import Job
from .hashes import lora_hash, model_hash
from .samplers import AUTOMATIC, sampling


def infotext(job: Job, checkpoint: Path, networks: Mapping[str, Path], found: Sequence[Mapping[str, Any]],
             warnings: Sequence[str]) -> str:
    """As the web UI writes it, so that it can be pasted there.

    Args:
        checkpoint: its file or folder.
        networks: the files of LoRAs by their names in the prompts.
        found: what the detector saw.
        warnings: what the user should know.
    """
    sampler, scheduler = sampling(job.sampler, job.scheduler)
    scale = job.cfg_scale
    is_file = checkpoint.is_file()
    is_omg = job.request is not None and job.request.enabled
    return parameters(job.prompt, job.negative_prompt, {
        "Steps": job.steps, "Sampler": sampler.name,
        "Schedule type": AUTOMATIC if sampler.has_own_timesteps else scheduler,
        "CFG scale": int(scale) if scale == int(scale) else scale, "Seed": job.seed,
        "Size": f"{job.width}x{job.height}", "Model hash": model_hash(checkpoint) if is_file else None,
        "Model": checkpoint.stem if is_file else checkpoint.name,
        "RNG": "CPU",  # where the noise comes from, in the web UI's words
        "Lora hashes": ", ".join(f"{name}: {lora_hash(file)}" for name, file in networks.items()) or None,
        KEY: infotext_value(job.request) if is_omg and job.request is not None else None,
        FOUND: json.dumps(found) if found else None, WARNINGS: "; ".join(warnings) or None,
        "Version": f"omg-webui {__version__}"})
