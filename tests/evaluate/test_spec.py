"""What is refused of a spec, and where it says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from omg_ext.errors import OMGError
from omg_ext.evaluate.files import SpecError, SpecFile
from omg_ext.evaluate.scene import Scene, fits
from omg_ext.evaluate.spec import parse_spec
from tests.evaluate.specs import a_spec, read, write

OMG = {"kind": "omg"}
ANN = {"phrase": "woman", "prompt": "zwx woman", "references": "ann"}


@pytest.mark.parametrize(("fields", "field", "said"), [
    ({"concepts": {}}, "concepts", "empty"),
    ({"concepts": {"a.b": {"phrase": "x", "prompt": "x", "references": "x"}}}, "concepts.a.b",
     "expected a name of 1 to 60 characters without dots, brackets and line breaks, got 'a.b'"),
    ({"concepts": {"ann": {"phrase": "x", "prompt": "x"}}}, "concepts.ann.references", "required"),
    ({"casts": [["ann"], ["zoe"]]}, "casts[1][0]", "none of the concepts: ann, bob, cup"),
    ({"casts": [["ann", "ann"]]}, "casts[0][1]", "already"),
    ({"casts": [["ann", "bob", "cup"]], "prompts": ["a {0} with a {1}"]}, "casts[0]", "{0}, {1}, {2}"),
    ({"prompts": ["{all}", "a park"]}, "prompts[1]", "for no cast"),
    ({"methods": {"x": {"kind": "magic"}}}, "methods.x.kind", "known here: blending, omg, plain, regional"),
    ({"methods": {"x": {"kind": "plain", "request": {"predict": "joint"}}}}, "methods.x.request", "leave it out"),
    ({"methods": {"x": {**OMG, "request": {"concepts": []}}}}, "methods.x.request.concepts", "the evaluation makes"),
    ({"methods": {"x": {**OMG, "request": {"enabled": False}}}}, "methods.x.request.enabled", "kind plain"),
    ({"methods": {"x": {**OMG, "request": {"preview": True}}}}, "methods.x.request.preview", "no picture"),
    ({"methods": {"x": {**OMG, "concept": {"prompt": "x"}}}}, "methods.x.concept.prompt", "the evaluation makes it"),
    ({"methods": {"x": {**OMG, "by": "face", "concept": {"face": "x"}}}}, "methods.x.concept.face",
     "the evaluation makes it"),
    ({"methods": {"x": {**OMG, "grid": {"request.enabled": [True, False]}}}}, "methods.x.grid.request.enabled",
     "leave it out"),
    ({"methods": {"x": {"kind": "regional", "by": "face"}}}, "methods.x.by", "single, simultaneous and omg"),
    ({"methods": {"x": {"kind": "single", "grid": {"request.predict": ["joint"]}}}}, "methods.x.grid",
     "regional, blending and omg"),
    ({"methods": {"x": {**OMG, "grid": {"blend_start": [0.3]}}}}, "methods.x.grid.blend_start", "request.blend_start"),
    ({"methods": {"x": {**OMG, "grid": {"request.blend_start": []}}}}, "methods.x.grid.request.blend_start", "empty"),
    ({"methods": {"x": {**OMG, "grid": {"request.detector.x": [1]}, "request": {"detector": "yolo"}}}},
     "methods.x.grid.request.detector.x", "there is no x"),
    ({"methods": {"first": OMG, "x": {**OMG, "grid": {"request.show.2": [1]}, "request": {"show": []}}}},
     "methods.x.grid.request.show.2", "there is no 2"),
    ({"methods": {"x": {**OMG, "grid": {"request.blend_start": [0.2, 0.2]}}}}, "methods.x.grid", "two methods"),
    ({"methods": {"x": {**OMG, "grid": {"request.strict": [True]}}, "x, strict true": OMG}}, "methods.x.grid",
     "two methods 'x, strict true'"),
    ({"methods": {"x": {**OMG, "casts": [0, 2]}}}, "methods.x.casts[1]", "2 casts, counted from 0"),
    ({"excerpts": {"Fig. 5": {"methods": ["OMG", "OGM"]}}}, "excerpts.Fig. 5.methods[1]", "plain, single LoRA"),
    ({"excerpts": {"Fig. 5": {"casts": [5]}}}, "excerpts.Fig. 5.casts[0]", "2 casts"),
    ({"excerpts": {"Table 2": {}, "table-2": {}}}, "excerpts.Table 2", "another title"),
    ({"excerpts": {"Fig. 5": {}, "fig 5": {}}}, "excerpts.Fig. 5", "names of those of"),
    ({"excerpts": {"?": {}}}, "excerpts.?", "a letter or a digit"),
    ({"methods": {"x": OMG, "y": {**OMG, "casts": [0]}}, "excerpts": {"e": {"methods": ["y"], "casts": [1]}}},
     "excerpts.e", "none of its methods draws"),
    ({"prompts": ["{all}", "{all}"]}, "prompts[1]", "count twice"),
    ({"casts": [["ann"], ["bob"], ["ann"]], "prompts": ["{all}"]}, "casts[2]", "count twice"),
    ({"seeds": "1-3, 2"}, "seeds", "twice"),
    ({"seeds": "0-99999999999"}, "seeds", "less than 4294967296"),
    ({"methods": {"x": {**OMG, "concept": {"face_scale": 1}}}}, "methods.x.concept.face_scale", "by: face"),
    ({"concepts": {"ann": {**ANN, "lora": "ann"}}, "casts": [["ann"]], "prompts": ["{all}"]}, "concepts.ann.lora",
     "expected a tag such as <lora:ann:1>, got 'ann'"),
    ({"concepts": {"ann": {**ANN, "lora": "<lora:ann:x>"}}, "casts": [["ann"]], "prompts": ["{all}"]},
     "concepts.ann.lora", "x"),
    ({"concepts": {str(number): {**ANN, "phrase": "woman"} for number in range(4)}, "casts": [["0", "1", "2", "3"]],
      "prompts": ["{all}"], "methods": {"all": {"kind": "simultaneous", "by": "face"}}}, "methods.all.by", "3 faces"),
    ({"settings": {"seed": 3}}, "settings.seed", "the evaluation sets it"),
    ({"seeds": "3-"}, "seeds", "ranges such as"),
    ({"seeds": [-1]}, "seeds[0]", "at least 0"),
    ({"figures": ["text", "beauty"]}, "figures[1]", "known here: text"),
    ({"sedes": "1"}, "sedes", "did you mean `seeds`?"),
])
def test_what_is_wrong_is_named(fields, field, said):
    with pytest.raises(OMGError) as caught:
        parse_spec(a_spec(**fields))
    assert caught.value.field == field
    assert said in caught.value.message


def test_the_manuals_spec_is_one():
    manual = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL)[0]
    spec = parse_spec(yaml.safe_load(example))
    assert len(spec.methods) == 10
    assert len(spec.variants) == 13


def test_a_lora_is_asked_for_only_where_one_is_drawn():
    spec = a_spec(methods={"faces": {**OMG, "by": "face"}, "plain": {"kind": "plain"}})
    del spec["concepts"]["ann"]["lora"]
    parse_spec(spec)
    spec["methods"]["x"] = OMG
    with pytest.raises(OMGError, match="the method x draws by LoRAs") as caught:
        parse_spec(spec)
    assert caught.value.field == "concepts.ann.lora"


YAML = """\
concepts:
  ann: {phrase: woman, prompt: zwx woman, lora: "<lora:ann:1>", references: ann}
