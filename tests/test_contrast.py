"""From maps of differences to instances, on drawn arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import pytest

from omg_ext.comprehension import Instance
from omg_ext.comprehension.contrast import PLAN, combined, comparisons, instances
from omg_ext.comprehension.instances import nearest
from omg_ext.comprehension.masks import resize
from omg_ext.comprehension.walker import walk

Area = npt.NDArray[np.bool_]
SIDE, CELLS = 128, 16
GROUND = (90, 140, 90)
COLOURS = ((200, 40, 40), (40, 40, 200), (220, 200, 60))


def box(left: float, top: float, right: float, bottom: float, size: int = SIDE) -> Area:
    """A rectangle in fractions of the picture's sides."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def drawn(*areas: Area) -> npt.NDArray[np.uint8]:
    """A picture of areas in colours of their own, the last in front."""
    picture = np.full((*areas[0].shape, 3), GROUND, np.uint8)
    for area, colour in zip(areas, COLOURS, strict=False):
        picture[area] = colour
    return picture


def seen(area: Area, loudness: float = 1.0, seed: int = 0) -> npt.NDArray[np.float64]:
    """A rough map ``[CELLS, CELLS]`` of an area as the model gives one: uneven, and not quite nothing elsewhere."""
    rng = np.random.default_rng(seed)
    inside = resize(area.astype(np.float32), CELLS, CELLS) * rng.uniform(0.6, 1.4, (CELLS, CELLS))
    return loudness * (inside + rng.uniform(0.02, 0.08, (CELLS, CELLS)))


def overlap(instance: Instance, area: Area) -> float:
    mask = resize(instance.mask, *area.shape) > 0.5
    return float((mask & area).sum() / (mask | area).sum())


def one(found: Sequence[Sequence[Instance]], phrase: int = 0) -> Instance:
    assert len(found[phrase]) == 1
    return found[phrase][0]


LEFT, RIGHT = box(0.1, 0.2, 0.4, 0.9), box(0.6, 0.3, 0.9, 0.9)


def test_outlines_are_the_pictures() -> None:
    # edges lie within cells of the map, which alone cannot tell where
    area = box(0.22, 0.22, 0.53, 0.84) & ~box(0.35, 0.55, 0.4, 0.84)
    found = one(instances([seen(area)], [1], drawn(area)))
    rough = resize(resize(area.astype(np.float32), CELLS, CELLS), SIDE, SIDE) > 0.5
    assert overlap(found, area) > 0.96 > (rough & area).sum() / (rough | area).sum()


def test_each_phrase_has_its_own() -> None:
    found = instances([seen(LEFT), seen(RIGHT, seed=1)], [1, 1], drawn(LEFT, RIGHT))
    assert overlap(one(found, 0), LEFT) > 0.9
    assert overlap(one(found, 1), RIGHT) > 0.9


def test_touching_phrases_part_at_the_edge() -> None:
    left, right = box(0.1, 0.2, 0.47, 0.9), box(0.47, 0.2, 0.9, 0.9)
    # each map leaks into the other's place
    maps = [seen(left) + 0.3 * seen(right, seed=2), seen(right, seed=1) + 0.3 * seen(left, seed=3)]
    found = instances(maps, [1, 1], drawn(left, right))
    assert overlap(one(found, 0), left) > 0.9
    assert overlap(one(found, 1), right) > 0.9
    assert not (one(found, 0).mask * one(found, 1).mask).any()


def test_one_behind_the_other() -> None:
    front = box(0.35, 0.4, 0.6, 0.95)
    behind = box(0.2, 0.15, 0.8, 0.85) & ~front
    found = instances([seen(behind), seen(front, seed=1)], [1, 1], drawn(behind, front))
    assert overlap(one(found, 0), behind) > 0.85
    assert overlap(one(found, 1), front) > 0.85


def test_as_many_instances_as_are_asked_for() -> None:
    areas = [box(x, 0.3, x + 0.2, 0.9) for x in (0.05, 0.4, 0.75)]
    for count in (2, 3):
        shown = areas[:count]
        found = instances([seen(np.any(shown, axis=0))], [count], drawn(*shown))
        masks = sorted(found[0], key=lambda instance: instance.centre[0])
        assert [overlap(mask, area) > 0.9 for mask, area in zip(masks, shown, strict=True)] == [True] * count


def test_touching_instances_are_told_apart() -> None:
    left, right = box(0.15, 0.2, 0.5, 0.9), box(0.5, 0.25, 0.85, 0.9)
    found = instances([seen(left | right)], [2], drawn(left, right))
    first, second = sorted(found[0], key=lambda instance: instance.centre[0])
    assert overlap(first, left) > 0.85
    assert overlap(second, right) > 0.85


def test_a_faint_instance_is_whole() -> None:
    # a threshold for both would lose the one that the model needs few words for
    found = instances([seen(LEFT) + seen(RIGHT, 0.2, seed=1)], [2], drawn(LEFT, RIGHT))
    first, second = sorted(found[0], key=lambda instance: instance.centre[0])
    assert overlap(first, LEFT) > 0.85
    assert overlap(second, RIGHT) > 0.85


def test_specks_go_and_holes_close() -> None:
    speck, hole = box(0.85, 0.1, 0.93, 0.18), box(0.17, 0.4, 0.33, 0.7)
    found = one(instances([seen((LEFT & ~hole) | speck)], [1], drawn(LEFT & ~hole, speck)))
    mask = found.mask > 0.5
    assert not mask[speck].any()
    assert mask[hole].all()


