"""The accordion without Gradio: component values to a request and back, and through the web UI's infotext."""

import base64
import io
import json
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from omg_ext.comprehension.masks import decode_mask, encode_mask
from omg_ext.errors import OMGError
from omg_ext.infotext import KEY, infotext_value
from omg_ext.request import Concept, Request, Where, dump_request, parse_request
from omg_ext.request.pictures import decode_picture, mark_of, rgb
from omg_ext.webui.fields import (
    CONCEPT_FIELDS,
    GLOBAL_FIELDS,
    NO_PREVIEW,
    PREVIEW,
    arg_fields,
)
from omg_ext.webui.fields import (
    choice_of as place,
)
from omg_ext.webui.form import args_from_request, request_from_args
from omg_ext.webui.infotext import paste_fields

# as in the web UI's modules/infotext_utils.py
HOST_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

HALF = encode_mask(np.eye(8))
WAYS: list[dict[str, Any]] = [{"predict": predict, "first_pass": first} for predict in ("separate", "shared", "joint")
                              for first in ("whole", "prefix")]

words = st.text(min_size=1).filter(str.strip)
fractions = st.floats(0, 1)
places = st.one_of(
    st.builds(lambda x, y: {"point": [x, y]}, fractions, fractions),
    st.builds(lambda index: {"index": index}, st.integers(0, 20)),
    st.builds(lambda kind, x, y: {kind: [x / 2, y / 2, 0.5 + x / 2, 0.5 + y / 2]},
              st.sampled_from(["overlap", "box", "outline"]), fractions.filter(bool), fractions.filter(bool)),
    st.just({"mask": HALF}),
    st.just({"rest": True}),
)
scales = st.floats(0, 100)
concepts = st.fixed_dictionaries(
    {"prompt": words, "phrase": words},
    optional={"negative_prompt": st.text(), "where": places, "strength": fractions,
              "cfg_scale": st.one_of(scales, st.lists(scales, min_size=2, max_size=2)),
              "lora_guidance": st.floats(0, 20), "face": words | st.lists(words, min_size=1, max_size=2),
              "face_scale": st.floats(0, 3), "identitynet": st.fixed_dictionaries({}, optional={
                  "scale": st.floats(0, 3), "start": st.floats(0, 0.5), "end": st.floats(0.6, 1)})},
)
requests = st.fixed_dictionaries(
    {"concepts": st.lists(concepts, min_size=1, max_size=4).filter(
        lambda concepts: [concept.get("where") for concept in concepts].count({"rest": True}) < 2)},
    optional={
        "detector": st.just("attention"), "blend_start": fractions, "strict": st.booleans(),
        "layout": st.fixed_dictionaries({}, optional={"cross": fractions, "self": fractions}),
        "mask": st.fixed_dictionaries({}, optional={"grow": st.floats(0, 0.5), "feather": st.floats(0, 0.5)}),
        "show": st.lists(st.sampled_from(["first_pass", "masks", "overlay"]), unique=True),
        "detect": st.fixed_dictionaries({}, optional={"threshold": fractions, "model": st.text(),
                                                      "segmenter": st.text()}),
        "preview": st.booleans(), "predict": st.sampled_from(["separate", "shared", "joint"]),
        "first_pass": st.sampled_from(["whole", "prefix"]), "control_concepts": st.booleans(),
    },
).map(lambda data: parse_request(data if can_be_prefix(data) else {**data, "first_pass": "whole"}))


def can_be_prefix(data: dict[str, Any]) -> bool:
    """The concepts are found in a picture's beginning only if there is something to be seen, and no layout is kept."""
    return "layout" not in data and data.get("blend_start", 0.5) >= 0.1


def names_of(groups: int) -> list[str]:
    return [f"concept{number}_{each.name}" if number else each.name for number, each in arg_fields(groups)]


def accordion(groups: int = 2, **values):
    """Component values; ``concept1_phrase="man"`` and the like set some, the others are as at the start."""
    named = dict(zip(names_of(groups), (each.default for _, each in arg_fields(groups)), strict=True))
    assert not values.keys() - named.keys()
    return list((named | {"enabled": True, "count": 1} | values).values())


def wanted(args):
    """The request of an accordion that is switched on."""
    request_ = request_from_args(args)
    assert request_ is not None
    return request_


def through_infotext(value: str) -> str:
    """What the web UI reads back after it has written the value among others."""
    quoted = json.dumps(value, ensure_ascii=False)
    line = f"Steps: 20, Sampler: Euler a, Size: 512x512, {KEY}: {quoted}, Version: v1.10.1"
    found = dict(HOST_PARAMETER.findall(line))
    assert found["Version"] == "v1.10.1"
    return json.loads(found[KEY])


