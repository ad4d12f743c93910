"""The small world's bench on random weights: methods and their cost, what is measured, sweeps that can be resumed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from bench.scene import random_lora
from bench.speed import looks, steps_before
from bench.world import IDENTITIES, SCENES, VOCABULARY, frontier, model, render, train_control
from bench.world.casts import Cast
from bench.world.detector import reader_masks
from bench.world.measure import Judges, Reference, conflicts, measure
from bench.world.methods import (
    EVERYONE,
    FaceAlone,
    FacesAtOnce,
    NoLora,
    Omg,
    Regional,
    Shot,
    SimultaneousLoras,
    SingleLora,
    Studio,
    Take,
    ordinary,
)
from bench.world.pixels import as_tensor
from bench.world.reader_nets import EMBEDDING
from bench.world.readers import ReadFigure, Reading
from bench.world.regional import regional_attention
from bench.world.render import Picture
from bench.world.report import Record, averages, targets
from bench.world.run import arguments, enter, made_by, report, unknown
from bench.world.silhouettes import of_picture
from bench.world.starts import inverted, noise, strangers
from bench.world.sweeps import (
    BLENDING,
    CONDITIONED,
    DEFAULTS,
    FACES,
    MIXED,
    MIXED_ALONE,
    MOST_ALIKE_FACES,
    OMG,
    OMG_FACES,
    PAIRS,
    TABLES,
    Cell,
    Runner,
    chosen,
)
from omg_ext.comprehension import DETECTORS
from omg_ext.diffusers import Control, OMGPipeline, PromptEmbeds
from omg_ext.diffusers.prompts import encode
from omg_ext.evaluate.means import Mean, pooled, summary
from omg_ext.faces.adapter import FaceAdapter
from tests.models.tiny_instantid import adapter_state, flat

# on models of this size threads only get in each other's way
torch.set_num_threads(1)

STEPS = 4
PAIR = Cast(("Rusty", "Azura"))
MEN = Cast(("Rusty", "Marlow"))
NAMES = tuple(IDENTITIES)


class SceneReader:
    """Sees one thing in every picture: a scene, and a figure of each of the classes, side by side."""

    def __init__(self, kinds: Sequence[str] = PAIR.kinds, scene: str = SCENES[0]) -> None:
        strips = np.arange(model.SIZE) * len(kinds) // model.SIZE
        masks = [np.tile(strips == number, (model.SIZE, 1)) for number in range(len(kinds))]
        self.reading = Reading(scene, tuple(map(ReadFigure, kinds, masks)))

    def __call__(self, images: np.ndarray) -> list[Reading]:
        return [self.reading] * len(images)


class Meter:
    """An identity reader that goes by the mean colour."""

    def embed(self, images: np.ndarray, masks: np.ndarray) -> torch.Tensor:
        colours = np.stack([image[mask].mean(axis=0) for image, mask in zip(images, masks, strict=True)])
        return torch.nn.functional.normalize(torch.from_numpy(colours).float() - 127, dim=1)


class Truth:
    """Reads renderings, knowing them: what is where, and as its vector a unit vector for each identity."""

    def __init__(self, *pictures: Picture) -> None:
        self._known = {picture.image.tobytes(): picture for picture in pictures}

    def judges(self) -> Judges:
        return Judges(self, self, {name: torch.eye(len(NAMES))[index] for index, name in enumerate(NAMES)})

    def __call__(self, images: np.ndarray) -> list[Reading]:
        pictures = [self._known[image.tobytes()] for image in images]
        return [Reading(picture.scene, tuple(ReadFigure(figure.character.kind, figure.visible)
                                             for figure in picture.figures)) for picture in pictures]

    def embed(self, images: np.ndarray, masks: np.ndarray) -> torch.Tensor:
        vectors = torch.zeros(len(images), len(NAMES))
        for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
            figure = max(self._known[image.tobytes()].figures, key=lambda figure: (figure.visible & mask).sum())
            for index, identity in enumerate(IDENTITIES.values()):
                vectors[row, index] = float(identity.character == figure.character and (figure.visible & mask).any())
        return vectors


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """The small SDXL, a LoRA and a face for each identity, and what draws faces, random."""
    torch.manual_seed(0)
    networks = model.parts(0)
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(NAMES):
        save_file(random_lora(networks.unet, 2, 0.3, seed), folder / f"{name}.safetensors")
    save_file({key: weight.half() for key, weight in flat(adapter_state(networks.unet, embedding=EMBEDDING)).items()},
              folder / "ip-adapter.safetensors")
    faces = torch.nn.functional.normalize(torch.randn(len(NAMES), EMBEDDING))
    return Studio(model.pipeline(networks), {name.lower(): folder / f"{name}.safetensors" for name in NAMES},
                  steps=STEPS, adapter=FaceAdapter.read(folder / "ip-adapter.safetensors", "adapter"),
                  portraits=dict(zip(NAMES, faces, strict=True)))


@pytest.fixture(scope="module")
def shot() -> Shot:
    return Shot(PAIR, SCENES[0], noise([0, 1]))


@pytest.fixture(scope="module")
def plain(studio: Studio, shot: Shot) -> Take:
    return ordinary(studio, shot)


@pytest.fixture(autouse=True)
def _reader() -> Iterator[None]:
    with reader_masks(SceneReader()):
        yield


# --- casts ---

@pytest.mark.parametrize(("names", "prompt"), [
    (("Bolt",), "a adl robot in the park"),
    (("Rusty", "Azura"), "a sks man and a phol woman in the park"),
    (("Rusty", "Azura", "Marlow"), "a sks man, a phol woman and another ohwx man in the park"),
])
def test_prompts_are_captions_of_the_world(names, prompt):
    cast = Cast(names)
    assert cast.prompt("park", range(len(names))) == prompt
    assert set(re.findall(r"\w+", cast.prompt("night", {0}))) <= set(VOCABULARY)
    triggers = {identity.trigger for identity in IDENTITIES.values()}
    assert not triggers & set(cast.prompt("park").split())


def test_concepts_of_one_class_are_told_apart_by_place():
    first, second = (MEN.concept("park", index) for index in (0, 1))
    assert first == {"phrase": "man", "where": {"index": 0},
                     "prompt": "a sks man and another sks man in the park <lora:rusty:1>"}
    assert second["where"] == {"index": 1}
    assert MEN.concept("park", 1, alone=True)["prompt"] == "a ohwx man in the park <lora:marlow:1>"
    assert PAIR.concept("park", 1)["prompt"] == "a man and a phol woman in the park <lora:azura:1>"
    assert "where" not in PAIR.concept("park", 0)


def test_a_concept_by_a_face_has_no_words_of_its_own():
    assert MEN.concept("park", 1, by_face=True) == {
        "phrase": "man", "where": {"index": 1}, "prompt": "a man and another man in the park"}


# --- methods ---

def rows_of_two_passes(studio: Studio, concepts: int, fraction: float = 0.3) -> int:
    """By the cost model; ``Subject`` is any object with a pipeline."""
    subject: Any = studio
    return 2 * STEPS + (STEPS - steps_before(subject, STEPS, fraction)) * (2 + 2 * concepts)


@pytest.mark.parametrize(("method", "rows"), [
    (NoLora(), 2 * STEPS), (SimultaneousLoras(), 2 * STEPS), (Regional(), 4 * STEPS), (SingleLora(), 2 * STEPS),
    (OMG, None), (BLENDING, None), (Omg("alone", alone=True), None),
    (Omg("late", {"blend_start": 0.6}), 0.6), (Omg("never", {"blend_start": 1}), 2 * STEPS),
    (FaceAlone(), 2 * STEPS), (MIXED_ALONE, 2 * STEPS), (FacesAtOnce(), 2 * STEPS), (OMG_FACES, None),
    (Omg("mixed", by_face=(1,)), None),
], ids=lambda value: getattr(value, "name", ""))
def test_every_method_makes_pictures_for_as_many_rows_as_it_should(studio, shot, plain, method, rows):
    if rows is None or isinstance(rows, float):
        rows = rows_of_two_passes(studio, 2, rows or 0.3)
    takes = method(studio, shot, plain)
    assert sorted(concept for take in takes for concept in take.shown) == [0, 1]
    for take in takes:
        assert take.pictures.shape == (2, model.SIZE, model.SIZE, 3)
        assert take.pictures.dtype == np.uint8
        assert take.rows == 2 * rows
        assert take.seconds > 0
        assert (take.masks is None) == (not method.placed)
        assert method.name in ("no LoRA", "never") or not np.array_equal(take.pictures, plain.pictures)


def test_a_face_is_drawn_as_omg_draws_it_everywhere(studio, shot):
    """What OMG is compared with is what OMG does: *everywhere is plain*."""
    cast = Cast(("Azura",))
    alone = replace(shot, cast=cast)
    found = studio.by_faces(alone, (0,)).pictures
    everywhere = {**cast.concept("park", 0, by_face=True), "where": {"box": [0, 0, 1, 1]}, "face_scale": 1}
    request = {"concepts": [everywhere], "blend_start": 0, "layout": {"cross": 0, "self": 0}, "predict": "separate"}
    expected = studio.draw(alone, cast.prompt("park"), request, (0,), by_face=[0]).pictures
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.abs(found.astype(int) - ordinary(studio, alone).pictures).max() > 10


def test_nothing_of_a_face_stays_behind(studio, shot, plain):
    studio.by_faces(shot, (0, 1))
    np.testing.assert_array_equal(ordinary(studio, shot).pictures, plain.pictures)


def test_faces_at_once_are_both_on_everything(studio, shot):
    """Their order does not count; and twice the same is the same."""
    both, other, one, twice = (studio.by_faces(*given).pictures.astype(int) for given in (
        (shot, (0, 1)), (shot, (1, 0)), (shot, (0,)), (shot, (0, 0))))
    assert np.abs(both - other).max() <= 1
    assert np.abs(one - twice).max() <= 1
    assert np.abs(both - one).max() > 10


def test_a_lora_beside_a_face_are_each_where_their_concept_is(studio, shot, plain):
    by_lora, by_face, mixed = (Omg(by_face=by_face)(studio, shot, plain)[0].pictures.astype(int)
                               for by_face in ((), EVERYONE, (1,)))
    # the reader sees the first in the left half and the second in the right one
    left, right = (slice(None), slice(None), slice(0, 48)), (slice(None), slice(None), slice(80, None))
    assert np.abs(mixed - by_lora)[left].mean() < np.abs(mixed - by_face)[left].mean() / 2
    assert np.abs(mixed - by_face)[right].mean() < np.abs(mixed - by_lora)[right].mean() / 2


def test_masks_by_attention_need_no_reader(studio, shot, plain):
    take, = Omg("OMG, attention masks", {"detector": "attention"})(studio, shot, plain)
    assert len(take.masks or []) == 2


def test_the_ordinary_pictures_are_the_first_pass(studio, shot, plain):
    result = studio.omg({**shot.request, "show": ["first_pass"]}, PAIR.prompt(shot.scene), steps=STEPS, cfg_scale=4.5,
                        latents=shot.latents)
    np.testing.assert_array_equal(np.stack(result.first_pass), plain.pictures)


def test_single_loras_are_drawn_one_by_one(studio, shot, plain):
    takes = SingleLora()(studio, shot, plain)
    assert [take.shown for take in takes] == [(0,), (1,)]
    assert not np.array_equal(takes[0].pictures, takes[1].pictures)


def latents_of(studio: Studio, prompt: str | None, shot: Shot, **options: Any) -> torch.Tensor:
    return studio.omg({**shot.request, "enabled": False}, prompt, steps=STEPS, cfg_scale=4.5, latents=shot.latents,
                      output_type="latent", **options).latents


def test_simultaneous_loras_are_the_sum_of_their_weights(studio, shot):
    found = latents_of(studio, PAIR.shot(shot.scene).named([0, 1]), shot)
    unet = studio.pipe.unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    for name in PAIR.names:
        layers = load_file(studio.loras[name.lower()])
        for key in (key for key in layers if key.endswith("lora_A.weight")):
            change = layers[key.replace("lora_A", "lora_B")] @ layers[key]
            unet.get_submodule(key.removeprefix("unet.").removesuffix(".lora_A.weight")).weight.data += change
    expected = latents_of(studio, PAIR.prompt(shot.scene, {0, 1}), shot)
    unet.load_state_dict(before)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (found - latents_of(studio, PAIR.prompt(shot.scene, {0, 1}), shot)).abs().max() > 0.01


def test_one_region_everywhere_is_the_region_prompt(studio, shot):
    """In cross-attention, that is: the pooled prompt stays the picture's."""
    whole, own = (encode(studio.pipe, text, None, {}) for text in (PAIR.prompt("park"), PAIR.shot("park").alone(1)))
    with regional_attention(studio.pipe.unet, own.cond, torch.ones(1, 2, 1, model.LATENT, model.LATENT)):
        found = latents_of(studio, PAIR.prompt("park"), shot)
    mixed = PromptEmbeds(own.cond, whole.uncond, whole.pooled, whole.pooled_uncond)
    torch.testing.assert_close(found, latents_of(studio, None, shot, prompt_embeds=mixed), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, latents_of(studio, PAIR.prompt("park"), shot), atol=1e-3)


