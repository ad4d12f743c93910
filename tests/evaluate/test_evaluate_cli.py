"""``omg evaluate`` as it is typed, from a spec to its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from omg_ext.cli import workers
from omg_ext.cli.main import main
from omg_ext.comprehension import DETECTORS, FirstPicture, Instance, Query
from omg_ext.comprehension.base import AtHand
from omg_ext.evaluate.clip import Clip
from omg_ext.evaluate.regions import background_change
from omg_ext.evaluate.run import Measuring
from omg_ext.jobs.draw import Drawn
from omg_ext.jobs.job import Job
from tests.evaluate.specs import a_spec, write
from tests.jobs.fakes import FakeEngine

SIDE = 32


class Noise(FakeEngine):
    """Draws noise of the seed and the prompt."""

    def draw(self, job: Job) -> Drawn:
        super().draw(job)
        rng = np.random.default_rng([job.seed, len(job.prompt)])
        picture, first = (Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)) for _ in range(2))
        return Drawn(picture, job.prompt, {} if job.request is None else {"first_pass": first})


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    found = Noise()
    monkeypatch.setattr(workers, "_diffusers", lambda options: found)
    return found


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


class Links(HTMLParser):
    """The pictures that a page shows and where they lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found += [unquote(value) for name, value in attrs if name in ("src", "href")]


def test_from_a_spec_to_a_report(engine, clip_folder, tmp_path, capsys):
    path, out = write(tmp_path, a_spec()), tmp_path / "out"
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 0
    said = capsys.readouterr().err
    assert "left out: identity, detected; the command has no --face-reader\n" in said
    assert "left out: ima, found, layout, background; the spec has no regions\n" in said
    assert "36 pictures measured" in said
    found = json.loads((out / "results.json").read_text())
    assert found["missing"] == 0
    assert found["left_out"]["ida"] == "the command has no --face-reader and the spec has no regions"
    assert {"date", "hardware", "torch", "omg", "transformers", "CLIP"} <= set(found["conditions"])
    assert len(found["pictures"]) == 36
    # of somebody alone, single and simultaneous LoRAs are one
    assert len(engine.drawn) == 32
    # a figure of one picture, read again from its file
    one = next(each for each in found["pictures"] if each["method"] == "OMG" and each["cast"] == ["bob", "cup"])
    clip = Clip.read(clip_folder)
    picture = clip.pictures([np.asarray(Image.open(out / one["file"]))])[0]
    assert one["figures"]["text"] == pytest.approx(float(picture @ clip.texts(["a man with a cup"])[0]))
    reference = clip.pictures([np.asarray(Image.open(tmp_path / "cup" / "one.png"))])[0]
    assert one["concepts"]["cup"]["image"] == pytest.approx(float(picture @ reference))
    page = Links()
    page.feed((out / "report.html").read_text())
    assert len(page.found) == 2 * 36
    assert all((out / name).is_file() for name in page.found)
    assert "## Table 1" in (out / "tables.md").read_text()
    assert "single,characters,OMG," in (out / "table-1.csv").read_text()
    assert r"\begin{tabular}" in (out / "table-1.tex").read_text()
    with Image.open(out / "sheets" / "2-bob+cup.jpg") as sheet:
        # four methods, the single one twice; two prompts of two seeds
        assert sheet.size == (150 + 5 * 192, 24 + 4 * 192)


