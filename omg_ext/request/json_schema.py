"""The request as a JSON Schema (draft 2020-12), made from the structs that read it: types, limits, defaults, texts.

What needs two fields to be compared is beyond a schema (a box with an area, a start before the end): a request that it
lets through may still be refused.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from . import schema
from .schema import Request

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REQUEST_VERSION = 1
"""Grows when a request that was taken is refused from then on, or means another thing. A new field does not count."""
NOT_BLANK = r"\S"
_PLACES = [kind for kind in schema.WHERE_KINDS if kind not in schema.SOUGHT]


def json_schema(detectors: Sequence[str] = ()) -> dict[str, Any]:
    """The schema of a request.

    Args:
        detectors: the names that ``detector`` may have; any if there are none.
    """
    made = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Request)))  # some defaults are tuples
    parts: dict[str, Any] = made["$defs"]
    for name, part in parts.items():
        _describe(part, inspect.getdoc(getattr(schema, name)) or "")
    where, concept, request = parts["Where"], parts["Concept"], parts["Request"]
    where |= {"minProperties": 1, "maxProperties": 1}
    where["properties"]["rest"]["const"] = True
    for blank in _texts(concept["properties"]["face"]):
        blank["pattern"] = NOT_BLANK
    concept["allOf"] = [
        # a place of one's own, or something to look for
        {"if": {"required": ["where"], "properties": {"where": {"type": "object", "anyOf": [
            {"required": [place]} for place in _PLACES]}}},
         "else": {"required": ["phrase"], "properties": {"phrase": {"pattern": NOT_BLANK}}}},
        {"if": {"required": ["face_index"], "properties": {"face_index": {"type": "integer"}}},
         "then": {"required": ["face"], "properties": {"face": {"type": ["string", "array"]}}}}]
    request["if"] = {"required": ["preview"], "properties": {"preview": {"const": True}}}
    request["else"] = {"properties": {"concepts": {"items": {"properties": {"prompt": {"pattern": NOT_BLANK}}}}}}
    if detectors:
        request["properties"]["detector"]["enum"] = list(detectors)
    return {"$schema": DIALECT, "title": "OMG request", **made}


def _describe(part: dict[str, Any], text: str) -> None:
    """Put what a docstring says of each field at that field, in place."""
    summary, _, rest = text.partition("\n\nAttributes:\n")
    attributes = inspect.cleandoc(rest.partition("\n\nRaises:\n")[0])
    part["description"] = _plain(summary)
    for attribute in re.split(r"\n(?=\S)", attributes):
        names, _, says = attribute.partition(":")
        for name in names.split(", "):
            if name in part["properties"]:
                part["properties"][name]["description"] = _plain(says)


def _plain(text: str) -> str:
    """A docstring's text without its markup and line breaks."""
    text = re.sub(r":\w+:`([^`]*)`", r"\1", text)
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


def _texts(part: dict[str, Any]) -> list[dict[str, Any]]:
    """All places within a part of the schema that take a text."""
    within = [*part.get("anyOf", ()), *([part["items"]] if isinstance(part.get("items"), dict) else [])]
    return [part] * (part.get("type") == "string") + [text for each in within for text in _texts(each)]
