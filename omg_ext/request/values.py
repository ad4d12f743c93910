"""JSON values whatever their field: how messages name them, and those that no field takes."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ..errors import OMGError

WHOLE = "request"
"""What messages call the data as a whole."""

NULL, TRUTH, INTEGER, NUMBER = "null", "true or false", "a whole number", "a number"
TEXT, LIST, OBJECT = "text", "a list", "an object"

# the deepest field, `concepts[0].where.point[0]`, lies 5 levels down
MAX_DEPTH = 16
# beyond it a float, as which JSON readers may hold any number, is not exact
MAX_INTEGER = 2**53

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# msgspec takes no subclass of these, be it bool for int or NumPy's float64 for float
_EXACT: dict[type, str] = {type(None): NULL, bool: TRUTH, int: INTEGER, float: NUMBER}


def kind_of(value: Any) -> str:
    """The kind of JSON value, in words; of anything else, the type's name."""
    for types, kind in ((str, TEXT), ((list, tuple), LIST), (dict, OBJECT)):
        if isinstance(value, types):
            return kind
    return _EXACT.get(type(value), type(value).__name__)


def in_words(value: Any) -> str:
    """``value`` as its sender would write it if that is short, else its kind."""
    kind = kind_of(value)
    if kind == TEXT:
        return f"'{value}'" if len(value) <= 40 else "a long text"
    if kind == LIST:
        return f"a list of {len(value)}"
    return json.dumps(value) if kind in _EXACT.values() else kind


def refuse_odd_values(value: Any, path: str = "", depth: int = MAX_DEPTH) -> None:
    """Refuse what Python's JSON reader lets through although it is no JSON, or too much to check.

    Args:
        value: stands in the data at ``path``.
        depth: how many levels there may be, ``value`` included.

    Raises:
        OMGError: a number is not finite or too large, half a character, a field's name is no text, too many levels.
    """
    if depth == 0:
        raise OMGError(path, "the request is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise OMGError(path, f"expected a finite number, got {value}")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise OMGError(path, "the number is too large")
    if isinstance(value, str) and _LONE_SURROGATE.search(value):
        raise OMGError(path, "the text holds half a character (a lone surrogate); send it as UTF-8")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or _LONE_SURROGATE.search(key):
                raise OMGError(path or WHOLE, f"{key!a} is not a field name")
            refuse_odd_values(item, f"{path}.{key}" if path else key, depth - 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            refuse_odd_values(item, f"{path}[{index}]", depth - 1)
