"""Whatever a file of tests does to the session's web UI, the next one finds it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.webui.host import CHECKPOINTS, WebUI


@pytest.fixture(scope="package")
def plain_picture(running: WebUI) -> np.ndarray:
    """Before any test."""
    running.set_checkpoint(CHECKPOINTS[0])
    return running.txt2img(steps=3).image


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
