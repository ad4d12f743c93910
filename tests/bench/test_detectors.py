"""The bench of detectors measures a real one in a process of its own."""

from __future__ import annotations

import importlib.util

import pytest

from bench import detectors


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="no package ultralytics")
def test_the_small_worlds_yolo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "CASES", [case for case in detectors.CASES if case.write is detectors.link_figures])
    load, look, most, left = detectors.detectors(1)
    assert load.value > 0
    assert look.value > 0
    assert most.value > max(left.value, 1)