@given(requests, st.integers(1, 5))
def test_any_request_survives_the_accordion(request_, groups):
    args = args_from_request(request_, groups)
    assert len(args) == len(arg_fields(groups))
    assert parse_request(request_from_args(args)) == request_


@given(requests)
def test_any_request_survives_the_infotext(request_):
    """But that of photos a checksum is left."""
    text = through_infotext(infotext_value(request_))
    concepts = [msgspec.structs.replace(each, face=each.face and (
        mark_of(each.face) if isinstance(each.face, str) else tuple(map(mark_of, each.face))))
        for each in request_.concepts]
    request_ = msgspec.structs.replace(request_, concepts=tuple(concepts))
    assert parse_request(text) == request_
    assert parse_request(request_from_args(accordion(api=text))) == request_


def test_fields_alone_show_an_ordinary_request():
    concepts = (Concept(prompt="a", phrase="man", negative_prompt="b", where=Where(index=1), cfg_scale=3.0),
                Concept(prompt="c", where=Where(mask=HALF), strength=0.5, cfg_scale=(8.0, 3.0), lora_guidance=2.5))
    for ways in WAYS:
        args = args_from_request(Request(concepts=concepts, blend_start=0.2, show=("masks",), **ways), 3)
        assert args[0] == ""


@pytest.mark.parametrize("ways", WAYS, ids=str)
def test_ways_are_chosen_in_plain_words_or_the_requests_own(ways):
    values: dict[str, Any] = {"concept1_phrase": "man", "concept1_prompt": "a"}
    request_ = Request(concepts=(Concept(prompt="a", phrase="man"),), **ways)
    shown = {each.name: value for (_, each), value in zip(arg_fields(1), args_from_request(request_, 1), strict=True)
             if each.name in ways}
    assert all(shown[each.name] in [entry for entry, _ in each.choices] for each in GLOBAL_FIELDS if each.choices)
    for chosen in (shown, ways):
        assert parse_request(wanted(accordion(**values, **chosen))) == request_


@pytest.mark.parametrize("name", ["predict", "first_pass"])
@pytest.mark.parametrize("value", ["", "quickly", None, 1, ["joint"]])
def test_an_unknown_way_is_refused(name, value):
    values: dict[str, Any] = {"concept1_phrase": "man", "concept1_prompt": "a", name: value}
    with pytest.raises(OMGError) as refused:
        parse_request(wanted(accordion(**values)))
    assert refused.value.field == name


@pytest.mark.parametrize(("start", "end", "scale"), [
    (0, 0, None), (None, None, None), (6, 0, 6), (6, None, 6), (6, 2.5, [6, 2.5]), (6, 6, [6, 6]),
])
def test_one_cfg_scale_or_one_at_each_end(start, end, scale):
    args = accordion(concept1_phrase="man", concept1_prompt="a", concept1_cfg_scale=start, concept1_cfg_end=end)
    assert wanted(args)["concepts"][0].get("cfg_scale") == scale


@pytest.mark.parametrize("start", [0, None])
def test_a_final_cfg_scale_alone_is_refused(start):
    args = accordion(count=2, concept1_phrase="man", concept1_prompt="a", concept2_phrase="woman",
                     concept2_prompt="b", concept2_cfg_scale=start, concept2_cfg_end=3)
    with pytest.raises(OMGError, match="Concept 2: Final CFG scale is set, and CFG scale is not") as refused:
        request_from_args(args)
    assert refused.value.field == "concepts[1].cfg_scale"


@pytest.mark.parametrize("concepts", [
    [{"prompt": "a", "phrase": "b"}] * 3,
    [{"prompt": "a", "phrase": "b", "negative_prompt": ""}],
    *[[{"prompt": "a", "phrase": "b", "cfg_scale": scale}] for scale in (0, [0, 5], [5, 0], [0, 0])],
])
def test_what_the_fields_cannot_show_stays_whole_in_the_api_slot(concepts):
    request_ = parse_request({"concepts": concepts})
    args = args_from_request(request_, 2)
    assert parse_request(args[0]) == request_
    assert parse_request(request_from_args(args)) == request_


def test_untouched_fields_mean_the_defaults_of_the_request():
    args = accordion(concept1_phrase="man", concept1_prompt="sks man")
    assert parse_request(request_from_args(args)) == Request(concepts=(Concept(prompt="sks man", phrase="man"),))


def test_off_until_enabled():
    assert request_from_args(accordion(enabled=False, concept1_prompt="a", concept1_phrase="b")) is None


