"""Embeddings against transformers' own computation, on the same arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from omg_ext.errors import OMGError
from omg_ext.evaluate.clip import Clip
from omg_ext.evaluate.measure import Judges, Meter
from omg_ext.evaluate.plan import Place
from omg_ext.evaluate.spec import parse_spec
from tests.evaluate.specs import a_spec

TEXTS = ["a photo of a woman", "a man", " ".join(["a man with a dog"] * 12)]


@pytest.fixture(scope="module")
def pictures():
    return [np.random.default_rng(seed).integers(0, 256, (height, 40, 3), np.uint8)
            for seed, height in enumerate((40, 64, 33))]


def test_they_are_those_of_transformers(clip_folder, pictures):
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    processor = transformers.CLIPProcessor.from_pretrained(clip_folder)
    inputs = processor(text=TEXTS, images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt",
                       padding=True, truncation=True)
    with torch.no_grad():
        output = model(**inputs)
    clip = Clip.read(clip_folder)
    # the model's own forward pass: normalised embeddings, and their cosines times a learnt scale
    np.testing.assert_allclose(clip.pictures(pictures), output.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(clip.texts(TEXTS), output.text_embeds.numpy(), atol=1e-5)
    cosines = output.logits_per_image.numpy() / model.logit_scale.exp().item()
    np.testing.assert_allclose(clip.pictures(pictures) @ clip.texts(TEXTS).T, cosines, atol=1e-5)


def test_text_and_image_alignment_are_cosines_of_its_embeddings(clip_folder, pictures):
    clip = Clip.read(clip_folder)
    picture, *references = pictures
    meter = Meter(parse_spec(a_spec()), Judges(clip), {"ann": references, "bob": references, "cup": references})
    found = meter(Place("plain", ("bob", "cup"), 1, 3, (0, 1), TEXTS[0]), picture, None)
    own, words, known = clip.pictures([picture])[0], clip.texts(TEXTS[:1])[0], clip.pictures(references)
    assert found.picture["text"] == pytest.approx(own @ words)
    assert found.picture["clipscore"] == pytest.approx(2.5 * max(own @ words, 0))
    # objects have an image alignment, characters would have an identity
    assert found.concepts == {0: {}, 1: {"image": pytest.approx((own @ known[0] + own @ known[1]) / 2)}}


def test_alone_or_among_others_an_embedding_is_the_same(clip_folder, pictures):
    clip = Clip.read(clip_folder)
    np.testing.assert_allclose(clip.pictures(pictures)[1], clip.pictures(pictures[1:2])[0], atol=1e-6)
    np.testing.assert_allclose(clip.texts(TEXTS)[1], clip.texts(TEXTS[1:2])[0], atol=1e-6)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(OMGError, match="no folder with a CLIPModel"):
        Clip.read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OMGError, match="cannot be read"):
        Clip.read(tmp_path)
