"""``omg evaluate`` where everything is trained: what it measures tells methods apart as it should."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.world import evaluation, weights
from bench.world.detector import NAME, reader_masks
from bench.world.readers import FigureReader, IdentityReader
from omg_ext.cli import workers
from omg_ext.cli.main import main
from omg_ext.comprehension import Models
from omg_ext.evaluate import run
from omg_ext.evaluate.measure import Judges
from omg_ext.evaluate.regions import FindRegions

CAST = ("Rusty", "Azura")

METHODS = {"no LoRA": {"kind": "plain"}, "single LoRA": {"kind": "single"},
           "OMG": {"kind": "omg", "request": {"detector": NAME, "blend_start": 0.3, "predict": "separate"}}}


@pytest.mark.skipif(bool(weights.missing(weights.CHECKPOINT, weights.FIGURES, weights.IDENTITY)),
                    reason="the small world is not trained")
def test_loras_are_told_from_none_and_layouts_that_are_kept_from_others(tmp_path, monkeypatch):
    reader = FigureReader.load()
    faces = evaluation.Figures(reader, IdentityReader.load())
    monkeypatch.setattr(workers, "_diffusers", lambda options: evaluation.engine())

    def judges(measuring: run.Measuring, stack: Any) -> Judges:
        assert measuring.file.spec.regions is not None
        find = FindRegions.loaded(measuring.file.spec.regions, Models())
        return Judges(None, faces, stack.enter_context(find))

    monkeypatch.setattr(run.Measuring, "_judges", judges)
    spec = evaluation.a_spec(tmp_path, [CAST], methods=METHODS, seeds="0-1")
    spec["settings"]["steps"] = 15
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    out = tmp_path / "out"
    with reader_masks(reader):
        assert main(["evaluate", str(tmp_path / "spec.json"), "--out", str(out), "--face-reader", "world"]) == 0
    found = json.loads((out / "results.json").read_text())
    table = {row["method"]: {name: value["mean"] for name, value in row.items() if isinstance(value, dict)}
             for row in found["tables"]["table-2"]}
    assert table["single LoRA"]["ida"] > table["OMG"]["ida"] > table["no LoRA"]["ida"] + 0.2
    assert table["no LoRA"]["layout"] == 1
    assert table["no LoRA"]["background"] == 0
    assert table["OMG"]["layout"] > table["single LoRA"]["layout"]
