"""What stands in a picture's infotext, in the form that the web UI writes and reads."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from .request import Concept, Request, Where, dump_request
from .request.pictures import mark_of

KEY = "OMG"
"""The infotext key of the request."""
FOUND = "OMG found"
"""The infotext key of what the detector saw; see :class:`omg_ext.comprehension.places.Finding`."""
RUN = "OMG run"
"""What an answer of the web UI calls what was spent, see :class:`omg_ext.passes.account.Account`; in no infotext."""
WARNINGS = "OMG warnings"
"""The infotext key of what the user should know."""
FIRST_PASS, WHO_IS_WHERE, MASK = "first pass", "who is where", "mask of concept"
"""Titles of extra pictures: the first picture, the same with all that was found in it, and a concept's mask, with its
number from 1."""
_TITLE = f", {KEY} picture: "


def request_text(request: Request) -> str:
    """The request as compact JSON, defaults left out."""
    return json.dumps(dump_request(request), ensure_ascii=False, separators=(",", ":"))


def infotext_value(request: Request) -> str:
    """The request as compact JSON, defaults left out, given masks scaled down to a few kilobytes each, and of photos of
    faces a checksum alone.

    The infotext has it in quotes (it holds commas and colons); :func:`omg_ext.request.parse_request` reads it back.
    """
    concepts = tuple(msgspec.structs.replace(concept, where=_shrunk(concept.where), face=_marks(concept))
                     for concept in request.concepts)
    return request_text(msgspec.structs.replace(request, concepts=concepts))


def parameters(prompt: str, negative_prompt: str, values: Mapping[str, object]) -> str:
    """A whole infotext: the prompts, and a line of values by name, of which those that are None are left out."""
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in values.items() if value is not None)
    return f"{prompt}{negative}\n{line}".strip()


def picture_infotext(text: str, title: str) -> str:
    """The infotext of an extra picture: that of the result it belongs to, and what the picture is."""
    return f"{text}{_TITLE}{title}"


def title_of(text: str) -> str:
    """The title of the extra picture that has this infotext; empty if it is another picture's."""
    _, found, title = text.rpartition(_TITLE)
    return title if found and not {",", ":", "\n"} & set(title) else ""


def _quoted(value: object) -> str:
    """As the web UI does it: JSON's quotes, where commas and colons would be read as the next value's."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def _marks(concept: Concept) -> str | tuple[str, ...] | None:
    """What stands for the photos of its face."""
    marks = tuple(mark_of(text) for text in concept.faces)
    return marks[0] if isinstance(concept.face, str) else marks or None


def _shrunk(where: Where | None) -> Where | None:
    if where is None or where.kind != "mask":
        return where
    from .comprehension.masks import shrink_mask_text  # brings packages that a client has no use for
    return Where(mask=shrink_mask_text(str(where.mask)))
