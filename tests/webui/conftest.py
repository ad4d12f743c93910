"""Whatever a file of tests does to the session's web UI, the next one finds it as it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.webui.host import CHECKPOINTS, WebUI


@pytest.fixture(scope="package")
def plain_picture(running: WebUI) -> np.ndarray:
    """Before any test."""
    running.set_checkpoint(CHECKPOINTS[0])
    return running.txt2img(steps=3).image


@pytest.fixture(scope="package")
def own_patches(running: WebUI, plain_picture: np.ndarray) -> dict[str, int]:
    """The hooks and patches on the model that are the web UI's own, and the tests'."""
    running.doubles()
    return running.patches()


@pytest.fixture
def nothing_left(webui: WebUI, plain_picture: np.ndarray, own_patches: dict[str, int]) -> Iterator[None]:
    """*off is off*, *nothing remains*: after the test the plain picture is what it was, and nothing stays hooked."""
    yield
    webui.set_checkpoint(CHECKPOINTS[0])
    webui.doubles()
    np.testing.assert_array_equal(webui.txt2img(steps=3).image, plain_picture)
    assert webui.patches() == own_patches


@pytest.fixture
def presets_folder(webui: WebUI) -> Iterator[Path]:
    """Where presets lie; empty before and after."""
    path = webui.data_dir / "omg" / "presets"
    shutil.rmtree(path, ignore_errors=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def web_ui_stays_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Checked after each file that uses the session's web UI."""
    uses = any("running" in getattr(item, "fixturenames", ()) for item in request.session.items
               if item.path == request.path)
    before = request.getfixturevalue("plain_picture") if uses else None
    yield
    if before is not None:
        running: WebUI = request.getfixturevalue("running")
        running.set_checkpoint(CHECKPOINTS[0])
        np.testing.assert_array_equal(running.txt2img(steps=3).image, before)
