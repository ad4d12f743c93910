"""Where figures stand: their sizes, places and who is before whom, with as much occlusion as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import numpy.typing as npt

from bench.world.attributes import Character
from bench.world.figures import UNIT_HEIGHT, Sprite, draw_figure

MAX_FIGURES = 5
MAX_OCCLUSION = 0.6
OCCLUSION_TOLERANCE = 0.02
# of a figure that nobody asked to hide, at least this share shows
MIN_VISIBLE = 0.45
_PAIR_TRIES = 200
# of a picture's side; leaves room for the ground below the feet
_TALLEST = 0.96

# figures in the picture -> range of their pixels per unit in a picture of 128 pixels
_SCALES = {1: (0.8, 1.05), 2: (0.68, 0.92), 3: (0.56, 0.78), 4: (0.5, 0.68), 5: (0.46, 0.6)}
# and the highest place of feet, in fractions of the height: a crowd stands in rows
_BACK_ROW = {1: 0.86, 2: 0.82, 3: 0.78, 4: 0.72, 5: 0.7}
_FRONT = 0.97


@dataclass(frozen=True)
class Placed:
    """A sprite and the pixel of the picture on which its top left pixel lies."""

    sprite: Sprite
    left: int
    top: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the picture that the sprite covers."""
        height, width = self.sprite.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def visible_masks(placed: Sequence[Placed], order: Sequence[int], size: int) -> list[npt.NDArray[np.bool_]]:
    """What of each figure shows, bool ``[size, size]`` each, disjoint; ``order`` lists figures from back to front."""
    owner = np.full((size, size), -1, np.int8)
    for number in order:
        np.copyto(owner[placed[number].window], np.int8(number), where=placed[number].sprite.mask)
    return [owner == number for number in range(len(placed))]


def _sprite(character: Character, scale: float, size: int, rng: Random) -> Sprite:
    fitting = min(scale, _TALLEST * 128 / UNIT_HEIGHT[character.kind])
    return draw_figure(character, fitting * size / 128, rng.random() < 0.5)


def _top(sprite: Sprite, feet: float, size: int) -> int:
    """The top row that puts the feet at the fraction ``feet`` of the height, or as near as the head allows."""
    return max(round(feet * size) - sprite.mask.shape[0], 0)


def _scattered(sprites: Sequence[Sprite], size: int, rng: Random) -> tuple[list[Placed], list[int]]:
    """One try: figures side by side in random order with jitter, the nearer the lower."""
    count = len(sprites)
    slots = rng.sample(range(count), count)
    placed = []
    for slot, sprite in zip(slots, sprites, strict=True):
        room = size - sprite.mask.shape[1]
        along = rng.random() if count == 1 else (slot + rng.uniform(-0.45, 0.45)) / (count - 1)
        feet = rng.uniform(_BACK_ROW[count], _FRONT)
        placed.append(Placed(sprite, round(min(max(along, 0), 1) * room), _top(sprite, feet, size)))
    bottoms = [figure.top + figure.sprite.mask.shape[0] for figure in placed]
    return placed, sorted(range(count), key=bottoms.__getitem__)


def scatter(cast: Sequence[Character], size: int, rng: Random) -> tuple[list[Placed], list[int]]:
    """Random sizes and places; every figure stays inside the picture and at least :data:`MIN_VISIBLE` of it shows.

    Returns:
        The placed figures in the order of ``cast``, and their numbers from back to front.
    """
    low, high = _SCALES[len(cast)]
    while True:
        sprites = [_sprite(character, rng.uniform(low, high), size, rng) for character in cast]
        # another place costs less than another drawing
        for _ in range(8):
            placed, order = _scattered(sprites, size, rng)
            shown = visible_masks(placed, order, size)
            if all(mask.sum() >= MIN_VISIBLE * sprite.mask.sum() for mask, sprite in zip(shown, sprites, strict=True)):
                return placed, order


def _hidden_shares(back: Placed, front: Placed, size: int) -> npt.NDArray[np.float64]:
    """The share of ``back`` that ``front`` covers, were it moved sideways.

    Returns:
        float ``[2 size + 1]``: with the left edge of ``back`` at ``-size`` to ``size`` from that of ``front``.
    """
    low = max(back.top, front.top)
    high = max(low, min(back.window[0].stop, front.window[0].stop))
    behind = back.sprite.mask[low - back.top:high - back.top].astype(np.float32)
    before = front.sprite.mask[low - front.top:high - front.top].astype(np.float32)
    # column f of the front and column b of the back meet where the back's left edge lies f - b from the front's
    together = before.T @ behind
    edges = np.arange(together.shape[0])[:, None] - np.arange(together.shape[1])[None]
    covered = np.bincount(edges.ravel() + size, together.ravel(), minlength=2 * size + 1)
    return covered / back.sprite.mask.sum()


def _slide(back: Placed, front: Placed, occlusion: float, size: int, rng: Random) -> tuple[Placed, Placed] | None:
    """The two moved sideways to random places with the wanted occlusion, None where there are none."""
    tolerance = OCCLUSION_TOLERANCE if occlusion else 0
    edges = np.flatnonzero(abs(_hidden_shares(back, front, size) - occlusion) <= tolerance) - size
    backs, fronts = back.sprite.mask.shape[1], front.sprite.mask.shape[1]
    # how far the two together can still move
    spare = size - (np.maximum(edges + backs, fronts) - np.minimum(edges, 0))
    if not (spare >= 0).any():
        return None
    number = rng.choice(np.flatnonzero(spare >= 0).tolist())
    edge = int(edges[number])
    left = rng.randint(0, int(spare[number])) - min(edge, 0)
    return replace(back, left=left + edge), replace(front, left=left)


def place_pair(cast: Sequence[Character], occlusion: float, size: int, rng: Random) -> tuple[list[Placed], list[int]]:
    """Two figures, of which the nearer hides the share ``occlusion`` of the other to within the tolerance.

    Which of them is nearer is random, but for a share that a small figure cannot hide of a large one.

    Returns:
        The placed figures in the order of ``cast``, and their numbers from back to front.

    Raises:
        ValueError: no such places were found.
    """
    low, high = _SCALES[2]
    for attempt in range(_PAIR_TRIES):
        order = rng.sample((0, 1), 2)
        # the longer it takes, the larger the nearer figure
        stretch = 0.35 * min(attempt / 20, 1)
        feet = rng.uniform(0.86, _FRONT)
        behind = _sprite(cast[order[0]], rng.uniform(low, high) * (1 - stretch), size, rng)
        before = _sprite(cast[order[1]], rng.uniform(low, high) * (1 + stretch), size, rng)
        pair = _slide(Placed(behind, 0, _top(behind, feet - rng.uniform(0.01, 0.06), size)),
                      Placed(before, 0, _top(before, feet, size)), occlusion, size, rng)
        if pair:
            return [pair[order.index(number)] for number in (0, 1)], order
    raise ValueError(f"occlusion: a {cast[0].kind} and a {cast[1].kind} could not be placed with {occlusion}; use less")
