"""The request's way from the infotext back into the accordion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..infotext import KEY


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


def sent_fields(components: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """More ``infotext_fields``: what the gallery's buttons take over into the other tab, as it is, pictures too.

    Args:
        components: by name, the same in both tabs, and in the same order: the host pairs them by it.

    The names can stand in no infotext, whose keys hold no colon, so that pasting leaves these fields alone.
    """
    return [(component, f"{KEY}: {name}") for name, component in components.items()]
