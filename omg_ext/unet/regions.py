"""Concepts' places on the grids that a UNet's layers work on.

In a row that holds several concepts every layer gives ``y + sum_i M_i (y_i - y)``: M_i are the blend weights of Eq. 6
on the layer's own grid, by area, so that they are a partition of unity there, too. What is the same for all layers of
a grid is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import OMGError
from .calls import Place, UNetCall
from .patches import Patches, transformers
from .stacks import Sizes

Grid = tuple[int, int]
_Made = TypeVar("_Made")
# of shares that add up to 1
_NOTHING = 1e-5
# combinations of ranks for which maps are kept
_MOST_SIZES = 8


@dataclass(frozen=True, eq=False)
class Shares:
    """The tokens of some places, gathered so that one module can work on all of them, a row to a place.

    Attributes:
        count: of places, N.
        tokens: theirs, numbered over all rows, [N * n]; a place with fewer than n is filled up with any.
        back: for each token of the rows which of those is its own, [rows * tokens], and M_i there, [rows, tokens, 1];
            as often as there are places that overlap anywhere, with weights of zero where they do not.
        rest: ``1 - sum_i M_i``, [rows, tokens, 1]; None if that is nothing but rounding, as it is where all space is
            somebody's.
    """

    count: int
    tokens: Tensor
    back: Sequence[tuple[Tensor, Tensor]]
    rest: Tensor | None

    @classmethod
    def of(cls, weights: Tensor, rows: Sequence[int], rest: Tensor) -> Shares:
        """
        Args:
            weights: M_i of each place, [N, tokens].
            rows: the row of each place.
            rest: as the attribute, float32.
        """
        places, count = weights.shape
        is_in = weights > 0
        size = max(int(is_in.sum(1).max()), 1)
        # its own first, in their order
        own = is_in.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :size]
        starts = torch.tensor(rows, device=weights.device)[:, None] * count
        # where each place of a row has each token
        most = max(rows.count(row) for row in rows)
        numbers = weights.new_full((most, len(rest), count), -1, dtype=torch.long)
        shares = weights.new_zeros((most, len(rest), count))
        for place, row in enumerate(rows):
            number, held = rows[:place].count(row), int(is_in[place].sum())
            numbers[number, row, own[place, :held]] = torch.arange(held, device=own.device) + place * size
            shares[number, row] = weights[place]
        numbers, order = numbers.sort(dim=0, descending=True)
        back = [(number.clamp(min=0).flatten(), share.unsqueeze(2))
                for number, share in zip(numbers, shares.gather(0, order), strict=True) if bool(share.any())]
        is_whole = bool(rest.abs().max() < _NOTHING)
        return cls(places, (own + starts).flatten(), back, None if is_whole else rest.to(weights.dtype))

    def gather(self, x: Tensor) -> Tensor:
        """The places' tokens of ``x`` [rows, tokens, width], [N, n, width]."""
        return x.flatten(0, 1).index_select(0, self.tokens).unflatten(0, (self.count, -1))

    def add(self, change: Tensor, y: Tensor) -> None:
        """``y += sum_i M_i change_i`` in place, [rows, tokens, width] for [N, n, width]."""
        for numbers, weights in self.back:
            y.addcmul_(_at(change, numbers, y.shape), weights)

    def blended(self, own: Tensor, y: Tensor) -> Tensor:
        """``(1 - sum_i M_i) y + sum_i M_i own_i``, [rows, tokens, width]; of y the shape counts if there is no rest."""
        numbers, weights = self.back[0]
        if self.rest is None:
            result = _at(own, numbers, y.shape) * weights
        else:
            result = torch.addcmul(y * self.rest, _at(own, numbers, y.shape), weights)
        for numbers, weights in self.back[1:]:
            result.addcmul_(_at(own, numbers, y.shape), weights)
        return result


def _at(values: Tensor, numbers: Tensor, shape: Sequence[int]) -> Tensor:
    return values.flatten(0, 1).index_select(0, numbers).view(*shape[:2], -1)