def test_hidden_concepts_do_not_count():
    args = accordion(concept1_phrase="man", concept1_prompt="a", concept2_phrase="woman", concept2_prompt="b")
    assert len(wanted(args)["concepts"]) == 1


@pytest.mark.parametrize("form", [dict, json.dumps])
def test_the_api_slot_counts_alone(form):
    request_ = {"concepts": [{"prompt": "a", "phrase": "b"}]}
    assert request_from_args(accordion(enabled=False, api=form(request_))) == request_


@pytest.mark.parametrize("slot", [{}, [], [1], 0, False, True, "{", "null", {"concepts": [{"promt": "a"}]}])
def test_the_api_slot_is_validated(slot):
    with pytest.raises(OMGError):
        request_from_args(accordion(api=slot))


def test_an_empty_concept_is_named():
    args = accordion(count=2, concept1_phrase="man", concept1_prompt="a")
    with pytest.raises(OMGError, match="Concept 2 is empty") as refused:
        request_from_args(args)
    assert refused.value.field == "concepts[1]"


@pytest.mark.parametrize(("kind", "text", "value"), [
    ("point", "0.25, 0.5", [0.25, 0.5]),
    ("point", "[.25 .5]", [0.25, 0.5]),
    ("index", "1", 0),
    ("index", " 3 ", 2),
    ("box", "0,0;0.5,1", [0, 0, 0.5, 1]),
    ("outline", "0, 0, .5, 1", [0, 0, 0.5, 1]),
    ("rest", "", True),
    ("rest", "0, 0, .5, 1", True),  # typed for another place
])
def test_places_are_read(kind, text, value):
    args = accordion(concept1_phrase="man", concept1_prompt="a", concept1_where=place(kind), concept1_where_text=text)
    assert wanted(args)["concepts"][0]["where"] == {kind: value}


@pytest.mark.parametrize(("kind", "text"), [
    ("point", "abc"), ("point", ""), ("point", "0.5"), ("point", "0.1, 0.2, 0.3"), ("point", "0,25, 0,5"),
    ("index", "0"), ("index", "-1"), ("index", "1.5"), ("index", "first"), ("index", ""),
    ("box", "0, 0, 1"), ("box", "left"), ("outline", "0, 0, 1"), ("outline", ""), ("mask", ""),
])
def test_places_that_cannot_be_read_are_named(kind, text):
    args = accordion(concept1_phrase="man", concept1_prompt="a", concept1_where=place(kind), concept1_where_text=text)
    with pytest.raises(OMGError, match="Concept 1") as refused:
        request_from_args(args)
    assert refused.value.field == f"concepts[0].where.{kind}"


def test_the_shape_in_a_box_needs_no_phrase_and_no_api_slot():
    args = accordion(concept1_prompt="a", concept1_where="The shape inside a box", concept1_where_text="0, 0, 0.5, 1")
    request_ = parse_request(wanted(args))
    assert request_.concepts == (Concept(prompt="a", where=Where(outline=(0, 0, 0.5, 1))),)
    back = {each.name: value for (_, each), value in zip(arg_fields(1), args_from_request(request_, 1), strict=True)}
    assert (back["api"], back["where"], back["where_text"]) == ("", "The shape inside a box", "0.0, 0.0, 0.5, 1.0")


def test_everything_else_needs_no_phrase_and_no_api_slot():
    args = accordion(count=2, concept1_phrase="man", concept1_prompt="a", concept2_prompt="b",
                     concept2_where="Everything else")
    request_ = parse_request(wanted(args))
    assert request_.concepts == (Concept(prompt="a", phrase="man"), Concept(prompt="b", where=Where(rest=True)))
    back = dict(zip(names_of(2), args_from_request(request_, 2), strict=True))
    assert [back[name] for name in ("api", "concept2_where", "concept2_where_text", "concept2_mask_picture")] == [
        "", "Everything else", "", None]
    twice = accordion(count=2, concept1_prompt="a", concept1_where="Everything else", concept2_prompt="b",
                      concept2_where="Everything else")
    with pytest.raises(OMGError, match=r"concepts\[1\]\.where\.rest: the rest is concepts\[0\]'s already"):
        parse_request(wanted(twice))


def test_an_unknown_place_is_refused():
    args = accordion(concept1_phrase="man", concept1_prompt="a", concept1_where="somewhere")
    with pytest.raises(OMGError, match="choose one of"):
        request_from_args(args)


