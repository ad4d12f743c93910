"""The small world's InstantID: what it learns from, that it learns, its file, and how likeness is measured."""

from __future__ import annotations

import copy
from functools import partial
from random import Random

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from bench.world import IDENTITIES, image_prompt, likeness, model, prompt_accuracy, train_instantid, weights
from bench.world.captions import RARE_WORDS
from bench.world.diffusion import Conditioning, Task
from bench.world.reader_data import numbered, random_people
from bench.world.reader_nets import EMBEDDING
from bench.world.readers import IdentityReader, reference
from bench.world.render import render
from bench.world.train_unet import Examples
from omg_ext.faces.adapter import FaceAdapter
from tests.models.tiny_instantid import adapter_state, flat

torch.set_num_threads(1)

# bytes that the adapter may have
LARGEST = 2_000_000


@pytest.fixture
def networks() -> model.Parts:
    torch.manual_seed(0)
    found = model.parts(0)
    for part in vars(found).values():
        part.requires_grad_(False)
    return found


@pytest.fixture
def reader() -> IdentityReader:
    return IdentityReader.load()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of few individuals, with few rows per step."""
    monkeypatch.setattr(train_instantid, "PEOPLE", 2)
    monkeypatch.setattr(train_instantid, "BATCH", 4)
    monkeypatch.setattr(train_instantid, "WARM_UP", 1)


def state_of(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in unet.state_dict().items()}


def silent(adapter: FaceAdapter) -> FaceAdapter:
    """The same with V_ip of zero."""
    return FaceAdapter(adapter.name, adapter.resampler, tuple(
        (key, torch.zeros_like(value)) for key, value in adapter.projections))


# --- what it learns from ---

def test_it_learns_from_others_than_those_it_is_tried_with(monkeypatch):
    monkeypatch.setattr(train_instantid, "PEOPLE", 300)
    people = train_instantid.people(0)
    assert len(people) == 1200
    assert not [person for person in people if any(person == each.character for each in IDENTITIES.values())]
    assert people == train_instantid.people(0) != train_instantid.people(1)


def test_everyone_of_the_individuals_class_is_the_individual():
    rng = Random(0)
    person = IDENTITIES["Rusty"].character
    casts = [train_instantid.company(person, rng) for _ in range(400)]
    assert all(cast[0] == person for cast in casts)
    assert all(each == person for cast in casts for each in cast if each.kind == person.kind)
    alone, twins = (sum(chosen) / len(casts) for chosen in (
        [len(cast) == 1 for cast in casts], [cast.count(person) == 2 for cast in casts]))
    assert 0.45 < alone < 0.65
    assert 0.05 < twins < 0.25


def test_a_lesson_shows_one_individual_twice_and_its_caption_names_nobody():
    person = IDENTITIES["Azura"].character
    lessons = [train_instantid.lesson(person, 0, number) for number in range(12)]
    for portrait, picture in lessons:
        assert [figure.character for figure in portrait.figures] == [person]
        assert picture.figures[0].character == person
        assert not np.array_equal(portrait.image, picture.image)
        assert not {*RARE_WORDS, *(identity.trigger for identity in IDENTITIES.values())} & set(picture.caption.split())
    assert {len(picture.figures) for _, picture in lessons} > {1}
    again, _ = train_instantid.lesson(person, 0, 0)
    assert np.array_equal(again.image, lessons[0][0].image)


def test_one_picture_tells_who_somebody_is(reader):
    """As well as the mean of many does, of the same individual; so a picture needs no autoencoder before it is read."""
    rng = Random(1)
    people = numbered(random_people(rng, 2))
    pictures = [[render(10 * turn + number, [person]) for number, person in enumerate(people)]
                for turn in range(2)]
    first, second = (torch.stack([reader.of_picture(picture) for picture in each]) for each in pictures)
    likeness_of = first @ second.T
    assert likeness_of.diagonal().min() > 0.8
    assert likeness_of.fill_diagonal_(-1).max() < 0.8


def test_faces_and_captions_are_left_out_one_by_one_and_together():
    torch.manual_seed(0)
    rows = 8000
    examples = Examples(torch.zeros(rows, 1), Conditioning(torch.ones(rows, 1, 1), torch.ones(rows, 1)))
    drawn = train_instantid.dropped(train_instantid.Lessons(examples, torch.ones(rows, 2), torch.ones(rows, 1, 1)))
    text = drawn.examples.conditioning
    has_caption, has_face = text.pooled[:, 0] == 1, drawn.embeddings[:, 0] == 1
    assert torch.equal(has_caption, text.context[:, 0, 0] == 1)
    for caption, face, share in ((False, True, 0.05), (True, False, 0.05), (False, False, 0.05), (True, True, 0.85)):
        found = ((has_caption == caption) & (has_face == face)).float().mean()
        assert found == pytest.approx(share, abs=0.012)


def test_what_counts_is_where_the_individual_shows():
    person = IDENTITIES["Marlow"].character
    twins = render(3, [person, IDENTITIES["Azura"].character, person])
    counted = train_instantid.shares(twins)
    assert counted.shape == (model.LATENT, model.LATENT)
    cell = model.SIZE // model.LATENT
    for figure, is_counted in zip(twins.figures, (True, False, True), strict=True):
        rows, columns = (places // cell for places in np.nonzero(figure.visible))
        assert bool((counted[rows, columns] == 1).all()) == is_counted
    assert counted.unique().tolist() == [pytest.approx(train_instantid._ELSEWHERE), 1]


def test_noisy_rows_count_and_clear_ones_do_not():
    torch.manual_seed(0)
    rows = 2000
    text = Conditioning(torch.zeros(rows, 1, 1), torch.zeros(rows, 1))
    task = train_instantid.balanced(Task.draw(torch.zeros(rows, 1, 1, 1), text, 0, 300))
    assert 300 <= task.timesteps.min() < 310
    assert task.timesteps.max() > 990
    order = task.timesteps.argsort()
    assert (task.weights[order].diff() >= 0).all()
    assert task.weights.min() > 1
    assert task.weights.max() > 15


# --- that it learns ---

def test_it_goes_by_the_face_from_the_start_and_changes_nothing_without_values(networks, reader):
    person = IDENTITIES["Bolt"].character
    lessons = train_instantid.prepared(
        networks, reader, [train_instantid.lesson(person, 0, number) for number in range(2)]).at(torch.arange(2))
    task, faces = Task.draw(lessons.examples.latents, lessons.examples.conditioning, 0), lessons.embeddings
    assert faces.shape == (2, EMBEDDING)
    plain = task.loss(networks.unet)
    untrained = train_instantid.untrained(networks.unet)
    for adapter, is_same in ((silent(untrained), True), (untrained, False)):
        with image_prompt.attached(networks.unet, adapter), torch.no_grad():
            shown, others = (task.loss(train_instantid._Prompted(networks.unet, adapter.resampler, given))
                             for given in (faces, -faces))
        assert torch.isclose(shown, plain, rtol=1e-5) == is_same
        assert torch.equal(shown, others) == is_same
    assert torch.equal(task.loss(networks.unet), plain)


@pytest.mark.usefixtures("brief")
def test_training_lowers_the_loss_and_leaves_the_model_as_it_was(networks, reader):
    before, processors = state_of(networks.unet), networks.unet.attn_processors
    averages: list[int] = []
    adapter, losses = train_instantid.train(networks, reader, pictures=4, steps=24,
                                            watch=lambda steps, average: averages.append(steps))
    assert np.mean(losses[-6:]) < 0.95 * np.mean(losses[:6])
    assert averages == [*range(1, 25)]
    assert all(weight.isfinite().all() for pair in adapter.projections for weight in pair)
    assert all(weight.isfinite().all() for weight in adapter.resampler.parameters())
    assert all(value.abs().max() > 0 for _, value in adapter.projections)
    assert all(torch.equal(value, before[name]) for name, value in networks.unet.state_dict().items())
    assert networks.unet.attn_processors == processors


@pytest.mark.usefixtures("brief")
def test_a_training_goes_on_with_what_it_wrote(networks, reader, tmp_path):
    path = tmp_path / "new" / "instantid.safetensors"

    def keep(steps: int, adapter: FaceAdapter) -> None:
        if steps == 2:
            train_instantid.save(adapter, path, steps)

    first, losses = train_instantid.train(networks, reader, pictures=2, steps=2, watch=keep)
    assert len(losses) == 2
    adapter, steps = train_instantid.saved(path)
    assert steps == 2
    for pair, written in zip(first.projections, adapter.projections, strict=True):
        for weight, half in zip(pair, written, strict=True):
            torch.testing.assert_close(weight.detach().half(), half)
    seen: list[int] = []
    _, losses = train_instantid.train(networks, reader, pictures=2, steps=5, before=(adapter, steps),
                                      watch=lambda number, average: seen.append(number))
    assert (len(losses), seen) == (3, [3, 4, 5])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


# --- its file ---

def test_its_file_is_instantids_but_for_the_sizes(networks, tmp_path):
    path = tmp_path / "instantid.safetensors"
    train_instantid.save(train_instantid.untrained(networks.unet), path, 0)
    assert path.stat().st_size < LARGEST
    read = FaceAdapter.read(path, "faces.adapter")
    read.check(networks.unet, "faces.adapter")
    assert read.tokens(torch.ones(EMBEDDING), "faces").shape == (2, train_instantid.TOKENS, model.CONTEXT)
    state = load_file(path)
    assert state.keys() == flat(adapter_state(networks.unet, depth=train_instantid.DEPTH)).keys()
    assert {weight.dtype for weight in state.values()} == {torch.float16}


def test_the_layers_are_in_the_files_order(networks, tmp_path):
    """Each layer's K_ip and V_ip begin as its own K and V."""
    path = tmp_path / "instantid.safetensors"
    train_instantid.save(train_instantid.untrained(networks.unet), path, 0)
    attentions = [name.removesuffix(".processor") for name in networks.unet.attn_processors if ".attn2." in name]
    state = load_file(path)
    for number, name in enumerate(attentions):
        for part in "kv":
            own = getattr(networks.unet.get_submodule(name), f"to_{part}").weight
            torch.testing.assert_close(state[f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"], own.half())


# --- how it is measured ---

@pytest.mark.skipif(bool(weights.missing(weights.FIGURES, weights.IDENTITY)), reason=weights.missing(weights.FIGURES))
def test_the_likeness_of_strangers_is_compared_with_nothing_shown(networks, monkeypatch):
    monkeypatch.setattr(prompt_accuracy, "STEPS", 1)
    monkeypatch.setattr(likeness, "PLACES", {"park": ("in the park",)})
    monkeypatch.setattr(likeness, "reference", partial(reference, count=1))
    pipe, untrained = model.pipeline(networks), train_instantid.untrained(networks.unet)
    seen: list[bool] = []
    embed = IdentityReader.of_picture

    def watched(self, picture):
        seen.append(any(figure.character == each.character for figure in picture.figures
                        for each in IDENTITIES.values()))
        return embed(self, picture)

    monkeypatch.setattr(IdentityReader, "of_picture", watched)
    processors = copy.copy(networks.unet.attn_processors)
    found = likeness.likeness_by_face(pipe, silent(untrained), [], each=1, seeds=1)
    assert seen == [False] * 4
    assert found.keys() == {"with_face", "without", "renderings"}
    assert found["with_face"] == pytest.approx(found["without"], abs=1e-3)
    assert networks.unet.attn_processors == processors
