"""The detector `contrast` on pictures of the small world, against the figure reader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from bench.world import weights
from bench.world.casts import Cast
from bench.world.methods import Shot
from bench.world.reader_accuracy import overlap
from bench.world.readers import ReadFigure
from bench.world.run import Sampling, trained
from bench.world.scenes import SCENES
from bench.world.starts import noise

MISSING = weights.missing(weights.CHECKPOINT)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

Mask = npt.NDArray[np.floating]
PICTURES = 6


def overlaps(cast: Cast) -> list[float]:
    """Of each found mask with the reader's figure of that concept, in pictures in which the reader sees the cast."""
    runner = trained(Sampling(seeds=1, steps=25, cfg_scale=4.5, batch=1))
    shot = Shot(cast, SCENES[0], noise(range(PICTURES), 16))
    request = {**shot.request, "detector": "contrast", "preview": True, "strict": False,
               "mask": {"grow": 0, "feather": 0}}
    result = runner.studio.omg(request, cast.prompt(shot.scene), steps=25, cfg_scale=4.5, latents=shot.latents)
    assert result.images is not None
    readings = runner.judges.figures(np.stack([np.asarray(picture) for picture in result.images]))
    found: list[float] = []
    for masks, reading in zip(result.masks, readings, strict=True):
        if sorted(figure.kind for figure in reading.figures) == sorted(cast.kinds):
            found += [0.0 if mask is None else overlap(mask >= 0.5, figure.mask)
                      for mask, figure in zip(masks, in_order(cast, reading.figures), strict=True)]
    assert len(found) >= PICTURES  # at least every other picture shows the cast
    return found


def in_order(cast: Cast, figures: Sequence[ReadFigure]) -> list[ReadFigure]:
    """The figures as the concepts name them: each of its kind, of one kind from left to right."""
    left = sorted(figures, key=lambda figure: float(np.nonzero(figure.mask)[1].mean()))
    return [left.pop(next(number for number, figure in enumerate(left) if figure.kind == kind)) for kind in cast.kinds]


@pytest.mark.parametrize(("cast", "least"), [(("Rusty", "Azura"), 0.65), (("Rusty", "Marlow"), 0.5)], ids=str)
def test_masks_are_shape_true(cast: tuple[str, str], least: float) -> None:
    """Attention has 0.36 and 0.17. Which of two alike is which goes by place: the wrong one would overlap by 0."""
    found = overlaps(Cast(cast))
    assert np.mean(found) >= least
    assert np.mean(np.array(found) > 0.2) >= 0.9
