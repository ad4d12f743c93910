"""The two passes: one sampler run twice from the same noise (paper Sec. 3.2 and 3.3).

The first pass is the user's ordinary picture. The second repeats it; from the initiation timestep on, every denoiser
call blends the concepts' predictions into the global one (Eq. 6), whose attention is the first pass's (Eq. 7).

A host's sampler calls its *denoiser*, which evaluates the UNet once or several times on global rows: conditional ones
first, in order, then unconditional ones. A host calls :meth:`Pass.begin_denoiser_call` before each denoiser call, and
:meth:`Pass.unet_call` in place of each UNet evaluation within it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..unet.layout import LayoutPreservation
from ..unet.query_store import Entry

EvaluateGlobal = Callable[[Tensor, Tensor, Any], Tensor]
"""The host's UNet evaluation of global rows: ``(x [n, C, h, w], t [n], conditioning) -> output [n, C, h, w]``"""


class Observer(Protocol):
    """Something that watches the conditional rows of the first pass (an attention recorder)."""

    rows: tuple[slice, slice] | None


@dataclass
class StoredCall:
    """One UNet evaluation of the first pass.

    Attributes:
        progress: fraction of the trajectory.
        rows: which of the denoiser call's conditional rows it evaluated.
        x, t: its inputs, [n, C, h, w] and [n]; None where nothing will ask for them.
        output: the model's output, kept until the initiation timestep (the prefix memo).
        entry: recorded queries; None where they were not wanted or did not fit.
    """

    progress: float
    rows: slice
    x: Tensor | None = None
    t: Tensor | None = None
    output: Tensor | None = None
    entry: Entry | None = None

    def output_for(self, x: Tensor, t: Tensor) -> Tensor | None:
        """The kept output if the model is asked the very same again, bit for bit; else None."""
        if self.output is None or self.x is None or self.t is None:
            return None
        return self.output.clone() if torch.equal(self.x, x) and torch.equal(self.t, t) else None


