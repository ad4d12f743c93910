"""The bench of faces measures what it says, in few steps."""

from __future__ import annotations

import pytest

from bench.faces import faces, peaks_of_faces
from bench.subject import Subject
from omg_ext.faces import places
from tests.models.tiny import tiny_sdxl


@pytest.fixture(autouse=True)
def _small_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LEAST_SIDE", 4.0)


def test_faces_take_no_rows_and_identitynet_is_asked_for_concepts_alone(tmp_path):
    measured = faces(Subject(tiny_sdxl(), 64, tmp_path, 4), 6)
    exact = [row for row in measured if row.exactly is not None]
    assert len(exact) == 9
    assert all(row.met for row in exact), [(row.name, row.value, row.exactly) for row in exact]


def test_faces_take_memory(tmp_path):
    found = {row.name.partition(": ")[2]: row.value for row in peaks_of_faces(Subject(tiny_sdxl(), 64, tmp_path, 4))}
    for way in ("separate", "shared", "joint"):
        assert 0 < found[f"{way}, face"] < found[f"{way}, face with IdentityNet"]
