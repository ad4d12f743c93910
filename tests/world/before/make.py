"""Keeps the pictures: ``python -m tests.world.before.make [ARGUMENTS OF PYTEST]``.

Run it at the commit whose pictures are to be kept. Those of the web UI need ``OMG_WEBUI``.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.world.before.kept import FOLDER, KEEP

if __name__ == "__main__":
    os.environ[KEEP] = "1"
    sys.exit(pytest.main([*map(str, sorted(FOLDER.parent.glob("test_before_*.py"))), *sys.argv[1:]]))
