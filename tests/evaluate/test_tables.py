"""Means of results, and how tables are written."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from omg_ext.evaluate.gallery import galleries
from omg_ext.evaluate.means import Mean, shown
from omg_ext.evaluate.measure import Measured
from omg_ext.evaluate.plan import Place
from omg_ext.evaluate.results import Result, mean, tables
from omg_ext.evaluate.spec import parse_spec
from omg_ext.evaluate.tables import Row, Table, markdown
from tests.evaluate.specs import a_spec

TABLE = Table("t", "Title", ("cast", "method"), ("text", "background"), (
    Row(("a+b", "50 % | x_1"), {"text": Mean(0.51234, 0.0126, 4), "background": Mean(3.14, None, 1)}),
    Row(("a+b", "<OMG>"), {"text": Mean(None, None, 0)})))


def result(method: str, cast: tuple[str, ...], seed: int, picture: dict[str, float], *concepts: Any,
           shown: tuple[int, ...] | None = None) -> Result:
    shown = tuple(range(len(cast))) if shown is None else shown
    return Result(Place(method, cast, 0, seed, shown, "x"), "key", "file.png",
                  Measured(picture, dict(zip(shown, concepts, strict=True))))


PAIR = ("bob", "cup")
RESULTS = [
    result("OMG", PAIR, 0, {"text": 0.2}, {"ida": 0.5, "found": 1, "identity": 0.4}, {"ima": 0.8, "found": 1}),
    result("OMG", PAIR, 1, {"text": 0.4}, {"found": 0, "detected": 0}, {"ima": 0.6, "found": 1}),
    # two pictures of one prompt and seed are one value
    result("single LoRA", PAIR, 0, {"text": 0.1}, {"ida": 0.7, "found": 1}, shown=(0,)),
    result("single LoRA", PAIR, 0, {"text": 0.3}, {"ima": 0.9, "found": 0}, shown=(1,)),
    result("OMG", ("ann",), 0, {"text": 0.9}, {"identity": 0.6, "detected": 1})]


def test_means_are_over_prompts_and_seeds():
    omg, single = RESULTS[:2], RESULTS[2:4]
    text = mean(omg, "text", PAIR)
    assert [text.mean, text.error, text.count] == pytest.approx([0.3, 0.1, 2])
    assert mean(omg, "found", PAIR) == Mean(0.75, 0.25, 2)
    assert mean(omg, "ida", PAIR) == Mean(0.5, None, 1)
    assert mean(omg, "found", ["cup"]) == Mean(1, 0, 2)
    assert mean(single, "found", PAIR) == Mean(0.5, None, 1)
    assert mean(single, "text", ["cup"]) == Mean(0.3, None, 1)
    assert mean(omg, "text", ["ann"]) == Mean(None, None, 0)


def test_the_papers_tables():
    one, concepts, two = tables(parse_spec(a_spec()), RESULTS)
    assert one.figures == ("text", "identity", "detected")
    assert {row.labels: row.means["text"].mean for row in one.rows} == {
        ("single", "characters", "OMG"): 0.9, ("multi", "characters", "single LoRA"): 0.1,
        ("multi", "characters", "OMG"): pytest.approx(0.3), ("multi", "objects", "single LoRA"): 0.3,
        ("multi", "objects", "OMG"): pytest.approx(0.3)}
    assert [(row.labels, row.means["identity"].mean) for row in concepts.rows] == [(("ann", "OMG"), 0.6)]
    assert two.figures == ("ida", "ima", "found", "text")
    assert [row.labels for row in two.rows] == [("bob+cup", "single LoRA"), ("bob+cup", "OMG")]


def test_excerpts_have_tables_and_sheets_of_their_own():
    spec = parse_spec(a_spec(excerpts={"Fig. 2 a": {"methods": ["OMG"]}, "Fig. 9: one": {"casts": [0]},
                                       "nobody": {"methods": ["plain"]}}))
    *_, first, second = tables(spec, RESULTS)
    assert (first.name, first.title) == ("fig-2-a", "Fig. 2 a")
    assert [row.labels for row in first.rows] == [("ann", "OMG"), ("bob+cup", "OMG")]
    assert first.figures == ("text", "identity", "detected", "ida", "ima", "found")
    assert [row.labels for row in second.rows] == [("ann", "OMG")]
    shown = {gallery.title: gallery for gallery in galleries(spec, RESULTS)}
    assert list(shown) == ["bob+cup", "ann", "Fig. 2 a", "Fig. 9: one"]
    assert shown["Fig. 2 a"].columns == ("OMG",)
    assert [title for title, _ in shown["Fig. 2 a"].rows] == [
        "a photo of a man, seed 0", "a photo of a man, seed 1", "a photo of a woman, seed 0"]


def test_nothing_measured_is_no_table():
    assert tables(parse_spec(a_spec()), [result("OMG", ("ann",), 0, {}, {})]) == []


def test_a_mean_is_shown_with_its_error():
    assert [shown(each) for each in (Mean(0.5, 0.01, 3), Mean(0.5, None, 1), Mean(None, None, 0), None)] == [
        "0.500 ± 0.010", "0.500", "-", "-"]


def test_markdown_is_aligned_and_keeps_its_columns():
    assert TABLE.markdown() == """\
## Title

| cast | method      | Text Alignment | background |
| ---  | ---         | ---            | ---        |
| a+b  | 50 % \\| x_1 | 0.512 ± 0.013  | 3.1        |
| a+b  | <OMG>       | -              | -          |
"""
    assert markdown(["a"], []) == "| a   |\n| --- |"


def test_csv_has_all_digits_and_counts():
    lines = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert lines[0] == {"cast": "a+b", "method": "50 % | x_1", "text": "0.51234", "text_error": "0.0126",
                        "text_count": "4", "background": "3.14", "background_error": "", "background_count": "1"}
    assert (lines[1]["text"], lines[1]["text_count"]) == ("", "0")


def test_latex_escapes_what_it_reads():
    assert TABLE.latex() == r"""% Title
\begin{tabular}{llrr}
\hline
cast & method & Text Alignment & background \\
\hline
a+b & 50 \% $|$ x\_1 & $0.512 \pm 0.013$ & 3.1 \\
a+b & $<$OMG$>$ & - & - \\
\hline
\end{tabular}
"""


def test_html_escapes_what_it_reads():
    text = TABLE.html()
    assert "<tr><th>a+b</th><th>&lt;OMG&gt;</th><td>-</td><td>-</td></tr>" in text
    assert "<td>0.512 ± 0.013</td>" in text
