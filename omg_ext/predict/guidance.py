"""Classifier-free guidance, for hosts that have no function of their own for it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def classifier_free_guidance(cond: Tensor, parts: Any, uncond: Tensor, scale: float) -> Tensor:
    """``u + scale * sum_j w_j (c_j - u)`` for each picture.

    Args:
        cond: c, predictions of R conditional rows, [R, C, h, w].
        parts: for each of n pictures its rows with their weights w_j, see :data:`omg_ext.host.PromptParts`.
        uncond: u, [n, C, h, w].
    """
    guided = uncond.clone()
    for picture, rows in enumerate(parts):
        for row, weight in rows:
            guided[picture] += (cond[row] - uncond[picture]) * (weight * scale)
    return guided
