"""The session's web UI gets the small world, where tests of this folder are among those that run."""

from __future__ import annotations

from pathlib import Path

from bench.world import weights
from bench.world.webui import find_merges, install
from tests.webui.host import is_forge


def pytest_webui_data_dir(folder: Path, installation: Path) -> None:
    """The checkpoint ``world`` with its networks, if they are trained; a Forge would stop at it."""
    if not weights.missing(weights.CHECKPOINT) and not is_forge(installation):
        install(folder, find_merges(installation))
