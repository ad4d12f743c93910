"""The request: every refusal names its field and says what to do; every request survives dumping and parsing."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omg_ext.errors import OMGError
from omg_ext.request import Concept, Layout, Mask, Request, Show, Where, dump_request, parse_request

MAN = {"prompt": "photo of ohwx man <lora:chris:1>", "phrase": "man"}
BOX = {"prompt": "photo of ohwx man", "where": {"box": [0.0, 0.0, 0.5, 1.0]}}


def concept(**fields: Any) -> dict[str, Any]:
    """A request with one concept that has these fields besides the required ones."""
    return {"concepts": [{**MAN, **fields}]}


def request(**fields: Any) -> dict[str, Any]:
    """A request with one good concept and these fields."""
    return {"concepts": [MAN], **fields}


def where(**fields: Any) -> dict[str, Any]:
    return concept(where=fields)


# ---------------------------------------------------------------------------------------------------------- what parses


def test_defaults_are_those_of_the_contract():
    parsed = parse_request(request())
    assert parsed == Request(concepts=[Concept(prompt=MAN["prompt"], phrase="man")])
    assert (parsed.enabled, parsed.detector, parsed.blend_start, parsed.strict, parsed.show) == \
        (True, "attention", 0.3, False, [])
    assert parsed.layout == Layout(cross=1.0, self_=0.4)
    only = parsed.concepts[0]
    assert (only.negative_prompt, only.where, only.strength, only.cfg_scale) == (None, None, 1.0, None)
    assert 0 < parsed.mask.grow < 0.05
    assert 0 < parsed.mask.feather < 0.05


def test_every_field_is_read():
    parsed = parse_request({
        "concepts": [
            {"prompt": "a", "phrase": "man", "negative_prompt": "n", "where": {"point": [0.25, 0.5]}, "strength": 0.5,
             "cfg_scale": 4},
            {"prompt": "b", "phrase": "man", "where": {"index": 1}},
            {"prompt": "c", "where": {"box": [0, 0.25, 1, 0.75]}},
            {"prompt": "d", "where": {"mask": "iVBOR"}},
        ],
        "enabled": False, "detector": "other", "blend_start": 1, "layout": {"cross": 0.5, "self": 0},
        "mask": {"grow": 0, "feather": 0.5}, "strict": True, "show": ["masks", "first_pass"],
    })
    assert parsed == Request(
        concepts=[
            Concept(prompt="a", phrase="man", negative_prompt="n", where=Where(point=(0.25, 0.5)), strength=0.5,
                    cfg_scale=4.0),
            Concept(prompt="b", phrase="man", where=Where(index=1)),
            Concept(prompt="c", where=Where(box=(0.0, 0.25, 1.0, 0.75))),
            Concept(prompt="d", where=Where(mask="iVBOR")),
        ],
        enabled=False, detector="other", blend_start=1.0, layout=Layout(cross=0.5, self_=0.0),
        mask=Mask(grow=0.0, feather=0.5), strict=True, show=["masks", "first_pass"],
    )


@pytest.mark.parametrize("as_sent", [json.dumps(request()), json.dumps(request()).encode(), request(),
                                     {"concepts": (MAN,)}, parse_request(request())],
                         ids=["text", "bytes", "dict", "tuple", "request"])
def test_json_text_dicts_and_requests_parse_alike(as_sent):
    assert parse_request(as_sent) == parse_request(request())


def test_a_request_built_in_python_is_checked_too():
    with pytest.raises(OMGError) as caught:
        parse_request(Request(concepts=[Concept(prompt="p", phrase="man", strength=7.0)]))
    assert caught.value.field == "concepts[0].strength"


@pytest.mark.parametrize(("fields", "kind", "needs_detection"), [
    ({"point": [0, 1]}, "point", True), ({"index": 0}, "index", True),
    ({"box": [0, 0, 1, 1]}, "box", False), ({"mask": "x"}, "mask", False),
])
def test_a_concept_needs_detection_unless_its_mask_is_given(fields, kind, needs_detection):
    only = parse_request(where(**fields)).concepts[0]
    assert only.where is not None
    assert only.where.kind == kind
    assert only.where.needs_detection is only.needs_detection is needs_detection


def test_a_concept_with_no_place_needs_detection():
    assert parse_request(request()).concepts[0].needs_detection


# ------------------------------------------------------------------------------------------------------ what is refused

REFUSED: dict[str, tuple[Any, str, str]] = {
    # unknown fields
    "unknown, near miss": (request(blendstart=0.5), "blendstart", "unknown field; did you mean `blend_start`?"),
    "unknown, no hint": (request(zzz=0), "zzz",
                         "known here: concepts, enabled, detector, blend_start, layout, mask, strict, show"),
    "unknown, in a concept": (concept(strenght=1), "concepts[0].strenght", "unknown field; did you mean `strength`?"),
    "unknown, hint is local": (concept(detector="x"), "concepts[0].detector", "unknown field; known here: prompt, "),
    "unknown, in where": (where(pont=[0, 0]), "concepts[0].where.pont", "did you mean `point`?"),
    "unknown, in layout": (request(layout={"self_": 1}), "layout.self_", "did you mean `self`?"),
    "unknown, in mask": (request(mask={"fether": 0}), "mask.fether", "did you mean `feather`?"),
    "unknown, odd name": (concept(**{"a.b`c": 1}), "concepts[0].a.b`c", "unknown field; known here: prompt, "),
    "unknown, no name": (request(**{"": 1}), "request", "unknown field"),
    # missing and empty
    "nothing": ({}, "concepts", "this field is required"),
    "no concepts": ({"concepts": []}, "concepts", "the list is empty; give at least one concept"),
    "no prompt": ({"concepts": [MAN, {"phrase": "man"}]}, "concepts[1].prompt", "this field is required"),
    "blank prompt": (concept(prompt=" \n"), "concepts[0].prompt", "it is empty; write the concept's trigger words"),
    "no phrase": ({"concepts": [{"prompt": "p"}]}, "concepts[0].phrase", "say what to look for in the picture"),
    "no phrase for a point": ({"concepts": [{"prompt": "p", "where": {"point": [0, 0]}}]}, "concepts[0].phrase",
                              "or give where.box or where.mask"),
    "blank phrase": (concept(phrase="  "), "concepts[0].phrase", "say what to look for"),
    # where
    "where: empty": (where(), "concepts[0].where", "give exactly one of point, index, box, mask, got none"),
    "where: two": (where(point=[0, 0], box=[0, 0, 1, 1]), "concepts[0].where", "got point and box"),
    "where: short point": (where(point=[0.5]), "concepts[0].where.point",
                           "expected a list of length 2, got a list of 1"),
    "where: long box": (where(box=[0, 0, 1, 1, 1]), "concepts[0].where.box",
                        "expected a list of length 4, got a list of 5"),
    "where: outside": (where(point=[0.5, 1.25]), "concepts[0].where.point[1]",
                       "expected a number of at most 1, got 1.25"),
    "where: negative": (where(box=[-0.1, 0, 1, 1]), "concepts[0].where.box[0]",
                        "expected a number of at least 0, got -0.1"),
    "where: empty box": (where(box=[0.5, 0, 0.5, 1]), "concepts[0].where", "the box is empty"),
    "where: turned box": (where(box=[0, 1, 1, 0]), "concepts[0].where", "with x0 < x1 and y0 < y1"),
    "where: pixels": (where(box=[0, 0, 512, 512]), "concepts[0].where.box[2]", "at most 1, got 512"),
    "where: negative index": (where(index=-1), "concepts[0].where.index",
                              "expected a whole number of at least 0, got -1"),
    "where: broken index": (where(index=1.5), "concepts[0].where.index", "expected a whole number, got 1.5"),
    "where: null": (where(point=None), "concepts[0].where.point", "expected a list, got null"),
    "where: mask of bytes": (where(mask=b"x"), "concepts[0].where.mask", "expected text, got bytes"),
    "where: no object": (concept(where="left"), "concepts[0].where", "expected an object or null, got 'left'"),
    # numbers
    "too much": (concept(strength=1.5), "concepts[0].strength", "expected a number of at most 1, got 1.5"),
    "too little": (request(blend_start=-0.1), "blend_start", "expected a number of at least 0, got -0.1"),
    "cfg_scale": (concept(cfg_scale=101), "concepts[0].cfg_scale", "expected a number of at most 100, got 101"),
    "layout": (request(layout={"self": 1.01}), "layout.self", "at most 1, got 1.01"),
    "grow": (request(mask={"grow": 0.6}), "mask.grow", "expected a number of at most 0.5, got 0.6"),
    "NaN": (request(blend_start=math.nan), "blend_start", "expected a finite number, got nan"),
    "NaN in a list": (where(point=[0, math.nan]), "concepts[0].where.point[1]", "expected a finite number, got nan"),
    "infinite": (concept(cfg_scale=math.inf), "concepts[0].cfg_scale", "expected a finite number, got inf"),
    "NaN in JSON": ('{"concepts": [], "blend_start": NaN}', "blend_start", "expected a finite number, got nan"),
    "overflow in JSON": ('{"concepts": [], "blend_start": 1e999}', "blend_start", "expected a finite number, got inf"),
    "huge": (concept(strength=10**400), "concepts[0].strength", "the number is too large"),
    "huge index": (where(index=-10**5000), "concepts[0].where.index", "the number is too large"),
    # types
    "text for a number": (concept(strength="1"), "concepts[0].strength", "expected a number, got '1'"),
    "long text for a number": (concept(strength="1" * 41), "concepts[0].strength", "got a long text"),
    "boolean for a number": (concept(strength=True), "concepts[0].strength", "expected a number, got true"),
    "number for text": (concept(negative_prompt=5), "concepts[0].negative_prompt", "expected text or null, got 5"),
    "number for a boolean": (request(strict=1), "strict", "expected true or false, got 1"),
    "null for a number": (concept(strength=None), "concepts[0].strength", "expected a number, got null"),
    "null for an object": (request(mask=None), "mask", "expected an object, got null"),
    "object for a list": ({"concepts": MAN}, "concepts", "expected a list, got an object"),
    "text for a concept": ({"concepts": ["man"]}, "concepts[0]", "expected an object, got 'man'"),
    "text for a list": (request(show="masks"), "show", "expected a list, got 'masks'"),
    "unknown choice": (request(show=["masks", "mask"]), "show[1]", "'mask' is unknown; known here: first_pass, masks"),
    "no choice": (request(show=[1]), "show[0]", "expected text, got 1"),
    "a Python object": (request(detector=object()), "detector", "expected text, got object"),
    # no request at all
    "null": (None, "request", "expected an object with the field `concepts`, got null"),
    "list": ([MAN], "request", "expected an object with the field `concepts`, got a list of 1"),
    "JSON number": ("5", "request", "expected an object with the field `concepts`, got 5"),
    "no JSON": ("concepts: man", "request", "this is not JSON: "),
    "no UTF-8": (b"\xff", "request", "this is not JSON: "),
    "bottomless JSON": ('{"concepts":' + "[" * 100_000, "request", "this is not JSON: "),
    "deep": (request(show=json.loads("[" * 500 + "]" * 500)), "show" + "[0]" * 15, "the request is nested too deeply"),
    # names and texts no file or header can hold
    "field with a number for its name": (request(layout={1: 1}), "layout", "1 is not a field name"),
    "half a character in a name": (request(**{"\ud800": 1}), "request", r"'\ud800' is not a field name"),
    "half a character": (concept(prompt="man \ud83d"), "concepts[0].prompt", "half a character"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_names_the_field_and_says_why(name):
    data, field, reason = REFUSED[name]
    with pytest.raises(OMGError) as caught:
        parse_request(data)
    assert caught.value.field == field
    assert reason in caught.value.message
    assert str(caught.value) == f"OMG: {field}: {caught.value.message}"
    str(caught.value).encode()


def test_a_request_that_holds_itself_is_refused():
    data = request()
    data["layout"] = data
    with pytest.raises(OMGError, match="nested too deeply"):
        parse_request(data)


# ----------------------------------------------------------------------------------------------------------- properties

fractions = st.floats(0.0, 1.0)
small_fractions = st.floats(0.0, 0.5)
filled = st.text(min_size=1).filter(str.strip)
edges = st.tuples(fractions, fractions).filter(lambda pair: pair[0] != pair[1]).map(sorted)
points = st.tuples(fractions, fractions).map(lambda point: Where(point=point))
indices = st.integers(0, 2**53).map(lambda index: Where(index=index))
boxes = st.tuples(edges, edges).map(lambda xy: Where(box=(xy[0][0], xy[1][0], xy[0][1], xy[1][1])))
masks = st.text().map(lambda mask: Where(mask=mask))


def concepts(phrases: st.SearchStrategy[str], places: st.SearchStrategy[Where | None]) -> st.SearchStrategy[Concept]:
    return st.builds(Concept, prompt=filled, phrase=phrases, negative_prompt=st.none() | st.text(), where=places,
                     strength=fractions, cfg_scale=st.none() | st.floats(0.0, 100.0))


requests = st.builds(
    Request,
    concepts=st.lists(concepts(filled, st.none() | points | indices) | concepts(st.text(), boxes | masks),
                      min_size=1, max_size=4),
    enabled=st.booleans(),
    detector=st.text(),
    blend_start=fractions,
    layout=st.builds(Layout, cross=fractions, self_=fractions),
    mask=st.builds(Mask, grow=small_fractions, feather=small_fractions),
    strict=st.booleans(),
    show=st.lists(st.sampled_from(get_args(Show))),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
# values at places where the parser looks, so that the refusals below the top level are reached
known_names = st.sampled_from([*Request.__struct_fields__, *Concept.__struct_fields__, *Where.__struct_fields__,
                               "self", "cross", "grow", "feather"])
objects = st.recursive(json_values, lambda inner: st.dictionaries(known_names, inner | st.lists(inner, max_size=2)))


@given(requests)
def test_what_is_dumped_parses_to_the_same_request(given_request):
    assert parse_request(dump_request(given_request)) == given_request


@given(requests)
def test_a_dump_is_json_data(given_request):
    dumped = dump_request(given_request)
    text = json.dumps(dumped, allow_nan=False)
    assert json.loads(text) == dumped
    assert parse_request(text) == given_request


def test_a_dump_holds_no_defaults():
    assert dump_request(parse_request(request(enabled=True, layout={"cross": 1.0}, mask={}, show=[]))) == request()
    assert dump_request(parse_request(request(layout={"cross": 1.0, "self": 0.5}))) == request(layout={"self": 0.5})


@given(objects | st.builds(lambda fields: request(**fields), st.dictionaries(known_names, objects))
       | st.builds(lambda fields: concept(**fields), st.dictionaries(known_names, objects)))
def test_any_json_value_parses_or_is_refused(data):
    try:
        parsed = parse_request(data)
    except OMGError as error:
        assert error.field
        assert error.message
    else:
        assert parse_request(dump_request(parsed)) == parsed


@given(st.text() | st.binary())
def test_any_text_parses_or_is_refused(text):
    with pytest.raises(OMGError):
        parse_request(text)
