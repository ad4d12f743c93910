"""sd-webui-controlnet's reference units (``reference_only`` and others) on the rows of concepts.

In each call such a unit noises its picture, evaluates the UNet on it once for every row, and lets the row's
self-attention see the tokens that this left. Two things would go wrong with rows of concepts: the noise is drawn anew
in each call, so that a second pass would see another picture than the first, and concepts another than their
background; and rows of two visits come by the same layers, or a part of the rows alone.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..unet.calls import Row, UNetCall
from ..unet.patches import Args, Kwargs, Patches
from .replacing import replaced

KIND = "AttentionInjection"


def units_of(hook: Any) -> list[Any]:
    """The reference units among the extension's."""
    return [unit for unit in hook.control_params if unit.control_model_type.name == KIND]


class Reference:
    """The noise of reference pictures in one batch: what a row of the first pass got its like gets in all passes."""

    def __init__(self) -> None:
        self._drawn: dict[tuple[int, float, Row], list[Tensor]] = {}
        self._latest: dict[tuple[int, Row], Tensor] = {}

    @contextmanager
    def acting(self, hook: Any, patches: Patches) -> Iterator[None]:
        """Reference units act on the rows of running calls within the block, which is one pass.

        Args:
            hook: the extension's.
            patches: the UNet's.
        """
        module, units = inspect.getmodule(type(hook)), units_of(hook)
        noised = vars(module)["predict_q_sample"]
        asked: Counter[tuple[int, float, Row]] = Counter()

        def noise(model: Any, pictures: Tensor, t: Tensor, drawn: Tensor | None = None) -> Tensor:
            call = patches.call
            if call is not None and drawn is None:
                number = next(n for n, unit in enumerate(units) if unit.used_hint_cond_latent is pictures)
                drawn = self._of(call, number, pictures, asked)
            result: Tensor = noised(model, pictures, t, drawn)
            return result

        _tell_visits_apart(hook, patches)
        with (replaced(module, "predict_q_sample", noise),
              replaced(hook, "original_forward", _in_a_call_apart(hook.original_forward, patches))):
            yield

    def _of(self, call: UNetCall, unit: int, like: Tensor, asked: Counter[tuple[int, float, Row]]) -> Tensor:
        """Noise for the rows of a call, of the shape of ``like`` [rows, C, h, w]."""
        if any(row.concept is not None for row in call.rows):
            return torch.stack([self._latest[unit, row] for row in self._counterparts(call.rows, unit)])
        # a row that repeats the first pass's is not counted: it stands in the same call as that which it repeats
        own = [(unit, call.progress, row._replace(repeats_first=False)) for row in call.rows]
        numbers = [asked[key] for key in own]
        asked.update(set(own))
        if not all(number < len(self._drawn.get(key, ())) for key, number in zip(own, numbers, strict=True)):
            for key, tensor in zip(own, torch.randn_like(like), strict=True):
                self._drawn.setdefault(key, []).append(tensor)
        drawn = [self._drawn[key][min(number, len(self._drawn[key]) - 1)]
                 for key, number in zip(own, numbers, strict=True)]
        self._latest |= {(unit, row): tensor for (unit, _, row), tensor in zip(own, drawn, strict=True)}
        return torch.stack(drawn)

    def _counterparts(self, rows: Sequence[Row], unit: int) -> Iterator[Row]:
        """For each of concepts' rows one of its picture that was evaluated last: like it if there is one."""
        for row in rows:
            like = Row(row.picture, None, row.part)
            yield like if (unit, like) in self._latest else next(
                other for number, other in self._latest if number == unit and other.picture == row.picture)


def _in_a_call_apart(forward: Any, patches: Patches) -> Any:
    """The UNet for the reference picture: networks act on it, as they do where they are in the weights, but it leaves
    no trace in the layout."""
    def visit(*args: Any, **kwargs: Any) -> Tensor:
        call = patches.call
        if call is None:
            return forward(*args, **kwargs)
        with patches.running(call.of_rows([row._replace(repeats_first=True) for row in call.rows])):
            return forward(*args, **kwargs)

    return visit


def _tell_visits_apart(hook: Any, patches: Patches) -> None:
    """Self-attention is evaluated once more for the unconditional rows alone, which do not see the reference."""
    def enter(call: UNetCall, layer: nn.Module, args: Args, kwargs: Kwargs) -> tuple[UNetCall, Args, Kwargs]:
        is_part = len(args[0]) < len(call.rows)
        return call.select(hook.current_uc_indices) if is_part else call, args, kwargs

    def leave(call: UNetCall, inner: UNetCall, layer: nn.Module, args: Args, kwargs: Kwargs, output: Tensor) -> Tensor:
        return output

    for name, layer in patches.network.named_modules():
        if name.rpartition(".")[2] == "attn1":
            patches.around(layer, enter, leave)
