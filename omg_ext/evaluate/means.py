"""Means of what was measured, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """A mean over pictures.

    Attributes:
        mean: None if no picture has a value.
        error: standard error of the mean; None for fewer than two pictures.
        count: pictures with a value.
    """

    mean: float | None
    error: float | None
    count: int


def mean_of(values: Sequence[FloatArray | float]) -> FloatArray:
    """The mean over the first axis of what is not NaN; NaN where there is nothing else."""
    stack = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(stack)
    total, count = np.where(known, stack, 0).sum(axis=0), known.sum(axis=0)
    return np.where(count, total / np.maximum(count, 1), np.nan)


def summary(values: FloatArray) -> Mean:
    """Of one figure's values [B]; NaN is none."""
    known = values[~np.isnan(values)]
    count = len(known)
    return Mean(float(known.mean()) if count else None,
                float(known.std(ddof=1) / math.sqrt(count)) if count > 1 else None, count)


def pooled(means: Sequence[Mean]) -> Mean:
    """The mean of independent means, each of which counts alike; those of no picture do not count."""
    known = [mean for mean in means if mean.mean is not None]
    errors = [mean.error for mean in known if mean.error is not None]
    return Mean(float(np.mean([mean.mean for mean in known])) if known else None,
                math.hypot(*errors) / len(known) if known and len(errors) == len(known) else None,
                sum(mean.count for mean in known))


def shown(mean: Mean | None, decimals: int = 3, with_error: bool = True) -> str:
    """A mean with its standard error; a dash where there is none."""
    if mean is None or mean.mean is None:
        return "-"
    error = f" ± {mean.error:.{decimals}f}" if with_error and mean.error is not None else ""
    return f"{mean.mean:.{decimals}f}{error}"
