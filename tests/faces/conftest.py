"""One pair of tiny models for all tests of faces, and their analyser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omg_ext.faces.analysis import FaceAnalyser
from tests.models.tiny_faces import write_pack


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two models."""
    folder = tmp_path_factory.mktemp("antelopev2")
    write_pack(folder)
    return folder


@pytest.fixture(scope="session")
def analyser(pack: Path) -> FaceAnalyser:
    return FaceAnalyser.open(pack / "scrfd_10g_bnkps.onnx", pack / "glintr100.onnx", torch.device("cpu"), "face")
