"""Silhouettes as a condition, and the ControlNet that learns to draw after them."""

from __future__ import annotations

from functools import partial
from random import Random

import numpy as np
import pytest
import torch
from scipy import ndimage

from bench.world import KINDS, model, render, train_control
from bench.world.attributes import random_character
from bench.world.diffusion import Task
from bench.world.silhouettes import COLOURS, of_picture, silhouettes
from bench.world.train_unet import random_picture


def test_every_figure_has_the_colour_of_its_class():
    picture = render(0, [random_character(kind, Random(1)) for kind in KINDS])
    condition = of_picture(picture)
    for figure in picture.figures:
        inside = ndimage.binary_erosion(figure.visible)
        assert (condition[inside] == COLOURS[figure.character.kind]).all()
    anywhere = np.any([figure.visible for figure in picture.figures], axis=0)
    assert not condition[~anywhere].any()
    assert len(set(COLOURS.values())) == len(KINDS)


def test_two_of_a_class_that_touch_stay_two():
    left = np.zeros((16, 16), bool)
    left[4:12, 2:8] = True
    together = silhouettes([("man", left), ("man", np.roll(left, 6, axis=1))], 16)
    assert ndimage.label(together.any(axis=2), np.ones((3, 3)))[1] == 2


@pytest.fixture
def networks() -> model.Parts:
    torch.manual_seed(0)
    return model.parts(0)


def test_an_untrained_one_changes_nothing(networks):
    control = train_control.untrained(networks)
    examples, conditions = train_control.prepared(networks, map(random_picture, range(2)))
    task = Task.draw(examples.latents.float(), examples.at(torch.arange(2)).conditioning, 0)
    controlled = train_control._Controlled(networks.unet, control, conditions.float() / 255)
    assert conditions.shape == (2, 3, model.SIZE, model.SIZE)
    with torch.no_grad():
        assert torch.equal(task.loss(controlled), task.loss(networks.unet))


def test_training_lowers_the_loss_and_leaves_the_model_as_it_was(networks, tmp_path, monkeypatch):
    before = {name: value.clone() for name, value in networks.unet.state_dict().items()}
    monkeypatch.setattr(train_control, "BATCH", 4)
    monkeypatch.setattr(train_control, "WARM_UP", 1)
    control, losses = train_control.train(networks, pictures=4, steps=20)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert all(torch.equal(value, before[name]) for name, value in networks.unet.state_dict().items())
    control.save_pretrained(tmp_path)
    again = train_control.load(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in control.state_dict().items())


def test_the_condition_is_what_it_learns_from(networks, monkeypatch):
    """Each example has its own silhouettes, whatever the threads."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    loss = Task.loss

    def watched(task, unet):
        seen.append((task.noisy, unet.condition))
        return loss(task, unet)

    monkeypatch.setattr(Task, "loss", watched)
    monkeypatch.setattr(train_control, "BATCH", 4)
    # without noise the latents tell which example it is
    monkeypatch.setattr(Task, "draw", partial(_without_noise, Task.draw))
    examples, conditions = train_control.prepared(networks, map(
        random_picture, range(train_control.FIRST_PICTURE, train_control.FIRST_PICTURE + 3)))
    train_control.train(networks, pictures=3, steps=2)
    pairs = [(latent, condition) for noisy, given in seen for latent, condition in zip(noisy, given, strict=True)]
    assert len(pairs) == 8
    for latent, condition in pairs:
        number = int((examples.latents.float() - latent).abs().sum(dim=(1, 2, 3)).argmin())
        assert torch.equal(condition, conditions[number].float() / 255)


def _without_noise(draw, latents, *others):
    task = draw(latents, *others)
    return Task(latents, task.noise, task.timesteps, task.weights, task.conditioning, task.size_ids)
