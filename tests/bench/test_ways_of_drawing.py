"""The bench of the ways measures what it says, in few steps."""

from __future__ import annotations

import pytest

from bench.subject import Subject
from bench.ways import Way, defaults, peaks, ways
from tests.models.tiny import tiny_sdxl


@pytest.mark.parametrize(("way", "rows"), [
    (Way("separate"), (304, 508)), (Way("shared"), (236, 338)), (Way("joint"), (202, 202)),
    (Way("joint", "prefix"), (134, 134))], ids=str)
def test_rows_of_the_cost_model(way, rows):
    assert (way.rows(50, 16, 2), way.rows(50, 16, 5)) == rows


def test_every_way_evaluates_the_rows_of_the_cost_model(tmp_path):
    measured = ways(Subject(tiny_sdxl(), 64, tmp_path, 4), 6, (1, 2))
    exact = [row for row in measured if row.exactly is not None]
    assert len(exact) == 8
    assert all(row.met for row in exact)


def test_the_defaults_evaluate_the_rows_that_the_documents_tell(tmp_path):
    rows, time = defaults(Subject(tiny_sdxl(), 64, tmp_path, 4), 50)
    assert rows.met
    assert rows.exactly == 214
    assert time.value > 1


def test_peaks_are_of_one_pipeline_at_a_time(tmp_path):
    """What an earlier way has read or kept does not count for the next."""
    found = {row.name: row.value for row in peaks(Subject(tiny_sdxl(), 64, tmp_path, 4), (2,))}
    names = [f"Tensors alive beyond plain: {way}, 2 concepts" for way in ("separate", "shared", "joint")]
    separate, shared, joint = (found[name] for name in names)
    assert 0 < shared <= separate * 1.2
    assert 0 < joint < separate * 1.5
