"""Reference pictures: how they are read, whose face is meant, and the mean of several."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omg_ext.errors import OMGError
from omg_ext.faces.analysis import FaceAnalyser
from omg_ext.faces.reference import choose, decoded, mean_embedding, reference
from tests.models.tiny_faces import blank, paint

FIELD = "concepts[0].face"


def picture(*people: tuple[int, int, tuple[int, int]]) -> np.ndarray:
    """Faces at some x, with half a box's side and a mark each."""
    made = blank()
    for x, half, mark in people:
        paint(made, x, 320, half, mark=mark)
    return made


ANN, BOB = (-14, 12), (14, -12)
ALONE = picture((320, 40, ANN))
GROUP = picture((120, 40, ANN), (320, 60, BOB), (520, 50, ANN))


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> str:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def refusal(text: str) -> OMGError:
    with pytest.raises(OMGError) as caught:
        decoded([text], FIELD)
    return caught.value


class TestWhose:
    def test_one_picture_gives_its_embedding_to_the_bit(self, analyser: FaceAnalyser) -> None:
        [face] = analyser.faces(ALONE)
        np.testing.assert_array_equal(reference(analyser, [ALONE], None, FIELD), analyser.embedding(ALONE, face))

    def test_the_largest_or_the_nth_from_the_left(self, analyser: FaceAnalyser) -> None:
        faces = analyser.faces(GROUP)
        assert choose(faces, None, FIELD) is faces[1]
        for index in range(3):
            np.testing.assert_array_equal(reference(analyser, [GROUP], index, FIELD),
                                          analyser.embedding(GROUP, faces[index]))

    def test_no_face(self, analyser: FaceAnalyser) -> None:
        with pytest.raises(OMGError, match="no face was found in the picture") as caught:
            reference(analyser, [blank()], None, FIELD)
        assert caught.value.field == FIELD

    def test_of_several_pictures_the_one_is_named(self, analyser: FaceAnalyser) -> None:
        with pytest.raises(OMGError, match="no face was found") as caught:
            reference(analyser, [ALONE, blank(), ALONE], None, FIELD)
        assert caught.value.field == "concepts[0].face[1]"

    @pytest.mark.parametrize(("shown", "words"), [
        (ALONE, "there is no face 3: the picture shows 1 face, whose index is 0"),
        (GROUP, "there is no face 3: the picture shows 3 faces, with the indices 0 to 2 from left to right")])
    def test_an_index_beyond(self, analyser: FaceAnalyser, shown: np.ndarray, words: str) -> None:
        with pytest.raises(OMGError) as caught:
            reference(analyser, [shown], 3, FIELD)
        assert (caught.value.field, caught.value.message) == (f"{FIELD}_index", words)


class TestMean:
    def test_directions_are_averaged_and_have_the_mean_length(self) -> None:
        first, second = np.zeros((2, 512), np.float32)
        first[0], second[1] = 30, 10
        mean = mean_embedding([first, second])
        assert mean.dtype == np.float32
        np.testing.assert_allclose(mean[:3], [20 / 2 ** 0.5, 20 / 2 ** 0.5, 0], rtol=1e-6)

    def test_of_one_person(self, analyser: FaceAnalyser) -> None:
        """The same picture several times is the picture; order does not matter."""
        one = reference(analyser, [ALONE], None, FIELD)
        np.testing.assert_allclose(reference(analyser, [ALONE] * 3, None, FIELD), one, rtol=1e-5)
        mixed = reference(analyser, [ALONE, GROUP], None, FIELD)
        np.testing.assert_allclose(mixed, reference(analyser, [GROUP, ALONE], None, FIELD), rtol=1e-5)
        assert np.abs(mixed - one).max() > 0.1


class TestDecoding:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_kinds(self, kind: str) -> None:
        [read] = decoded([f"data:image/{kind.lower()};base64,{encoded(ALONE, kind)}"], FIELD)
        assert read.shape == ALONE.shape
        assert read.dtype == np.uint8
        assert np.abs(read.astype(int) - ALONE).mean() < 3

    def test_turned_as_its_exif_says(self) -> None:
        wide = np.zeros((20, 60, 3), np.uint8)
        wide[:, :30] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
        [read] = decoded([encoded(wide, "JPEG", exif=exif)], FIELD)
        assert read.shape == (60, 20, 3)
        assert read[:25].min() > 200
        assert read[35:].max() < 50

    @pytest.mark.parametrize(("mode", "colour", "seen"), [
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)), ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)), ("LA", (0, 0), (255, 255, 255)), ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)), ("I;16", 257 * 90, (90, 90, 90))])
    def test_modes_and_transparency(self, mode: str, colour: Any, seen: tuple[int, int, int]) -> None:
        [read] = decoded([encoded(Image.new(mode, (8, 6), colour))], FIELD)
        assert read.shape == (6, 8, 3)
        np.testing.assert_array_equal(read.reshape(-1, 3), np.tile(seen, (48, 1)))

    def test_a_transparent_colour_of_a_palette(self) -> None:
        paletted = Image.new("P", (8, 6), 1)
        paletted.putpalette([0, 0, 0, 10, 20, 30])
        [read] = decoded([encoded(paletted, transparency=1)], FIELD)
        assert read.min() == 255

    def test_cmyk(self) -> None:
        [read] = decoded([encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")], FIELD)
        assert read.min() > 250

    @pytest.mark.parametrize(("text", "words"), [
        ("%%%", "is not base64"), (base64.b64encode(b"GIF89a").decode(), "no PNG, JPEG or WebP"), ("", "no PNG"),
        (encoded(ALONE)[:400], "damaged"), (encoded(ALONE, "JPEG")[:4000], "damaged"),
        (encoded(Image.new("1", (5000, 4000))), "5000 x 4000 pixels")])
    def test_what_is_none(self, text: str, words: str) -> None:
        error = refusal(text)
        assert words in error.message
        assert error.field == FIELD

    def test_of_several_the_one_is_named(self) -> None:
        with pytest.raises(OMGError) as caught:
            decoded([encoded(ALONE), "%%%"], FIELD)
        assert caught.value.field == "concepts[0].face[1]"

    def test_from_the_text_to_the_embedding(self, analyser: FaceAnalyser) -> None:
        np.testing.assert_array_equal(reference(analyser, decoded([encoded(GROUP)], FIELD), 2, FIELD),
                                      reference(analyser, [GROUP], 2, FIELD))
