"""Which instance goes to which concept, what hides what, and every concept's place in the end."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omg_ext.comprehension import DETECTORS, FirstPicture, Instance, Models, Need, Query, segmenters
from omg_ext.comprehension.assign import assign, of_concepts, queries_of
from omg_ext.comprehension.masks import encode_mask
from omg_ext.comprehension.occlusion import disjoint
from omg_ext.comprehension.places import find_places, given_masks, latent_weights
from omg_ext.errors import OMGError
from omg_ext.request import Concept, Detect, Mask, Request, Where
from omg_ext.unet.regions import Regions
from tests.test_comprehension import disc, first_pass, overlap


def concept(phrase: str = "man", **where) -> Concept:
    return Concept(prompt="p", phrase=phrase, where=Where(**where) if where else None)


def scene() -> dict[str, Instance]:
    """Three men, the middle one the best match."""
    return {"left": Instance(disc(0.2, 0.5, 0.1).astype(np.float32), 0.5),
            "middle": Instance(disc(0.5, 0.5, 0.1).astype(np.float32), 0.9),
            "right": Instance(disc(0.8, 0.5, 0.1).astype(np.float32), 0.7)}


def assigned(*concepts: Concept) -> list[str | None]:
    """The scene's names of what the concepts get."""
    names = {round(instance.centre[0], 2): name for name, instance in scene().items()}
    return [names[round(instance.centre[0], 2)] if instance is not None else None
            for instance in given_to(concepts, [MAN], [best_first()])]


MAN = Query("man")


def best_first() -> list[Instance]:
    return sorted(scene().values(), key=lambda instance: -instance.score)


def given_to(concepts: Sequence[Concept], queries: list[Query], found: list[list[Instance]]) -> list[Instance | None]:
    """What each concept gets."""
    return of_concepts(assign(concepts, queries, found), len(concepts))


