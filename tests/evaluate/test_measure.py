"""Identity, regions, layout and background, with judges that see colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from omg_ext.errors import OMGError
from omg_ext.evaluate.measure import Judges, Measured, Meter
from omg_ext.evaluate.plan import Place
from omg_ext.evaluate.regions import Seen, background_change, cut, iou
from omg_ext.evaluate.spec import parse_spec
from omg_ext.faces.analysis import Face
from omg_ext.faces.reference import mean_embedding
from tests.evaluate.specs import a_spec

SIZE = 64
GREY, RED, GREEN, BLUE = (90, 90, 90), (200, 0, 0), (0, 200, 0), (0, 0, 200)
MEN = {name: {"phrase": "man", "prompt": name, "lora": f"<lora:{name}:1>", "references": name}
       for name in ("rob", "gus")}


def a_picture(*blocks: tuple[tuple[int, int, int], int, int]) -> np.ndarray:
    """Blocks, of a colour, from and to a column, as high as the lower half."""
    picture = np.full((SIZE, SIZE, 3), GREY, np.uint8)
    for colour, left, right in blocks:
        picture[SIZE // 2:, left:right] = colour
    return picture


def block_of(picture: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    return (picture == np.array(colour)).all(axis=2)


class Colours:
    """Finds a face in each block of a colour; the colour is whose it is."""

    def faces(self, picture: np.ndarray) -> list[Face]:
        found = []
        for colour in (RED, GREEN, BLUE):
            columns = np.flatnonzero(block_of(picture, colour).any(0))
            if len(columns):
                left, right = float(columns[0]), float(columns[-1] + 1)
                middle = np.array([[(left + right) / 2, 3 * SIZE / 4]] * 5, np.float32)
                found.append(Face(np.array([left, SIZE / 2, right, SIZE], np.float32), middle, 0.9))
        return found

    def embedding(self, picture: np.ndarray, face: Face) -> np.ndarray:
        x, y = face.points[0].astype(int)
        return picture[y, x].astype(np.float32) + np.array([30, 0, 0], np.float32)


def find(picture: np.ndarray, classes: Sequence[str]) -> list[Seen]:
    """Men are the coloured blocks from left to right; nothing else is seen."""
    blocks = [mask for colour in (RED, GREEN, BLUE) if (mask := block_of(picture, colour)).any()]
    return [Seen(frozenset({"man"}), mask) for mask in sorted(blocks, key=lambda mask: np.flatnonzero(mask.any(0))[0])]


def meter(judges: Judges, **fields: Any) -> Meter:
    spec = parse_spec(a_spec(concepts=MEN, casts=[["rob", "gus"]], prompts=["{all}"], **fields))
    return Meter(spec, judges, {"rob": [a_picture((RED, 10, 30))], "gus": [a_picture((GREEN, 10, 30))]})


def measured(method: str, picture: np.ndarray, first: np.ndarray | None = None, shown: tuple[int, ...] = (0, 1),
             judges: Judges | None = None) -> Measured:
    place = Place(method, ("rob", "gus"), 0, 3, shown, "x")
    return meter(judges or Judges(None, Colours(), find))(place, picture, first)


def cosine(one: Sequence[int], other: Sequence[int]) -> float:
    a, b = (np.array(colour, float) + np.array([30, 0, 0]) for colour in (one, other))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_identity_is_that_of_the_face_that_is_most_alike():
    found = measured("plain", a_picture((BLUE, 0, 20), (RED, 30, 50)), judges=Judges(None, Colours()))
    assert found.concepts[0] == {"identity": pytest.approx(1), "detected": 1}
    assert found.concepts[1] == {"identity": pytest.approx(cosine(RED, GREEN)), "detected": 0}
    assert found.picture == {}


def test_a_picture_without_a_face_counts_as_not_detected_and_has_no_identity():
    found = measured("plain", a_picture())
    assert found.concepts[0] == {"detected": 0, "found": 0, "ida_detected": 0}


def test_several_references_are_their_mean():
    references = [a_picture((RED, 10, 30)), a_picture((BLUE, 10, 30))]
    spec = parse_spec(a_spec(concepts=MEN, casts=[["rob"]], prompts=["{all}"]))
    found = Meter(spec, Judges(None, Colours()), {"rob": references})(
        Place("plain", ("rob",), 0, 0, (0,), "x"), a_picture((RED, 10, 30)), None)
    analysis = Colours()
    vectors = [analysis.embedding(picture, analysis.faces(picture)[0]) for picture in references]
    mean = mean_embedding(vectors)
    assert found.concepts[0]["identity"] == pytest.approx(vectors[0] @ mean / np.linalg.norm(vectors[0])
                                                          / np.linalg.norm(mean))


def test_a_reference_without_a_face_is_refused_by_name():
    with pytest.raises(OMGError, match="no face was found") as caught:
        Meter(parse_spec(a_spec()), Judges(None, Colours()), {"ann": [a_picture()]})
    assert caught.value.field == "concepts.ann.references"


def test_omg_puts_its_concepts_from_left_to_right_and_is_judged_so():
    swapped = measured("OMG", a_picture((GREEN, 0, 20), (RED, 30, 50)))
    assert [swapped.concepts[index]["ida"] for index in (0, 1)] == pytest.approx([cosine(RED, GREEN)] * 2)
    assert swapped.concepts[0]["identity"] == pytest.approx(1)


def test_without_a_first_pass_concepts_that_are_placed_are_taken_from_left_to_right():
    swapped = measured("OMG", a_picture((GREEN, 0, 20), (RED, 30, 50)))
    assert [values["found"] for values in swapped.concepts.values()] == [1, 1]
    right = measured("OMG", a_picture((RED, 0, 20), (GREEN, 30, 50)))
    assert [values["ida"] for values in right.concepts.values()] == pytest.approx([1, 1])


@pytest.mark.parametrize("shown", [(0, 1), (0,), (1,)])
def test_others_are_judged_by_what_flatters_them(shown):
    found = measured("simultaneous", a_picture((GREEN, 0, 20), (RED, 30, 50)), shown=shown)
    assert [values["ida"] for values in found.concepts.values()] == pytest.approx([1] * len(shown))
    assert all(values["ida_detected"] == values["found"] == 1 for values in found.concepts.values())


def test_layout_is_overlap_with_the_first_pass_and_0_for_what_is_gone():
    first = a_picture((BLUE, 0, 20), (RED, 30, 50))
    found = measured("OMG", a_picture((RED, 10, 20)), first)
    assert found.concepts[0]["layout"] == pytest.approx(0.5)
    assert found.concepts[1] == {"identity": pytest.approx(cosine(RED, GREEN)), "detected": 0, "found": 0,
                                 "ida_detected": 0, "layout": 0}


@pytest.mark.parametrize("method", ["OMG", "plain"])
def test_who_is_left_stays_who_he_is_if_another_is_lost_or_comes(method):
    """The left one is lost, or a third comes to the left of both; who is who does not shift."""
    first = a_picture((BLUE, 0, 20), (RED, 30, 50))
    lost = measured(method, a_picture((GREEN, 30, 50)), first)
    assert [lost.concepts[1][name] for name in ("ida", "layout")] == pytest.approx([1, 1])
    assert (lost.concepts[0]["found"], lost.concepts[0]["layout"]) == (0, 0)
    more = measured(method, a_picture((BLUE, 0, 8), (RED, 10, 28), (GREEN, 30, 50)), a_picture((RED, 10, 28),
                                                                                             (GREEN, 30, 50)))
    assert [values["ida"] for values in more.concepts.values()] == pytest.approx([1, 1])
    assert [values["layout"] for values in more.concepts.values()] == [1, 1]


def test_whoever_stands_there_a_picture_has_its_own_layout():
    """Judged by what flatters them, two who changed places stand where two stood."""
    swapped = a_picture((GREEN, 0, 20), (RED, 30, 50))
    found = measured("plain", swapped, swapped)
    assert [values["layout"] for values in found.concepts.values()] == [1, 1]
    assert measured("single LoRA", swapped, swapped, shown=(1,)).concepts[1]["layout"] == 1


def test_background_is_what_changed_away_from_the_first_passs_regions():
    first = a_picture((RED, 0, 20))
    result = first.copy()
    result[:, :40] += 10  # within its region and the rim, and 12 columns beyond
    found = measured("OMG", result, first)
    away = np.ones((SIZE, SIZE), bool)
    away[SIZE // 2:, :20] = False
    change = background_change(result, first, [~away])
    assert found.picture["background"] == change
    assert 0 < change < 10 * 40 / 64
    assert background_change(first, first, []) == 0
    assert np.isnan(background_change(first, first, [np.ones((SIZE, SIZE), bool)]))


def test_masks():
    one, other = np.zeros((2, 8, 8), bool)
    one[2:4, 1:5], other[2:4, 3:7] = True, True
    assert iou(one, other) == pytest.approx(2 / 6)
    assert iou(one, None) == 0
    assert np.isnan(iou(None, one))
    picture = np.arange(192).reshape(8, 8, 3).astype(np.uint8)
    assert (cut(picture, one) == picture[2:4, 1:5]).all()
