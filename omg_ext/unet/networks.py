"""Row plans: which concept's network acts on which rows of a UNet batch, and the batching of concept rows.

A row is one latent with one conditioning. All concepts' conditional and unconditional rows of one denoiser call are
evaluated together; each concept's networks act on that concept's rows only (Eq. 5 for all concepts at once).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import OMGError
from .deltas import Delta
from .patches import Hooks, batch_rows

Conditioning = Mapping[str, Tensor]
"""Tensors with one leading row dimension, by the host's names (e.g. ``crossattn`` and ``vector``)."""

Networks = Mapping[nn.Module, Delta]
"""One concept's networks: the layers they change and how."""

EvaluateRows = Callable[[Tensor, Tensor, dict[str, Tensor], Sequence[int]], Tensor]
"""``(x [n, C, h, w], t [n], conditioning of n rows, picture of each row) -> model output [n, C, h, w]``"""


class RowNetworks(Hooks):
    """Adds each concept's networks to that concept's rows, in the layers of one UNet.

    Args:
        networks: one mapping per concept.
    """

    def __init__(self, networks: Sequence[Networks]):
        super().__init__()
        self._acting: Sequence[tuple[int, slice]] = ()
        self._total = 0
        self._by_layer: dict[nn.Module, dict[int, Delta]] = {}
        for concept, layers in enumerate(networks):
            for layer, delta in layers.items():
                self._by_layer.setdefault(layer, {})[concept] = delta

    def __enter__(self) -> RowNetworks:
        for layer in self._by_layer:
            self.on_output(layer, self._add)
        return self

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self._acting, self._by_layer = (), {}

    @contextmanager
    def acting(self, rows: Sequence[tuple[int, slice]], total: int) -> Iterator[None]:
        """Within the block, a UNet call has ``total`` rows; ``rows`` says which concept's networks act where."""
        self._acting, self._total = rows, total
        try:
            yield
        finally:
            self._acting, self._total = (), 0

    def _add(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        deltas = self._by_layer[layer]
        for concept, rows in self._acting:
            if concept in deltas:
                mine = batch_rows(rows, self._total, output.shape[0])
                deltas[concept].add_to(layer, args[0][mine], output[mine])


class ConceptConditioning(NamedTuple):
    """One concept's conditioning at one denoiser call.

    Attributes:
        cond: R conditional rows.
        parts: for each picture, which of these rows make up its prompt, with their weights (several for ``AND``).
        uncond: one unconditional row per picture.
    """

    cond: Conditioning
    parts: Sequence[Sequence[tuple[int, float]]]
    uncond: Conditioning


class ConceptPrediction(NamedTuple):
    """Predictions of all concepts, after each one's own guidance.

    Attributes:
        guided: [K, B, C, h, w]; zeros where a concept has no part in a picture.
        uncond: the unconditional predictions alone, same shape.
    """

    guided: Tensor
    uncond: Tensor


class _Row(NamedTuple):
    concept: int
    picture: int
    part: int | None  # None: unconditional
    cond: dict[str, Tensor]

    @property
    def signature(self) -> tuple[tuple[int, ...], ...]:
        """Rows of one call need one length of prompt (75 tokens, 150, ...)."""
        return tuple(tuple(tensor.shape) for tensor in self.cond.values())


def _at(cond: Conditioning, row: int) -> dict[str, Tensor]:
    return {name: tensor[row] for name, tensor in cond.items()}


def _rows_of(concept: int, conditioning: ConceptConditioning, pictures: Sequence[int], guided: bool) -> list[_Row]:
    rows = [_Row(concept, picture, part, _at(conditioning.cond, part))
            for picture in pictures for part, _ in conditioning.parts[picture]]
    if guided:
        rows += [_Row(concept, picture, None, _at(conditioning.uncond, picture)) for picture in pictures]
    return rows


def _calls(rows: list[_Row], rows_per_call: int) -> Iterator[list[_Row]]:
    """Rows of equal prompt length together, concepts side by side, at most ``rows_per_call`` (0: no limit)."""
    ordered = sorted(rows, key=lambda row: (row.signature, row.concept))
    for _, group in groupby(ordered, key=lambda row: row.signature):
        alike = list(group)
        size = rows_per_call or len(alike)
        for start in range(0, len(alike), size):
            yield alike[start:start + size]


def _spans(rows: list[_Row]) -> list[tuple[int, slice]]:
    """The slice of each concept's rows within one call."""
    spans, start = [], 0
    for concept, group in groupby(rows, key=lambda row: row.concept):
        stop = start + len(list(group))
        spans.append((concept, slice(start, stop)))
        start = stop
    return spans


@dataclass
class ConceptPredictor:
    """Predicts the noise of every concept at one point of the trajectory (Eq. 5).

    Attributes:
        networks: the concepts' networks, entered.
        pictures: for each concept, the pictures of the batch it has a mask in.
        rows_per_call: at most so many rows in one UNet call; 0 for all. Halved where they do not fit into memory.
    """

    networks: RowNetworks
    pictures: Sequence[Sequence[int]]
    rows_per_call: int = 0

    def __call__(self, evaluate: EvaluateRows, x: Tensor, t: Tensor, conditionings: Sequence[ConceptConditioning],
                 scales: Sequence[float | None]) -> ConceptPrediction:
        """Evaluate all concepts' rows.

        Args:
            evaluate: the host's UNet evaluation.
            x: latents as the sampler passes them to the denoiser, [B, C, h, w].
            t: timesteps or sigmas, [B].
            conditionings: one per concept.
            scales: classifier-free guidance scale per concept; None evaluates no unconditional rows.

        Raises:
            OMGError: not even one row fits into graphics memory.
        """
        rows = [row for concept, conditioning in enumerate(conditionings)
                for row in _rows_of(concept, conditioning, self.pictures[concept], scales[concept] is not None)]
        outputs: dict[tuple[int, int, int | None], Tensor] = {}
        for call in _calls(rows, self.rows_per_call):
            for row, output in zip(call, self._evaluate(evaluate, x, t, call), strict=True):
                outputs[row.concept, row.picture, row.part] = output

        guided = x.new_zeros((len(conditionings), *x.shape))
        unconds = torch.zeros_like(guided)
        for concept, conditioning in enumerate(conditionings):
            scale = scales[concept]
            for picture in self.pictures[concept]:
                parts = conditioning.parts[picture]
                # without unconditional rows the first part stands in, and the scale is 1, as in the web UI
                base = outputs[concept, picture, None if scale is not None else parts[0][0]]
                change = sum((weight * (outputs[concept, picture, part] - base) for part, weight in parts),
                             torch.zeros_like(base))
                guided[concept, picture] = base + change * (1.0 if scale is None else scale)
                unconds[concept, picture] = base
        return ConceptPrediction(guided, unconds)

    def _evaluate(self, evaluate: EvaluateRows, x: Tensor, t: Tensor, call: list[_Row]) -> Tensor:
        pictures = [row.picture for row in call]
        cond = {name: torch.stack([row.cond[name] for row in call]) for name in call[0].cond}
        try:
            with self.networks.acting(_spans(call), len(call)):
                return evaluate(x[pictures], t[pictures], cond, pictures)
        except torch.cuda.OutOfMemoryError as error:
            if len(call) == 1:
                raise OMGError("concepts", "not even one row of a concept's prediction fits into graphics memory; "
                                           "lower the picture's size, the batch size or, in OMG's settings, the "
                                           "memory for keeping the layout") from error
        torch.cuda.empty_cache()
        half = self.rows_per_call = len(call) // 2
        return torch.cat([self._evaluate(evaluate, x, t, call[:half]), self._evaluate(evaluate, x, t, call[half:])])