@pytest.mark.parametrize(("kind", "text"), [("point", "nan, 0.5"), ("point", "2, 0.5"), ("box", "1, 0, 0, 1")])
def test_places_outside_the_picture_are_refused(kind, text):
    args = accordion(concept1_phrase="man", concept1_prompt="a", concept1_where=place(kind), concept1_where_text=text)
    with pytest.raises(OMGError, match="where"):
        parse_request(request_from_args(args))


@pytest.mark.parametrize("field", ["count", "blend_start", "cross", "grow", "concept1_strength",
                                   "concept1_lora_guidance"])
def test_a_cleared_number_is_refused(field):
    values: dict[str, Any] = {"concept1_phrase": "man", "concept1_prompt": "a", field: None}
    args = accordion(**values)
    with pytest.raises(OMGError):
        parse_request(request_from_args(args))


def test_an_uploaded_picture_becomes_the_mask():
    pixels = np.zeros((6, 8), np.uint8)
    pixels[:, 5:] = 255
    picture = Image.fromarray(pixels).convert("RGBA")
    args = accordion(concept1_prompt="a", concept1_where=place("mask"), concept1_mask_picture=picture)
    text = wanted(args)["concepts"][0]["where"]["mask"]
    assert Image.open(io.BytesIO(base64.b64decode(text))).size == (8, 6)
    np.testing.assert_array_equal(decode_mask(text, "mask"), pixels / 255)