def test_no_region_is_the_ordinary_picture_and_nothing_stays_behind(studio, shot):
    before = studio.pipe.unet.attn_processors
    own = encode(studio.pipe, PAIR.shot("park").alone(1), None, {}).cond
    with regional_attention(studio.pipe.unet, own, torch.zeros(1, 2, 1, model.LATENT, model.LATENT)):
        found = latents_of(studio, PAIR.prompt("park"), shot)
    torch.testing.assert_close(found, latents_of(studio, PAIR.prompt("park"), shot))
    assert studio.pipe.unet.attn_processors == before


def test_the_reader_is_a_detector_within_its_block_only():
    before = dict(DETECTORS)
    with reader_masks(SceneReader(("dog",))):
        assert DETECTORS["reader"] is not before["reader"]
    assert before == DETECTORS


# --- starts ---

def test_noise_is_what_the_pipeline_draws(studio, shot):
    own = studio.omg(shot.request | {"enabled": False}, "a man", steps=2, seed=1, output_type="latent", batch_size=1)
    given = studio.omg(shot.request | {"enabled": False}, "a man", steps=2, latents=noise([1]), output_type="latent")
    assert torch.equal(own.latents, given.latents)


def test_sampling_without_guidance_returns_from_inverted_noise():
    """Exactly so if the model predicts the same whatever it sees, which differs a little on the way there and back."""
    pipe = model.pipeline(model.parts(0))
    torch.nn.init.zeros_(pipe.unet.conv_out.weight)
    torch.nn.init.constant_(pipe.unet.conv_out.bias, 0.5)
    images = np.stack([strangers(PAIR, "park", 0.3, seed).image for seed in (0, 1)])
    start = inverted(pipe, images, PAIR.prompt("park"), STEPS)
    result = OMGPipeline(pipe)({"enabled": False, "concepts": [{"phrase": "man", "prompt": "man"}]},
                               PAIR.prompt("park"), steps=STEPS, cfg_scale=1, latents=start, output_type="latent")
    with torch.no_grad():
        wanted = pipe.vae.encode(as_tensor(images)).latent_dist.mode() * model.LATENT_SCALE
    assert (start - wanted).abs().mean() > 0.1
    torch.testing.assert_close(result.latents, wanted, rtol=1e-3, atol=1e-3)