class TestAssign:
    @pytest.mark.parametrize(("concepts", "expected"), [
        ([concept()], ["middle"]),
        ([concept(), concept(), concept()], ["middle", "right", "left"]),
        ([concept(), concept(), concept(), concept()], ["middle", "right", "left", None]),
        ([concept(index=0), concept(index=1), concept(index=2)], ["left", "middle", "right"]),
        ([concept(index=3)], [None]),
        ([concept(index=1), concept(index=1)], ["middle", None]),
        # the left one stays the leftmost even when it is used
        ([concept(point=(0.2, 0.5)), concept(index=1)], ["left", "middle"]),
        ([concept(point=(0.8, 0.5))], ["right"]),
        ([concept(point=(0.64, 0.5))], ["middle"]),
        ([concept(point=(0.935, 0.5))], ["right"]),
        ([concept(point=(0.965, 0.5))], [None]),
        ([concept(point=(0.5, 0.1))], [None]),
        ([concept(point=(0.0, 0.0)), concept(point=(1.0, 1.0))], [None, None]),
        ([concept(point=(0.5, 0.5)), concept(point=(0.52, 0.5))], ["middle", None]),
        # explicit choices are served first
        ([concept(), concept(index=1)], ["right", "middle"]),
        ([concept(), concept(point=(0.5, 0.5))], ["right", "middle"]),
    ])
    def test_rules(self, concepts, expected):
        assert assigned(*concepts) == expected

    def test_one_thing_seen_by_two_phrases_is_one_concepts(self):
        """The other takes what is left, though it fits less well."""
        both, other = scene()["left"], scene()["right"]
        nearly = Instance(np.roll(both.mask, 1, axis=1), 0.9)  # a detector rarely finds the very same mask twice
        for concepts in ([concept("knight"), concept("man")], [concept("man"), concept("knight")]):
            got = given_to(concepts, [MAN, Query("knight")], [[both, other], [nearly]])
            by_phrase = {each.phrase: instance for each, instance in zip(concepts, got, strict=True)}
            assert by_phrase["man"] is not None
            assert by_phrase["man"].centre == pytest.approx(other.centre)
            assert by_phrase["knight"] is not None
            assert by_phrase["knight"].centre == pytest.approx(both.centre, abs=0.03)

    def test_phrases_that_see_nothing_in_common_do_not_disturb_each_other(self):
        alone = given_to([concept()], [MAN], [best_first()])[0]
        dog = Instance(disc(0.5, 0.9, 0.05).astype(np.float32), 100.0)  # scores of two phrases do not compare
        man, pet = given_to([concept(), concept("dog")], [MAN, Query("dog")], [best_first(), [dog]])
        assert man is not None
        assert pet is not None
        assert alone is not None
        np.testing.assert_array_equal(man.mask, alone.mask)
        np.testing.assert_array_equal(pet.mask, dog.mask)

    def test_as_many_concepts_as_possible_get_something(self):
        """The best of one phrase is another's only one."""
        left, right = scene()["left"], scene()["right"]
        got = given_to([concept("person"), concept("knight")], [Query("person"), Query("knight")],
                       [[Instance(left.mask, 0.9), Instance(right.mask, 0.1)], [Instance(left.mask, 0.2)]])
        assert [instance.centre[0] > 0.5 for instance in got if instance is not None] == [True, False]

    @pytest.mark.parametrize(("box", "expected"), [
        ((0.1, 0.4, 0.3, 0.6), "left"), ((0.45, 0.3, 1, 0.7), "right"), ((0.3, 0.3, 0.6, 0.7), "middle"),
        ((0, 0, 1, 0.2), None)])
    def test_the_one_that_overlaps_a_box_most(self, box, expected):
        assert assigned(concept(overlap=box)) == [expected]

    def test_nothing_found(self):
        assert assign([concept(), concept(index=0), concept(point=(0.5, 0.5))], [MAN], [[]]) == []

    def test_soft_mask_without_a_core_is_no_place_for_a_point(self):
        faint = Instance(np.full((4, 4), 0.3, dtype=np.float32), 1)
        assert given_to([concept(point=(0.5, 0.5))], [MAN], [[faint]]) == [None]

    def test_things_are_told_from_left_to_right_with_their_owners(self):
        things = assign([concept(), concept(index=0)], [MAN], [best_first()])
        assert [thing.concept for thing in things] == [1, 0, None]
        assert [thing.scores for thing in things] == [{0: 0.5}, {0: 0.9}, {0: 0.7}]

    @given(st.lists(st.sampled_from([concept(), concept(index=0), concept(index=2), concept(point=(0.5, 0.5))]),
                    min_size=1, max_size=6))
    def test_each_instance_once(self, concepts):
        names = [name for name in assigned(*concepts) if name]
        assert len(names) == len(set(names))

    def test_queries(self):
        concepts = [concept("Man"), concept("old  dog"), concept("man"), concept("old dog"),
                    concept("tree", box=(0, 0, 1, 1))]
        assert queries_of(concepts) == [Query("Man", 2), Query("old  dog", 2)]

    def test_two_things_of_one_kind_are_one_query(self):
        """Otherwise one phrase would own the heat of both."""
        phrases = ["girl", "2girls", "(man:1.2)", "Men", "hatsune_miku", "hatsune miku", "a man", "old man"]
        assert [query.phrase for query in queries_of([concept(phrase) for phrase in phrases])] == \
            ["girl", "(man:1.2)", "hatsune_miku", "old man"]
        got = given_to([concept("man"), concept("men")], [MAN], [best_first()])
        assert [instance.centre[0] for instance in got if instance] == pytest.approx([0.5, 0.8], abs=0.01)

    @pytest.mark.parametrize(("prompt", "concepts", "count"), [
        ("a man", [concept()], 1), ("two men", [concept()], 2), ("a man", [concept(index=2)], 3),
        ("a man", [concept(), concept("men")], 2), ("three men", [concept(), concept()], 3)])
    def test_how_many_are_sought(self, prompt, concepts, count):
        assert queries_of(concepts, prompt)[0].count == count