class Regions:
    """The places of K concepts in B pictures.

    Args:
        weights: M_i, [K, B, 1, h, w] on the latent's grid; zero in pictures without concept i.

    Attributes:
        grid: on which the tokens lie at present, see :meth:`follow`.
    """

    def __init__(self, weights: Tensor):
        self.grid: Grid = (weights.shape[3], weights.shape[4])
        self._weights = weights[:, :, 0].float()
        self._on_grids: dict[Grid, Tensor] = {}
        self._made: dict[tuple[object, ...], Any] = {}
        self._sizes: set[Sizes] = set()

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

    def shares(self, call: UNetCall, places: tuple[Place, ...], like: Tensor, dtype: torch.dtype | None = None
               ) -> Shares:
        """Some places' tokens.

        Args:
            like: tokens of all rows of the call, [rows, tokens, width].
            dtype: of what is blended; theirs by default.

        Raises:
            OMGError: the layer's tokens are not those of the picture.
        """
        dtype = dtype or like.dtype

        def make(weights: Tensor) -> Shares:
            pictures = [row.picture for row in call.rows]
            own = torch.stack([weights[place.concept, pictures[place.row]] for place in places]).flatten(1)
            # a row whose concepts are not among the places would keep what it has
            rest = torch.stack([1 - weights[[place.concept for place in places if place.row == number], picture].sum(0)
                                for number, picture in enumerate(pictures)]).flatten(1).unsqueeze(2)
            return Shares.of(own.to(like.device, dtype), [place.row for place in places], rest.to(like.device))

        return self._once(("shares", places, dtype), call, self._grid_of(call, like), like, make)

    def of_concepts(self, call: UNetCall, like: Tensor) -> Tensor:
        """M_i in all rows, [rows, K, h, w] for feature maps ``like``.

        Raises:
            OMGError: as :meth:`shares`.
        """
        def make(weights: Tensor) -> Tensor:
            return torch.stack([weights[:, row.picture] for row in call.rows]).to(like)

        return self._once(("concepts",), call, self._grid_of(call, like), like, make)

    def of_ranks(self, call: UNetCall, sizes: Sizes, like: Tensor) -> Tensor:
        """M_i for each rank of a stack, [rows, tokens, R] or [rows, R, h, w] for a layer's outputs ``like``.

        Zero in rows without networks.

        Raises:
            OMGError: as :meth:`shares`.
        """
        def make(weights: Tensor) -> Tensor:
            of_rows = torch.stack([weights[:, row.picture] * (not row.is_bare) for row in call.rows])
            ranks = torch.cat([of_rows[:, [concept]].expand(-1, size, -1, -1) for concept, size in sizes], dim=1)
            return (ranks.flatten(2).transpose(1, 2) if like.dim() == 3 else ranks).to(like).contiguous()

        # networks that were resized have other ranks in each layer: keeping them all would take too much memory
        self._sizes.add(sizes)
        grid = self._grid_of(call, like)
        if len(self._sizes) > _MOST_SIZES:
            return make(self.on(grid))
        return self._once(("ranks", sizes, like.dim()), call, grid, like, make)

    def _grid_of(self, call: UNetCall, like: Tensor) -> Grid:
        rows = len(call.rows)
        if like.dim() == 4 and like.shape[0] == rows:
            return like.shape[2], like.shape[3]
        if like.dim() == 3 and like.shape[:2] == (rows, self.grid[0] * self.grid[1]):
            return self.grid
        raise OMGError("predict", "joint needs to know where each token of a layer lies, and a layer has other tokens "
                                  "than the picture; turn off token merging and HyperTile, or choose shared")

    def _once(self, what: tuple[object, ...], call: UNetCall, grid: Grid, like: Tensor,
              make: Callable[[Tensor], _Made]) -> _Made:
        """What is made of M_i on a grid, once for all layers and all calls of rows like these."""
        key = (*what, call.kinds, grid, like.dtype, like.device)
        if key not in self._made:
            self._made[key] = make(self.on(grid))
        made: _Made = self._made[key]
        return made