# --- what is measured ---

def drawn(cast: Cast, seed: int = 3, scene: str = "park") -> Picture:
    return render(seed, [IDENTITIES[name].character for name in cast.names], scene)


def measured(cast: Cast, first: Picture, result: Picture, placed: bool = True, **options: Any) -> dict[str, float]:
    """The figures of one picture, given its first pass."""
    judges = Truth(first, result).judges()
    shot = Shot(cast, "park", torch.zeros(1, 4, 16, 16))
    everyone = options.pop("shown", shot.everyone)
    reference = Reference.of(shot, Take(first.image[None], shot.everyone, 8, 1.0), judges, options.pop("wanted", None))
    values = measure(shot, [Take(result.image[None], everyone, 8, 2.0, **options)], reference, judges, placed)
    return {name: value.item() for name, value in values.items()}


def from_left(cast: Cast, **options: Any) -> Picture:
    """A rendering in which those of one class stand in the cast's order."""
    for seed in range(100):
        picture = drawn(cast, seed, **options)
        centres = [np.nonzero(figure.visible)[1].mean() for figure in picture.figures]
        if centres == sorted(centres):
            return picture
    raise AssertionError


def test_the_right_individuals_where_they_belong_are_perfect():
    picture = drawn(PAIR)
    masks = [[figure.visible.astype(np.float32) for figure in picture.figures]]
    wanted = [[figure.visible for figure in picture.figures]]
    assert measured(PAIR, picture, picture, masks=masks, wanted=wanted) == {
        "identity": 1, "bleed": 0, "text": 1, "layout": 1, "background": 0, "masks": 1, "conflict": 0, "start": 1,
        "rows": 8, "seconds": 2}


