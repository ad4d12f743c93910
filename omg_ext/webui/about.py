"""What a client may want to know before it asks: the request's schema, and which versions it talks to."""

from __future__ import annotations

from typing import Any

from modules import launch_utils

from .. import __version__
from ..comprehension import DETECTORS
from ..request.json_schema import REQUEST_VERSION, json_schema


def schema() -> dict[str, Any]:
    """The JSON Schema of the request, with the detectors that there are."""
    return json_schema(list(DETECTORS))


def version() -> dict[str, Any]:
    """Of the extension, of the request (see :data:`omg_ext.request.json_schema.REQUEST_VERSION`) and of the web UI."""
    return {"extension": __version__, "request": REQUEST_VERSION, "webui": launch_utils.git_tag()}
