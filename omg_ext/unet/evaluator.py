"""Evaluates rows of a UNet in as few calls as graphics memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .calls import UNetCall, join, select
from .patches import Patches


@dataclass
class RowLimit:
    """How many rows fit into one call. Found out when a call did not fit, and worth keeping for the next batch.

    Attributes:
        rows: at most so many; 0 for all.
    """

    rows: int = 0


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a call whole, or in parts where it does not fit.

    Attributes:
        patches: the UNet's.
        limit: a row that repeats the first pass does not count; it stays with the row that it repeats.
        relieve: gives up what is kept in graphics memory, if there is anything, when not even one row fits.
    """

    patches: Patches
    limit: RowLimit
    relieve: Callable[[], bool] = lambda: False

    def __call__(self, evaluate: Callable[[Tensor, Tensor, Any], Tensor], call: UNetCall, x: Tensor, t: Tensor,
                 cond: Any) -> Tensor:
        """The UNet's output for the call's rows, less those that repeat the first pass.

        Args:
            evaluate: the host's UNet.
            x, t, cond: its inputs, with the call's rows.

        Raises:
            torch.cuda.OutOfMemoryError: not even one row fits.
        """
        own = [index for index, row in enumerate(call.rows) if not row.repeats_first]
        size = self.limit.rows or len(own)
        if len(own) <= size:
            try:
                with self.patches.running(call):
                    return evaluate(x, t, cond)[:len(own)]
            except torch.cuda.OutOfMemoryError:
                if len(own) == 1 and not self.relieve():
                    raise
            # out of the except block, whose traceback holds the failed call's tensors
            torch.cuda.empty_cache()
            size = self.limit.rows = max(len(own) // 2, 1)
        outputs = []
        for start in range(0, len(own), size):
            chosen = _with_repeats(call, own[start:start + size])
            outputs.append(self(evaluate, call.select(chosen), select(x, chosen), select(t, chosen),
                                select(cond, chosen)))
        return torch.cat(outputs)


def repeated(call: UNetCall, rows: Sequence[int], x: Tensor, t: Tensor, cond: Any,
             first_x: Tensor, first_t: Tensor) -> tuple[UNetCall, Tensor, Tensor, Any]:
    """The call with some of its rows once more at its end, with the latents of the first pass."""
    again = tuple(call.rows[index]._replace(repeats_first=True) for index in rows)
    longer = UNetCall((*call.rows, *again), call.progress, call.grid, call.step)
    return longer, torch.cat([x, first_x]), torch.cat([t, first_t]), join([cond, select(cond, rows)])


def _with_repeats(call: UNetCall, indices: list[int]) -> list[int]:
    """The rows, and those that repeat the first pass for one of them."""
    chosen = {call.rows[index] for index in indices}
    return indices + [index for index, row in enumerate(call.rows)
                      if row.repeats_first and row._replace(repeats_first=False) in chosen]
