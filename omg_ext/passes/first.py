"""The first pass: the user's ordinary picture, and what the second needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..comprehension.heat import HeatMaps
from ..host import Evaluate, Guidance, Guided
from ..unet.calls import Row, UNetCall, is_global_cond, select
from ..unet.layout import LayoutRecord, LayoutRecorder
from ..unet.patches import Patches
from ..unet.query_store import Entry
from .noise import Noise


@dataclass(frozen=True, eq=False)
class Remembered:
    """A UNet evaluation of the prefix, whose answer is free if the same is asked again.

    Attributes:
        x, t, output: the UNet's inputs and output, [n, C, h, w], [n] and [n, C, h, w].
    """

    x: Tensor
    t: Tensor
    output: Tensor

    def answer(self, x: Tensor, t: Tensor) -> Tensor | None:
        """The kept output if the very same is asked, bit for bit; else None."""
        return self.output.clone() if torch.equal(self.x, x) and torch.equal(self.t, t) else None


@dataclass(frozen=True, eq=False)
class RecordedCall:
    """One UNet evaluation of the first pass.

    Attributes:
        progress: fraction of the trajectory.
        rows: what each row was.
        remembered: kept before the initiation timestep (the prefix memo).
        latents: inputs (x, t) of the global conditional rows, from which their queries can be computed again; None if
            nothing of this call is replayed.
        queries: recorded queries of these rows; None where they did not fit.
    """

    progress: float
    rows: tuple[Row, ...]
    remembered: Remembered | None = None
    latents: tuple[Tensor, Tensor] | None = None
    queries: Entry | None = None


@dataclass(frozen=True, eq=False)
class FirstResult:
    """A finished first pass: a value without hooks, for one second pass or several.

    Attributes:
        latents: the picture, [B, C, h, w].
        calls: its UNet evaluations, in order.
        layout: what is kept of its attention.
        heat: what it attended to; None if no detector asks for it.
        noise: where the random generators stood before it.
    """

    latents: Tensor
    calls: tuple[RecordedCall, ...]
    layout: LayoutRecord
    heat: HeatMaps | None
    noise: Noise

    def call_like(self, index: int, progress: float, rows: tuple[Row, ...]) -> RecordedCall | None:
        """The call whose layout a call of the second pass keeps: its own number if it asks the same, else the nearest.

        Adaptive samplers choose other timesteps once the latents differ.

        Args:
            index: the number of the call within its pass.
            progress, rows: the second pass's.

        Returns:
            None if no call with these rows left all that is to be replayed.
        """
        own = self.calls[index] if index < len(self.calls) else None
        if own is not None and (own.progress, own.rows) == (progress, rows):
            return own if own.latents is not None else None
        alike = [call for call in self.calls if call.latents is not None and call.rows == rows
                 and self.layout.covers(call.progress, progress)]
        return min(alike, key=lambda call: abs(call.progress - progress), default=None)

    def next_queries(self, index: int) -> Entry | None:
        """What will be asked for after the call of this number: the next stored queries."""
        return next((call.queries for call in self.calls[index + 1:] if call.queries is not None), None)


class FirstTap:
    """Lets the host's sampler run as it would, and remembers.

    Args:
        patches: the UNet's.
        blend_start: the initiation timestep as a fraction of the trajectory.
        recorder: leaves the queries to keep in the running call.

    Attributes:
        calls: what was evaluated.
    """

    title = "first pass"

    def __init__(self, patches: Patches, blend_start: float, recorder: LayoutRecorder):
        self.calls: list[RecordedCall] = []
        self._patches, self._blend_start, self._recorder = patches, blend_start, recorder
        self._progress = 0.0

    def begin(self, progress: float, step: int) -> None:
        self._progress = progress

    def unet(self, evaluate: Evaluate, x: Tensor, t: Tensor, cond: Any, rows: Sequence[Row]) -> Tensor:
        """Evaluate the UNet on global rows as the host would, and remember."""
        rows, progress = tuple(rows), self._progress
        if progress < self._blend_start:
            output = self._run(evaluate, UNetCall(rows, progress, _grid(x)), x, t, cond)
            # the host may go on to change its tensors in place
            self.calls.append(RecordedCall(progress, rows, Remembered(x.clone(), t.clone(), output.clone())))
            return output
        conds = [index for index, row in enumerate(rows) if is_global_cond(row)]
        call = UNetCall(rows, progress, _grid(x), recorded=self._recorder.place(progress, len(conds)))
        output = self._run(evaluate, call, x, t, cond)
        latents = None
        if conds and self._recorder.wants_any(progress):
            latents = (select(x, conds).clone(), select(t, conds).clone())
        self.calls.append(RecordedCall(progress, rows, None, latents, self._recorder.put(call)))
        return output

    def guided(self, plain: Guided, guidance: Guidance) -> Guided:
        return plain

    def _run(self, evaluate: Evaluate, call: UNetCall, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        try:
            with self._patches.running(call):
                return evaluate(x, t, cond)
        except torch.cuda.OutOfMemoryError:
            # without what is kept the picture may fit, as it would without OMG
            if not self._recorder.give_up_device(call):
                raise
        torch.cuda.empty_cache()
        with self._patches.running(UNetCall(call.rows, call.progress, call.grid)):
            return evaluate(x, t, cond)


def _grid(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