def test_swapped_individuals_bleed_if_somebody_said_who_stands_where():
    first = from_left(MEN)
    left, right = first.figures
    swapped = (replace(left, character=right.character), replace(right, character=left.character))
    result = Picture(first.image ^ np.uint8(1), "", "park", swapped)
    told = measured(MEN, first, result)
    assert (told["identity"], told["bleed"], told["layout"]) == (0, 1, 1)
    untold = measured(MEN, first, result, placed=False)
    assert (untold["identity"], untold["bleed"], untold["layout"]) == (1, 0, 1)


def test_a_lost_figure_is_read_where_it_should_be():
    first, alone = drawn(PAIR), drawn(Cast(("Rusty",)))
    found = measured(PAIR, first, alone)
    assert found["identity"] == 0.5
    assert found["text"] == 0
    assert found["layout"] < 0.5


def test_without_figure_and_place_there_is_no_value():
    alone = drawn(Cast(("Rusty",)))
    found = measured(PAIR, alone, alone)
    assert found["identity"] == found["layout"] == 1
    assert np.isnan(measured(PAIR, alone, alone, shown=(1,))["identity"])
    assert np.isnan(measured(Cast(("Rusty",)), alone, alone)["bleed"])


def test_a_concept_that_no_mask_was_found_for_has_none_of_its_place():
    picture = drawn(PAIR)
    masks = [[picture.figures[0].visible.astype(np.float32), None]]
    assert measured(PAIR, picture, picture, masks=masks)["masks"] == 0.5


