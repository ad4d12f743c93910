"""Concept prompts as the web UI encodes prompts: emphasis, schedules, ``AND``, long prompts, embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules import devices, prompt_parser, sd_samplers, shared
from torch import Tensor

from ..host import ConceptConditioning


@dataclass
class EncodedPrompts:
    """One concept's prompts for all pictures of a batch, over all steps."""

    cond: Any
    uncond: Any

    def at(self, step: int, denoiser: Any) -> ConceptConditioning:
        """The conditioning at a sampling step, padded to one length if the web UI's settings say so."""
        parts, cond = prompt_parser.reconstruct_multicond_batch(self.cond, step)
        uncond = prompt_parser.reconstruct_cond_batch(self.uncond, step)
        if cond.shape[1] != uncond.shape[1]:
            if shared.opts.pad_cond_uncond_v0:
                cond, uncond = denoiser.pad_cond_uncond_v0(cond, uncond)
            elif shared.opts.pad_cond_uncond:
                cond, uncond = denoiser.pad_cond_uncond(cond, uncond)
        return ConceptConditioning(_by_name(cond), parts, _by_name(uncond))


def _by_name(cond: Any) -> dict[str, Tensor]:
    return dict(cond) if isinstance(cond, dict) else {"crossattn": cond}


def as_host_conditioning(cond: Mapping[str, Tensor], like: Any) -> dict[str, Any]:
    """Rows of conditioning in the form the web UI's denoisers take (see its CFGDenoiser.forward).

    Args:
        like: such conditioning of global rows of the same pictures, whose image conditioning is taken.
    """
    if shared.sd_model.is_sdxl:
        return {**cond, "c_concat": like["c_concat"]}
    return {"c_crossattn": [cond["crossattn"]], "c_concat": like["c_concat"]}


def encode(p: Any, prompt: str, negative_prompt: str | None) -> EncodedPrompts:
    """Encode a concept's prompts with the networks that are active now. None takes each picture's negative prompt."""
    count = len(p.prompts)
    size: dict[str, int] = {"width": p.width, "height": p.height}
    global_negatives, hires_steps = p.negative_prompts, None
    if p.is_hr_pass:  # as the web UI's calculate_hr_conds
        size = {"width": p.hr_upscale_to_x, "height": p.hr_upscale_to_y}
        global_negatives = p.hr_negative_prompts
        sampler = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
        steps = p.hr_second_pass_steps or p.steps
        hires_steps = sampler.total_steps(steps) if sampler else steps
    prompts = prompt_parser.SdConditioning([prompt] * count, **size)
    negatives = prompt_parser.SdConditioning(
        global_negatives if negative_prompt is None else [negative_prompt] * count, **size, is_negative_prompt=True)
    schedule = (p.firstpass_steps, hires_steps, shared.opts.use_old_scheduling)
    with devices.autocast():
        return EncodedPrompts(
            prompt_parser.get_multicond_learned_conditioning(shared.sd_model, prompts, *schedule),
            prompt_parser.get_learned_conditioning(shared.sd_model, negatives, *schedule))


def prompt_tokens(p: Any) -> dict[tuple[int, int], list[int]]:
    """The tokens of each (picture, part) of the global prompts, in the order of the conditional rows."""
    pictures, texts, _ = prompt_parser.get_multicond_prompt_list(p.prompts)
    encoder = shared.sd_model.cond_stage_model
    return {(picture, part): _tokens(encoder, p, texts[number]) for picture, parts in enumerate(pictures)
            for part, (number, _) in enumerate(parts)}


def phrase_tokens(phrase: str) -> list[int]:
    """The tokens of a phrase within a prompt."""
    tokens: list[int] = shared.sd_model.cond_stage_model.tokenize([phrase])[0]
    return tokens


def _tokens(encoder: Any, p: Any, text: str) -> list[int]:
    """The prompt's tokens in the order of the conditioning; of a scheduled prompt, those of its last stage."""
    schedule = prompt_parser.get_learned_conditioning_prompt_schedules([text], p.firstpass_steps)[0]
    batch_chunks, _ = encoder.process_texts([schedule[-1][1]])
    return [token for chunk in batch_chunks[0] for token in chunk.tokens]
