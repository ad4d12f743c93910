"""What a request names that is not here: the page says it as soon as it stands in the fields. No Gradio in here."""

from __future__ import annotations

import re

from modules import shared

from ..comprehension.places import require_finders
from ..errors import OMGError
from ..request import Request
from ..request.tags import Tag, parse_tags
from .block_weights import ARGUMENTS
from .models import models
from .network_files import refuse_unknown

# tags whose text wildcards or Dynamic Prompts make, by what these write: which file they name is not known yet
_CHOSEN_LATER = re.compile(r"<\w+:[^>]*(?:[{}|$]|__[^>]+?__)[^>]*>")
_COMMENT = re.compile(r"#[^\n]*")


def lacks(request: Request) -> list[str]:
    """A sentence for each LoRA, detector or segmenter that Generate would refuse, in the page's words.

    Args:
        request: validated, but that its prompts may be empty.
    """
    said = [f"Concept {number}: {reason}" for number, concept in enumerate(request.concepts, 1) if concept.enabled
            for reason in _unknown(concept.prompt)]
    try:
        require_finders(request, models())
    except OMGError as error:
        said.append(f"Detector: {error.message}")
    return said


def _unknown(prompt: str) -> list[str]:
    if shared.opts.data.get("enable_prompt_comments", True):
        prompt = _COMMENT.sub("", prompt)
    try:
        tags = parse_tags(_CHOSEN_LATER.sub("", prompt), "prompt", ARGUMENTS)[1]
    except OMGError as error:
        return [error.message]
    return list(dict.fromkeys(filter(None, map(_reason, tags))))


def _reason(tag: Tag) -> str:
    try:
        refuse_unknown([tag], "prompt")
    except OMGError as error:
        return error.message
    return ""