def test_only_what_lies_away_from_the_figures_is_background():
    first, other = drawn(PAIR), drawn(PAIR, scene="night")
    figures = np.any([figure.visible for figure in first.figures], axis=0)
    inside = Picture(np.where(figures[..., None], ~first.image, first.image), "", "park", first.figures)
    assert measured(PAIR, first, inside)["background"] == 0
    shifted = Picture(first.image ^ np.uint8(1), "", "park", first.figures)
    assert measured(PAIR, first, shifted)["background"] == 1
    assert measured(PAIR, first, Picture(other.image, "", "night", first.figures))["text"] == 0


@pytest.mark.parametrize(("kinds", "columns", "is_one"), [
    (["man", "woman"], [(0, 40), (60, 100)], False),
    (["man", "woman"], [(0, 35), (65, 100)], False),  # a little off
    (["man"], [(0, 40)], True),  # missing
    (["man", "woman"], [(0, 100), (60, 100)], True),  # merged: one is over both
    (["man", "woman"], [(0, 40), (20, 60)], True),  # elsewhere
    (["woman", "man"], [(0, 40), (60, 100)], True),  # the other class
    ([], [], True),
])
def test_a_layout_is_as_asked_for_or_in_conflict(kinds, columns, is_one):
    def mask(first: int, last: int) -> np.ndarray:
        return np.tile((np.arange(100) >= first) & (np.arange(100) < last), (10, 1))

    reading = Reading("park", tuple(ReadFigure(kind, mask(*span)) for kind, span in zip(kinds, columns, strict=True)))
    assert conflicts(reading, ["man", "woman"], [mask(0, 40), mask(60, 100)]) == is_one


def test_a_summary_has_mean_and_standard_error_of_what_there_is():
    assert summary(np.array([1, 3, np.nan])) == Mean(2, 1, 2)
    assert summary(np.array([np.nan])) == Mean(None, None, 0)


# --- sweeps ---

