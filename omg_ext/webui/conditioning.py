"""Concept prompts as the web UI encodes prompts: emphasis, schedules, ``AND``, long prompts, embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from modules import devices, processing, prompt_parser, sd_samplers, shared
from modules.sd_samplers_common import setup_img2img_steps
from torch import Tensor

from ..comprehension.phrases import Stage, Word, words_of
from ..host import ConceptConditioning
from ..unet.calls import Row
from .given import is_given

MARK = 1024


@dataclass
class EncodedPrompts:
    """One concept's prompts for all pictures of a batch, over all steps."""

    cond: Any
    uncond: Any

    def at(self, step: int, denoiser: Any = None) -> ConceptConditioning:
        """The conditioning at a sampling step, padded to one length if the web UI's settings say so.

        Args:
            denoiser: the web UI's, which knows how; None where it does not pad.
        """
        parts, cond = prompt_parser.reconstruct_multicond_batch(self.cond, step)
        uncond = prompt_parser.reconstruct_cond_batch(self.uncond, step)
        if denoiser is not None and cond.shape[1] != uncond.shape[1]:
            if shared.opts.pad_cond_uncond_v0:
                cond, uncond = denoiser.pad_cond_uncond_v0(cond, uncond)
            elif shared.opts.pad_cond_uncond:
                cond, uncond = denoiser.pad_cond_uncond(cond, uncond)
        return ConceptConditioning(_by_name(cond), parts, _by_name(uncond))


def _by_name(cond: Any) -> dict[str, Tensor]:
    return dict(cond) if isinstance(cond, dict) else {"crossattn": cond}