casts:
  - [ann]
prompts:
  - a {0}
methods:
  OMG:
    kind: omg
    request:
      blend_strat: 0.3
"""


def test_a_fault_has_the_line_of_its_field(tmp_path):
    write(tmp_path, a_spec())
    path = tmp_path / "spec.yaml"
    path.write_text(YAML.replace("phrase: woman", "phrase: ''"))
    with pytest.raises(SpecError) as caught:
        SpecFile.read(path)
    assert (caught.value.fault.line, caught.value.fault.error.field) == (2, "concepts.ann.phrase")
    path.write_text(YAML)
    file = SpecFile.read(path)
    assert [file.line(field) for field in ("methods.OMG.request.blend_strat", "methods.OMG.concept.x", "casts[0][0]",
                                           "nothing")] == [11, 8, 4, 1]


@pytest.mark.parametrize(("before", "after", "line", "field", "said"), [
    ("    request:\n", "    request: {}\n    kind: omg\n    concept:\n", 11, "methods.OMG", "'kind' stands twice"),
    ("  ann:", "  ann: {}\n  'ann':", 3, "concepts", "'ann' stands twice"),
    ("casts:", "concepts: {}\ncasts:", 3, "spec", "'concepts' stands twice"),
    ("  OMG:", "  2024-01-01:", 8, "methods", "quote it"), ("  OMG:", "  no:", 8, "methods", "quote it"),
    ("  OMG:", "  1:", 8, "methods", "quote it"), ("  OMG:", "  ? [a]\n  :", 8, "methods", "quote it"),
    ("  - [ann]", "  - {1: 2}", 4, "casts[0]", "quote it")])
def test_names_that_would_be_lost_are_refused_with_their_lines(tmp_path, before, after, line, field, said):
    path = tmp_path / "spec.yaml"
    path.write_text(YAML.replace(before, after))
    with pytest.raises(SpecError) as caught:
        SpecFile.read(path)
    fault = caught.value.fault
    assert (fault.line, fault.error.field) == (line, field)
    assert said in fault.error.message


def test_a_name_that_stands_twice_in_json_is_refused(tmp_path):
    path = write(tmp_path, a_spec())
    path.write_text(path.read_text().replace('"simultaneous": {', '"plain": {'))
    with pytest.raises(SpecError) as caught:
        SpecFile.read(path)
    lines = [number for number, text in enumerate(path.read_text().split("\n"), 1) if '"plain": {' in text]
    assert (caught.value.fault.line, caught.value.fault.error.field) == (lines[1], "methods")


def test_what_yaml_shares_is_no_name_twice(tmp_path):
    write(tmp_path, a_spec())
    path = tmp_path / "spec.yaml"
    path.write_text(YAML.replace("  OMG:\n", "  one: &one {kind: plain, casts: [0]}\n  two: {<<: *one, kind: single}\n"
                                              "  OMG:\n"))
    two = SpecFile.read(path).spec.methods["two"]
    assert (two.kind, two.casts) == ("single", (0,))


def test_a_folder_without_pictures_is_refused_with_its_line(tmp_path):
    path = write(tmp_path, a_spec())
    (tmp_path / "bob" / "one.png").rename(tmp_path / "bob" / "one.txt")
    with pytest.raises(SpecError) as caught:
        SpecFile.read(path)
    assert caught.value.fault.error.field == "concepts.bob.references"
    assert caught.value.fault.line == path.read_text().split("\n").index('   "references": "bob"') + 1


@pytest.mark.parametrize(("name", "text", "said"), [("spec.toml", "", "none of .json, .yaml, .yml"),
                                                    ("spec.json", "{", "cannot be read"),
                                                    ("spec.yaml", "", "spec: .*spec.yaml has no fields"),
                                                    ("spec.json", "[]", "spec: .*spec.json has no fields"),
                                                    ("spec.yaml", "a: [", "cannot be read")])
def test_what_is_no_spec_at_all_is_refused(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(OMGError, match=said):
        SpecFile.read(path)


def test_a_template_is_for_as_many_as_it_names():
    assert [fits("a {0} and a {1}", count) for count in (1, 2, 3)] == [False, True, False]
    assert [fits("{all} and {1}", count) for count in (1, 2, 3)] == [False, True, True]
    assert not fits("a park", 1)


def test_a_grid_is_a_method_for_each_combination():
    grid = {"request.layout.cross": [0, 1], "concept.cfg_scale": [[12, 4.5], 7]}
    method = {**OMG, "request": {"predict": "joint"}, "concept": {"strength": 0.5}, "grid": grid}
    variants = parse_spec(a_spec(methods={"OMG": method, "plain": {"kind": "plain"}})).variants
    assert list(variants) == ["OMG, cross 0, cfg_scale [12, 4.5]", "OMG, cross 0, cfg_scale 7",
                              "OMG, cross 1, cfg_scale [12, 4.5]", "OMG, cross 1, cfg_scale 7", "plain"]
    assert [variant.name for variant in variants.values()] == ["OMG"] * 4 + ["plain"]
    one, *_, other, _ = (variant.method for variant in variants.values())
    assert (one.request, one.concept) == ({"predict": "joint", "layout": {"cross": 0}},
                                          {"strength": 0.5, "cfg_scale": [12, 4.5]})
    assert (other.request["layout"], other.concept["cfg_scale"]) == ({"cross": 1}, 7)


def test_a_methods_concepts_may_be_sought_by_other_words_and_elsewhere():
    concept = {"phrase": "person", "where": {"index": 0}}
    assert parse_spec(a_spec(methods={"x": {**OMG, "concept": concept}})).methods["x"].concept == concept


def test_the_prompt_of_one_alone():
    assert Scene("{all} in a park", ("man", "dog")).of_one(0, "ohwx man") == "a ohwx man in a park"
    assert Scene("a {0}, close-up", ("man",)).of_one(0, "sks man") == "a sks man, close-up"
    assert Scene("a {0} left of an {1}", ("man", "ape")).of_one(1, "sks ape") == "an sks ape"


def test_prompts_name_all_with_articles():
    scene = Scene("{all}, the {1} laughing", ("man", "man", "old dog"))
    assert scene.prompt({}) == "a man, another man and an old dog, the man laughing"
    assert scene.prompt({1: "sks man"}) == "a man, another sks man and an old dog, the sks man laughing"
    assert scene.alike(1) == [0, 1]


def test_a_specs_pictures_are_those_of_its_folder(tmp_path):
    file = read(tmp_path)
    (tmp_path / "ann" / "notes.txt").write_text("no picture")
    assert file.references("ann") == [tmp_path / "ann" / "one.png"]
    assert file.photos("ann")[0].startswith("iVBOR")