class Halves(AtHand):
    """Sees a man in the left half of every picture that is noise, and a cup in the right one."""

    name, goes_by_prompt, needs_attention = "halves", False, False

    def find(self, picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        left = np.zeros((SIDE, SIDE), np.float32)
        left[:, :SIDE // 2] = 1
        known = {"man": left, "cup": 1 - left}
        return [[Instance(known[query.phrase], 1.0)] if query.phrase in known else [] for query in queries]


def test_regions_are_those_of_the_specs_detector(engine, clip_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, "halves", Halves())
    path, out = write(tmp_path, a_spec(regions={"detector": "halves"})), tmp_path / "out"
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 0
    found = json.loads((out / "results.json").read_text())
    one = next(each for each in found["pictures"] if each["method"] == "OMG" and each["cast"] == ["bob", "cup"])
    clip = Clip.read(clip_folder)
    right = np.asarray(Image.open(out / one["file"]))[:, SIDE // 2:]
    reference = clip.pictures([np.asarray(Image.open(tmp_path / "cup" / "one.png"))])[0]
    assert one["concepts"]["cup"]["ima"] == pytest.approx(float(clip.pictures([right])[0] @ reference))
    assert (one["concepts"]["bob"]["found"], one["concepts"]["bob"]["layout"]) == (1, 1)
    # its own first pass lies beside it; regions fill the picture, so that there is no background
    assert "background" not in one["figures"]
    table = {row["method"]: row for row in found["tables"]["table-2"]}
    assert list(table) == ["plain", "single LoRA", "simultaneous", "OMG"]
    assert table["single LoRA"]["layout"]["mean"] == 1
    assert table["OMG"]["found"] == {"mean": 1, "error": 0, "count": 4}


class Warned(Noise):
    """Does not find what OMG is to draw with the first seed."""

    def draw(self, job: Job) -> Drawn:
        drawn = super().draw(job)
        return replace(drawn, warnings=["no man was found"] if job.request is not None and job.seed == 3 else [])


def test_what_was_said_of_pictures_is_said_again(tmp_path, clip_folder, monkeypatch, capsys):
    monkeypatch.setattr(workers, "_diffusers", lambda options: Warned())
    path, out = write(tmp_path, a_spec(casts=[["bob", "cup"]], prompts=["{all} in a park"])), tmp_path / "out"
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 0
    told = "OMG: 1 of 2 pictures have warnings, such as: no man was found"
    assert told in capsys.readouterr().err
    assert told in (out / "tables.md").read_text()
    pictures = json.loads((out / "results.json").read_text())["pictures"]
    assert {(each["method"], each["seed"]) for each in pictures if "warnings" in each} == {("OMG", 3)}


def test_regional_sampling_is_measured_against_the_ordinary_picture(engine, tmp_path, monkeypatch):
    """Its own first pass has LoRAs."""
    monkeypatch.setitem(DETECTORS, "halves", Halves())
    methods = {"plain": {"kind": "plain"}, "regional": {"kind": "regional", "request": {"show": ["first_pass"]}}}
    spec = a_spec(casts=[["cup"]], methods=methods, seeds="3", prompts=["{all} in a park"])
    path = write(tmp_path, {**spec, "regions": {"detector": "halves"}})
    out = tmp_path / "out"
    assert evaluate(path, "--out", out) == 0
    found = {each["method"]: each for each in json.loads((out / "results.json").read_text())["pictures"]}
    plain, own = (np.asarray(Image.open(out / found[name]["file"])) for name in ("plain", "regional"))
    assert (out / found["regional"]["file"].replace(".png", ".first_pass.png")).exists()
    cup = np.zeros((SIDE, SIDE), bool)
    cup[:, SIDE // 2:] = True
    assert found["regional"]["figures"]["background"] == pytest.approx(background_change(own, plain, [cup]))


def test_many_columns_are_several_sheets(engine, clip_folder, tmp_path):
    methods = {"OMG": {"kind": "omg", "grid": {"request.blend_start": [number / 20 for number in range(14)]}}}
    spec = a_spec(casts=[["ann"]], methods=methods, seeds="3", prompts=["{all} in a park"])
    path, out = write(tmp_path, spec), tmp_path / "out"
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 0
    widths = [Image.open(out / "sheets" / f"1-ann-{part}.jpg").width for part in (1, 2)]
    assert widths == [150 + 12 * 192, 150 + 2 * 192]


def test_what_is_drawn_is_not_drawn_again_and_measured_anew(engine, clip_folder, tmp_path):
    spec = a_spec(methods={"plain": {"kind": "plain"}})
    path, out = write(tmp_path, spec), tmp_path / "out"
    assert evaluate(path, "--out", out) == 0
    before = len(engine.drawn)
    assert json.loads((out / "results.json").read_text())["tables"] == {}
    write(tmp_path, {**spec, "seeds": "3-5"})
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 0
    assert len(engine.drawn) == before * 3 // 2
    assert json.loads((out / "results.json").read_text())["tables"]["table-1"][0]["text"]["count"] == 6


def test_a_dry_run_checks_and_counts(engine, tmp_path, capsys):
    assert evaluate(write(tmp_path, a_spec()), "--out", tmp_path / "out", "--dry-run") == 0
    assert "32 pictures to draw" in capsys.readouterr().err
    assert not engine.drawn
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("fields", "said"), [
    ({"seeds": "x"}, "seeds: expected a list of numbers"),
    ({"methods": {"x": {"kind": "omg", "request": {"blend_strat": 1}}}},
     "methods.x.request.blend_strat: unknown field; did you mean `blend_start`?")])
def test_what_is_wrong_is_named_with_its_line(engine, tmp_path, capsys, fields, said):
    path = write(tmp_path, a_spec(**fields))
    assert evaluate(path, "--out", tmp_path / "out") == 2
    lines = path.read_text().split("\n")
    word = "blend_strat" if "blend" in said else '"seeds"'
    line = next(number for number, text in enumerate(lines, 1) if word in text)
    assert f"{path}, line {line}: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("fields", "options", "said"), [
    ({"figures": ["image"]}, [], "figures[0]: image cannot be measured: the command has no --clip"),
    ({}, ["--clip", "nowhere"], "clip: nowhere is no folder with a CLIPModel"),
    ({}, ["--face-reader", "nowhere"], ", in nowhere"),
    ({"regions": {"detector": "contrast"}}, [],
     "regions.detector: `contrast` is none that sees finished pictures; take one of grounding-dino+sam, transformers"),
    ({"regions": {"detector": "transformers"}}, [], "regions.detector: `transformers` needs"),
    ({"regions": {"detector": "transformers"}}, [], "in a folder that `detectors` names (--detectors)")])
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(engine, tmp_path, capsys, fields, options, said):
    assert evaluate(write(tmp_path, a_spec(**fields)), "--out", tmp_path / "out", *options) == 2
    assert said in capsys.readouterr().err
    assert not engine.drawn


@pytest.mark.parametrize(("option", "said"), [
    ("--face-reader", ", in nowhere"), ("--clip", "nowhere is no folder"), ("--loras", "--loras does nothing with")])
def test_web_uis_draw_and_this_machine_measures(tmp_path, capsys, option, said):
    url = "http://127.0.0.1:9"
    assert evaluate(write(tmp_path, a_spec()), "--out", tmp_path / "out", "--webui", url, option, "nowhere") == 2
    assert said in capsys.readouterr().err


def test_a_damaged_reference_is_refused_by_name(engine, tmp_path, capsys):
    path = write(tmp_path, a_spec())
    (tmp_path / "cup" / "one.png").write_bytes(b"nothing")
    assert evaluate(path, "--out", tmp_path / "out") == 2
    assert "concepts.cup.references: this is no PNG, JPEG or WebP" in capsys.readouterr().err


def test_pictures_that_could_not_be_drawn_are_counted(engine, clip_folder, tmp_path, capsys):
    spec = a_spec(prompts=["{0}", "impossible {0} {1}", "{all}"], methods={"plain": {"kind": "plain"}})
    assert evaluate(write(tmp_path, spec), "--out", tmp_path / "out", "--clip", clip_folder) == 1
    assert "6 pictures measured" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "results.json").read_text())["missing"] == 2
    assert "2 are missing, and do not count" in (tmp_path / "out" / "report.html").read_text()


