"""``<lora:...>`` tags: what is read, what is refused by name, and what is suggested instead of an unknown name."""

from __future__ import annotations

import pytest

from omg_ext.errors import OMGError
from omg_ext.request.tags import Tag, parse_tags, refuse_tags, suggestion, with_weight


@pytest.mark.parametrize(("text", "tag"), [
    ("x", Tag("x")), ("x:0.5", Tag("x", 0.5, 0.5)), ("x:0.5:0.7", Tag("x", 0.5, 0.7)),
    ("x:1:1:4", Tag("x", dyn=4)), ("x:te=0.4", Tag("x", 0.4, 0.4)), ("x:unet=0.6", Tag("x", 1, 0.6)),
    ("x:1:te=0.2:unet=0.9", Tag("x", 0.2, 0.9)), ("x:dyn=1:0.3", Tag("x", 0.3, 0.3, 1)), ("x:-1", Tag("x", -1, -1))])
@pytest.mark.parametrize("kind", ["lora", "lyco"])
def test_what_is_read(kind, text, tag):
    assert parse_tags(f"a <{kind}:{text}>man", "prompt") == ("a man", [tag])


@pytest.mark.parametrize(("tag", "words"), [
    ("<lora:x:1:1:lbw=OUTALL>", ["lbw=", "known: te=, unet=, dyn="]), ("<lora:x:weight=1>", ["weight="]),
    ("<lora:x:1:TE=1>", ["TE="]), ("<lora:x:1:1:4:2>", ["too many"]), ("<lora:x:nan>", ["not a number"]),
    ("<lora:x:1:inf>", ["not a number"]), ("<lora:x:much>", ["not a number"]), ("<hypernet:x:1>", ["hypernet"])])
def test_what_is_refused(tag, words):
    with pytest.raises(OMGError) as caught:
        parse_tags(f"a man {tag}", "concepts[0].prompt")
    assert caught.value.field == "concepts[0].prompt"
    for part in (tag, *words):
        assert part in caught.value.message


def test_arguments_of_the_host():
    """They are the host's to read, in the tag as it was written."""
    (tag,) = parse_tags("<lora:x:0.5:lbw=OUTALL:te=0.2>", "prompt", ("lbw", "start"))[1]
    assert tag == Tag("x", 0.2, 0.2, None, ("x", "0.5", "lbw=OUTALL", "te=0.2"))
    with pytest.raises(OMGError, match=r"known: te=, unet=, dyn=, lbw=, start="):
        parse_tags("<lora:x:stop=1>", "prompt", ("lbw", "start"))


@pytest.mark.parametrize(("tag", "weighed"), [
    ("x", "x:0.25"), ("x:1", "x:0.25"), ("x:1:0.3", "x:0.25"), ("x:1:1:4", "x:0.25:0.25:4"), ("x:te=0.4", "x:0.25"),
    ("x:1:te=0.2:unet=0.9:dyn=2", "x:0.25:dyn=2"), ("x:0.5:lbw=OUTALL", "x:0.25:lbw=OUTALL"), ("x:-1", "x:0.25")])
@pytest.mark.parametrize("kind", ["lora", "lyco"])
def test_another_weight(kind, tag, weighed):
    prompt, count = with_weight(f"a <{kind}:{tag}>man <hypernet:y:1>", 0.25)
    assert (prompt, count) == (f"a <{kind}:{weighed}>man <hypernet:y:1>", 1)
    (read,) = parse_tags(f"<{kind}:{weighed}>", "prompt", ("lbw",))[1]
    assert (read.te, read.unet) == (0.25, 0.25)


def test_weights_of_several_and_of_none():
    assert with_weight("<lora:x:1> and <lora:y:2>", -1.5) == ("<lora:x:-1.5> and <lora:y:-1.5>", 2)
    assert with_weight("a man", 0.5) == ("a man", 0)


@pytest.mark.parametrize("negative", ["ugly <lora:x:1>", "<lyco:x>", "<hypernet:x:1>, blurry"])
def test_a_tag_in_a_negative_prompt(negative):
    with pytest.raises(OMGError, match="put it into the prompt") as caught:
        refuse_tags(negative, "concepts[0].negative_prompt")
    assert caught.value.field == "concepts[0].negative_prompt"


@pytest.mark.parametrize("negative", ["", "ugly, <3, (bad:1.2)", "a > b: c < d"])
def test_a_negative_prompt_without_tags(negative):
    refuse_tags(negative, "negative_prompt")


KNOWN = {"UPPER": "UPPER.safetensors", "sks_man v2": "sks_man v2.safetensors", "styles/ink": "styles/ink.safetensors",
         "twin": "a/twin.pt", "Twin": "b/Twin.pt"}


@pytest.mark.parametrize(("name", "meant"), [
    ("upper", "<lora:UPPER:1>"), ("chars/UPPER", "<lora:UPPER:1>"), ("chars\\upper", "<lora:UPPER:1>"),
    ("UPPER.safetensors", "<lora:UPPER:1>"), (" Upper ", "<lora:UPPER:1>"), ("sks_man_v2", "<lora:sks_man v2:1>"),
    ("SKS man v2.safetensors", "<lora:sks_man v2:1>"), ("ink", "<lora:styles/ink:1>"),
    ("uper", "<lora:UPPER:1>"), ("sks_man_v3", "<lora:sks_man v2:1>"),
    ("TWIN", "<lora:Twin:1> or <lora:twin:1>")])
def test_suggestion(name, meant):
    """A name that differs only in what people get wrong is the suggestion; else one that is near."""
    assert suggestion(Tag(name), KNOWN) == f"; did you mean {meant}?"


def test_suggestion_keeps_the_weight_and_names_each_file_once():
    known = {"upper case": "UPPER.safetensors", "UPPER": "UPPER.safetensors", "Uppercase": "UPPER.safetensors"}
    assert suggestion(Tag("uppercase", 0.7), known) == "; did you mean <lora:Uppercase:0.7>?"


def test_no_suggestion():
    assert suggestion(Tag("wholly different"), KNOWN) == ""
    assert suggestion(Tag(""), {}) == ""
