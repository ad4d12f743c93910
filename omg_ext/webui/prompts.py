"""Concepts' prompts go through what the web UI and extensions do to the main prompt: styles, wildcards, comments."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from modules import shared
from modules.styles import extract_style_text_from_prompt

from ..errors import OMGError
from ..host import Prompts
from ..infotext import request_text
from ..request import Concept, Request, parse_request

# by the beginnings of their titles: scripts that rewrite `p.all_prompts`, picture by picture with its seed, and do
# nothing else that a copy of the processing object could not bear
REWRITERS = ("comments", "dynamic prompts", "simple wildcards", "wildcards")
_TAG = re.compile(r"<\w+:[^>]+>")

REWRITTEN = ("an extension that OMG does not know has rewritten the main prompt; the concepts' prompts were left as "
             "they are, so write into them what it adds")


def for_all_pictures(p: Any, concept: Concept) -> Prompts:
    """A concept's prompts for all pictures of all batches.

    A style's networks act on the whole picture already, so its tags are not the concept's.
    """
    prompts = rewritten(p, concept.prompt, "")[0]
    in_styles = [_TAG.findall(text) for text in rewritten(p, "", "")[0]] if p.styles else [[] for _ in prompts]
    negative = concept.negative_prompt
    return Prompts([_without(prompt, tags) for prompt, tags in zip(prompts, in_styles, strict=True)],
                   None if negative is None else rewritten(p, "", negative)[1])


def is_rewritten_by_others(p: Any) -> bool:
    """Whether the main prompts are others than known scripts make of what the user wrote."""
    written = getattr(p, "omg_written", None)
    # the setting's network is put in front of the main prompt, and the concepts have it from there
    own = shared.opts.data.get("sd_lora", "None") in ("None", "") and not _is_random(p)
    return written is not None and own and rewritten(p, *written) != (list(p.all_prompts), list(p.all_negative_prompts))


def _is_random(p: Any) -> bool:
    """Whether Dynamic Prompts draws anew whenever it is asked, so that nothing can be compared."""
    return any(value is True for script in p.scripts.alwayson_scripts if script.title().lower().startswith("dynamic")
               for control, value in zip(script.controls or (), p.script_args[script.args_from:script.args_to],
                                         strict=False)
               if "unlink" in str(getattr(control, "label", "")).lower())


def remember(p: Any) -> None:
    """Before any script has touched them: the prompts as the user wrote them."""
    if isinstance(p.prompt, str) and isinstance(p.negative_prompt, str):
        p.omg_written = (p.prompt, p.negative_prompt)


def as_drawn(request: Request, prompts: Sequence[Prompts], picture: int) -> Request:
    """The request with the concepts' prompts that a picture was drawn with."""
    concepts = [msgspec.structs.replace(
        concept, prompt=made.prompts[picture],
        negative_prompt=None if made.negatives is None else made.negatives[picture])
        for concept, made in zip(request.concepts, prompts, strict=True)]
    return msgspec.structs.replace(request, concepts=tuple(concepts))


def unstyled(text: str, styles: Sequence[str]) -> str:
    """A request's text without what styles have put into the concepts' prompts; as it is if it is no valid one."""
    try:
        request = parse_request(text)
    except OMGError:
        return text
    applied = [shared.prompt_styles.styles[name] for name in reversed(styles) if name in shared.prompt_styles.styles]
    return request_text(msgspec.structs.replace(request, concepts=tuple(
        msgspec.structs.replace(
            concept, prompt=_without_styles(concept.prompt, [style.prompt for style in applied]),
            negative_prompt=None if concept.negative_prompt is None else _without_styles(
                concept.negative_prompt, [style.negative_prompt for style in applied]))
        for concept in request.concepts)))


def _without_styles(prompt: str, texts: Sequence[str]) -> str:
    for text in texts:
        words = _TAG.sub("", text or "").strip()  # its tags were not the concept's
        if words:
            prompt = extract_style_text_from_prompt(words, prompt)[1]
        elif text:
            prompt = prompt.rstrip().removesuffix(",")
    return prompt


def rewritten(p: Any, prompt: str, negative: str) -> tuple[list[str], list[str]]:
    """What a main prompt and negative prompt would have become by the time of sampling, picture by picture."""
    count = len(p.all_prompts)
    stand_in = copy.copy(p)
    stand_in.extra_generation_params = dict(p.extra_generation_params)
    stand_in.enable_hr = False
    stand_in.prompt = shared.prompt_styles.apply_styles_to_prompt(prompt, p.styles)
    stand_in.negative_prompt = shared.prompt_styles.apply_negative_styles_to_prompt(negative, p.styles)
    stand_in.all_prompts, stand_in.all_negative_prompts = [stand_in.prompt] * count, [stand_in.negative_prompt] * count
    stand_in.main_prompt, stand_in.main_negative_prompt = stand_in.prompt, stand_in.negative_prompt
    stand_in.all_seeds, stand_in.all_subseeds = list(p.all_seeds), list(p.all_subseeds)
    for script in p.scripts.alwayson_scripts:
        if script.title().lower().startswith(REWRITERS):
            try:
                script.process(stand_in, *p.script_args[script.args_from:script.args_to])
            except Exception as error:  # whatever it is, the web UI would go on with the unchanged prompt
                reason = f"{type(error).__name__}: {error}"
                raise OMGError("prompt", f"{script.title()} failed on a concept's prompt: {reason}") from error
    return _as_many(stand_in.all_prompts, count), _as_many(stand_in.all_negative_prompts, count)


def _as_many(prompts: Sequence[str], count: int) -> list[str]:
    """Combinations of a concept's own may be fewer or more than those of the picture's."""
    return [prompts[number % len(prompts)] for number in range(count)]


def _without(prompt: str, tags: Sequence[str]) -> str:
    for tag in tags:
        prompt = prompt.replace(tag, "", 1)
    return prompt