class TestOcclusion:
    """Drawn things, one before the other."""

    def test_the_one_in_front_keeps_its_shape(self):
        behind, before = disc(0.4, 0.5, 0.2), disc(0.6, 0.5, 0.2)
        got = disjoint([Instance(behind.astype(np.float32), 1), Instance(before.astype(np.float32), 1)], [0.5, 0.9])
        assert got[0] is not None
        assert got[1] is not None
        np.testing.assert_array_equal(got[1].mask, before)
        np.testing.assert_array_equal(got[0].mask, behind & ~before)

    def test_a_place_is_the_surest_masks(self):
        soft = Instance(0.6 * disc(0.5, 0.5, 0.3).astype(np.float32), 1)
        sure = Instance(0.9 * disc(0.5, 0.5, 0.1).astype(np.float32), 1)
        got = disjoint([soft, sure], [1.0, 0.1])
        assert got[0] is not None
        assert got[1] is not None
        np.testing.assert_array_equal(got[1].mask, disc(0.5, 0.5, 0.1))
        np.testing.assert_array_equal(got[0].mask, disc(0.5, 0.5, 0.3) & ~disc(0.5, 0.5, 0.1))

    def test_specks_and_holes_go_but_not_into_another(self):
        ragged = disc(0.5, 0.5, 0.3)
        ragged[32, 32] = False  # a hole
        ragged[2, 2] = True  # a speck
        other = disc(0.5, 0.4, 0.05)
        ragged &= ~other
        got = disjoint([Instance(ragged.astype(np.float32), 1), Instance(other.astype(np.float32), 1)], [1, 1])
        assert got[0] is not None
        assert got[1] is not None
        np.testing.assert_array_equal(got[0].mask, disc(0.5, 0.5, 0.3) & ~other)
        np.testing.assert_array_equal(got[1].mask, other)

    def test_what_is_hidden_is_nobodys(self):
        hidden, wide = disc(0.5, 0.5, 0.1), disc(0.5, 0.5, 0.3)
        assert disjoint([Instance(hidden.astype(np.float32), 1), Instance(wide.astype(np.float32), 1)],
                        [0.1, 1])[0] is None

    def test_something_small_stays(self):
        """Specks are small beside the thing; a small thing is none."""
        small = Instance(disc(0.5, 0.5, 0.02, 128, 128).astype(np.float32), 1)
        left = disjoint([small], [1])[0]
        assert left is not None
        np.testing.assert_array_equal(left.mask, small.mask)

    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 0.4), st.floats(0.5, 1)), max_size=5))
    def test_no_place_is_two_things(self, discs):
        instances = [Instance((sure * disc(x, y, r, 32, 32)).astype(np.float32), 1) for x, y, r, sure in discs]
        total = np.zeros((32, 32))
        for instance in disjoint(instances, range(len(instances))):
            total += 0 if instance is None else instance.mask
        assert total.max() <= 1


class Scripted:
    """A detector that finds the men of the scene and notes what it was asked."""

    name, goes_by_prompt, needs_attention = "scripted", False, False
    reads = ()

    def __init__(self):
        self.asked: list[list[str]] = []
        self.missing: list[Need] = []
        self.loads = 0

    def needs(self, options, models):
        return self.missing

    @contextmanager
    def loaded(self, options, models):
        self.loads += 1
        yield self.find

    def find(self, first_pass, queries):
        self.asked.append([query.phrase for query in queries])
        return [best_first() if query.phrase == "man" else [] for query in queries]


@pytest.mark.parametrize("detect", [{"threshold": 0.5}, {"model": "x"}, {"segmenter": "x"}], ids=str)
def test_what_a_detector_does_not_go_by_is_refused(detect):
    request = Request(concepts=(Concept(prompt="p", phrase="man"),), detector="contrast", detect=Detect(**detect))
    with pytest.raises(OMGError, match="the detector `contrast` does not go by it") as caught:
        given_masks(request, (64, 64), (8, 8), Models())
    assert caught.value.field == f"detect.{next(iter(detect))}"