def test_where_nothing_was_drawn_nothing_is_measured(engine, clip_folder, tmp_path, capsys, monkeypatch):
    spec = a_spec(prompts=["impossible {0}", "{0}, impossible {1}"], methods={"plain": {"kind": "plain"}})
    path, out = write(tmp_path, spec), tmp_path / "out"
    monkeypatch.setattr(Measuring, "report", lambda *unused: pytest.fail("measures"))
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 1
    assert "nothing was drawn, so there is nothing to measure" in capsys.readouterr().err
    assert not (out / "report.html").exists()


@pytest.mark.usefixtures("reader")
def test_damaged_pictures_are_named_and_count_as_missing(engine, clip_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(DETECTORS, "halves", Halves())
    path = write(tmp_path, a_spec(methods={"OMG": {"kind": "omg"}}, regions={"detector": "halves"}))
    out = tmp_path / "out"
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 0
    capsys.readouterr()
    (cut, broken), first = sorted(out.glob("OMG ann-*[0-9a-f].png"))[:2], next(out.glob("OMG bob*first_pass.png"))
    cut.write_bytes(cut.read_bytes()[:-200])
    broken.write_bytes(b"nothing")
    first.write_bytes(b"")
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 1
    said = capsys.readouterr().err
    for each in (cut, broken):
        assert f"{each} is damaged, and does not count; delete it, and the same command" in said
    assert f"{first} is damaged, and does not count; delete it and its picture, and the same command" in said
    assert "6 pictures measured" in said
    assert "2 are missing" in said
    found = json.loads((out / "results.json").read_text())
    assert sorted(found["damaged"]) == sorted(each.name for each in (cut, broken, first))
    # what the picture itself says stays
    without = [each for each in found["pictures"] if "layout" not in each["concepts"].get("bob", {"layout": 0})]
    assert [each["file"] for each in without] == [first.name.replace(".first_pass", "")]
    assert "text" in without[0]["figures"]
    for each in (cut, broken, first, out / without[0]["file"]):
        each.unlink()
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 0


@pytest.mark.usefixtures("reader")
def test_where_no_picture_is_whole_nothing_is_reported(engine, tmp_path, capsys):
    path, out = write(tmp_path, a_spec(methods={"plain": {"kind": "plain"}})), tmp_path / "out"
    assert evaluate(path, "--out", out) == 0
    for each in out.glob("*.png"):
        each.write_bytes(b"")
    assert evaluate(path, "--out", out) == 1
    assert "no picture is whole" in capsys.readouterr().err


def test_a_report_takes_the_place_of_the_one_before_and_of_nothing_else(engine, clip_folder, tmp_path):
    spec = a_spec(methods={"plain": {"kind": "plain"}}, excerpts={"Fig. 5": {}})
    path, out = write(tmp_path, spec), tmp_path / "out"
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 0
    before = set(json.loads((out / "results.json").read_text())["files"])
    gone = {"fig-5.csv", "fig-5.tex", "sheets/3-fig-5.jpg"}
    assert gone < before
    for name in ("mine.csv", "sheets/9-mine.jpg"):
        (out / name).write_text("mine")
    drawn = sorted(out.glob("*.png"))
    write(tmp_path, {**spec, "excerpts": {}})
    assert evaluate(path, "--out", out, "--clip", clip_folder) == 0
    files = set(json.loads((out / "results.json").read_text())["files"])
    assert before - files == gone
    there = {str(each.relative_to(out)) for each in out.rglob("*") if each.is_file()}
    assert there >= files | {"mine.csv", "sheets/9-mine.jpg"}
    assert not there & gone
    assert sorted(out.glob("*.png")) == drawn


def test_a_list_of_files_that_no_report_wrote_removes_nothing(engine, tmp_path):
    path, out = write(tmp_path, a_spec(methods={"plain": {"kind": "plain"}})), tmp_path / "out"
    assert evaluate(path, "--out", out) == 0
    results, kept = out / "results.json", [tmp_path / "mine.csv", next(out.glob("*.png"))]
    kept[0].write_text("mine")
    for text in (json.dumps({"files": ["../mine.csv", str(kept[0]), kept[1].name, 3]}), json.dumps({"files": 3}), "["):
        results.write_text(text)
        assert evaluate(path, "--out", out) == 0
        assert all(each.is_file() for each in kept)


def test_shares_draw_and_the_whole_measures(engine, tmp_path, capsys):
    path, out = write(tmp_path, a_spec()), tmp_path / "out"
    for share in ("1/2", "2/2"):
        assert evaluate(path, "--out", out, "--share", share) == 0
        assert "without --share" in capsys.readouterr().err
    assert not (out / "report.html").exists()
    assert evaluate(path, "--out", out) == 0
    assert len(engine.drawn) == 32
    assert Path(out / "report.html").exists()