def test_tables_name_cells_that_are_run_once():
    cells = chosen([])
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.name for table in TABLES.values() for cell in table} == {cell.name for cell in cells}
    starts = [start for start, _ in groupby(cell.start for cell in cells)]
    assert len(set(starts)) == len(starts)
    assert [cell.name for cell in chosen(["*Bolt: OMG", "layout"])][:2] == ["Goldie+Bolt: OMG", "Biscuit+Bolt: OMG"]
    with pytest.raises(ValueError, match="'nothing' is neither a table"):
        chosen(["nothing"])


@pytest.fixture
def runner(studio: Studio) -> Runner:
    reader, meter = SceneReader(), Meter()
    return Runner(studio, Judges(reader, meter, {name: torch.tensor([1.0, 0, 0]) for name in NAMES}), seeds=3, batch=2)


def test_a_bench_is_written_cell_by_cell_and_goes_on_where_it_was(runner, tmp_path, capsys):
    settings = {"seeds": 3}
    path, strips = tmp_path / "found.json", tmp_path / "strips"
    enter(made_by(runner, chosen(["Rusty+Azura: no LoRA"])), Record.open(path, strips, settings), 1)
    record = Record.open(path, strips, settings)
    assert set(record.cells) == {"Rusty+Azura: no LoRA"}
    capsys.readouterr()
    left = unknown(chosen(["Rusty+Azura: no LoRA", "Rusty+Azura: single LoRA", "*Azura occluded 0.3: OMG"]), record)
    enter(made_by(runner, left), record, len(left))
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "[1/2] Rusty+Azura", "[2/2] Rusty+Azura occluded 0.3"]
    found = Record.open(path, strips, settings).cells
    assert found == record.cells
    assert found["Rusty+Azura: no LoRA"]["rows"] == Mean(2 * STEPS, 0, 3)
    assert found["Rusty+Azura: single LoRA"]["identity"].count == 3
    assert "start" in found["Rusty+Azura occluded 0.3: OMG"]
    text = report(record, tmp_path)
    assert "| Rusty+Azura" in text
    assert "identity that" not in text
    assert sorted(file.name for file in tmp_path.glob("*.png")) == [
        "found-concepts.png", "found-faces.png", "found-frontier.png", "found-methods.png", "found-occlusion.png"]
    with pytest.raises(ValueError, match="has other settings"):
        Record.open(path, strips, {"seeds": 4})


def test_targets_compare_with_the_bounds():
    def means(identity: float, bleed: float) -> dict[str, Mean]:
        return {"identity": Mean(identity, None, 1), "bleed": Mean(bleed, None, 1)}

    figures = {"single LoRA": (0.8, 0.2), "OMG": (0.78, 0.25), "simultaneous LoRAs": (0.4, 0.5), "no LoRA": (0.1, 0.2)}
    found = {f"Rusty+Azura: {method}": means(*both) for method, both in figures.items()}
    lost, sunk, bleed = targets(found)
    assert (lost.met, sunk.met, bleed.met) == (True, None, False)
    assert lost.value == pytest.approx(0.025)
    assert sunk.value == pytest.approx(0.5)
    assert (bleed.value, bleed.most) == (0.25, 0.24)


def test_targets_of_faces_compare_with_the_face_alone():
    def means(identity: float, bleed: float, layout: float) -> dict[str, Mean]:
        return {name: Mean(value, None, 1) for name, value in
                (("identity", identity), ("bleed", bleed), ("layout", layout))}

    figures = {"face alone": (0.8, 0, 0.5), "no LoRA": (0, 0.1, 1), MOST_ALIKE_FACES.name: (0.72, 0.15, 0.68),
               "single LoRA": (1, 0, 0.5), "LoRA or face alone": (0.9, 0, 0.5), MIXED.name: (0.72, 0.1, 0.75)}
    found = {f"{cast}: {method}": means(*values) for cast in PAIRS for method, values in figures.items()}
    rows = {row.name: row for row in targets(found) if "InstantID" in row.name or "beside" in row.name}
    assert [(round(row.value, 3), row.met) for row in rows.values()] == [
        (0.1, True), (0.32, False), (0.15, False), (0.2, False), (0.25, True), (0.1, True)]
    assert all(name.startswith("four pairs: ") for name in rows)


def test_cells_say_whether_they_take_the_adapter_for_faces():
    takes_it = {method.name: Cell(PAIR, method).has_faces for method in FACES}
    assert [name for name, takes in takes_it.items() if not takes] == ["no LoRA"]
    assert not any(Cell(PAIR, method).has_faces for method in CONDITIONED)


