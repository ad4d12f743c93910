"""Both passes in one: the concepts are found in what the picture is going to be, and the same sampling goes on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..host import Guidance, Guided
from ..unet.evaluator import Evaluator
from .second import Blending, SecondTap


class OnePassTap(SecondTap):
    """At the initiation timestep the concepts are found in the estimate of x_0, and are blended in from there on.

    Args:
        evaluator: for the global rows.
        blend_start: the initiation timestep as a fraction of the trajectory; 1 is never.
        comprehend: finds the concepts in an estimate of the finished latents, [B, C, h, w]; None is that nothing is to
            be blended in.

    Attributes:
        seen: the estimate; None before.
    """

    title = "drawing"

    def __init__(self, evaluator: Evaluator, blend_start: float, comprehend: Callable[[Tensor], Blending | None]):
        super().__init__(evaluator, blend_start, None)
        self.seen: Tensor | None = None
        self._comprehend = comprehend

    def guided(self, plain: Guided, guidance: Guidance) -> Guided:
        if self.blends and self.seen is None:
            self.seen = guidance.finished(plain.prediction)
            self._blending = self._comprehend(self.seen)
        return super().guided(plain, guidance)
