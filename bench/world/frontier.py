"""Likeness over layout: what each way of drawing the concepts gives for what it takes, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from bench.world.casts import Cast
from bench.world.methods import SingleLora
from bench.world.sweeps import CURVES, DEFAULTS, PAIRS, TWO_MEN, Cell
from omg_ext.evaluate.means import Mean

Figures = Mapping[str, Mean]
# of the single LoRA's identity
GOAL, LEAST_LAYOUT = 0.9, 0.7
_MARKERS = "osPD^vX*dp"


def point(casts: Sequence[Cast], method: str, found: Mapping[str, Figures],
          alone: str = SingleLora().name) -> tuple[float, float] | None:
    """Layout, and identity as a share of that of one LoRA alone: means over casts; None unless all were run.

    Args:
        alone: the method whose identity counts as 1.
    """
    layouts, identities, single = ([_mean(found, cast, name, figure) for cast in casts] for name, figure in (
        (method, "layout"), (method, "identity"), (alone, "identity")))
    known = [value for value in (*layouts, *identities, *single) if value is not None]
    if len(known) < 3 * len(casts):
        return None
    values = np.array(known).reshape(3, -1).mean(axis=1)
    return float(values[0]), float(values[1] / values[2])


def _mean(found: Mapping[str, Figures], cast: Cast, method: str, figure: str) -> float | None:
    mean = found.get(f"{Cell(cast, SingleLora()).start}: {method}", {}).get(figure)
    return None if mean is None else mean.mean


def draw(found: Mapping[str, Figures], path: Path) -> bool:
    """Writes the picture, a curve for each way; nothing if no way was run with all casts.

    Returns:
        Whether there was anything to draw.
    """
    drawing = Figure(figsize=(10, 4.2), layout="constrained")
    panes = {"four pairs": PAIRS, "two men": (TWO_MEN,)}
    is_empty = True
    for pane, (title, casts) in zip(drawing.subplots(1, 2), panes.items(), strict=True):
        for number, (name, curve) in enumerate(CURVES.items()):
            points = [place for way in curve if (place := point(casts, way.name, found)) is not None]
            if points:
                is_empty = False
                pane.plot(*zip(*points, strict=True), label=name, marker=_MARKERS[number],
                          color=colormaps["tab10"](number), markersize=11 if DEFAULTS in curve else 6)
        pane.axhline(GOAL, color="grey", linewidth=0.8, linestyle=":")
        pane.axvline(LEAST_LAYOUT, color="grey", linewidth=0.8, linestyle=":")
        pane.set(title=title, xlabel="overlap with the first picture", ylabel="identity (1: one LoRA alone)")
        pane.grid(alpha=0.3)
    if not is_empty:
        drawing.axes[0].legend(fontsize=8)
        drawing.savefig(path, dpi=110)
    return not is_empty