def test_a_photo_is_a_face_and_leaves_a_checksum():
    """The same for the same pixels, from the page and from the API; put in again, the photo counts."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    values: dict[str, Any] = {"concept1_phrase": "man", "concept1_prompt": "a"}
    request_ = parse_request(request_from_args(accordion(
        **values, concept1_face=photo, concept1_face_index="2nd from the left")))
    only = request_.concepts[0]
    np.testing.assert_array_equal(rgb(decode_picture(only.faces[0], "face")), pixels)
    assert only.face_index == 1
    file = io.BytesIO()
    photo.save(file, "WebP", lossless=True)
    mark = mark_of(base64.b64encode(file.getvalue()).decode())
    text = infotext_value(request_)
    assert json.loads(text)["concepts"][0]["face"] == mark
    assert len(text) < 200
    pasted = dict(zip(names_of(2), args_from_request(parse_request(text), 2), strict=True))
    assert (pasted["api"], pasted["concept1_face"], pasted["concept1_face_mark"]) == ("", None, mark)
    assert wanted(list(pasted.values()))["concepts"][0]["face"] == mark
    with pytest.raises(OMGError, match="the picture is missing"):
        decode_picture(mark, "concepts[0].face")
    assert wanted(list({**pasted, "concept1_face": photo}.values()))["concepts"][0]["face"] == only.face
    emptied = {**pasted, "concept1_face_mark": ""}  # and nothing is left to choose from
    assert wanted(list(emptied.values()))["concepts"][0].keys().isdisjoint({"face", "face_index"})


def test_photos_of_cameras_are_made_handy():
    """And cut-outs stand on white, as at the API."""
    photo = Image.new("RGBA", (6000, 3000), (255, 0, 0, 0))
    args = accordion(concept1_phrase="man", concept1_prompt="a", concept1_face=photo)
    made = decode_picture(wanted(args)["concepts"][0]["face"], "face")
    assert made.size == (2048, 1024)
    assert made.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("half", [
    {"concept2_where": "At a point"}, {"concept2_where": "In a box", "concept2_where_text": "0, 0"},
    {"concept2_where": "Painted mask"}, {"concept2_cfg_end": 3.0}, {"concept2_phrase": "", "concept2_prompt": ""},
], ids=str)
def test_what_is_off_may_be_half_filled_in(half):
    """On, it is refused."""
    values: dict[str, Any] = {"count": 2, "concept1_phrase": "man", "concept1_prompt": "a", "concept2_phrase": "dog",
                              "concept2_prompt": "b", **half}
    first, second = parse_request(wanted(accordion(**values, concept2_on=False))).concepts
    assert (first.enabled, second.enabled) == (True, False)
    with pytest.raises(OMGError):
        parse_request(wanted(accordion(**values)))


def test_the_options_of_the_detector():
    values: dict[str, Any] = {"concept1_phrase": "man", "concept1_prompt": "a"}
    args = accordion(**values, threshold=0.4, model="large", segmenter="fine")
    assert wanted(args)["detect"] == {"threshold": 0.4, "model": "large", "segmenter": "fine"}
    assert "threshold" not in wanted(accordion(**values, model="large"))["detect"]
    assert dump_request(parse_request(wanted(accordion(**values)))).keys() == {"concepts"}


def test_values_of_before_stay_where_they_were():
    """API users send them in their order, without those that came later: the host adds these."""
    names = [each.name for _, each in arg_fields(2)]
    assert names == [
        "api", "enabled", "count", "detector", "blend_start", "cross", "self", "grow", "feather", "strict", "show",
        *["phrase", "where", "where_text", "mask_picture", "prompt", "negative_prompt", "strength", "cfg_scale"] * 2,
        "threshold", "model", "segmenter", "preview",
        "predict", "first_pass", *["lora_guidance", "cfg_end"] * 2,
        "control_concepts",
        *["face_mark", "face", "face_index", "face_scale", "identity_scale", "identity_start", "identity_end"] * 2,
        *["on"] * 2,
    ]
    assert [number for number, each in arg_fields(2) if each.name == "cfg_end"] == [1, 2]


@pytest.mark.parametrize("values", [
    {"concept1_phrase": "man"}, {"concept1_phrase": "man", "enabled": False},
    {"api": {"concepts": [{"phrase": "man", "prompt": ""}], "preview": True}},
], ids=["fields", "switched off", "API slot"])
def test_the_page_asks_for_a_preview_of_whatever_stands_there(values):
    request_ = parse_request(request_from_args(accordion(**values, preview=PREVIEW)))
    assert request_.preview
    assert request_.concepts == (Concept(prompt="", phrase="man"),)
    if "api" not in values:
        plain = request_from_args(accordion(**values, preview=NO_PREVIEW))
        assert plain is None or "preview" not in plain


@pytest.mark.parametrize("kind", ["point", "box", "outline", "mask"])
@pytest.mark.parametrize("values", [{"concept1_phrase": "man"}, {"concept1_prompt": "a"},
                                    {"concept1_phrase": "man", "detector": "painted"}], ids=str)
def test_a_preview_needs_no_places_as_they_are_what_it_is_for(kind, values):
    args = accordion(**values, concept1_where=place(kind), preview=PREVIEW)
    concept, = wanted(args)["concepts"]
    is_sought = "concept1_phrase" in values and "detector" not in values
    assert concept.get("where") == (None if is_sought else {"box": [0, 0, 1, 1]})
    parse_request(wanted(args))
    with pytest.raises(OMGError, match="where"):
        request_from_args(accordion(**values, concept1_where=place(kind)))


def test_a_preview_keeps_the_places_that_are_given():
    args = accordion(concept1_phrase="man", concept1_where=place("point"), concept1_where_text="0.5, 0.5",
                     preview=PREVIEW)
    assert wanted(args)["concepts"][0]["where"] == {"point": [0.5, 0.5]}


@pytest.mark.parametrize("detector", ["contrast", "painted"])
def test_a_preview_keeps_the_rest(detector):
    """With a phrase, too: it is a place that needs nothing more."""
    args = accordion(concept1_phrase="man", concept1_where=place("rest"), detector=detector, preview=PREVIEW)
    assert wanted(args)["concepts"][0]["where"] == {"rest": True}


def test_infotext_is_compact():
    noise = encode_mask(np.random.default_rng(0).random((256, 256)))
    request_ = Request(concepts=(Concept(prompt="a", where=Where(mask=noise)), Concept(prompt="b", phrase="c")))
    text = infotext_value(request_)
    assert len(noise) > 50_000
    assert len(text) < 4100
    mask = json.loads(text)["concepts"][0]["where"]["mask"]
    assert decode_mask(mask, "mask").mean() == pytest.approx(0.5, abs=0.05)
    assert infotext_value(Request(concepts=request_.concepts[1:])) == '{"concepts":[{"prompt":"b","phrase":"c"}]}'


@pytest.mark.parametrize("params", [{}, {KEY: "{}"}])
def test_the_infotext_key_switches_the_accordion(params):
    (api, text), (enabled, target) = paste_fields("api", "enabled", lambda text, styles: f"{text} without {styles}")
    assert (api, enabled) == ("api", "enabled")
    assert text(params) == params.get(KEY)
    assert target(params) is bool(params)
    if params:
        assert text({**params, "Styles array": ["one"]}) == "{} without ['one']"


def test_field_names_are_unique_and_every_field_is_explained():
    for table in (GLOBAL_FIELDS, CONCEPT_FIELDS):
        names = [each.name for each in table]
        assert len(set(names)) == len(names)
    saved = [each.label for each in GLOBAL_FIELDS if each.saved]
    assert len(set(saved)) == len(saved), "the web UI keeps defaults by label"
    without_help = {each.name for each in (*GLOBAL_FIELDS, *CONCEPT_FIELDS) if not each.info}
    assert without_help == {"enabled", "count", "where_text", "mask_picture", "face"}
