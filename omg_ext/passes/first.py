"""The first pass: the user's ordinary picture, and what the second needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..comprehension.heat import HeatMaps
from ..host import Evaluate, Guidance, Guided
from ..unet.calls import RecordingCall, Row, UNetCall, is_global_cond, select
from ..unet.layout import LayoutRecord, LayoutRecorder
from ..unet.patches import Patches
from ..unet.query_store import Entry
from .noise import Noise


@dataclass(frozen=True, eq=False)
class PrefixCall:
    """A UNet evaluation before the initiation timestep, whose answer is free if the same is asked again.

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
class LayoutCall:
    """A UNet evaluation after it, whose layout the second pass is to keep.

    Attributes:
        progress: fraction of the trajectory.
        rows: what each row was.
        x, t: inputs of the global conditional rows, from which their queries can be computed again.
        queries: recorded queries of these rows; None where they did not fit.
    """

    progress: float
    rows: tuple[Row, ...]
    x: Tensor
    t: Tensor
    queries: Entry | None


KeptCall = PrefixCall | LayoutCall | None
"""One UNet evaluation of the first pass; None is one that the second pass has no use for"""


@dataclass(frozen=True, eq=False)
class FirstResult:
    """A finished first pass: a value without hooks, for one second pass or several.

    Attributes:
        latents: the picture, [B, C, h, w].
        calls: its UNet evaluations, in order.
        layout: what is kept of its attention.
        heat: what it attended to; None if no detector asks for it.
        noise, noise_after: where the random generators stood before and after it.
    """

    latents: Tensor
    calls: tuple[KeptCall, ...]
    layout: LayoutRecord
    heat: HeatMaps | None
    noise: Noise
    noise_after: Noise

    def has_heat_of(self, phrases: Sequence[str]) -> bool:
        """Whether heat maps were recorded of all these phrases."""
        return not phrases or (self.heat is not None and set(phrases) <= set(self.heat.phrases))

    def call_like(self, index: int, progress: float, rows: tuple[Row, ...]) -> LayoutCall | None:
        """The call whose layout a call of the second pass keeps: its own number if it asks the same, else the nearest.

        Adaptive samplers choose other timesteps once the latents differ.

        Args:
            index: the number of the call within its pass.
            progress, rows: the second pass's.

        Returns:
            None if no call with these rows left all that is to be replayed.
        """
        kept = [call for call in self.calls if isinstance(call, LayoutCall) and call.rows == rows]
        own = self.calls[index] if index < len(self.calls) else None
        if isinstance(own, LayoutCall) and (own.progress, own.rows) == (progress, rows):
            return own
        return min((call for call in kept if self.layout.covers(call.progress, progress)),
                   key=lambda call: abs(call.progress - progress), default=None)

    def remembered(self, index: int, x: Tensor, t: Tensor) -> Tensor | None:
        """What the UNet answered in the call of this number, if it lay in the prefix and was asked the very same."""
        kept = self.calls[index] if index < len(self.calls) else None
        return kept.answer(x, t) if isinstance(kept, PrefixCall) else None

    def next_queries(self, index: int) -> Entry | None:
        """What will be asked for after the call of this number: the next stored queries."""
        return next((call.queries for call in self.calls[index + 1:]
                     if isinstance(call, LayoutCall) and call.queries is not None), None)


class FirstTap:
    """Lets the host's sampler run as it would, and remembers.

    Args:
        patches: the UNet's.
        blend_start: the initiation timestep as a fraction of the trajectory.
        recorder: leaves the queries to keep in the running call.

    Attributes:
        calls: what was evaluated.
        patches: see :class:`omg_ext.host.Tap`.
    """

    title = "first pass"

    def __init__(self, patches: Patches, blend_start: float, recorder: LayoutRecorder):
        self.calls: list[KeptCall] = []
        self.patches, self._blend_start, self._recorder = patches, blend_start, recorder
        self._progress, self._step = 0.0, 0

    def begin(self, progress: float, step: int) -> None:
        self._progress, self._step = progress, step

    def unet(self, evaluate: Evaluate, x: Tensor, t: Tensor, cond: Any, rows: Sequence[Row]) -> Tensor:
        """Evaluate the UNet on global rows as the host would, and remember."""
        call = UNetCall(tuple(rows), self._progress, (x.shape[-2], x.shape[-1]), self._step)
        if call.progress < self._blend_start:
            output = self._run(evaluate, call, x, t, cond)
            # the host may go on to change its tensors in place
            self.calls.append(PrefixCall(x.clone(), t.clone(), output.clone()))
            return output
        conds = [index for index, row in enumerate(call.rows) if is_global_cond(row)]
        queries = None
        if self._recorder.has_room(call.progress, len(conds)):
            recording = RecordingCall(call.rows, call.progress, call.grid, call.step)
            output = self._run(evaluate, recording, x, t, cond)
            queries = self._recorder.put(recording)
        else:
            output = self._run(evaluate, call, x, t, cond)
        wanted = conds and self._recorder.wants_any(call.progress)
        self.calls.append(LayoutCall(call.progress, call.rows, select(x, conds).clone(), select(t, conds).clone(),
                                     queries) if wanted else None)
        return output

    def guided(self, plain: Guided, guidance: Guidance) -> Guided:
        return plain

    def _run(self, evaluate: Evaluate, call: UNetCall, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        try:
            with self.patches.running(call):
                return evaluate(x, t, cond)
        except torch.cuda.OutOfMemoryError:
            # without what is kept the picture may fit, as it would without OMG
            if not self._recorder.give_up_device(call):
                raise
        torch.cuda.empty_cache()
        with self.patches.running(UNetCall(call.rows, call.progress, call.grid, call.step)):
            return evaluate(x, t, cond)
