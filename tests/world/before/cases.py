"""The requests whose pictures are kept, by host and name.

Short samplings of the small world, but for network types that it has none of. All samplings are calm: rounding moves
their pictures by one grey level at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PROMPT = "a man and a woman in the park"
LEFT, RIGHT = {"box": [0, 0.1, 0.48, 1]}, {"box": [0.52, 0.1, 1, 1]}
RUSTY = "a sks man and a woman in the park <lora:rusty:1>"
AZURA = "a man and a phol woman in the park <lora:azura:1>"
WORLD, TINY = "world", "tiny-sdxl"


@dataclass(frozen=True)
class Case:
    """What a host is asked for.

    Attributes:
        request: OMG's part.
        options: what differs from the host's own defaults here: arguments of ``OMGPipeline``'s call, or of txt2img.
        checkpoint: of the web UI.
        scheduler: a class of diffusers; without one it is the small world's DDIM.
    """

    request: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = WORLD
    scheduler: str = ""


def request(*concepts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request to compute as at the commit whose pictures are kept."""
    return {"concepts": list(concepts), "detector": "attention", "predict": "separate", "blend_start": 0.3,
            "strict": True, **fields}


def found(phrase: str, prompt: str, **fields: Any) -> dict[str, Any]:
    """A concept for the detector."""
    return {"phrase": phrase, "prompt": prompt, **fields}


def placed(where: dict[str, Any], prompt: str, **fields: Any) -> dict[str, Any]:
    """A concept in a given place."""
    return {"where": where, "prompt": prompt, **fields}


IN_BOXES = request(placed(LEFT, RUSTY), placed(RIGHT, AZURA))
BY_ATTENTION = request(found("man", RUSTY), found("woman", AZURA))
AT_ONCE = request(placed(LEFT, RUSTY), placed(RIGHT, AZURA), blend_start=0, layout={"cross": 0, "self": 0})
MIXED = request(found("man", RUSTY), placed({"box": [0, 0, 0.55, 1]}, AZURA), blend_start=0.2,
                layout={"cross": 0.8, "self": 0.8}, mask={"grow": 0.03, "feather": 0.02})
OWN_SETTINGS = request(
    placed(LEFT, "a sks man in the park <lora:rusty:1:0.8:4>", strength=0.6, cfg_scale=8, negative_prompt="a dog"),
    placed({"box": [0.4, 0, 1, 1]}, AZURA, cfg_scale=1))

DIFFUSERS: Mapping[str, Case] = {
    "boxes": Case(IN_BOXES),
    "attention": Case(BY_ATTENTION),
    "at-once": Case(AT_ONCE),
    "batch": Case(MIXED, {"batch_size": 2, "seed": 2}, scheduler="EulerAncestralDiscreteScheduler"),
    "own-settings": Case(OWN_SETTINGS, {"negative_prompt": "two dogs"}),
    "style": Case(BY_ATTENTION, {"prompt": f"{PROMPT} <lora:goldie:0.6>"}, scheduler="DPMSolverMultistepScheduler"),
}
WEBUI: Mapping[str, Case] = {
    "boxes": Case(IN_BOXES),
    "attention": Case(BY_ATTENTION),
    "at-once": Case(AT_ONCE, {"prompt": f"{PROMPT} <lora:goldie:0.6>", "sampler_name": "DPM++ 2M"}),
    "batch": Case(MIXED, {"batch_size": 2, "seed": 2, "sampler_name": "Euler a"}),
    "own-settings": Case(OWN_SETTINGS, {"negative_prompt": "two dogs"}),
    "hires": Case(BY_ATTENTION, {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7,
                                 "hr_second_pass_steps": 6}),
    "and": Case(request(found("man", f"{RUSTY} AND a sks man :0.5"), placed(RIGHT, AZURA)),
                {"prompt": f"{PROMPT} AND a woman at night :0.4", "seed": 2}),
    "lycoris": Case(request(placed(LEFT, "a portrait of a man <lora:sdxl-loha:0.7>"),
                            placed(RIGHT, "a portrait of a woman <lora:sdxl-oft:0.7>")),
                    {"prompt": "a photo of a man and a woman <lora:sdxl-norm:0.5>"}, checkpoint=TINY),
}