class TestFindPlaces:
    @pytest.fixture(autouse=True)
    def detector(self, monkeypatch):
        scripted = Scripted()
        monkeypatch.setitem(DETECTORS, "scripted", scripted)
        return scripted

    @staticmethod
    def find(concepts, picture, height, width, detector="scripted"):
        """The masks in one picture."""
        request = Request(concepts=tuple(concepts), detector=detector, mask=Mask(grow=0, feather=0))
        size, latent_size = (height, width), (height // 8, width // 8)
        given = given_masks(request, size, latent_size, Models())
        return find_places(request, given, [picture], size, latent_size, Models()).masks[0]

    def test_given_and_found(self, detector):
        drawn = np.zeros((16, 16), dtype=np.float32)
        drawn[:, :8] = 1
        masks = self.find([concept("", box=(0, 0, 0.5, 1)), concept(index=0), concept("cat"),
                           concept("", mask=encode_mask(drawn)), concept()], first_pass(), 96, 128)
        assert detector.asked == [["man", "cat"]]
        assert [mask is None for mask in masks] == [False, False, True, False, False]
        box, left, given_mask, middle = (mask for mask in masks if mask is not None)
        assert box.mean() == given_mask.mean() == 0.5
        assert box[:, :64].all()
        assert left[48, 25] == middle[48, 64] == 1
        assert left[48, 64] == 0
        for mask in (box, left, given_mask, middle):
            assert mask.shape == (96, 128)
            assert mask.dtype == np.float32

    def test_detector_is_left_alone_when_all_is_given(self, detector):
        detector.missing = [Need("file", "reader.pt", False)]
        self.find([concept("man", box=(0, 0, 1, 1))], first_pass(), 8, 8)
        assert (detector.asked, detector.loads) == ([], 0)

    def test_loaded_once_for_a_batch(self, detector):
        request = Request(concepts=(concept(),), detector="scripted")
        find_places(request, [None], [first_pass()] * 3, (64, 64), (8, 8), Models())
        assert (len(detector.asked), detector.loads) == (3, 1)

    def test_what_is_missing_is_said_before_anything_is_drawn(self, detector):
        detector.missing = [Need("package", "eyes>=1", False), Need("package", "ears", True),
                            Need("file", "reader.pt", False, size=3_000_000, page="a page", folder=Path("models"))]
        with pytest.raises(OMGError) as caught:
            given_masks(Request(concepts=(concept(),), detector="scripted"), (64, 64), (8, 8), Models())
        assert caught.value.field == "detector"
        for part in ("`scripted` needs", "eyes>=1", "reader.pt (3 MB), from a page, in models"):
            assert part in str(caught.value)
        assert "ears" not in str(caught.value)

    def test_findings(self):
        request = Request(concepts=(concept(point=(0.2, 0.5)), concept("cat")), detector="scripted")
        places = find_places(request, [None, None], [first_pass()], (64, 64), (8, 8), Models())
        assert [finding.concept for finding in places.findings[0]] == [0, None, None]
        first = json.loads(json.dumps(places.findings[0][0].data()))
        assert first["phrases"] == {"man": 0.5}
        assert first["box"] == pytest.approx((0.1, 0.4, 0.3, 0.6), abs=0.02)
        assert first["area"] == pytest.approx(np.pi * 0.01, rel=0.05)
        assert first["concept"] == 0
        said, = places.warnings
        assert "what was found: man at (0.20, 0.50), concepts[0]'s, man at (0.50, 0.50), nobody's" in said

    def test_a_bad_mask_names_its_concept(self):
        concepts = [concept(), concept("", mask=base64.b64encode(b"no picture").decode())]
        with pytest.raises(OMGError) as caught:
            self.find(concepts, first_pass(), 8, 8)
        assert caught.value.field == "concepts[1].where.mask"

    def test_attention_from_end_to_end(self):
        heat = (0.1 * disc(0.3, 0.5, 0.15) + 0.1 * disc(0.75, 0.5, 0.15)).astype(np.float32)
        masks = self.find([concept(point=(0.75, 0.5)), concept()], first_pass(man=heat), 512, 512, "attention")
        for mask, x in zip(masks, (0.75, 0.3), strict=True):
            assert mask is not None
            assert overlap(mask, disc(x, 0.5, 0.15, 512, 512)) > 0.85


class TestRest:
    """What no other concept takes."""

    @staticmethod
    def find(concepts, pictures=1, detector=None, **fields):
        request = Request(concepts=tuple(concepts), **{"detector": "scripted", "mask": Mask(grow=0, feather=0),
                                                       **fields})
        sizes = (96, 128), (12, 16)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(DETECTORS, "scripted", detector or Scripted())
            return find_places(request, given_masks(request, *sizes, Models()), [first_pass()] * pictures, *sizes,
                               Models())

    @given(st.lists(st.sampled_from([concept(), concept(index=0), concept("cat"), concept("", box=(0, 0, 0.6, 1)),
                                     concept("", box=(0.3, 0.2, 1, 0.9)), concept("", box=(0.1, 0.1, 0.3, 0.13))]),
                    max_size=4), st.integers(0, 4), st.sampled_from([0, 0.02, 0.2]), st.sampled_from([0, 0.03, 0.3]))
    def test_with_it_all_space_is_somebodys(self, others, number, grow, feather):
        """*partition of unity*, on every grid; a concept that is not found leaves its part to it."""
        number = min(number, len(others))
        places = self.find([*others[:number], concept("", rest=True), *others[number:]],
                           mask=Mask(grow=grow, feather=feather))
        without = self.find(others, mask=Mask(grow=grow, feather=feather)).masks[0] if others else []
        masks = places.masks[0][:number] + places.masks[0][number + 1:]
        for mask, alone in zip(masks, without, strict=True):
            np.testing.assert_array_equal(mask, alone)
        left = np.clip(1 - sum([mask for mask in masks if mask is not None], np.zeros((96, 128))), 0, 1)
        rest = places.masks[0][number]
        if rest is None:
            assert left.sum() < 0.5 * 64 + 1e-3
            return
        np.testing.assert_allclose(rest, left, atol=1e-5)
        for grid in ((12, 16), (6, 8), (5, 3), (1, 1)):
            torch.testing.assert_close(Regions(places.weights).on(grid).sum(0), torch.ones(1, *grid))

    def test_alone_it_is_the_whole_picture(self):
        for concepts in ([concept("", rest=True)], [concept("cat"), concept("", rest=True)]):
            places = self.find(concepts, mask=Mask(grow=0.1, feather=0.1))
            np.testing.assert_array_equal(places.masks[0][-1], np.ones((96, 128)))
            assert bool((places.weights[-1] == 1).all())
            assert [warning[:12] for warning in places.warnings] == ["concepts[0]:"] * (len(concepts) - 1)
            assert places

    def test_nothing_is_sought_for_it(self):
        detector = Scripted()
        detector.missing = [Need("file", "reader.pt", False)]
        self.find([concept("man", rest=True), concept("", box=(0, 0, 0.5, 1))], detector=detector)
        assert (detector.asked, detector.loads) == ([], 0)

    def test_it_is_not_grown_or_feathered_again(self):
        """Where a soft mask ends, so does it: together they are 1 at every pixel."""
        box, rest = self.find([concept("", box=(0.25, 0.25, 0.5, 1)), concept("", rest=True)],
                              mask=Mask(grow=0.05, feather=0.05)).masks[0]
        np.testing.assert_allclose(box + rest, 1, atol=1e-6)
        assert ((rest > 0.01) & (rest < 0.99)).sum() > 100

    def test_strength_is_each_concepts_own_affair(self):
        weak = msgspec.structs.replace(concept("", box=(0, 0, 0.5, 1)), strength=0.25)
        weights = self.find([weak, concept("", rest=True)]).weights[:, 0, 0]
        assert weights[:, 0, [0, -1]].tolist() == [[0.25, 0], [0, 1]]

    @pytest.mark.parametrize("strict", [False, True])
    def test_where_others_take_all_it_is_left_out(self, strict):
        """Of a batch in that picture alone."""
        class OnceEverywhere(Scripted):
            def find(self, first_pass, queries):
                self.asked.append([])
                return [[Instance(np.ones((64, 64), np.float32), 0.5)] if len(self.asked) == 2 else []]

        concepts = [concept("", rest=True), concept(), concept("", box=(0, 0, 0.5, 1))]
        if strict:
            with pytest.raises(OMGError, match=r"strict: concepts\[0\]: the other concepts take all of the picture in"):
                self.find(concepts, 3, OnceEverywhere(), strict=True)
            return
        places = self.find(concepts, 3, OnceEverywhere())
        assert places.pictures[0] == [0, 2]
        assert not places.weights[0, 1].any()
        said, = (warning for warning in places.warnings if warning.startswith("concepts[0]"))
        assert said.startswith("concepts[0]: the other concepts take all of the picture in picture 2, so nothing is "
                               "left for where.rest, and this concept is left out")

    def test_of_given_places_it_is_said_before_anything_is_drawn(self):
        concepts = (concept("", rest=True), concept("", box=(0, 0, 0.5, 1)), concept("", box=(0.5, 0, 1, 1)))
        for strict in (True, False):
            request = Request(concepts=concepts, detector="painted", strict=strict)
            refused = pytest.raises(OMGError, match=r"strict: concepts\[0\]: .*nothing is left")
            with refused if strict else nullcontext():
                given_masks(request, (96, 128), (12, 16), Models())
        sought = Request(concepts=(*concepts, concept()), detector="contrast", strict=True)
        assert given_masks(sought, (96, 128), (12, 16), Models())[0] is None

    def test_on_a_grid_on_which_it_vanishes_it_weighs_what_is_left(self):
        """Of Hires. fix, which may draw smaller: nobody asked for so little, so it is no error."""
        concepts = [concept("", box=(0, 0, 0.97, 1)), concept("", rest=True)]
        places = self.find(concepts)
        small = latent_weights(concepts, places.masks, (2, 3))
        assert 0 < small[1].sum() < 0.5
        torch.testing.assert_close(small.sum(0), torch.ones(1, 1, 2, 3))


class TestOutlines:
    """Shapes in boxes of the request, by a segmenter that finds what is white."""

    @pytest.fixture(autouse=True)
    def detector(self, monkeypatch):
        scripted = Scripted()
        monkeypatch.setitem(DETECTORS, "scripted", scripted)
        return scripted

    @pytest.fixture(autouse=True)
    def loads(self, monkeypatch, tmp_path):
        """The corners that it was asked for, for each picture; None where it was loaded."""
        asked: list[list[list[float]] | None] = []
        self.models = Models(folders=[tmp_path])

        def load(path, device):
            asked.append(None)

            def segment(picture, corners):
                asked.append(corners.tolist())
                masks = np.zeros((len(corners), *picture.shape[:2]), np.float32)
                for mask, (x0, y0, x1, y1) in zip(masks, corners.round().astype(int), strict=True):
                    mask[y0:y1, x0:x1] = 0.9 * (picture[y0:y1, x0:x1, 0] > 127)
                return masks

            return segment

        kind = segmenters.Kind(lambda: Need("package", "white", True), lambda models: [tmp_path / "white.pt"], load,
                               "sam")
        monkeypatch.setattr(segmenters, "KINDS", (kind,))
        (tmp_path / "white.pt").write_bytes(b"")
        return asked

    @staticmethod
    def picture(*discs: tuple[float, float, float]) -> FirstPicture:
        """White discs on black, uint8 [48, 64, 3]."""
        image = np.zeros((48, 64, 3), np.uint8)
        for x, y, radius in discs:
            image[disc(x, y, radius, 48, 64)] = 255
        return FirstPicture("a prompt", lambda: image, lambda phrase: None)

    def find(self, concepts, *pictures, mask=None, **fields):
        request = Request(concepts=tuple(concepts), **{"detector": "scripted", "mask": mask or Mask(grow=0, feather=0),
                                                       **fields})
        given = given_masks(request, (48, 64), (6, 8), self.models)
        return find_places(request, given, pictures, (48, 64), (6, 8), self.models)

    def test_the_shape_in_the_box_of_every_picture(self, loads, detector):
        pictures = [self.picture((0.25, 0.5, 0.1), (0.75, 0.5, 0.2)), self.picture((0.3, 0.5, 0.15))]
        places = self.find([concept("", outline=(0, 0, 0.5, 1))], *pictures)
        for (mask,), expected in zip(places.masks, [(0.25, 0.5, 0.1), (0.3, 0.5, 0.15)], strict=True):
            assert mask is not None
            np.testing.assert_array_equal(mask, disc(*expected, 48, 64))  # what the segmenter is nearly sure of, fully
        assert loads == [None, [[0, 0, 32, 48]], [[0, 0, 32, 48]]]
        assert (detector.asked, detector.loads, places.warnings) == ([], 0, [])
        assert places.pictures == [[0, 1]]
        assert places.weights.shape == (1, 2, 1, 6, 8)
        assert not self.models._kept

    def test_it_is_grown_and_feathered_as_others(self):
        thing = self.picture((0.5, 0.5, 0.2))
        plain, grown = (self.find([concept("", outline=(0, 0, 1, 1))], thing, mask=mask).masks[0][0]
                        for mask in (Mask(grow=0, feather=0), Mask(grow=0.1, feather=0.02)))
        assert plain is not None
        assert grown is not None
        assert (grown >= 0.5).sum() > 1.5 * (plain >= 0.5).sum()
        assert len(np.unique(grown.round(2))) > 10

    def test_several_at_once_and_beside_what_is_sought(self, loads):
        thing = self.picture((0.25, 0.5, 0.1), (0.75, 0.5, 0.2))
        places = self.find([concept("knight", outline=(0.5, 0, 1, 1)), concept(point=(0.5, 0.5)),
                            concept("", outline=(0, 0, 0.5, 1))], thing)
        assert loads == [None, [[32, 0, 64, 48], [0, 0, 32, 48]]]
        assert [mask is None for mask in places.masks[0]] == [False, False, False]
        found = [(finding.concept, finding.data()["phrases"]) for finding in places.findings[0]]
        assert found == [(None, {"man": 0.5}), (2, {"": 1.0}), (1, {"man": 0.9}), (0, {"knight": 1.0}),
                         (None, {"man": 0.7})]
        assert [str(places.findings[0][number]) for number in (1, 3)] == [
            "something at (0.25, 0.50), concepts[2]'s", "knight at (0.75, 0.50), concepts[0]'s"]

    def test_an_empty_box_is_not_found(self):
        concepts = [concept("", outline=(0, 0, 0.5, 1)), concept("", outline=(0.5, 0, 1, 1))]
        pictures = [self.picture((0.75, 0.5, 0.1)), self.picture((0.25, 0.5, 0.1), (0.75, 0.5, 0.1))]
        places = self.find(concepts, *pictures)
        assert places.pictures == [[1], [0, 1]]
        assert [[finding.concept for finding in of_picture] for of_picture in places.findings] == [[1], [0, 1]]
        said, = places.warnings
        assert said.startswith("concepts[0]: no shape was found in the box of where.outline in picture 1, so this")
        with pytest.raises(OMGError, match=r"strict: concepts\[0\]: no shape was found"):
            self.find(concepts, *pictures, strict=True)

    def test_no_segmenter_is_said_before_anything_is_drawn(self, monkeypatch):
        def never(path, device):
            raise AssertionError

        kind = segmenters.Kind(lambda: Need("package", "white>=1", False), lambda models: [], never, "sam")
        monkeypatch.setattr(segmenters, "KINDS", (kind,))
        with pytest.raises(OMGError) as caught:
            self.find([concept(box=(0, 0, 1, 1)), concept("", outline=(0, 0, 1, 1))])
        assert caught.value.field == "concepts[1].where.outline"
        for part in ("needs the Python package white>=1; and the file sam-vit-base/model.safetensors (375 MB)",
                     "Install packages"):
            assert part in str(caught.value)

    def test_a_segmenter_that_is_named_in_vain(self):
        with pytest.raises(OMGError, match=r"detect\.segmenter: there is no model `red`.*white\.pt"):
            self.find([concept("", outline=(0, 0, 1, 1))], detect=Detect(segmenter="red"))

    def test_it_is_left_alone_where_no_concept_has_one(self, loads, monkeypatch):
        monkeypatch.setattr(segmenters, "KINDS", ())
        self.find([concept(), concept(box=(0, 0, 1, 1))], self.picture())
        assert loads == []
