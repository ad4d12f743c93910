"""Pictures of the world: a seed in, a picture and everything that is known about it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from bench.world.attributes import KINDS, SCHEMA, Character, random_character
from bench.world.captions import write_caption
from bench.world.figures import SAMPLES
from bench.world.layout import MAX_FIGURES, MAX_OCCLUSION, Placed, place_pair, scatter
from bench.world.scenes import SCENES, draw_scene

# how often a random picture has 1, 2, ... figures
_COUNTS = (0.3, 0.35, 0.2, 0.1, 0.05)
# how often the classes of a random cast are drawn independently, so that one can come twice
_REPEATS = 0.3
# pixels; below, a crowd's figures lose their parts
SMALLEST = 48
# pixels at size 128: edges as soft as latents of a cell for 8x8 pixels can tell them
_SOFTNESS = 1.0


@dataclass(frozen=True)
class Figure:
    """One figure of a picture of H x W pixels.

    Attributes:
        character: its class and identity attributes.
        full: bool ``[H, W]``: where it is, also behind nearer figures.
        visible: bool ``[H, W]``: where it shows; the figures' visible masks are disjoint.
        parts: uint8 ``[H, W]``: 1 + the number of the attribute that shows there, in the order of ``SCHEMA``, else 0.
        box: left, top, right, bottom of ``full`` in pixels, right and bottom exclusive.
        depth: 0 for the farthest figure.
    """

    character: Character
    full: npt.NDArray[np.bool_]
    visible: npt.NDArray[np.bool_]
    parts: npt.NDArray[np.uint8]
    box: tuple[int, int, int, int]
    depth: int

    @property
    def visible_share(self) -> float:
        """Visible over full area: 1 - occlusion."""
        return float(self.visible.sum() / self.full.sum())

    def region(self, attribute: str) -> npt.NDArray[np.bool_]:
        """Where the attribute's own colour shows, bool ``[H, W]``; empty where absent."""
        return self.parts == list(SCHEMA[self.character.kind]).index(attribute) + 1


@dataclass(frozen=True)
class Picture:
    """A rendered picture.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        caption: names classes and scene only.
        scene: one of ``SCENES``.
        figures: in the order of the cast.
    """

    image: npt.NDArray[np.uint8]
    caption: str
    scene: str
    figures: tuple[Figure, ...]


def random_cast(rng: Random, count: int | None = None) -> list[Character]:
    """Random individuals of random classes; ``count`` None draws 1 to 5 of them, few more often than many."""
    if count is None:
        count = rng.choices(range(1, MAX_FIGURES + 1), _COUNTS)[0]
    repeats = count > len(KINDS) or rng.random() < _REPEATS
    kinds = [rng.choice(KINDS) for _ in range(count)] if repeats else rng.sample(KINDS, count)
    return [random_character(kind, rng) for kind in kinds]


def _figure(character: Character, placed: Placed, depth: int, own: npt.NDArray[np.uint8]) -> Figure:
    """``own``: uint8 ``[H, W]``, the number of the figure's ink that shows, 0 where it does not."""
    full = np.zeros(own.shape, np.bool_)
    full[placed.window] = placed.sprite.mask
    rows, columns = np.flatnonzero(full.any(axis=1)), np.flatnonzero(full.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Figure(character, full, own > 0, placed.sprite.parts[own], box, depth)


def _compose(backdrop: Image.Image, cast: Sequence[Character], placed: Sequence[Placed],
             order: Sequence[int]) -> tuple[npt.NDArray[np.uint8], tuple[Figure, ...]]:
    """Draws the figures from back to front onto the backdrop; returns the picture and its figures."""
    inks = np.zeros((backdrop.height, backdrop.width), np.uint8)
    palette = [np.zeros((1, 3), np.uint8)]
    starts = {}
    used = 0
    for number in order:
        sprite = placed[number].sprite
        rows, columns = (slice(SAMPLES * part.start, SAMPLES * part.stop) for part in placed[number].window)
        np.copyto(inks[rows, columns], sprite.index + np.uint8(used), where=sprite.index > 0)
        palette.append(sprite.inks[1:])
        starts[number] = used
        used += len(sprite.inks) - 1
    drawn = Image.fromarray(inks)
    drawn.putpalette(np.concatenate(palette).tobytes())
    backdrop.paste(drawn.convert("RGB"), mask=Image.fromarray((inks > 0).view(np.uint8) * np.uint8(255)))
    shown = inks[SAMPLES // 2::SAMPLES, SAMPLES // 2::SAMPLES]
    figures = []
    for number, character in enumerate(cast):
        last = starts[number] + len(placed[number].sprite.inks) - 1
        own = np.where((shown > starts[number]) & (shown <= last), shown - np.uint8(starts[number]), np.uint8(0))
        figures.append(_figure(character, placed[number], order.index(number), own))
    picture = backdrop.reduce(SAMPLES)
    soft = picture.filter(ImageFilter.GaussianBlur(_SOFTNESS * picture.width / 128))
    return np.asarray(soft), tuple(figures)


def render(seed: int, cast: Sequence[Character] | None = None, scene: str | None = None, *,
           occlusion: float | None = None, size: int = 128, tokens: Sequence[str] = ()) -> Picture:
    """The picture that the seed, together with the other arguments, determines.

    Args:
        cast: 1 to 5 individuals; None draws them at random.
        scene: None draws one at random.
        occlusion: of exactly two figures: the share of the farther one that the nearer one hides, 0 to 0.6, met to
            within ``OCCLUSION_TOLERANCE``. None leaves it to chance.
        size: height and width in pixels.
        tokens: words that the caption puts before the class word of each figure, see ``write_caption``.

    Raises:
        ValueError: a wrong number of figures, an unknown scene, too small a size, or an occlusion that cannot be had.
    """
    rng = Random(seed)
    if cast is None:
        cast = random_cast(rng, 2 if occlusion is not None else None)
    if not 1 <= len(cast) <= MAX_FIGURES:
        raise ValueError(f"cast: a picture has 1 to {MAX_FIGURES} figures, not {len(cast)}")
    if size < SMALLEST:
        raise ValueError(f"size: must be at least {SMALLEST} pixels, not {size}")
    if scene is None:
        scene = rng.choice(SCENES)
    backdrop = draw_scene(scene, size * SAMPLES, rng)
    if occlusion is None:
        placed, order = scatter(cast, size, rng)
    elif len(cast) != 2:
        raise ValueError(f"occlusion: can be asked for with exactly 2 figures, not {len(cast)}")
    elif not 0 <= occlusion <= MAX_OCCLUSION:
        raise ValueError(f"occlusion: must be 0 to {MAX_OCCLUSION}, not {occlusion}")
    else:
        placed, order = place_pair(cast, occlusion, size, rng)
    image, figures = _compose(backdrop, cast, placed, order)
    return Picture(image, write_caption([each.kind for each in cast], scene, rng, tokens), scene, figures)
