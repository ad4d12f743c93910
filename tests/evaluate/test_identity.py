"""Identity Alignment against insightface's own comparison of the same faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from omg_ext.evaluate.files import SpecFile
from omg_ext.evaluate.measure import Judges, Meter
from omg_ext.evaluate.plan import Place
from omg_ext.evaluate.readers import Models
from omg_ext.evaluate.regions import Seen
from omg_ext.evaluate.run import Measuring
from omg_ext.evaluate.spec import parse_spec
from omg_ext.faces.analysis import FaceAnalyser
from tests.evaluate.specs import a_spec, write
from tests.models.tiny_faces import blank, paint, write_pack


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A folder with the two models."""
    folder = tmp_path_factory.mktemp("antelopev2")
    write_pack(folder)
    return folder


@pytest.fixture(scope="module")
def analyser(pack):
    detector, recogniser = pack / "scrfd_10g_bnkps.onnx", pack / "glintr100.onnx"
    return FaceAnalyser.open(detector, recogniser, torch.device("cpu"), "face")


@dataclass
class Always:
    """Finds the one concept in the same place."""

    mask: npt.NDArray[np.bool_]

    def __call__(self, picture: object, classes: Sequence[str]) -> list[Seen]:
        return [Seen(frozenset(classes), self.mask)]


def test_it_is_insightfaces_similarity(analyser):
    reference, picture = blank(), blank()
    paint(reference, 300, 300)
    paint(picture, 160, 200, half=60)
    paint(picture, 460, 400, half=30)
    ours = [analyser.embedding(picture, face) for face in analyser.faces(picture)]
    theirs = analyser.embedding(reference, analyser.faces(reference)[0])
    similar = [analyser.recogniser.compute_sim(each, theirs) for each in ours]
    assert len(similar) == 2
    spec = parse_spec(a_spec(threshold=round(float(max(similar)) - 0.01, 4)))
    found = Meter(spec, Judges(None, analyser), {"ann": [reference]})(
        Place("plain", ("ann",), 0, 0, (0,), ""), picture, None)
    assert found.concepts[0] == {"identity": pytest.approx(float(max(similar)), abs=1e-6), "detected": 1}
    halves = [np.zeros((640, 640), bool) for _ in range(2)]
    halves[0][:, :300], halves[1][:, 300:] = True, True
    for half, wanted in zip(halves, similar, strict=True):
        in_half = Meter(spec, Judges(None, analyser, Always(half)), {"ann": [reference]})(
            Place("OMG", ("ann",), 0, 0, (0,), ""), picture, None)
        assert in_half.concepts[0]["ida"] == pytest.approx(float(wanted), abs=1e-6)


def test_the_reader_is_that_of_the_commands_folder(pack, analyser, tmp_path):
    path = write(tmp_path, a_spec(casts=[["ann"]], prompts=["{0}"]))
    reference, picture = blank(), blank()
    paint(reference, 300, 300)
    paint(picture, 160, 200, half=60)
    Image.fromarray(reference).save(tmp_path / "ann" / "one.png")
    measuring = Measuring(SpecFile.read(path), Models(faces=pack, device="cpu"))
    assert "identity" not in measuring.left_out
    with measuring.meter() as meter:
        found = meter(Place("plain", ("ann",), 0, 0, (0,), ""), picture, None).concepts[0]
    faces = [analyser.embedding(each, analyser.faces(each)[0]) for each in (picture, reference)]
    assert found["identity"] == pytest.approx(float(analyser.recogniser.compute_sim(*faces)), abs=1e-6)
