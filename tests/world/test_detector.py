"""The small world's YOLO: what it learns from, and that the detector `yolo` finds figures with its file."""

from __future__ import annotations

import importlib.util
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bench.world import KINDS, random_cast, render, train_detector, weights
from bench.world.casts import Cast
from bench.world.detector_accuracy import accuracy, models
from bench.world.make import with_autoencoder
from bench.world.methods import Shot, ordinary
from bench.world.model import LATENT_SCALE
from bench.world.reader_accuracy import overlap
from bench.world.reader_data import make_samples, random_people
from bench.world.run import Sampling, trained
from bench.world.scenes import SCENES
from bench.world.starts import noise
from bench.world.train_detector import network, save, targets
from omg_ext.comprehension import DETECTORS, FirstPicture, Models, Query
from omg_ext.request import Detect

LARGEST_FILE = 3_000_000
LEAST_OVERLAP, LEAST_FOUND = 0.75, 0.9

needs_package = pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="ultralytics is missing")
needs_weights = pytest.mark.skipif(bool(weights.missing(weights.DETECTOR)), reason=weights.missing(weights.DETECTOR))


class Same(nn.Module):
    """In place of an autoencoder: its latents are the pictures."""

    def encode(self, pictures):
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: pictures / LATENT_SCALE))

    def decode(self, latents):
        return SimpleNamespace(sample=latents * LATENT_SCALE)


@pytest.fixture(scope="module")
def samples():
    return make_samples(Same(), random_people(Random(0), 3), 12, seed=0)


def test_targets_are_the_figures_that_show(samples):
    found = targets(samples)
    assert len(found["cls"]) == len(found["bboxes"]) == len(found["batch_idx"])
    height, width = samples.owner.shape[1:]
    for picture in range(len(samples)):
        mine = found["batch_idx"] == picture
        masks = found["masks"][picture]
        assert masks.max() == mine.sum()
        for place, (kind, box) in enumerate(zip(found["cls"][mine], found["bboxes"][mine], strict=True), 1):
            shown = masks == place
            owners = samples.owner[picture][shown].unique()
            assert len(owners) == 1
            assert samples.kinds[picture, owners[0].long()] == kind + 1
            x, y, wide, high = box.tolist()
            rows, columns = np.nonzero(shown.numpy())
            assert [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2] == pytest.approx(
                [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height],
                abs=1e-5)


@needs_package
def test_training_learns_and_its_file_is_a_detectors(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(train_detector, "SIZE", 64)
    torch.manual_seed(0)
    net = network().train()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        loss = train_detector.detector_loss(net, samples[torch.arange(6)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    save(net.eval(), tmp_path / "new-seg.pt")
    assert (tmp_path / "new-seg.pt").stat().st_size < LARGEST_FILE
    with DETECTORS["yolo"].loaded(Detect(threshold=0.0), Models(folders=[tmp_path])) as find:
        found = find(FirstPicture.of(render(0).image), [Query(kind) for kind in KINDS])
    assert len(found) == len(KINDS)


@needs_package
@needs_weights
class TestTrained:
    def test_is_small(self):
        assert weights.DETECTOR.stat().st_size < LARGEST_FILE

    def test_finds_figures_in_pictures_it_has_not_seen(self):
        pictures = [render(seed, random_cast(Random(seed), 1 + seed % 3)) for seed in range(2**28, 2**28 + 24)]
        with DETECTORS["yolo"].loaded(Detect(), models()) as find:
            found = accuracy(find, with_autoencoder().vae, pictures)
        assert found["mask_iou"] >= LEAST_OVERLAP
        assert found["found"] >= LEAST_FOUND
        assert found["wrong"] <= 0.4

    @pytest.mark.skipif(bool(weights.missing(weights.CHECKPOINT)), reason=weights.missing(weights.CHECKPOINT))
    @pytest.mark.parametrize("cast", [Cast(("Rusty", "Azura")), Cast(("Biscuit", "Bolt"))], ids=str)
    def test_finds_figures_in_a_generated_picture(self, cast):
        runner = trained(Sampling(seeds=1, steps=25, cfg_scale=4.5, batch=1))
        image, = ordinary(runner.studio, Shot(cast, SCENES[0], noise([0], 16))).pictures
        figures = runner.judges.figures(image[None])[0].figures
        with DETECTORS["yolo"].loaded(Detect(), models()) as find:
            found = dict(zip(KINDS, find(FirstPicture.of(image),
                                         [Query(kind) for kind in KINDS]), strict=True))
        assert {figure.kind for figure in figures} == set(cast.kinds)
        for figure in figures:
            assert max(overlap(instance.mask >= 0.5, figure.mask) for instance in found[figure.kind]) >= 0.6
