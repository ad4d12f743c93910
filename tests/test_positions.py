"""Component values by position: a list that would be read shifted is refused."""

from __future__ import annotations

import pytest

from omg_ext.request import parse_request
from omg_ext.webui.fields import CONCEPT_FIELDS, GLOBAL_FIELDS, arg_fields
from omg_ext.webui.form import args_from_request
from omg_ext.webui.positions import misfit

REQUEST = parse_request({"concepts": [{"phrase": "man", "prompt": "sks man"}]})


@pytest.mark.parametrize("groups", [1, 2, 6, 16])
def test_this_layout_and_those_before_are_taken(groups):
    assert misfit(len(args_from_request(REQUEST, groups)), groups) is None
    fields = [field for _, field in arg_fields(groups)]
    for since in {field.since for field in fields}:
        assert misfit(sum(field.since <= since for field in fields), groups) is None


@pytest.mark.parametrize("count", [0, 1, 2, len([field for field in GLOBAL_FIELDS if not field.since])])
def test_the_beginning_of_every_layout_is_taken(count):
    assert misfit(count, 6) is None
    assert [field.name for _, field in arg_fields(1)[:count]] == [field.name for _, field in arg_fields(6)[:count]]


def test_a_list_of_another_number_of_groups_is_refused_by_it():
    stored = len(args_from_request(REQUEST, 4))
    reason = misfit(stored, 6)
    assert reason is not None
    assert reason.startswith(f"args: {stored} values fit no layout of a page that shows 6 concepts")
    assert "page with 4: set Settings > OMG > Concepts shown in the accordion to that" in reason
    assert reason.endswith("send the request as one object")


def test_a_list_of_no_layout_is_refused():
    reason = misfit(len(GLOBAL_FIELDS) + 16 * len(CONCEPT_FIELDS) + 1, 6)
    assert reason is not None
    assert "of a page with" not in reason.partition("of them")[2]
