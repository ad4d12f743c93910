"""The request in the picture's infotext: one compact value under one key, and the way back into the accordion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ..comprehension.masks import shrink_mask_text
from ..request import Concept, Request, Where
from ..request.pictures import mark_of
from .form import request_text

KEY = "OMG"
"""The infotext key of the request."""
WHO_IS_WHERE = "who is where"
"""The title of the extra picture that shows what was found."""
FOUND = "OMG found"
"""The infotext key of what the detector saw; see :class:`omg_ext.comprehension.places.Finding`."""


def infotext_value(request: Request) -> str:
    """The request as compact JSON, defaults left out, given masks scaled down to a few kilobytes each, and of photos of
    faces a checksum alone.

    The host quotes it (it holds commas and colons); :func:`omg_ext.request.parse_request` reads it back.
    """
    concepts = tuple(msgspec.structs.replace(concept, where=_shrunk(concept.where), face=_marks(concept))
                     for concept in request.concepts)
    return request_text(msgspec.structs.replace(request, concepts=concepts))


def _marks(concept: Concept) -> str | tuple[str, ...] | None:
    """What stands for the photos of its face."""
    marks = tuple(mark_of(text) for text in concept.faces)
    return marks[0] if isinstance(concept.face, str) else marks or None


def picture_infotext(text: str, title: str) -> str:
    """The infotext of an extra picture: that of the result it belongs to, and what the picture is."""
    return f"{text}, {KEY} picture: {title}"


def is_of_picture(text: str, title: str) -> bool:
    """Whether this is the infotext of such an extra picture."""
    return text.endswith(f", {KEY} picture: {title}")


def _shrunk(where: Where | None) -> Where | None:
    if where is None or where.kind != "mask":
        return where
    return Where(mask=shrink_mask_text(str(where.mask)))


def paste_fields(api: Any, enabled: Any, unstyled: Callable[[str, Sequence[str]], str]) -> list[tuple[Any, Any]]:
    """The ``infotext_fields`` of the script.

    Args:
        api, enabled: components.
        unstyled: takes styles of these names out of a request's text.

    The value goes into the API slot whole, which serves the API's infotext replay: that casts values by the type of the
    component's, and could not fill more concepts than the accordion has. In the browser the slot's change event spreads
    it over the fields (:mod:`.ui`). An infotext without OMG switches the accordion off and leaves the fields alone.
    """
    def request(params: dict[str, Any]) -> str | None:
        # the host takes the styles out of the main prompt, too, and applies them anew
        text, styles = params.get(KEY), params.get("Styles array")
        return unstyled(text, styles) if text and styles else text

    return [(api, request), (enabled, lambda params: KEY in params)]
