"""One tiny CLIP for all tests of evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.tiny_clip import write_clip_model


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip_model(tmp_path_factory.mktemp("clip") / "tiny")