def test_averages_are_over_casts_and_of_methods_that_all_casts_have():
    cells = [Cell(cast, method) for cast in (PAIR, MEN) for method in (NoLora(), OMG)]
    means = [Mean(0.2, 0.03, 4), Mean(0.9, 0.1, 4), Mean(0.4, 0.04, 6)]
    text = averages(cells, {cell.name: {"identity": mean} for cell, mean in zip(cells, means, strict=False)})
    header, _, row = ([entry.strip() for entry in line.split("|")[1:-1]] for line in text.splitlines())
    assert header == ["cast", "method", "identity"]
    assert row == ["2 casts", "no LoRA", "0.300 ± 0.025"]
    assert pooled([Mean(None, None, 0), Mean(0.5, None, 1)]) == Mean(0.5, None, 1)
    assert pooled([Mean(None, None, 0)]) == Mean(None, None, 0)


def test_a_cell_without_a_class_in_any_picture_has_no_identity(studio):
    judges = Judges(SceneReader(("dog",)), Meter(), {name: torch.tensor([1.0, 0, 0]) for name in NAMES})
    with reader_masks(judges.figures):
        result = Runner(studio, judges, seeds=1)(Cell(PAIR, OMG))
    assert result.figures["identity"] == Mean(None, None, 0)
    assert result.figures["rows"].mean == 2 * STEPS


@pytest.fixture
def control(monkeypatch) -> ControlNetModel:
    """A ControlNet that does nothing yet, in place of the trained one."""
    made = train_control.untrained(model.parts(0))
    monkeypatch.setattr(train_control, "load", lambda: made)
    return made


@pytest.mark.parametrize("method", CONDITIONED, ids=lambda method: method.name)
def test_every_method_is_under_the_condition(studio, control, method):
    conditioned = Shot(PAIR, SCENES[0], noise([0]), [Control(control, of_picture(strangers(PAIR, SCENES[0], 0.3, 0)))])
    asked: list[int] = []
    control.register_forward_pre_hook(lambda net, args: asked.append(len(args[0])))
    plain = ordinary(studio, conditioned)
    takes = method(studio, conditioned, plain)
    # the ordinary picture counts as theirs, or the contrast detector asks the UNet alone
    others = {"no LoRA": plain.rows, "regional prompts": plain.rows, DEFAULTS.name: looks()}.get(method.name, 0)
    assert sum(asked) == plain.rows + sum(take.rows for take in takes) - others


def test_a_cell_under_a_condition_counts_its_conflicts(studio, control):
    judges = Judges(SceneReader(), Meter(), {name: torch.tensor([1.0, 0, 0]) for name in NAMES})
    runner = Runner(studio, judges, seeds=1)
    with reader_masks(judges.figures):
        under, free = (runner(Cell(PAIR, NoLora(), 0.3, is_conditioned)) for is_conditioned in (True, False))
    # the reader sees halves of the picture, where the rendering has figures
    assert under.figures["conflict"].mean == 1
    assert under.figures["start"] == free.figures["start"]


def test_quick_is_short():
    args = arguments(["--quick", "--cells", "methods"])
    assert (args.seeds, args.steps, args.cells) == (2, 4, ["methods"])


def test_curves_are_drawn_of_ways_that_were_run_with_all_casts(tmp_path):
    def figures(identity: float, layout: float) -> dict[str, Mean]:
        return {"identity": Mean(identity, 0.01, 64), "layout": Mean(layout, 0.01, 64)}

    found = {f"{cast}: single LoRA": figures(0.8, 0.4) for cast in PAIRS}
    identities = dict(zip(PAIRS, (0.4, 0.6, 0.8, 1), strict=True))
    found |= {f"{cast}: joint": figures(identity, 0.7) for cast, identity in identities.items()}
    found |= {f"{PAIR}: shared": figures(0.6, 0.7)}
    assert frontier.point(PAIRS, "joint", found) == pytest.approx((0.7, 0.7 / 0.8))
    assert frontier.point(PAIRS, "shared", found) is None
    assert frontier.draw(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert not frontier.draw({}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
