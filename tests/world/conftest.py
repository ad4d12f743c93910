"""The session's web UI gets the small world, where tests of this folder are among those that run."""

from __future__ import annotations

from pathlib import Path

from bench.world import weights
from bench.world.webui import install


def pytest_webui_data_dir(folder: Path, installation: Path) -> None:
    """The checkpoint ``world`` with its networks, if they are trained."""
    if not weights.missing(weights.CHECKPOINT):
        install(folder, installation)
