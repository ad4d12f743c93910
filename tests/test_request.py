"""The request: every refusal names its field and says what to do; every request survives dumping and parsing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec import inspect as types

from omg_ext.errors import OMGError
from omg_ext.request import Concept, IdentityNet, Layout, Mask, Request, Show, Where, dump_request, parse_request
from omg_ext.request.validate import check
from omg_ext.request.values import refuse_odd_values

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
    assert parsed == Request(concepts=(Concept(prompt=MAN["prompt"], phrase="man"),))
    assert (parsed.enabled, parsed.detector, parsed.blend_start, parsed.strict, parsed.show) == \
        (True, "contrast", 0.4, False, ())
    assert parsed.layout == Layout(cross=1.0, self_=0.4)
    only = parsed.concepts[0]
    assert (only.negative_prompt, only.where, only.strength, only.cfg_scale) == (None, None, 1.0, None)
    assert (only.face, only.faces, only.face_index, only.face_scale) == (None, (), None, 0.8)
    assert only.identitynet == IdentityNet(scale=0.8, start=0.0, end=1.0)
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
            {"prompt": "e", "where": {"outline": [0, 0.25, 1, 0.75]}},
            {"prompt": "f", "phrase": "man", "face": "iVBOR", "face_index": 1, "face_scale": 1,
             "identitynet": {"scale": 0.5, "start": 0.25, "end": 0.75}},
            {"prompt": "g", "phrase": "man", "face": ["iVBOR", "/9j/"], "identitynet": {"scale": 0}},
            {"prompt": "h", "where": {"rest": True}},
        ],
        "enabled": False, "detector": "other", "blend_start": 1, "layout": {"cross": 0.5, "self": 0},
        "mask": {"grow": 0, "feather": 0.5}, "strict": True, "show": ["masks", "first_pass"],
    })
    assert parsed == Request(
        concepts=(
            Concept(prompt="a", phrase="man", negative_prompt="n", where=Where(point=(0.25, 0.5)), strength=0.5,
                    cfg_scale=4.0),
            Concept(prompt="b", phrase="man", where=Where(index=1)),
            Concept(prompt="c", where=Where(box=(0.0, 0.25, 1.0, 0.75))),
            Concept(prompt="d", where=Where(mask="iVBOR")),
            Concept(prompt="e", where=Where(outline=(0.0, 0.25, 1.0, 0.75))),
            Concept(prompt="f", phrase="man", face="iVBOR", face_index=1, face_scale=1.0,
                    identitynet=IdentityNet(scale=0.5, start=0.25, end=0.75)),
            Concept(prompt="g", phrase="man", face=("iVBOR", "/9j/"), identitynet=IdentityNet(scale=0.0)),
            Concept(prompt="h", where=Where(rest=True)),
        ),
        enabled=False, detector="other", blend_start=1.0, layout=Layout(cross=0.5, self_=0.0),
        mask=Mask(grow=0.0, feather=0.5), strict=True, show=("masks", "first_pass"),
    )


def test_a_face_is_one_picture_or_several():
    assert [parse_request(concept(face=face)).concepts[0].faces for face in ("a", ["a"], ["a", "b"], None)] == [
        ("a",), ("a",), ("a", "b"), ()]


@pytest.mark.parametrize("as_sent", [json.dumps(request()), json.dumps(request()).encode(), request(),
                                     {"concepts": (MAN,)}, parse_request(request())],
                         ids=["text", "bytes", "dict", "tuple", "request"])
def test_json_text_dicts_and_requests_parse_alike(as_sent):
    assert parse_request(as_sent) == parse_request(request())


def test_a_request_built_in_python_is_checked_too():
    with pytest.raises(OMGError) as caught:
        parse_request(Request(concepts=(Concept(prompt="p", phrase="man", strength=7.0),)))
    assert caught.value.field == "concepts[0].strength"


def test_a_request_built_in_python_may_have_lists_and_no_concepts():
    lists: dict[str, Any] = {"concepts": [Concept(prompt="p", phrase="man")], "show": ["masks"]}
    assert parse_request(Request(**lists)) == Request(concepts=(Concept(prompt="p", phrase="man"),), show=("masks",))
    assert dump_request(Request(**{**lists, "show": []})) == {"concepts": [{"prompt": "p", "phrase": "man"}]}
    none: dict[str, Any] = {"concepts": []}
    assert not Request(**none).concepts


@pytest.mark.parametrize(("struct", "fields", "field", "reason"), [
    (Request, {"concepts": (Concept("p", "man"), Concept(" ", "man"))}, "concepts[1].prompt", "it is empty"),
    (Concept, {"prompt": "p"}, "phrase", "say what to look for"),
    (Where, {}, "where", "got none"), (Where, {"index": 0, "mask": "x"}, "where", "got index and mask"),
    (Where, {"box": (0.0, 1.0, 1.0, 0.0)}, "where", "the box is empty"),
    (Where, {"outline": (0.5, 0.0, 0.5, 1.0)}, "where", "the box is empty"),
    (Where, {"outline": (0.0, 0.0, 1.0, 1.0), "box": (0.0, 0.0, 1.0, 1.0)}, "where", "got box and outline"),
    (Where, {"rest": False}, "rest", "it can only be true"), (Where, {"index": 0, "rest": True}, "where", "and rest"),
    (Request, {"concepts": [Concept("p", where=Where(rest=True))] * 2}, "concepts[1].where.rest", "is concepts[0]'s"),
])
def test_parts_built_in_python_keep_the_rules_over_several_fields(struct, fields, field, reason):
    with pytest.raises(OMGError) as caught:
        struct(**fields)
    assert caught.value.field == field
    assert reason in caught.value.message


def test_requests_are_frozen():
    parsed = parse_request(where(box=[0, 0, 1, 1]))
    for part in (parsed, parsed.concepts[0], parsed.concepts[0].where, parsed.layout, parsed.mask):
        with pytest.raises(AttributeError):
            setattr(part, part.__struct_fields__[0], None)  # type: ignore[union-attr]
    assert hash(parsed) == hash(parse_request(dump_request(parsed)))


@pytest.mark.parametrize(("fields", "kind", "needs_detection"), [
    ({"point": [0, 1]}, "point", True), ({"index": 0}, "index", True),
    ({"box": [0, 0, 1, 1]}, "box", False), ({"mask": "x"}, "mask", False), ({"overlap": [0, 0, 1, 1]}, "overlap", True),
    ({"outline": [0, 0, 1, 1]}, "outline", False), ({"rest": True}, "rest", False),
])
def test_a_concept_needs_detection_unless_it_has_a_place_of_its_own(fields, kind, needs_detection):
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
                         "known here: concepts, enabled, detector, detect, blend_start, layout, mask, strict, show"),
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
    "where: empty": (where(), "concepts[0].where",
                     "give exactly one of point, index, overlap, box, outline, mask, rest, got none"),
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
    "where: empty outline": (where(outline=[0.5, 0, 0.5, 1]), "concepts[0].where", "the box is empty"),
    "where: outline outside": (where(outline=[0, 0, 1, 2]), "concepts[0].where.outline[3]", "at most 1, got 2"),
    "where: short outline": (where(outline=[0, 0, 1]), "concepts[0].where.outline", "expected a list of length 4"),
    "where: turned box": (where(box=[0, 1, 1, 0]), "concepts[0].where", "with x0 < x1 and y0 < y1"),
    "where: pixels": (where(box=[0, 0, 512, 512]), "concepts[0].where.box[2]", "at most 1, got 512"),
    "where: negative index": (where(index=-1), "concepts[0].where.index",
                              "expected a whole number of at least 0, got -1"),
    "where: broken index": (where(index=1.5), "concepts[0].where.index", "expected a whole number, got 1.5"),
    "where: null": (where(point=None), "concepts[0].where.point", "expected a list, got null"),
    "where: mask of bytes": (where(mask=b"x"), "concepts[0].where.mask", "expected text, got bytes"),
    "where: no rest": (where(rest=False), "concepts[0].where.rest", "it can only be true"),
    "where: rest of a number": (where(rest=1), "concepts[0].where.rest", "expected true or false, got 1"),
    "where: rest and a box": (where(rest=True, box=[0, 0, 1, 1]), "concepts[0].where", "got box and rest"),
    "where: two rests": ({"concepts": [{"prompt": "a", "where": {"rest": True}}, MAN,
                                       {"prompt": "b", "where": {"rest": True}}]}, "concepts[2].where.rest",
                         "the rest is concepts[0]'s already; give this one another place"),
    "where: no object": (concept(where="left"), "concepts[0].where", "expected an object or null, got 'left'"),
    # faces
    "face: no text": (concept(face=1), "concepts[0].face", "expected text or a list or null, got 1"),
    "face: empty": (concept(face=" "), "concepts[0].face", "it is empty; give a picture"),
    "face: none in a list": (concept(face=[]), "concepts[0].face", "the list is empty; give at least one entry"),
    "face: null in a list": (concept(face=["a", None]), "concepts[0].face[1]", "expected text, got null"),
    "face: negative number": (concept(face="a", face_index=-1), "concepts[0].face_index", "of at least 0, got -1"),
    "face: a number without one": (concept(face_index=0), "concepts[0].face_index", "there is no face to choose from"),
    "face: too much": (concept(face="a", face_scale=3.5), "concepts[0].face_scale", "of at most 3, got 3.5"),
    "identitynet: a number": (concept(identitynet=0.5), "concepts[0].identitynet", "expected an object, got 0.5"),
    "identitynet: unknown": (concept(identitynet={"stat": 0}), "concepts[0].identitynet.stat",
                             "did you mean `start`?"),
    "identitynet: turned": (concept(identitynet={"start": 0.5, "end": 0.5}), "concepts[0].identitynet.start",
                            "expected less than the end (0.5), got 0.5"),
    "identitynet: too late": (concept(identitynet={"end": 1.5}), "concepts[0].identitynet.end", "at most 1, got 1.5"),
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
    "a number of NumPy's": (request(blend_start=np.float64(0.5)), "blend_start", "expected a number, got float64"),
    "a set": (request(show={"masks"}), "show", "expected a list, got set"),
    "a part built in Python": (concept(where=Where(index=0)), "concepts[0].where",
                               "expected an object or null, got Where"),
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


# --------------------------------------------------------------------------------------------- fields that may be added

Unit = Annotated[float, Meta(ge=0, le=1)]


class Tint(Struct, frozen=True, forbid_unknown_fields=True):
    amount: Annotated[float, Meta(gt=0, lt=1)]
    channel: Literal["red", "blue"] = "red"


class Knobs(Struct, frozen=True, forbid_unknown_fields=True):
    """Fields of every kind that requests may get, for checks that read no more than the types."""

    mode: Literal["soft", "hard"] = "soft"
    level: Literal[1, 2] = 1
    steps: Annotated[int, Meta(ge=1, le=50)] = 1
    width: Annotated[int, Meta(multiple_of=8)] = 512
    scale: float | tuple[float, Unit] = 1.0
    fade: Unit | Annotated[tuple[Unit, ...], Meta(min_length=2, max_length=2)] = 1.0
    count: int | Annotated[float, Meta(ge=0)] | None = None
    blur: Literal["auto"] | Unit = "auto"
    tint: Tint | None = None
    tints: Annotated[tuple[Tint, ...], Meta(min_length=1, max_length=2)] | UnsetType = UNSET
    names: Annotated[list[Annotated[str, Meta(min_length=2, max_length=4, pattern="^a")]], Meta(min_length=1)] = \
        msgspec.field(default_factory=lambda: ["ab"])
    letters: dict[Annotated[str, Meta(pattern="^[a-z]$", extra={"in words": "a small letter"})], int] = \
        msgspec.field(default_factory=dict)
    seed: Annotated[int, Meta(ge=-1, le=4294967295, description="its values are told apart by this text")] | None = None
    pair: list[tuple[int, bool]] = msgspec.field(default_factory=list, name="number and truth")

    def __post_init__(self) -> None:
        if self.mode == "hard" and self.tint is not None:
            raise OMGError("tint.amount", "hard takes no tint")
        if self.steps == 13:
            raise OMGError("knobs", "unlucky")


@pytest.mark.parametrize(("data", "field", "reason"), [
    ({"mode": "sofd"}, "mode", "'sofd' is unknown; known here: hard, soft"),
    ({"mode": None}, "mode", "expected text, got null"),
    ({"level": 3}, "level", "3 is unknown; known here: 1, 2"),
    ({"level": True}, "level", "expected a whole number, got true"),
    ({"steps": 0}, "steps", "expected a whole number of at least 1, got 0"),
    ({"steps": 51}, "steps", "expected a whole number of at most 50, got 51"),
    ({"steps": 1.5}, "steps", "expected a whole number, got 1.5"),
    ({"width": 100}, "width", "expected a whole number that is a multiple of 8, got 100"),
    ({"scale": "x"}, "scale", "expected a number or a list, got 'x'"),
    ({"scale": [1]}, "scale", "expected a list of length 2, got a list of 1"),
    ({"scale": [9, 9]}, "scale[1]", "expected a number of at most 1, got 9"),
    ({"scale": [1, None]}, "scale[1]", "expected a number, got null"),
    ({"fade": None}, "fade", "expected a number or a list, got null"),
    ({"fade": 5}, "fade", "expected a number of at most 1, got 5"),
    ({"fade": []}, "fade", "expected a list of length 2, got a list of 0"),
    ({"fade": [1, -0.5]}, "fade[1]", "expected a number of at least 0, got -0.5"),
    ({"count": -0.5}, "count", "expected a number of at least 0, got -0.5"),
    ({"count": "1"}, "count", "expected a whole number or a number or null, got '1'"),
    ({"blur": "aut"}, "blur", "'aut' is unknown; known here: auto; or give a number"),
    ({"blur": [1]}, "blur", "expected text or a number, got a list of 1"),
    ({"tint": 1}, "tint", "expected an object or null, got 1"),
    ({"tint": {}}, "tint.amount", "this field is required"),
    ({"tint": {"amount": 0}}, "tint.amount", "expected a number above 0, got 0"),
    ({"tint": {"amount": 1}}, "tint.amount", "expected a number below 1, got 1"),
    ({"tint": {"amount": 0.5, "chanel": "red"}}, "tint.chanel", "unknown field; did you mean `channel`?"),
    ({"tints": []}, "tints", "the list is empty; give at least one tint"),
    ({"tints": None}, "tints", "expected a list, got null"),
    ({"tints": [{"amount": 0.5}] * 3}, "tints", "expected a list of length 2 or less, got a list of 3"),
    ({"tints": [{"amount": 0.5, "channel": "green"}]}, "tints[0].channel", "'green' is unknown; known here: blue, red"),
    ({"names": []}, "names", "the list is empty; give at least one entry"),
    ({"names": ["a"]}, "names[0]", "expected text of length 2 or more, got 'a'"),
    ({"names": ["aaaaa"]}, "names[0]", "expected text of length 4 or less, got 'aaaaa'"),
    ({"names": ["bb"]}, "names[0]", "expected text that matches ^a, got 'bb'"),
    ({"letters": {"A": 1}}, "letters.A", "expected a small letter, got 'A'"),
    ({"seed": 2**32}, "seed", "expected a whole number of at most 4294967295, got 4294967296"),
    ({"seed": {}}, "seed", "expected a whole number or null, got an object"),
    ({"pair": []}, "pair", "unknown field; known here: mode, level, steps, width, scale, fade, count"),
    ({"number and truth": [[1, 1]]}, "number and truth[0][1]", "expected true or false, got 1"),
    ({"mode": "hard", "tint": {"amount": 0.5}}, "tint.amount", "hard takes no tint"),
    ({"steps": 13}, "request", "unlucky"),
    ([], "request", "expected an object, got a list of 0"),
])
def test_a_new_field_is_checked_by_its_type(data, field, reason):
    with pytest.raises(OMGError) as caught:
        check(data, Knobs)
    assert caught.value.field == field
    assert reason in caught.value.message
    assert not msgspec_takes(data, Knobs)


@pytest.mark.parametrize("data", [
    {}, {"level": 2}, {"width": 64, "steps": 50}, {"scale": [9, 0.5]}, {"scale": (0, 0)}, {"count": -3}, {"count": 0.5},
    {"fade": [0, 1]}, {"blur": "auto"}, {"blur": 1}, {"tint": None}, {"tint": {"amount": 0.5, "channel": "blue"}},
    {"tints": [{"amount": 0.5}]}, {"names": ["ab", "abcd"]}, {"seed": 4294967295},
    {"number and truth": [[1, True], [2, False]]},
])
def test_a_new_field_is_taken_by_its_type(data):
    check(data, Knobs)
    assert msgspec_takes(data, Knobs)


@pytest.mark.parametrize("struct", [Request, Concept, Where, IdentityNet, Layout, Mask])
def test_no_union_of_the_request_crashes_msgspec(struct):
    """As validate.py says: a tuple of fixed length beside a member with limits."""
    kind = types.type_info(struct)
    assert isinstance(kind, types.StructType)
    for field in kind.fields:
        members = field.type.types if isinstance(field.type, types.UnionType) else ()
        limited = [member for member in members if isinstance(member, (types.IntType, types.FloatType, types.StrType))
                   and any(limit is not None for limit in msgspec.structs.astuple(member))]
        assert not limited or not any(isinstance(member, types.TupleType) for member in members), field.name


def passes(judge: Callable[..., object], *args: Any) -> bool:
    try:
        judge(*args)
    except OMGError:
        return False
    return True


def msgspec_takes(data: Any, struct: type[Struct]) -> bool:
    try:
        return passes(msgspec.convert, data, struct)  # false for a rule over several fields
    except msgspec.ValidationError:
        return False


# ----------------------------------------------------------------------------------------------------------- properties

fractions = st.floats(0.0, 1.0)
small_fractions = st.floats(0.0, 0.5)
filled = st.text(min_size=1).filter(str.strip)
edges = st.tuples(fractions, fractions).filter(lambda pair: pair[0] != pair[1]).map(sorted)
points = st.tuples(fractions, fractions).map(lambda point: Where(point=point))
indices = st.integers(0, 2**53).map(lambda index: Where(index=index))
boxes = st.tuples(edges, edges).map(lambda xy: Where(box=(xy[0][0], xy[1][0], xy[0][1], xy[1][1])))
masks = st.text().map(lambda mask: Where(mask=mask))

identitynets = st.tuples(st.floats(0.0, 3.0), edges).map(lambda net: IdentityNet(net[0], *net[1]))


def concepts(phrases: st.SearchStrategy[str], places: st.SearchStrategy[Where | None]) -> st.SearchStrategy[Concept]:
    return st.builds(Concept, prompt=filled, phrase=phrases, negative_prompt=st.none() | st.text(), where=places,
                     strength=fractions, cfg_scale=st.none() | st.floats(0.0, 100.0),
                     face=st.none() | filled | st.lists(filled, min_size=1, max_size=2).map(tuple),
                     face_scale=st.floats(0.0, 3.0), identitynet=identitynets)


requests = st.builds(
    Request,
    concepts=st.lists(concepts(filled, st.none() | points | indices) | concepts(st.text(), boxes | masks),
                      min_size=1, max_size=4).map(tuple),
    enabled=st.booleans(),
    detector=st.text(),
    blend_start=fractions,
    layout=st.builds(Layout, cross=fractions, self_=fractions),
    mask=st.builds(Mask, grow=small_fractions, feather=small_fractions),
    strict=st.booleans(),
    show=st.lists(st.sampled_from(get_args(Show))).map(tuple),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
# values at places where the parser looks, so that the refusals below the top level are reached
known_names = st.sampled_from([*Request.__struct_fields__, *Concept.__struct_fields__, *Where.__struct_fields__,
                               *IdentityNet.__struct_fields__,
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


# right at one place, wrong at another
pieces = (st.none() | st.booleans() | st.integers(-2, 3) | st.floats(-0.5, 1.5)
          | st.sampled_from(["", " ", "a", "masks", "soft", "red", "auto", 8, 64, 13, 2**53]))
values = st.recursive(pieces, lambda inner: st.lists(inner, max_size=5)
                      | st.dictionaries(st.sampled_from(["x", "amount", "channel"]), inner, max_size=3), max_leaves=6)
names = known_names | st.sampled_from(["x", "amount", "channel", *Knobs.__struct_encode_fields__])
knobs = st.fixed_dictionaries({}, optional={
    "mode": st.sampled_from(["soft", "hard"]), "level": st.sampled_from([1, 2]), "steps": st.integers(1, 50),
    "width": st.integers(0, 9).map(lambda number: 8 * number),
    "scale": st.floats(0, 4) | st.lists(fractions, min_size=2, max_size=2),
    "fade": fractions | st.lists(fractions, min_size=2, max_size=2),
    "count": st.none() | st.integers(-9, 9) | st.floats(0, 9),
    "blur": fractions | st.just("auto"),
    "tint": st.none() | st.fixed_dictionaries({"amount": st.sampled_from([0.25, 0.5])}),
    "tints": st.lists(st.fixed_dictionaries({"amount": st.just(0.5)}, optional={"channel": st.just("blue")}),
                      min_size=1, max_size=2),
    "names": st.lists(st.sampled_from(["ab", "abc", "a a"]), min_size=1),
    "seed": st.none() | st.integers(-1, 2**32 - 1),
    "number and truth": st.lists(st.tuples(st.integers(-9, 9), st.booleans()).map(list), max_size=2),
})


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every list and object in ``data``, with each of its positions or names."""
    for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
        yield data, key
        if isinstance(value, (dict, list)):
            yield from places(value)


@st.composite
def changed(draw: st.DrawFn, good: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Good data with one or two changes anywhere: another value, nothing, or something more."""
    data = deepcopy(draw(good))
    for _ in range(draw(st.integers(1, 2))):
        owner, key = draw(st.sampled_from([*places(data)] or [(data, "x")]))
        change = draw(st.sampled_from(["other", "less", "more"]))
        if change == "other":
            owner[key] = draw(values)
        elif change == "less":
            owner.pop(key, None) if isinstance(owner, dict) else owner.pop(key)
        elif isinstance(owner, dict):
            owner[draw(names)] = draw(values)
        else:
            owner.insert(key, draw(values))
    return data


@given(changed(requests.map(dump_request)) | objects | st.dictionaries(known_names, objects))
def test_what_a_request_takes_is_what_msgspec_takes(data):
    assert passes(check, data, Request) == (passes(refuse_odd_values, data) and msgspec_takes(data, Request))


@given(changed(knobs) | knobs)
def test_what_any_struct_takes_is_what_msgspec_takes(data):
    assert passes(check, data, Knobs) == (passes(refuse_odd_values, data) and msgspec_takes(data, Knobs))
