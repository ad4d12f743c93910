"""``--each-choice``: in a web UI each choice of a test's parameters once, not each combination."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import pytest_collection_modifyitems

Marks = list[tuple[str, ...]]

BOTH: Marks = [("model",), ("way",)]
TOGETHER: Marks = [("model", "way")]
MODELS, WAYS = ("sdxl", "sd15", {"of": "another"}), ("separate", "joint")


def item(name: str, marks: Marks, params: dict[str, Any], *, in_web_ui: bool = True) -> Any:
    return SimpleNamespace(
        nodeid=f"test_file.py::{name}[{params}]", callspec=SimpleNamespace(params=params),
        iter_markers=lambda name: [SimpleNamespace(args=(", ".join(names), [])) for names in marks],
        get_closest_marker=lambda name: name if in_web_ui else None)


def kept(*items: Any, asked: bool = True) -> list[tuple[Any, ...]]:
    left_out: list[Any] = []

    def deselected(items: list[Any]) -> None:
        left_out.extend(items)

    config: Any = SimpleNamespace(getoption=lambda name: asked, hook=SimpleNamespace(pytest_deselected=deselected))
    run = [*items]
    pytest_collection_modifyitems(config, run)
    assert len(run) + len(left_out) == len(items)
    return [tuple(each.callspec.params.values()) for each in run]


def crossed(name: str, marks: Marks, **options: Any) -> list[Any]:
    return [item(name, marks, {"model": model, "way": way}, **options) for model in MODELS for way in WAYS]


def test_each_choice_is_there_and_no_combination_without_a_new_one() -> None:
    assert kept(*crossed("test", BOTH)) == [
        ("sdxl", "separate"), ("sdxl", "joint"), ("sd15", "separate"), ({"of": "another"}, "separate")]


def test_another_test_has_choices_of_its_own() -> None:
    assert len(kept(*crossed("test", BOTH), *crossed("other", BOTH))) == 8


@pytest.mark.parametrize("marks", [TOGETHER, [*TOGETHER, ("other",)]])
def test_arguments_that_are_given_together_are_one_choice(marks: Marks) -> None:
    items = crossed("test", TOGETHER)
    if len(marks) > 1:
        items = [item("test", marks, {**each.callspec.params, "other": other}) for each in items for other in (0, 1)]
    assert len(kept(*items)) == 6 + len(marks) - 1


def test_fixtures_with_parameters_count_too() -> None:
    assert len(kept(*crossed("test", [("model",)]))) == 4


def test_outside_of_a_web_ui_and_unless_asked_for_all_are_run() -> None:
    assert len(kept(*crossed("test", BOTH, in_web_ui=False))) == 6
    assert len(kept(*crossed("test", BOTH), asked=False)) == 6
