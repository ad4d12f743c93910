"""The small world: what a seed determines, what masks say, how identity and captions keep apart."""

import re
from itertools import combinations, pairwise, product
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.world import (
    IDENTITIES,
    KINDS,
    MAX_OCCLUSION,
    OCCLUSION_TOLERANCE,
    SCENES,
    SCHEMA,
    VOCABULARY,
    Character,
    Figure,
    Picture,
    draw_figure,
    nearest_value,
    random_cast,
    random_character,
    random_tokens,
    render,
    write_caption,
)
from bench.world.attributes import ABSENT, COLOURS
from bench.world.captions import NUMBERS, PLACES, PLURALS, RARE_WORDS
from bench.world.layout import MIN_VISIBLE
from bench.world.sheet import contact_sheet

SEEDS = st.integers(0, 2**32 - 1)


def cast_of(seed: int, *kinds: str) -> list[Character]:
    rng = Random(seed)
    return [random_character(kind, rng) for kind in kinds]


def inside(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask without its outermost pixels, which share their colour with what is next to them."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 1), (3, 3))
    return np.asarray(around.all(axis=(2, 3)))


def far_inside(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask without what a soft edge reaches; the tip of a point may miss the middle of the pixel before it, too."""
    for _ in range(6):
        mask = inside(mask)
    return mask


def same(first: Picture, second: Picture) -> bool:
    return (np.array_equal(first.image, second.image) and first.caption == second.caption
            and all(np.array_equal(a.visible, b.visible) and a.character == b.character and a.depth == b.depth
                    for a, b in zip(first.figures, second.figures, strict=True)))


@given(SEEDS)
def test_a_seed_determines_the_picture(seed):
    picture = render(seed)
    assert same(picture, render(seed))
    assert not np.array_equal(picture.image, render(seed + 1).image)


@pytest.mark.parametrize("size", [48, 64, 128, 200])
def test_picture_and_masks_have_the_size_asked_for(size):
    picture = render(0, cast_of(0, *KINDS), size=size)
    assert picture.image.shape == (size, size, 3)
    assert picture.image.dtype == np.uint8
    for figure in picture.figures:
        assert figure.full.shape == figure.visible.shape == figure.parts.shape == (size, size)
        assert figure.full.dtype == figure.visible.dtype == np.bool_


@given(SEEDS)
def test_masks_are_disjoint_and_follow_depth(seed):
    figures = render(seed).figures
    assert sorted(figure.depth for figure in figures) == list(range(len(figures)))
    assert np.sum([figure.visible for figure in figures], axis=0).max() == 1
    for figure in figures:
        nearer = [other.full for other in figures if other.depth > figure.depth]
        np.testing.assert_array_equal(figure.visible, figure.full & ~np.any([*nearer, ~figure.full], axis=0))
        assert not (figure.parts > 0)[~figure.visible].any()
        assert figure.visible_share == pytest.approx(figure.visible.sum() / figure.full.sum())


@given(SEEDS)
def test_figures_lie_inside_the_picture_in_their_boxes_and_show(seed):
    for figure in render(seed).figures:
        left, top, right, bottom = figure.box
        assert 0 <= left < right <= 128
        assert 0 <= top < bottom <= 128
        boxed = figure.full[top:bottom, left:right]
        assert boxed.sum() == figure.full.sum()
        assert all(edge.any() for edge in (boxed[0], boxed[-1], boxed[:, 0], boxed[:, -1]))
        assert figure.visible_share >= MIN_VISIBLE


@given(SEEDS)
def test_a_figure_changes_the_picture_just_where_its_masks_say(seed):
    """Two pictures that differ in one figure's colours only differ in its masks and the rims of those."""
    first, second = ({name: values[-1 - number] for name, values in SCHEMA["robot"].items()} for number in (0, 1))
    others = cast_of(seed, "man", "dog")
    scene = SCENES[seed % 4]
    pictures = [render(seed, [*others, Character("robot", attributes)], scene) for attributes in (first, second)]
    *before, robot = pictures[0].figures
    np.testing.assert_array_equal(robot.visible, pictures[1].figures[2].visible)
    changed = (pictures[0].image != pictures[1].image).any(axis=2)
    assert changed[robot.region("head")].all()
    assert not (changed & far_inside(~robot.full)).any()
    for nearer in (other for other in before if other.depth > robot.depth):
        # slits narrower than a pixel, as between two legs, let a little through
        assert (changed & far_inside(nearer.full)).sum() < 0.01 * nearer.full.sum()


@pytest.mark.parametrize("kinds", list(product(KINDS, repeat=2)), ids="-".join)
@pytest.mark.parametrize("occlusion", [0, 0.05, 0.15, 0.3, 0.45, MAX_OCCLUSION])
def test_a_pair_hides_as_much_as_asked(kinds, occlusion):
    for seed in range(3):
        far, near = sorted(render(seed, cast_of(seed, *kinds), occlusion=occlusion).figures, key=lambda f: f.depth)
        assert near.visible_share == 1
        assert 1 - far.visible_share == pytest.approx(occlusion, abs=OCCLUSION_TOLERANCE + 1e-9 if occlusion else 0)


@given(SEEDS, st.floats(0, MAX_OCCLUSION), st.sampled_from([64, 128]))
def test_random_pairs_hide_as_much_as_asked(seed, occlusion, size):
    shares = [figure.visible_share for figure in render(seed, occlusion=occlusion, size=size).figures]
    assert len(shares) == 2
    assert abs(1 - min(shares) - occlusion) <= OCCLUSION_TOLERANCE + 1e-9


def test_sizes_places_and_depths_vary():
    cast = cast_of(0, "man", "woman")
    pictures = [render(seed, cast) for seed in range(60)]
    men = [picture.figures[0] for picture in pictures]
    middles = [(figure.box[0] + figure.box[2]) / 2 for figure in men]
    heights = [figure.box[3] - figure.box[1] for figure in men]
    assert min(middles) < 45 < 83 < max(middles)
    assert max(heights) > 1.25 * min(heights)
    assert 15 < sum(figure.depth for figure in men) < 45


def test_every_scene_class_count_and_value_occurs():
    pictures = [render(seed) for seed in range(300)]
    assert {picture.scene for picture in pictures} == set(SCENES)
    assert {len(picture.figures) for picture in pictures} == {1, 2, 3, 4, 5}
    people = [figure.character for picture in pictures for figure in picture.figures]
    assert {(person.kind, *item) for person in people for item in person.attributes.items()} == {
        (kind, name, value) for kind, schema in SCHEMA.items() for name, values in schema.items() for value in values}
    kinds = [[figure.character.kind for figure in picture.figures] for picture in pictures]
    assert any(len(set(of)) < len(of) for of in kinds if len(of) == 2)


@pytest.mark.parametrize("count", range(1, 6))
def test_a_cast_has_the_count_asked_for(count):
    assert len(render(count, random_cast(Random(count), count)).figures) == count


def test_crowds_of_the_widest_class_find_room():
    for seed in range(20):
        assert len(render(seed, cast_of(seed, *["dog"] * 5)).figures) == 5


def counts_told(caption: str) -> dict[str, int]:
    """How many figures of each class a caption tells of."""
    words = caption.replace(",", "").split()
    told = {kind: words.count(kind) for kind in KINDS}
    for number, word in pairwise(words):
        for kind, plural in PLURALS.items():
            told[kind] += NUMBERS.index(number) if word == plural else 0
    return told


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), st.sampled_from(SCENES), SEEDS, st.floats(0, 1))
def test_captions_tell_classes_and_scene_in_known_words(kinds, scene, seed, share):
    rng = Random(seed)
    tokens = random_tokens(len(kinds), rng, share)
    caption = write_caption(kinds, scene, rng, tokens)
    assert counts_told(caption) == {kind: kinds.count(kind) for kind in KINDS}
    assert [place for place in SCENES
            if caption.startswith(place + ":") or caption.endswith(PLACES[place])] == [scene]
    assert set(re.findall(r"[a-z]+|[,:]", caption)) <= set(VOCABULARY)
    told = re.findall(r"[a-z]+", caption)
    assert sorted(word for word in told if word in RARE_WORDS) == sorted(filter(None, tokens))
    # "another" never comes before what it repeats
    for kind in KINDS:
        first = re.search(rf"\ba (\w+ )?{kind}\b", caption)
        again = re.search(rf"\banother (\w+ )?{kind}\b", caption)
        assert again is None or (first is not None and first.start() < again.start())