class Pass(ABC):
    """What both passes share: telling conditional global rows from unconditional ones by a row cursor."""

    def __init__(self) -> None:
        self.progress = 0.0
        self.cond_rows = 0
        self.rows_seen = 0

    def begin_denoiser_call(self, progress: float, cond_rows: int) -> None:
        """The sampler is about to call its denoiser.

        Args:
            progress: fraction of the trajectory that lies behind, in model timesteps.
            cond_rows: conditional rows this call evaluates; they come before the unconditional ones.
        """
        self.progress, self.cond_rows, self.rows_seen = progress, cond_rows, 0

    @property
    def has_uncond(self) -> bool:
        """Whether the last denoiser call evaluated unconditional rows too."""
        return self.rows_seen > self.cond_rows

    @abstractmethod
    def unet_call(self, evaluate: EvaluateGlobal, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Stands in for one of the host's UNet evaluations of global rows."""

    def take_rows(self, count: int) -> tuple[slice, slice]:
        """The conditional ones among the next ``count`` rows: (within this UNet call, within the denoiser call)."""
        first = self.rows_seen
        self.rows_seen += count
        cond = min(count, max(self.cond_rows - first, 0))
        return slice(0, cond), slice(first, first + cond)


class FirstPass(Pass):
    """Stage 1: the ordinary picture; keeps what stage 2 needs of it.

    Args:
        blend_start: the initiation timestep as a fraction of the trajectory.
        layout: entered.
        observer: told which rows are conditional in each UNet call.
    """

    def __init__(self, blend_start: float, layout: LayoutPreservation, observer: Observer | None = None):
        super().__init__()
        self.blend_start = blend_start
        self.layout = layout
        self.observer = observer
        self.calls: list[StoredCall] = []

    def unet_call(self, evaluate: EvaluateGlobal, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Evaluate the UNet on global rows as the host would, and remember."""
        local, absolute = self.take_rows(len(x))
        call = StoredCall(self.progress, absolute)
        in_prefix = self.progress < self.blend_start
        if self.observer is not None:
            self.observer.rows = (local, absolute)
        try:
            with self.layout.recording(self.progress, local, len(x), keep=not in_prefix) as entries:
                output = evaluate(x, t, cond)
        finally:
            if self.observer is not None:
                self.observer.rows = None
        call.entry = entries[0] if entries else None
        if in_prefix:
            # the host may go on to change its tensors in place
            call.x, call.t, call.output = x.clone(), t.clone(), output.clone()
        elif call.entry is None and local.stop and self.layout.wanted(self.progress):
            call.x, call.t = x[local].clone(), t[local].clone()
        self.calls.append(call)
        return output


class SecondPass(Pass):
    """Stage 2: the same trajectory with the concepts blended in.

    Args:
        first: the finished first pass.
        weights: blend weights of the concepts, [K, B, 1, h, w] (see :func:`omg_ext.masks.blend_weights`).
    """

    def __init__(self, first: FirstPass, weights: Tensor):
        super().__init__()
        self.first = first
        self.weights = weights
        self.index = 0
        self.has_blended = False

    @property
    def blends(self) -> bool:
        """Whether concepts are blended in at this point of the trajectory."""
        return self.progress >= self.first.blend_start and self.first.blend_start < 1.0

    def unet_call(self, evaluate: EvaluateGlobal, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Evaluate the UNet on global rows: from memory in the prefix, with the first pass's attention after it."""
        local, absolute = self.take_rows(len(x))
        index, self.index = self.index, self.index + 1
        stored = self.first.calls[index] if index < len(self.first.calls) else None
        if not self.blends:
            remembered = stored.output_for(x, t) if stored is not None else None
            return remembered if remembered is not None else evaluate(x, t, cond)
        if stored is None or (stored.progress, stored.rows) != (self.progress, absolute):
            stored = self._nearest(absolute)
        if stored is None or not local.stop or not self.first.layout.wanted(self.progress):
            return evaluate(x, t, cond)
        return self._with_layout(evaluate, x, t, cond, local, stored, self._entry_at(index + 1))

    def warnings(self) -> list[str]:
        """What the user should know after the pass."""
        found = sorted(self.first.layout.warnings)
        if not self.has_blended and self.first.blend_start < 1.0:
            found.append(f"blend_start: none of the sampler's steps comes after {self.first.blend_start:g} of the "
                         "trajectory, so the concepts were not drawn; lower it, or take more steps")
        return found

    def blend(self, global_prediction: Tensor, concept_predictions: Tensor) -> Tensor:
        """Concept noise blending (Eq. 6): ``(1 - sum_i M_i) z' + sum_i M_i C^i``.

        Args:
            global_prediction: z', [B, C, h, w].
            concept_predictions: C^i, [K, B, C, h, w].
        """
        self.has_blended = True
        weights = self.weights.to(global_prediction)
        return (1 - weights.sum(0)) * global_prediction + (weights * concept_predictions).sum(0)

    def _with_layout(self, evaluate: EvaluateGlobal, x: Tensor, t: Tensor, cond: Any, rows: slice, stored: StoredCall,
                     following: Entry | None) -> Tensor:
        """Eq. 7. Queries that were not stored are recomputed: the first pass's rows ride along in the same call."""
        count = len(x)
        carried = slice(count, count)
        if stored.entry is None and stored.x is not None and stored.t is not None:
            carried = slice(count, count + len(stored.x))
            x, t, cond = torch.cat([x, stored.x]), torch.cat([t, stored.t]), append_rows(cond, rows)
        with self.first.layout.replaying(self.progress, rows, len(x), stored.entry, following, carried, x):
            return evaluate(x, t, cond)[:count]

    def _nearest(self, rows: slice) -> StoredCall | None:
        """Adaptive samplers choose other timesteps once the latents differ; the closest one with these rows serves."""
        recorded = [call for call in self.first.calls
                    if call.progress >= self.first.blend_start and call.rows == rows]
        return min(recorded, key=lambda call: abs(call.progress - self.progress), default=None)

    def _entry_at(self, index: int) -> Entry | None:
        return self.first.calls[index].entry if index < len(self.first.calls) else None


def append_rows(cond: Any, rows: slice) -> Any:
    """A host's conditioning (tensors in dicts and lists, rows first) with some of its rows once more at the end."""
    if isinstance(cond, Mapping):
        return {name: append_rows(value, rows) for name, value in cond.items()}
    if isinstance(cond, (list, tuple)):
        return [append_rows(value, rows) for value in cond]
    return torch.cat([cond, cond[rows]])
