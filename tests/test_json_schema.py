"""The request's JSON Schema: it takes what a request may be, and refuses what :func:`parse_request` refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from omg_ext.comprehension import DETECTORS
from omg_ext.request import dump_request, parse_request
from omg_ext.request.json_schema import json_schema
from tests.test_request import MAN, REFUSED, concept, request, requests, where

SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)

# what compares two fields, and what is no JSON
BEYOND = {"where: two rests", "where: empty box", "where: empty outline", "where: turned box", "identitynet: turned",
          "half a character", "half a character in a name", "a number of NumPy's"}


def as_json(data: Any) -> Any:
    """The data as they would be sent; None if they cannot be: numbers that are not finite, objects of Python's."""
    try:
        text = data if isinstance(data, (str, bytes)) else json.dumps(data, allow_nan=False)
        read = json.loads(text)
        json.dumps(read, allow_nan=False)
        return read
    except (TypeError, ValueError, RecursionError):
        return None


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("data", [
    request(), concept(where={"point": [0, 1]}), where(box=[0, 0.25, 1, 0.75]), where(index=2), concept(where=None),
    {"concepts": [{"prompt": "p", "where": {"mask": "iVBOR"}}]},
    {"concepts": [{"prompt": "p", "where": {"outline": [0, 0, 1, 1]}}]},
    {"concepts": [{"prompt": "", "phrase": "man"}], "preview": True},
    concept(face=["a", "b"], face_index=0, identitynet={"scale": 0}), concept(face="a", face_index=None),
    concept(cfg_scale=[7, 3]), concept(cfg_scale=4), request(layout={"self": 0.5}, show=["masks"]),
], ids=str)
def test_good_requests(data):
    parse_request(data)
    VALIDATOR.validate(data)


@given(requests)
def test_every_request(made):
    """Dumped, with its defaults left out."""
    VALIDATOR.validate(json.loads(json.dumps(dump_request(made))))


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in BEYOND])
def test_bad_requests(name):
    data = as_json(REFUSED[name][0])
    if data is not None or REFUSED[name][0] is None:
        assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize("name", sorted(BEYOND))
def test_what_is_beyond_it(name):
    """The list holds no name that a schema could refuse."""
    assert VALIDATOR.is_valid(as_json(REFUSED[name][0])) or "half" in name


def test_a_place_is_exactly_one_thing():
    part = SCHEMA["$defs"]["Where"]
    assert part["minProperties"] == part["maxProperties"] == 1


def test_every_field_says_what_it_is():
    for name, part in SCHEMA["$defs"].items():
        assert part["description"], name
        assert "Attributes" not in part["description"]
        if name != "Layout":  # its one line says it
            for field, means in part["properties"].items():
                assert means.get("description"), (name, field)
                assert not {"``", ":class:"} & set(means["description"].split())


def test_detectors_by_name():
    named = Draft202012Validator(json_schema(list(DETECTORS)))
    assert named.is_valid({"concepts": [MAN], "detector": "contrast"})
    assert not named.is_valid({"concepts": [MAN], "detector": "crystal ball"})