def test_a_hole_that_is_another_stays_its() -> None:
    inner = box(0.4, 0.4, 0.6, 0.7)
    outer = box(0.2, 0.15, 0.8, 0.9) & ~inner
    found = instances([seen(outer), seen(inner, seed=1)], [1, 1], drawn(outer, inner))
    assert overlap(one(found, 1), inner) > 0.8
    assert not (one(found, 0).mask * one(found, 1).mask).any()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_flat_maps_give_nothing(level: float) -> None:
    flat = np.full((CELLS, CELLS), level)
    assert instances([flat, seen(LEFT), None], [1, 1, 2], drawn(LEFT))[::2] == [[], []]
    assert instances([flat], [2], drawn(LEFT)) == [[]]
    assert instances([], [], drawn(LEFT)) == []


def test_no_scale_matters_and_nothing_is_random() -> None:
    maps = [seen(LEFT), seen(RIGHT, seed=1)]
    picture = drawn(LEFT, RIGHT)
    ours, again, scaled = (instances(each, [1, 2], picture) for each in (
        maps, maps, [maps[0] * 1000, maps[1].astype(np.float32) / 64]))
    assert [len(found) for found in ours] == [1, 2]
    for mine, same, third in zip(*(chain(*found) for found in (ours, again, scaled)), strict=True):
        assert np.array_equal(mine.mask, same.mask)
        assert mine.score == same.score
        assert (mine.mask != third.mask).mean() < 0.001


def test_picture_and_map_may_have_any_sizes() -> None:
    picture = np.repeat(np.repeat(drawn(LEFT)[32:], 3, axis=0), 3, axis=1)  # 384 x 288, and maps 12 x 16
    mask = one(instances([seen(LEFT)[4:]], [1], picture)).mask
    assert mask.shape == (96, 128)
    assert ((mask > 0.5) & LEFT[32:]).sum() / ((mask > 0.5) | LEFT[32:]).sum() > 0.9
    assert instances([seen(LEFT)], [1], drawn(LEFT)[:, :, :])[0][0].mask.dtype == np.float32


def test_scores_are_probabilities_and_sorted() -> None:
    found = instances([seen(LEFT) + seen(RIGHT, 0.3, seed=1)], [2], drawn(LEFT, RIGHT))[0]
    assert 1 >= found[0].score >= found[1].score > 0


def test_walk_keeps_probabilities() -> None:
    rng = np.random.default_rng(0)
    priors = rng.dirichlet([1, 1, 1], (24, 32)).transpose(2, 0, 1)
    picture = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    chances = walk(priors, picture)
    assert chances.shape == priors.shape
    assert np.allclose(chances.sum(0), 1)
    assert chances.min() > -1e-9
    assert np.allclose(walk(np.full((2, 8, 8), 0.5), np.zeros((8, 8, 3), np.uint8)), 0.5)


def test_walk_fills_up_to_the_edge() -> None:
    # a few sure places on either side of an edge decide for all that look alike
    priors = np.full((2, 32, 32), 0.5)
    priors[0, 10:20, 2:5], priors[1, 10:20, 27:30] = 0.95, 0.95
    priors[1, 10:20, 2:5], priors[0, 10:20, 27:30] = 0.05, 0.05
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 20:] = 200
    assert np.array_equal(walk(priors, picture)[1] > 0.5, picture[:, :, 0] > 0)


def test_nearest_numbers_from_left_to_right() -> None:
    right_is_larger = box(0.1, 0.4, 0.2, 0.6) | box(0.5, 0.1, 0.9, 0.9)
    owner = nearest(right_is_larger, 2)
    assert owner[64, 20] == 0
    assert owner[64, 100] == 1
    assert set(np.unique(nearest(LEFT, 3))) == {0, 1, 2}


def test_tall_things_are_not_cut_across() -> None:
    left, right = box(0.3, 0.02, 0.5, 0.98), box(0.5, 0.02, 0.7, 0.98)
    owner = nearest(left | right, 2)
    assert (owner[left] == 0).mean() > 0.95
    assert (owner[right] == 1).mean() > 0.95


def test_combined_maps_weigh_alike() -> None:
    loud, soft = np.array([[100.0, 0.0]]), np.array([[0.0, 1.0]])
    both, one_alone = combined([loud, soft]), combined([loud, 0 * loud])
    assert both is not None
    assert one_alone is not None
    assert np.array_equal(both, [[1, 1]])
    assert np.array_equal(one_alone, [[2, 0]])
    assert combined([]) is None
    assert combined([0 * loud]) is None


def test_what_is_compared() -> None:
    pair = "a man and a woman in the park"
    assert comparisons(pair, "man") == [(pair, "a woman in the park")]
    assert comparisons(pair, "dog") == []
    assert comparisons("two men in the park", "man") == [
        ("two men in the park", "in the park"), ("a man in the park", "in the park")]


@pytest.mark.parametrize(("prompt", "phrases"), [("a man and a woman in the park", ("man", "woman")),
                                                 ("two men at night", ("man",))])
def test_two_things_cost_24_rows(prompt: str, phrases: tuple[str, ...]) -> None:
    asked = {each for phrase in phrases for pair in comparisons(prompt, phrase) for each in pair}
    assert len(PLAN.times) * PLAN.noises * len(asked) == 24
