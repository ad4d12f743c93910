"""Pictures kept as PNGs, and whether what is made now is the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
KEEP = "OMG_KEEP_PICTURES"
"""The environment variable that has pictures kept instead of compared; see ``make.py``."""


def compare(host: str, name: str, pictures: Sequence[np.ndarray]) -> None:
    """Checks pictures [H, W, 3] against the kept ones, which stand side by side in one file: equal to rounding."""
    made, file = np.concatenate(pictures, axis=1), FOLDER / host / f"{name}.png"
    if os.environ.get(KEEP):
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(made).save(file, optimize=True)
    with Image.open(file) as picture:
        expected = np.asarray(picture)
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).max() <= 1
