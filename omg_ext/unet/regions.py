"""Concepts' places on the grids that a UNet's layers work on, and networks that act there alone.

In a row that holds several concepts every layer gives ``W x + sum_i M_i delta_i(x)``: M_i are the blend weights of
Eq. 6 on the layer's own grid, by area, so that they are a partition of unity there, too. Only the tokens that a concept
has a part in are computed, so the places of all concepts together cost about as much as one of the picture's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import OMGError
from .calls import UNetCall
from .deltas import Delta
from .patches import Patches, transformers

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Tokens:
    """A concept's place among a layer's tokens.

    Attributes:
        numbers: the tokens that it has a part in, in any of the pictures, [n]; None is all.
        weights: M_i there, [rows, n, 1].
    """

    numbers: Tensor | None
    weights: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Those of ``x`` [rows, tokens, width]."""
        return x if self.numbers is None else x.index_select(1, self.numbers)

    def add(self, change: Tensor, y: Tensor) -> None:
        """``y += M_i change`` in place, [rows, tokens, width] for [rows, n, width]."""
        if self.numbers is None:
            y += self.weights * change
        else:
            y.index_copy_(1, self.numbers, self.of(y) + self.weights * change)


class Regions:
    """The places of K concepts in B pictures.

    Args:
        weights: M_i, [K, B, 1, h, w] on the latent's grid.

    Attributes:
        grid: on which the tokens lie at present, see :meth:`follow`.
    """

    def __init__(self, weights: Tensor):
        self.grid: Grid = (weights.shape[3], weights.shape[4])
        self._weights = weights[:, :, 0].float()
        self._on_grids: dict[Grid, Tensor] = {}
        self._made: dict[tuple[object, ...], Tensor] = {}
        self._tokens: dict[tuple[object, ...], Tokens] = {}

    def follow(self, patches: Patches) -> None:
        """Know the grid of each transformer's tokens: that of the feature maps that it makes them of.

        Merged tokens may be as many as a coarser grid has, so their number does not tell.
        """
        def enter(call: UNetCall, layer: nn.Module, args: tuple[Any, ...]) -> None:
            self.grid = (args[0].shape[2], args[0].shape[3])

        for layer in transformers(patches.network):
            patches.on_input(layer, enter)

    def on(self, grid: Grid) -> Tensor:
        """M_i on a coarser grid, float32 [K, B, h, w]: each cell's mean."""
        if grid not in self._on_grids:
            self._on_grids[grid] = (self._weights if grid == tuple(self._weights.shape[2:])
                                    else adaptive_avg_pool2d(self._weights, grid))
        return self._on_grids[grid]

    def tokens(self, concept: int, call: UNetCall, rows: slice, like: Tensor) -> Tokens:
        """A concept's place among the tokens of some rows.

        Args:
            rows: of the call.
            like: tokens of all rows of the call, [rows, tokens, width].

        Raises:
            OMGError: the layer's tokens are not those of the picture.
        """
        grid, pictures = self._grid_of(call, like), _pictures(call, rows)
        key = (concept, grid, pictures, like.dtype, like.device)
        if key not in self._tokens:
            weights = self._of(concept, grid, pictures, like).flatten(1).unsqueeze(2)
            own = weights.any(0).nonzero()[:, 0]
            numbers = None if len(own) == weights.shape[1] else own
            self._tokens[key] = Tokens(numbers, Tokens(numbers, weights).of(weights))
        return self._tokens[key]

    def rest(self, call: UNetCall, like: Tensor) -> Tensor:
        """``1 - sum_i M_i`` at the tokens of all rows, [rows, tokens, 1]; arguments and errors as :meth:`tokens`."""
        weights = self._of(None, self._grid_of(call, like), _pictures(call, slice(None)), like)
        return weights.flatten(1).unsqueeze(2)

    def add(self, concept: int, call: UNetCall, rows: slice, delta: Delta, layer: nn.Module, x: Tensor,
            y: Tensor) -> None:
        """``y[rows] += M_i delta_i(x[rows])`` in place.

        Layers without a place in the picture stay as they are: :mod:`omg_ext.unet.embeddings` sees to them.

        Args:
            x, y: the layer's inputs and outputs, with all rows of the call.

        Raises:
            OMGError: as :meth:`tokens`.
        """
        if y.dim() == 3:
            place = self.tokens(concept, call, rows, y)
            own = place.of(x[rows])
            change = y.new_zeros(*own.shape[:2], y.shape[2])
            delta.add_to(layer, own, change)
            place.add(change, y[rows])
        elif y.dim() == 4:
            change = torch.zeros_like(y[rows])
            delta.add_to(layer, x[rows], change)
            self._add_map(concept, call, rows, change, y)

    def add_constant(self, concept: int, call: UNetCall, rows: slice, change: Tensor, y: Tensor) -> None:
        """``y[rows] += M_i change`` in place: one vector [rows, C] all over feature maps ``y`` [all rows, C, h, w]."""
        self._add_map(concept, call, rows, change[:, :, None, None], y)

    def _add_map(self, concept: int, call: UNetCall, rows: slice, change: Tensor, y: Tensor) -> None:
        weights = self._of(concept, (y.shape[2], y.shape[3]), _pictures(call, rows), y)
        y[rows] += weights.unsqueeze(1) * change

    def _grid_of(self, call: UNetCall, like: Tensor) -> Grid:
        if like.shape[:2] != (len(call.rows), self.grid[0] * self.grid[1]):
            raise OMGError("predict", "joint needs to know where each token of a layer lies, and a layer has other "
                                      "tokens than the picture; turn off token merging and HyperTile, or choose shared")
        return self.grid

    def _of(self, concept: int | None, grid: Grid, pictures: tuple[int, ...], like: Tensor) -> Tensor:
        """One concept's weights in pictures, or what all leave over, [pictures, h, w]; made once for all layers."""
        key = (concept, grid, pictures, like.dtype, like.device)
        if key not in self._made:
            weights = self.on(grid)
            weights = 1 - weights.sum(0) if concept is None else weights[concept]
            self._made[key] = weights[list(pictures)].to(like)
        return self._made[key]


def _pictures(call: UNetCall, rows: slice) -> tuple[int, ...]:
    return tuple(row.picture for row in call.rows[rows])