def as_host_conditioning(cond: Mapping[str, Tensor], like: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Rows of conditioning in the form the web UI's denoisers take (see its CFGDenoiser.forward).

    Args:
        like: such conditioning of global rows of the same pictures, whose image conditioning is taken.
        rows: what the rows are.
    """
    if shared.sd_model.is_sdxl:
        return {**cond, "crossattn": _marked(cond["crossattn"], like["crossattn"], rows), "c_concat": like["c_concat"]}
    return {"c_crossattn": [_marked(cond["crossattn"], like["c_crossattn"][0], rows)], "c_concat": like["c_concat"]}


def _marked(context: Tensor, like: Tensor, rows: Sequence[Row]) -> Tensor:
    """Context with sd-webui-controlnet's marks, if the global rows have them.

    Before each row's tokens it puts one of 1024s, or of -1024s for unconditional rows (its ``mark_prompt_context``). A
    call that mixes rows with and without is taken as one without.
    """
    # prompts are as long as some chunks; looking at the marks themselves would make a GPU wait
    if (like.shape[1] - context.shape[1]) % shared.sd_model.cond_stage_model_empty_prompt.shape[1] != 1:
        return context
    marks = context.new_tensor([-MARK if row.part is None else MARK for row in rows])
    return torch.cat([marks[:, None, None].expand(-1, 1, context.shape[2]), context], dim=1)


def encode(p: Any, prompts: Sequence[str], negatives: Sequence[str] | None) -> EncodedPrompts:
    """Encode a concept's prompts, one for each picture, with the networks that are active now.

    Args:
        negatives: None takes the pictures' own.
    """
    size: dict[str, int] = {"width": p.width, "height": p.height}
    global_negatives, hires_steps = p.negative_prompts, None
    if p.is_hr_pass:  # as the web UI's calculate_hr_conds
        size = {"width": p.hr_upscale_to_x, "height": p.hr_upscale_to_y}
        global_negatives = p.hr_negative_prompts
        hires_steps = steps_of_pass(p)
    conds = prompt_parser.SdConditioning(prompts, **size)
    unconds = prompt_parser.SdConditioning(global_negatives if negatives is None else negatives, **size,
                                           is_negative_prompt=True)
    schedule: dict[str, Any] = {"hires_steps": hires_steps}
    if hasattr(shared.opts, "use_old_scheduling"):  # Forge Neo has the new one alone
        schedule["use_old_scheduling"] = shared.opts.use_old_scheduling
    with devices.autocast():
        return EncodedPrompts(
            prompt_parser.get_multicond_learned_conditioning(shared.sd_model, conds, p.firstpass_steps, **schedule),
            prompt_parser.get_learned_conditioning(shared.sd_model, unconds, p.firstpass_steps, **schedule))


def steps_of_pass(p: Any) -> int:
    """How often the pass at hand asks its denoiser, which counts so: some samplers do so twice a step."""
    if is_given(p):  # the rest of the steps is skipped
        sampler, steps = sd_samplers.find_sampler_config(p.sampler_name), setup_img2img_steps(p)[1] + 1
        return int(sampler.total_steps(steps)) if sampler else steps
    if not p.is_hr_pass:
        return int(p.firstpass_steps)
    sampler = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
    steps = p.hr_second_pass_steps or p.steps
    return int(sampler.total_steps(steps)) if sampler else int(steps)


def forget_kept() -> None:
    """Have the web UI encode the next picture's prompts anew, whatever it has kept.

    sd-webui-controlnet marks what is kept, and forgets it once the UNet has been called. If that never happens, the
    next picture without a unit would be drawn with the marks for words.
    """
    for kind, names in ((processing.StableDiffusionProcessing, ("cached_c", "cached_uc")),
                        (processing.StableDiffusionProcessingTxt2Img, ("cached_hr_c", "cached_hr_uc"))):
        for name in names:
            setattr(kind, name, [None, None])


def prompt_words(p: Any, encoder: Any) -> dict[tuple[int, int], list[Stage]]:
    """What each (picture, part) of the global prompts says, as scheduled; positions in its conditioning.

    Args:
        encoder: the text encoder whose tokens count.
    """
    pictures, texts, _ = prompt_parser.get_multicond_prompt_list(p.prompts)
    schedules = prompt_parser.get_learned_conditioning_prompt_schedules(texts, p.firstpass_steps)
    stages = [[Stage(until, _words(text, encoder)) for until, text in schedule] for schedule in schedules]
    return {(picture, part): stages[number] for picture, parts in enumerate(pictures)
            for part, (number, _) in enumerate(parts)}


def wordings(prompt: str, steps: int) -> list[str]:
    """How a prompt reads at its steps, without its edits, as it reads last first."""
    schedule, = prompt_parser.get_learned_conditioning_prompt_schedules([prompt], steps)
    return list(dict.fromkeys(text for _, text in reversed(schedule)))


def _words(text: str, encoder: Any) -> list[Word]:
    """The words of a prompt that is read through some steps."""
    pieces: list[str] = []
    names: dict[int, str] = {}
    for chunk in encoder.process_texts([text])[0][0]:
        for fix in chunk.fixes:  # behind the start of the chunk
            start = len(pieces) + 1 + fix.offset
            names |= dict.fromkeys(range(start, start + int(fix.embedding.vectors)), fix.embedding.name)
        pieces += _pieces(encoder, chunk.tokens)
    return words_of(pieces, names)


def _pieces(encoder: Any, tokens: Sequence[int]) -> list[str]:
    """See :func:`omg_ext.comprehension.phrases.words_of`."""
    silent, spelled = {encoder.id_start, encoder.id_end}, _spelled(encoder, tokens)
    return ["" if token in silent else piece for token, piece in zip(tokens, spelled, strict=True)]


def _spelled(encoder: Any, tokens: Sequence[int]) -> Sequence[str]:
    if hasattr(encoder, "tokenizer"):
        spelled: Sequence[str] = encoder.tokenizer.convert_ids_to_tokens(tokens)
        return spelled
    from modules.sd_hijack_open_clip import tokenizer  # which Forge Neo lacks
    return [tokenizer.decoder[token] for token in tokens]
