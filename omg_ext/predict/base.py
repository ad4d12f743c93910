"""What every way of prediction takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..host import Evaluate, Guidance, Guided
from ..unet.calls import Row, join, select


class GlobalCall(NamedTuple):
    """An evaluation of global rows that the host has just made; x, t and cond have these rows."""

    evaluate: Evaluate
    x: Tensor
    t: Tensor
    cond: Any
    rows: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class Point:
    """Where the trajectory stands: what the UNet was asked for each of B pictures.

    Attributes:
        step: the host's number of the step.
        evaluate: the host's UNet.
        x, t: latents and timesteps as the UNet takes them, [B, C, h, w] and [B].
        cond: conditioning of one global row of each picture, for what no prompt decides.
        progress, grid: as in :class:`omg_ext.unet.calls.UNetCall`.
    """

    step: int
    progress: float
    evaluate: Evaluate
    x: Tensor
    t: Tensor
    cond: Any

    @property
    def grid(self) -> tuple[int, int]:
        return self.x.shape[-2], self.x.shape[-1]

    @classmethod
    def of(cls, calls: Sequence[GlobalCall], pictures: int, step: int, progress: float) -> Point:
        """From the calls of one denoiser call, which together have a row of each picture."""
        sources: dict[int, tuple[int, int]] = {}
        for number, call in enumerate(calls):
            for index, row in enumerate(call.rows):
                sources.setdefault(row.picture, (number, index))
        x, t, cond = [], [], []
        for number, group in groupby((sources[picture] for picture in range(pictures)), key=lambda source: source[0]):
            indices = [index for _, index in group]
            x.append(select(calls[number].x, indices))
            t.append(select(calls[number].t, indices))
            cond.append(select(calls[number].cond, indices))
        return cls(step, progress, calls[0].evaluate, join(x), join(t), join(cond))


class Predict(Protocol):
    """A way to predict the concepts' noise (Eq. 5), each after its own guidance."""

    def __call__(self, point: Point, guidance: Guidance) -> Guided:
        """[K, B, C, h, w] each; zeros where a concept has no part in a picture.

        Raises:
            torch.cuda.OutOfMemoryError: not even one row fits into graphics memory.
        """
        ...
