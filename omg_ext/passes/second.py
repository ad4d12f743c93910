"""The second pass: the same trajectory with the concepts blended in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import OMGError
from ..host import Evaluate, Guidance, Guided
from ..predict.base import GlobalCall, Point, Predict
from ..unet.calls import Row, UNetCall, is_global_cond
from ..unet.evaluator import Evaluator, repeated
from ..unet.patches import Patches
from .first import FirstResult

FEW_STEPS = 4
"""So many, or a third of all, the concepts should have to themselves."""


class Blending(NamedTuple):
    """What is blended in.

    Attributes:
        weights: of the concepts, [K, B, 1, h, w] (see :func:`omg_ext.comprehension.masks.blend_weights`).
        predict: the way to predict them.
    """

    weights: Tensor
    predict: Predict


class SecondTap:
    """From the initiation timestep on the concepts' predictions are blended in, and the layout is kept.

    Before it the answers come from the first pass's memory, while the latents are its, bit for bit.

    Args:
        evaluator: for the global rows.
        blend_start: the initiation timestep as a fraction of the trajectory; 1 is never.
        blending: what is blended in; None is nothing.
        first: what the pass repeats; None for a pass that repeats none (Hires. fix).

    Attributes:
        points: where in the trajectory the model was asked: about one for each step, whatever the sampler.
        blended: those of them at which concepts were blended in.
    """

    title = "second pass"

    def __init__(self, evaluator: Evaluator, blend_start: float, blending: Blending | None,
                 first: FirstResult | None = None):
        self.points: set[float] = set()
        self.blended: set[float] = set()
        self._evaluator, self._blend_start, self._blending, self._first = evaluator, blend_start, blending, first
        self._progress, self._step, self._index = 0.0, 0, 0
        self._seen: list[GlobalCall] = []

    @property
    def patches(self) -> Patches:
        """See :class:`omg_ext.host.Tap`."""
        return self._evaluator.patches

    @property
    def blends(self) -> bool:
        """Whether concepts are blended in at this point of the trajectory."""
        return self._progress >= self._blend_start and self._blend_start < 1.0

    def begin(self, progress: float, step: int) -> None:
        self.finish()
        self._progress, self._step = progress, step

    def finish(self) -> None:
        """The denoiser call, or the pass, is over.

        Raises:
            OMGError: it went past the place where concepts are blended in.
        """
        if self._seen:
            raise _guided_by_others()

    def unet(self, evaluate: Evaluate, x: Tensor, t: Tensor, cond: Any, rows: Sequence[Row]) -> Tensor:
        """Evaluate the UNet on global rows: from memory in the prefix, with the first pass's attention after it."""
        call = UNetCall(tuple(rows), self._progress, (x.shape[-2], x.shape[-1]), self._step)
        index, self._index = self._index, self._index + 1
        self.points.add(self._progress)
        if self.blends:
            self._seen.append(GlobalCall(evaluate, x, t, cond, call.rows))
            return self._with_layout(evaluate, call, x, t, cond, index)
        answer = self._first.remembered(index, x, t) if self._first is not None else None
        return answer if answer is not None else self._evaluator(evaluate, call, x, t, cond)

    def guided(self, plain: Guided, guidance: Guidance) -> Guided:
        """Concept noise blending (Eq. 6): ``(1 - sum_i M_i) z' + sum_i M_i C^i``, after each model's own guidance."""
        if not self.blends:
            return plain
        if not self._seen:
            raise _guided_by_others()
        point, self._seen = Point(self._seen, self._step, self._progress), []
        if self._blending is None:
            return plain
        self.blended.add(self._progress)
        weights, predict = self._blending
        concepts = predict(point, plain, guidance)
        return Guided(*(blend(weights, ours, theirs) for ours, theirs in zip(plain, concepts, strict=True)))

    def _with_layout(self, evaluate: Evaluate, call: UNetCall, x: Tensor, t: Tensor, cond: Any, index: int) -> Tensor:
        """Eq. 7. Queries that were not kept are computed again: the first pass's rows ride along in the same call."""
        first = self._first
        if first is not None and first.layout.wants_any(call.progress):
            kept = first.call_like(index, call.progress, call.rows)
            conds = [number for number, row in enumerate(call.rows) if is_global_cond(row)]
            if kept is not None and conds:
                queries = None if kept.queries is None else first.layout.store.get(
                    kept.queries, x.device, first.next_queries(index))
                if queries is not None:
                    call = call.replaying(queries)
                else:
                    call, x, t, cond = repeated(call, conds, x, t, cond, kept.x, kept.t)
        return self._evaluator(evaluate, call, x, t, cond)


def _guided_by_others() -> OMGError:
    return OMGError("other extensions", (
        "another extension guides the picture by a way of its own, past the place where the concepts are blended in; "
        "turn off what replaces the sampler's denoiser or its guidance"))


def blend(weights: Tensor, prediction: Tensor, concepts: Tensor) -> Tensor:
    """Eq. 6 in float32, in the dtype of the prediction.

    Args:
        weights: M_i, [K, B, 1, h, w].
        prediction: z', [B, C, h, w].
        concepts: C^i, [K, B, C, h, w].
    """
    return ((1 - weights.sum(0)) * prediction + (weights * concepts).sum(0)).to(prediction.dtype)


def too_late(blend_start: float, steps: int, blended: int) -> list[str]:
    """A warning if the concepts had hardly any steps. A model of few steps settles most of the picture in the first.

    Args:
        blend_start: the initiation timestep as a fraction of the trajectory; 1 is never, and on purpose.
        steps, blended: of the pass; those at which concepts were blended in.
    """
    if blend_start == 1.0 or blended == steps or blended >= max(FEW_STEPS, steps / 3):
        return []
    had = f"only {blended} of {steps} steps come" if blended else "none of the sampler's steps comes"
    left = "so the concepts show little" if blended else "so the concepts were not drawn"
    instead = "lower it (to 0 for Turbo, Lightning and LCM), or take more steps"
    return [f"blend_start: {had} after {blend_start:g} of the trajectory, {left}; {instead}"]