def test_captions_never_name_attributes():
    telling = {word for schema in SCHEMA.values() for name, values in schema.items() for word in (name, *values)}
    assert not telling & set(VOCABULARY)
    assert not {name.lower() for name in IDENTITIES} & set(VOCABULARY)


def test_captions_vary():
    captions = {write_caption(["man", "man", "dog"], "park", Random(seed)) for seed in range(200)}
    assert len(captions) > 30
    assert any("two men" in caption for caption in captions)
    assert any("another man" in caption for caption in captions)


def test_a_token_stands_before_its_class_word():
    assert "sks man" in render(0, cast_of(0, "man", "dog"), tokens=["sks", ""]).caption


def silhouette(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask's bounding box, stretched to a square."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return np.asarray(Image.fromarray(box).resize((48, 48)))


def test_silhouettes_of_classes_differ():
    shapes = {kind: [silhouette(draw_figure(random_character(kind, Random(seed)), 1, bool(seed % 2)).mask)
                     for seed in range(20)] for kind in KINDS}
    for first, second in combinations(KINDS, 2):
        assert max((a & b).sum() / (a | b).sum() for a in shapes[first] for b in shapes[second]) < 0.66


def test_a_mirrored_dog_looks_the_other_way():
    dog = IDENTITIES["Biscuit"].character
    right, left = (silhouette(draw_figure(dog, 1, mirrored).mask) for mirrored in (False, True))
    assert (right & left[:, ::-1]).sum() > 0.95 * (right | left[:, ::-1]).sum()
    assert (right & left).sum() < 0.6 * (right | left).sum()


def readable(picture: Picture, figure: Figure) -> list[tuple[str, str]]:
    """Attributes of which a clear area shows, each with the value whose colour is nearest to that area's."""
    regions = {name: inside(figure.region(name)) for name in figure.character.attributes}
    return [(name, nearest_value(figure.character.kind, name, picture.image[region].mean(axis=0)))
            for name, region in regions.items() if region.sum() >= 12]  # soft edges colour what is smaller


@given(SEEDS)
def test_visible_areas_tell_the_attributes(seed):
    picture = render(seed)
    for figure in picture.figures:
        assert readable(picture, figure) == [(name, figure.character.attributes[name])
                                             for name, _ in readable(picture, figure)]


@given(SEEDS, st.sampled_from(KINDS))
def test_a_figure_alone_shows_every_attribute_in_a_large_area(seed, kind):
    picture = render(seed, cast_of(seed, kind))
    figure = picture.figures[0]
    present = {name: value for name, value in figure.character.attributes.items() if value != ABSENT}
    assert dict(readable(picture, figure)) == present
    for name in figure.character.attributes:
        assert (figure.region(name).sum() > 0.04 * figure.full.sum()) == (name in present)


def test_values_of_an_attribute_lie_far_apart():
    for schema in SCHEMA.values():
        for values in schema.values():
            colours = [COLOURS[value] for value in values if value != ABSENT]
            assert min(np.linalg.norm(np.subtract(a, b)) for a, b in combinations(colours, 2)) > 60


def test_six_identities_with_triggers_of_their_own():
    kinds = [identity.character.kind for identity in IDENTITIES.values()]
    assert sorted(kinds) == ["dog", "man", "man", "robot", "woman", "woman"]
    triggers = [identity.trigger for identity in IDENTITIES.values()]
    assert len(set(triggers)) == 6
    assert not set(triggers) & set(RARE_WORDS)
    assert set(triggers) <= set(VOCABULARY)
    for first, second in combinations([identity.character for identity in IDENTITIES.values()], 2):
        if first.kind == second.kind:
            assert all(value != second.attributes[name] for name, value in first.attributes.items())


@pytest.mark.parametrize(("arguments", "message"), [
    ({"cast": []}, "cast: a picture has 1 to 5 figures, not 0"),
    ({"cast": cast_of(0, *["man"] * 6)}, "cast: a picture has 1 to 5 figures, not 6"),
    ({"scene": "moon"}, "scene: 'moon' is unknown"),
    ({"cast": cast_of(0, "man"), "occlusion": 0.2}, "occlusion: can be asked for with exactly 2 figures, not 1"),
    ({"occlusion": 0.7}, "occlusion: must be 0 to 0.6, not 0.7"),
    ({"size": 16}, "size: must be at least 48 pixels, not 16"),
])
def test_wrong_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        render(0, **arguments)


@pytest.mark.parametrize(("kind", "attributes", "message"), [
    ("cat", {}, "kind: 'cat' is unknown; choose one of man, woman, dog, robot"),
    ("dog", {"coat": "brown"}, "attributes: give a dog exactly coat, ears"),
    ("dog", {**IDENTITIES["Biscuit"].character.attributes, "coat": "blue"}, "attributes: coat of a dog is 'blue'; use"),
])
def test_impossible_characters_are_refused(kind, attributes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Character(kind, attributes)


def test_the_contact_sheet_has_seven_rows_of_eight():
    sheet = contact_sheet(size=64)
    assert sheet.width == 8 * 66
    assert sheet.height % 7 == 0
